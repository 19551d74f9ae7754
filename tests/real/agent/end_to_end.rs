//! A version recorded on the controller runs on the other host, and stays.

use serde_json::Value;

use crate::common::Pair;

#[test]
fn a_set_image_is_pulled_through_the_link_and_runs_on_the_agent() {
    let Some(pair) = Pair::new() else { return };
    let first = pair.push_image("the first");
    pair.abide(&["set", "prod", &first]);
    let view = pair.ready();
    assert_eq!(view["host"], "online");
    assert!(view["last_seen"].is_string(), "{view}");
    pair.serves("the first");
    let (_, hosts) = pair.ask("GET", "/hosts", &Value::Null);
    let row = hosts.as_str().unwrap().split("<strong>online</strong>").nth(1).unwrap();
    let engine = pair.host.docker(&["version", "--format", "{{.Server.Version}}"]);
    for part in ["Connected", env!("CARGO_PKG_VERSION"), engine.trim()] {
        assert!(row.contains(part), "{part}: {row}");
    }

    let second = pair.push_image("the second");
    pair.abide(&["set", "prod", &second]);
    pair.abide(&["wait", "prod", "--timeout", "60s"]);
    pair.serves("the second");
    let image = pair.host.docker(&["inspect", "--format", "{{.Config.Image}}", &pair.name()]);
    let held = pair.host.docker(&["images", "--digests", "--format", "{{.Repository}}@{{.Digest}}"]);
    let digest = second.split_once('@').unwrap().1;
    assert!(held.contains(&format!("@{digest}")), "{image}: {held}");
}
