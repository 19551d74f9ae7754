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
