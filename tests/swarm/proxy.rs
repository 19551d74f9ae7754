//! The proxy in front of a service: it follows the replicas.

use serde_json::Value;

use crate::cluster::Cluster;
use crate::common::{Load, Node, Way, nginx_image};

/// The port of the proxy, in the namespace of the manager.
const HTTP: u16 = 8081;
fn start_load(cluster: &Cluster) -> Load {
    // Clients that keep their connections, and clients that do not.
    let ways =
        [true, false, true, false].map(|keeps| Way { port: HTTP, host: "prod.example", path: "/", keeps });
    Load::start_at(cluster.swarm.manager().address().parse().unwrap(), &ways)
}

/// Ends the load. Every request was answered, by exactly these pages.
fn finish(load: Load, what: &str, pages: &[&str]) {
    let tally = load.finish();
    assert!(tally.failed.is_empty(), "{what}: {:#?}", tally.failed);
    assert_eq!(tally.pages.keys().collect::<Vec<_>>(), pages, "{what}");
}

/// Waits until three replicas are ready on other nodes, and the status shows the node in this state.
fn await_without(cluster: &Cluster, node: &Node, state: &str) {
    cluster.until(&format!("three replicas are ready while {} is {state}", node.name), |view| {
        let of = |key: &str| {
            let mut nodes = view["nodes"].as_array().unwrap().iter();
            nodes.find(|shown| shown["name"] == *node.name).map_or(Value::Null, |shown| shown[key].clone())
        };
        let message = view["message"].as_str().unwrap();
        matches!(view["status"].as_str(), Some("Ready" | "RolledBack"))
            && message.contains("3 replicas on")
            && of("state") == state
            && of("replicas") == 0
    });
}

#[test]
#[ignore = "takes minutes: .ci/slow"]
fn no_request_fails_across_deployments_a_drained_node_and_lost_nodes() {
    let Some(cluster) = Cluster::new(3) else { return };
    let image = cluster.space.name("nginx");
    nginx_image(&image, &cluster.space.label());
    cluster.swarm.manager().load(&image);
    let prod = cluster.prod("replicas = 3, ports = \"dynamic\"", "hostname = \"prod.example\"");
    cluster.declare_all(&format!("[front]\nimage = \"{image}\"\nhttp = {HTTP}\ndrain = \"1s\"\n{prod}"));

    // Ready includes the proxy, so requests succeed from now on.
    cluster.deploy(&cluster.push("first", ""));
    let load = start_load(&cluster);
    for words in ["second", "third"] {
        cluster.deploy(&cluster.push(words, ""));
        cluster.serve(words, 3);
    }
    let bad = cluster.push("bad", "ENV SITE_CRASH_AFTER=0s SITE_EXIT_CODE=3");
    cluster.abide(&["set", "prod", &bad]);
    cluster.until_is("RolledBack", "RolledBack");
    finish(load, "deployments", &["first", "second", "third"]);

    let [manager, second, third] = cluster.swarm.nodes() else { panic!("three nodes") };
    let availability =
        |value: &str| manager.docker(&["node", "update", "--availability", value, &second.name]);
    let load = start_load(&cluster);
    availability("drain");
    await_without(&cluster, second, "drained");
    finish(load, "a drained node", &["third"]);
    let warnings = cluster.view("prod")["warnings"].to_string();
    assert!(warnings.contains("node n2 is drained"), "{warnings}");
    availability("active");

    // A request that has reached a replica is lost with the cable of its node. All others are answered, although the
    // swarm believes for seconds that the node is there.
    third.cut();
    let load = start_load(&cluster);
    await_without(&cluster, third, "down");
    finish(load, "a lost node", &["third"]);
    third.repair();
    cluster.until("the node is back", |view| !view["warnings"].to_string().contains("n3 is down"));

    let load = start_load(&cluster);
    third.kill();
    await_without(&cluster, third, "down");
    finish(load, "a killed node", &["third"]);
}
