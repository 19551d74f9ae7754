//! A version tested on the controller's own host runs on the other one, byte for byte.

use crate::common::{PATIENCE, Pair, SITE_PORT, eventually, made_image};

/// Declares a test beside prod, which is promoted from it.
fn with_test(pair: &Pair) {
    let name = pair.space.name("test-server");
    pair.declare(&format!(
        "promote_from = \"test\"\n[environment.test]\ncontainer = \"{name}\"\nport = {SITE_PORT}\npublish = false\n\
         health = {{ http = \"/\", interval = \"100ms\", healthy_for = \"300ms\" }}"
    ));
    let controller = pair.controller.as_ref().unwrap();
    eventually("the edit is taken", PATIENCE, || controller.abide(&["status", "test"]).code == 0);
}

fn try_out(pair: &Pair, image: &str) {
    pair.abide(&["set", "test", image]);
    pair.abide(&["wait", "test", "--timeout", "60s"]);
}

#[test]
fn only_a_pullable_image_is_promoted_to_an_agent() {
    let Some(pair) = Pair::new() else { return };
    with_test(&pair);
    let tested = pair.push_image("tested");
    try_out(&pair, &tested);
    pair.abide(&["promote", "test", "prod", "--yes"]);
    pair.abide(&["wait", "prod", "--timeout", "60s"]);
    pair.serves("tested");
    let view = pair.view();
    let digest = tested.split_once('@').unwrap().1;
    assert_eq!(view["image"]["digest"], digest, "{view:#}");
    assert_eq!((&view["origin"], &view["host"]), (&"promotion".into(), &"online".into()));

    try_out(&pair, &made_image(&pair.space, "only here", ""));
    let refused = pair.controller.as_ref().unwrap().abide(&["promote", "test", "prod", "--yes"]);
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.stderr.contains("registry"), "{refused:?}");
    pair.serves("tested");
}

#[test]
fn a_group_on_an_agents_host_starts_in_order_and_is_held_as_one() {
    let Some(pair) = Pair::new() else { return };
    let db = pair.space.name("db-server");
    pair.declare(&format!(
        "group = \"shop\"\nneeds = {{ shop-db = \"healthy\" }}\n[environment.shop-db]\ncontainer = \"{db}\"\n\
         port = {SITE_PORT}\npublish = false\nhost = \"online\"\ngroup = \"shop\"\n\
         health = {{ http = \"/\", interval = \"100ms\", healthy_for = \"300ms\" }}"
    )
    .replace("shop-db = \"healthy\"", "db = \"healthy\""));
    let controller = pair.controller.as_ref().unwrap();
    eventually("the edit is taken", PATIENCE, || controller.abide(&["status", "shop"]).code == 0);
    let image = pair.push_image("in a group");
    pair.abide(&["set", "prod", &image]);
    pair.until("it waits for the database", |view| view["reason"] == "AwaitingNeeds");
    pair.abide(&["set", "shop-db", &image]);
    pair.abide(&["wait", "shop", "--timeout", "60s"]);
    pair.serves("in a group");
    let networks =
        pair.host.docker(&["container", "inspect", "--format", "{{json .HostConfig.NetworkMode}}", &db]);
    assert!(networks.contains("container:"), "{networks}");
    let names = pair.host.docker(&["network", "ls", "--format", "{{.Name}}"]);
    assert!(names.contains(&format!("{}-shop", pair.space.name("abide"))), "{names}");

    let measured = pair.abide(&["status", "--stats", "-o", "json"]).stdout;
    let measured: Vec<serde_json::Value> = serde_json::from_str(&measured).unwrap();
    let prod = measured.iter().find(|view| view["environment"] == "prod").unwrap();
    assert!(prod["stats"]["memory_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{prod:#}");

    pair.abide(&["hold", "shop", "--reason", "stocktaking"]);
    pair.until("it is held", |view| view["status"] == "Held");
    let held: Vec<serde_json::Value> =
        serde_json::from_str(&pair.abide(&["status", "shop", "-o", "json"]).stdout).unwrap();
    assert!(held.iter().all(|view| !view["held"].is_null()), "{held:#?}");
}
