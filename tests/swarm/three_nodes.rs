//! A swarm of three nodes.

use std::collections::BTreeSet;

use rustix::process::Signal;

use crate::cluster::Cluster;
use crate::common::{PATIENCE, eventually};

#[test]
#[ignore = "takes minutes: .ci/slow"]
fn replicas_on_three_nodes_survive_bad_versions_and_lost_nodes() {
    let Some(cluster) = Cluster::new(3) else { return };
    let first = cluster.push("first", "");
    cluster.deploy(&first);
    cluster.serve("first", 3);
    let nodes: BTreeSet<String> = cluster.tasks().into_iter().map(|[_, _, node]| node).collect();
    assert_eq!(nodes.len(), 3, "one on each");

    let bad = cluster.push("bad", "ENV SITE_CRASH_AFTER=0s SITE_EXIT_CODE=3");
    let tasks = cluster.tasks();
    cluster.abide(&["set", "prod", &bad]);
    cluster.until_is("RolledBack", "RolledBack");
    assert_eq!(cluster.tasks(), tasks, "the same tasks serve all the time");
    cluster.serve("first", 3);

    // A node is lost, by its cable and by an engine that is frozen: Swarm moves its replica, and the status names it.
    let last = &cluster.swarm.nodes()[2];
    last.cut();
    serves_without_the_last(&cluster);
    last.repair();
    is_back(&cluster);
    last.signal_engine(Signal::STOP);
    serves_without_the_last(&cluster);
    last.signal_engine(Signal::CONT);
    is_back(&cluster);

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

fn serves_without_the_last(cluster: &Cluster) {
    let view = cluster.until("the replicas are ready without n3", |view| {
        view["status"] == "RolledBack" && view["warnings"].to_string().contains("node n3 is down")
    });
    assert_eq!(
        (&view["nodes"][2]["state"], &view["nodes"][2]["replicas"]),
        (&"down".into(), &0.into()),
        "{view:#}"
    );
    cluster.serve("first", 3);
}

/// Waits until the last node is back, which may elect another leader, and has stopped the replica that was moved.
fn is_back(cluster: &Cluster) {
    cluster.until("all nodes are ready", |view| {
        let nodes = view["nodes"].as_array();
        view["status"] == "RolledBack"
            && nodes
                .is_some_and(|nodes| nodes.len() == 3 && nodes.iter().all(|node| node["state"] == "ready"))
    });
    eventually("three replicas run", PATIENCE, || cluster.containers().len() == 3);
}
