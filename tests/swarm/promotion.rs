//! Versions that reach a service by the record: promotions, holds, rollbacks by people, and their history.

use crate::cluster::Cluster;
use crate::common::{SITE_PORT, json, list};

#[test]
#[ignore = "takes minutes: .ci/slow"]
fn a_container_is_promoted_to_a_service_by_digest() {
    let Some(cluster) = Cluster::new(1) else { return };
    let test = format!(
        "[environment.test]\ncontainer = \"{}\"\nport = {SITE_PORT}\nstop_timeout = \"1s\"\npublish = false\n\
         health = {{ http = \"/\", interval = \"100ms\", healthy_for = \"0s\" }}\n",
        cluster.space.name("test")
    );
    let prod = cluster.prod("replicas = 2, ports = \"dynamic\"", "promote_from = \"test\"");
    cluster.declare_all(&format!("{test}{prod}"));
    let [first, second] = ["first", "second"].map(|words| cluster.push(words, ""));
    let runs_in_test = |image: &str| {
        let digest = image.rsplit_once('@').unwrap().1;
        cluster.abide(&["set", "test", image]);
        cluster.until_in("test", "test is ready", |view| {
            view["status"] == "Ready"
                && view["image"]["digest"] == digest
                && view["observed_generation"] == view["generation"]
        });
    };

    runs_in_test(&first);
    cluster.abide(&["promote", "test", "prod", "--yes", "--wait"]);
    cluster.ready_with(&first);
    cluster.serve("first", 2);

    // A held service keeps its version; the promotion is recorded.
    cluster.abide(&["hold", "prod", "--reason", "audit"]);
    runs_in_test(&second);
    let tasks = cluster.tasks();
    cluster.abide(&["promote", "test", "prod", "--yes"]);
    cluster.until("prod is held at the first version", |view| {
        view["status"] == "Held" && view["observed_generation"] == view["generation"]
    });
    assert_eq!(cluster.tasks(), tasks);
    cluster.abide(&["resume", "prod"]);
    cluster.ready_with(&second);
    cluster.serve("second", 2);

    // A rollback by a person returns to the first version, and holds it.
    cluster.abide(&["rollback", "prod", "--yes", "--wait", "--reason", "the prices are wrong"]);
    let tasks = cluster.tasks();
    assert!(tasks.len() == 2 && tasks.iter().all(|[_, image, _]| *image == first), "{tasks:?}");
    let held = cluster.view("prod");
    assert_eq!((&held["status"], &held["held"].is_null()), (&"Held".into(), &false), "{held:#}");
    let history = list(json(&cluster.daemon.as_ref().unwrap().abide(&["history", "prod", "-o", "json"])));
    let of = |key: &str| history.iter().map(|entry| entry[key].to_string()).collect::<Vec<_>>();
    assert_eq!(of("origin"), ["\"rollback\"", "\"promotion\"", "\"promotion\""], "{history:#?}");
    assert!(of("outcome").iter().all(|outcome| outcome.contains("ready")), "{history:#?}");
    let why = cluster.abide(&["why", "prod"]);
    assert!(why.contains("the prices are wrong"), "{why}");
    let events = cluster.abide(&["events", "prod"]);
    assert!(events.contains("update service") && events.contains("promot"), "{events}");
}
