//! The registry cannot be reached.

use crate::cluster::Cluster;

/// The registry is unreachable for the manager, or only for a node: what serves keeps serving.
#[test]
#[ignore = "takes minutes: .ci/slow"]
fn a_registry_that_is_unreachable_stops_a_deployment_and_nothing_else() {
    let Some(mut cluster) = Cluster::new(2) else { return };
    // All replicas are on the node that is not abide's own.
    cluster.declare("replicas = 3, ports = \"dynamic\", constraints = [\"node.hostname == n2\"]", "");
    cluster.deploy(&cluster.push("first", ""));
    let tasks = cluster.tasks();

    let second = cluster.push("second", "");
    cluster.registry.kill();
    cluster.abide(&["set", "prod", &second]);
    cluster.until("the registry does not answer", |view| view["reason"] == "RegistryUnavailable");
    assert_eq!(cluster.tasks(), tasks, "nothing was written");
    cluster.registry.run();
    cluster.ready_with(&second);
    cluster.serve("second", 3);

    let third = cluster.push("third", "");
    let tasks = cluster.tasks();
    let (gateway, last) = (cluster.swarm.gateway(), &cluster.swarm.nodes()[1]);
    last.lose_route_to(&gateway);
    cluster.abide(&["set", "prod", &third]);
    let view = cluster.until("a node cannot pull, and the second version serves", |view| {
        let message = view["message"].as_str().unwrap();
        view["status"] == "Degraded"
            && view["reason"] == "RegistryUnavailable"
            && message.contains("No such image")
            && message.contains("n2 could not pull it")
            && message.contains("keeps serving (3 replicas")
    });
    assert_eq!(view["image"]["digest"], third.rsplit_once('@').unwrap().1, "the record keeps it: {view:#}");
    assert_eq!(cluster.tasks(), tasks, "the same tasks serve all the time");
    // The test itself reaches the node by the same route.
    last.restore_route_to(&gateway);
    cluster.serve("second", 3);
    cluster.abide(&["sync", "prod"]);
    cluster.ready_with(&third);
    cluster.serve("third", 3);
}
