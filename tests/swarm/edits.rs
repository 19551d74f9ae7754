//! Edits of the manifest that Swarm cannot simply be given.

use crate::cluster::Cluster;

/// The fixed port of a node.
const FIXED: u16 = 9090;

#[test]
#[ignore = "takes minutes: .ci/slow"]
fn a_fixed_port_becomes_a_free_one_and_back_without_a_failure() {
    let Some(cluster) = Cluster::new(1) else { return };
    let image = cluster.push("first", "");
    let fixed = ("replicas = 1, ports = \"host\"", format!("publish = {FIXED}"));
    cluster.declare(fixed.0, &fixed.1);
    cluster.deploy(&image);
    let has_port = |is_fixed: bool, replicas: usize| {
        let words = format!("{replicas} replica");
        cluster.until(&format!("{words} with a fixed port: {is_fixed}"), |view| {
            let message = view["message"].as_str().unwrap();
            view["status"] == "Ready"
                && message.contains(&words)
                && message.contains(&format!("n1:{FIXED}")) == is_fixed
        });
        cluster.serve("first", replicas);
    };
    has_port(true, 1);
    // Two replicas on one node show that no replica asks for the fixed port any more.
    cluster.declare("replicas = 2, ports = \"dynamic\"", "");
    has_port(false, 2);
    cluster.deploy(&cluster.push("first", "ENV VERSION=2"));
    has_port(false, 2);
    cluster.declare(fixed.0, &fixed.1);
    has_port(true, 1);
    let events = cluster.abide(&["events", "prod"]);
    assert!(!events.contains("NoPlace") && !events.contains("somebody else"), "{events}");
}

#[test]
#[ignore = "takes minutes: .ci/slow"]
fn a_service_gets_as_many_names_as_the_manifest_gives_it() {
    let Some(cluster) = Cluster::new(1) else { return };
    let declared = cluster.prod("replicas = 1, ports = \"host\"", &format!("publish = {FIXED}"));
    cluster.declare_all(&declared);
    cluster.deploy(&cluster.push("first", ""));
    for number in 1..=4 {
        // The new service needs the port of the earlier one.
        let name = format!("{}-{number}", cluster.name());
        cluster.declare_all(&declared.replace(&cluster.name(), &name));
        cluster.until(&format!("only {name} is left, and ready"), |view| {
            view["status"] == "Ready" && cluster.services() == std::slice::from_ref(&name)
        });
        cluster.serve("first", 1);
    }
    let events = cluster.abide(&["events", "prod"]);
    assert!(!events.contains("was removed") && !events.contains("NotConverging"), "{events}");
}
