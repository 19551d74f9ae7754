//! A swarm of three nodes.

use rustix::process::Signal;

use crate::cluster::Cluster;
use crate::common::{PATIENCE, eventually};

#[test]
#[ignore = "takes minutes: .ci/slow"]
fn replicas_on_three_nodes_survive_bad_versions_and_a_lost_node() {
    let Some(cluster) = Cluster::new(3) else { return };
    let first = cluster.push("first", "");
    cluster.deploy(&first);
    cluster.serve("first", 3);
    let nodes = |cluster: &Cluster| {
        let mut nodes: Vec<_> = cluster.tasks().into_iter().map(|[_, _, node]| node).collect();
        nodes.dedup();
        nodes
    };
    assert_eq!(nodes(&cluster).len(), 3, "one on each");

    let bad = cluster.push("bad", "ENV SITE_CRASH_AFTER=0s SITE_EXIT_CODE=3");
    let tasks = cluster.tasks();
    cluster.abide(&["set", "prod", &bad]);
    cluster.until_is("RolledBack", "RolledBack");
    assert_eq!(cluster.tasks(), tasks, "the same tasks serve all the time");
    cluster.serve("first", 3);

    // A node is lost: Swarm moves its replica, and the status names the node.
    let last = &cluster.swarm.nodes()[2];
    last.cut();
    cluster.until("the replicas are ready without it", |view| {
        let warnings = view["warnings"].to_string();
        view["status"] == "RolledBack" && warnings.contains("node n3 is down")
    });
    last.repair();
    cluster.until("the node is back", |view| !view["warnings"].to_string().contains("n3 is down"));

    // Without most managers nothing is decided.
    for node in &cluster.swarm.nodes()[1..] {
        node.signal_engine(Signal::STOP);
    }
    let view = cluster.until("the swarm has no leader", |view| view["reason"] == "EngineUnavailable");
    assert!(view["message"].as_str().unwrap().contains("leader"), "{view:#}");
    for node in &cluster.swarm.nodes()[1..] {
        node.signal_engine(Signal::CONT);
    }
    cluster.until("it is back", |view| view["status"] == "RolledBack");
    eventually("three serve", PATIENCE, || cluster.pages().len() == 3);
}
