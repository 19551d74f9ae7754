//! A hostile controller and a hostile agent: the link accepts only what the grammar allows.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::model::manifest::{SourceFile, parse};

/// An environment as a controller of an earlier version sends it.
fn assigned(name: &str) -> Value {
    let seconds = |secs: u64| json!({ "secs": secs, "nanos": 0 });
    json!({
        "spec": {
            "container": format!("{name}-server"), "port": 8088, "publish": { "port": 8088 },
            "hostname": null, "supply": { "promotion": { "from": "test" } }, "command": ["serve"],
            "env": { "A": { "plain": "1" }, "B": { "secret": { "secret_file": "/etc/app/b" } } },
            "volumes": [{ "source": "data", "target": "/data" }], "extra_hosts": ["db:10.0.0.9"],
            "memory": 67_108_864, "nano_cpus": 500_000_000, "pids": 100, "init": true,
            "stop_timeout": seconds(10), "update": null,
            "health": {
                "probe": { "http": "/" }, "interval": seconds(1), "timeout": seconds(2),
                "start_deadline": seconds(30), "healthy_for": seconds(10),
            },
        },
        "desired": {
            "environment": name, "generation": 7, "revision": null, "origin": "promotion",
            "image": { "reference": "localhost:5000/a/b", "digest": format!("sha256:{}", "a".repeat(64)), "id": null },
            "at": "2026-01-01T00:00:00Z",
        },
    })
}

fn assignment(environments: Vec<Value>) -> Assignment {
    serde_json::from_value(json!({ "network": "abide", "environments": environments })).unwrap()
}

#[test]
fn an_assignment_of_an_earlier_version_is_understood() {
    let found = assignment(vec![assigned("prod")]);
    assert_eq!((found.environments.len(), found.misread), (1, Vec::new()));
}

#[test]
fn an_invalid_assignment_is_skipped_and_the_others_are_accepted() {
    for (pointer, value) in [
        ("/spec/port", json!(0)),
        ("/spec/publish/port", json!(0)),
        ("/spec/publish", json!({ "port": 1, "address": "nowhere" })),
        ("/spec/container", json!("a b")),
        ("/spec/command", json!(["a\0b"])),
        ("/spec/env", json!({ "A=B": { "plain": "1" } })),
        ("/spec/env", json!({ "A": { "plain": "1\0" } })),
        ("/spec/env", json!({ "A": { "secret": { "secret_env": "A.B" } } })),
        ("/spec/env", json!({ "A": { "secret": { "secret_file": "/etc/../root/x" } } })),
        ("/spec/env", json!({ "A": { "secret": { "secret_file": "relative" } } })),
        ("/spec/volumes", json!([{ "source": "/srv/allowed/..:/host", "target": "rw" }])),
        ("/spec/volumes", json!([{ "source": "/srv/allowed/..", "target": "/host" }])),
        ("/spec/volumes", json!([{ "source": "data", "target": "/", "create": false }])),
        ("/spec/volumes", json!([{ "source": "data", "target": "/d", "create": true }])),
        ("/spec/extra_hosts", json!(["db:10.0.0.9\n10.0.0.1 registry"])),
        ("/spec/extra_hosts", json!(["db"])),
        ("/spec/memory", json!(1)),
        ("/spec/memory", json!(u64::MAX)),
        ("/spec/nano_cpus", json!(u64::MAX)),
        ("/spec/pids", json!(0)),
        ("/spec/stop_timeout", json!({ "secs": 1, "nanos": 5 })),
        ("/spec/stop_timeout", json!({ "secs": u64::MAX, "nanos": 0 })),
        ("/spec/health/interval", json!({ "secs": 0, "nanos": 0 })),
        ("/spec/health/healthy_for", json!({ "secs": 31, "nanos": 0 })),
        ("/spec/health/probe", json!({ "http": "/ HTTP/1.1\r\nX: y" })),
        ("/desired/image/reference", json!("localhost:5000/a/../b")),
        ("/desired/image/reference", json!("-x")),
        ("/desired/image/reference", json!("a b")),
        ("/desired/image/digest", json!("sha256:1")),
        ("/spec", json!(null)),
    ] {
        let mut hostile = assigned("evil");
        *hostile.pointer_mut(pointer).unwrap() = value.clone();
        let found = assignment(vec![hostile, assigned("prod")]);
        let names: Vec<_> = found.environments.iter().map(|one| one.desired.environment.as_str()).collect();
        assert_eq!(names, ["prod"], "{pointer}: {value}");
        let [misread] = found.misread.as_slice() else { panic!("{pointer}: {:?}", found.misread) };
        assert_eq!((misread.environment.as_str(), misread.generation), ("evil", Generation(7)), "{pointer}");
    }
}

/// A JSON pointer to a part of an environment.
fn pointer() -> impl Strategy<Value = String> {
    let mut all = Vec::new();
    gather(&assigned("prod"), String::new(), &mut all);
    proptest::sample::select(all)
}

fn gather(value: &Value, at: String, all: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(key, value)| gather(value, format!("{at}/{key}"), all));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, value)| gather(value, format!("{at}/{index}"), all));
        }
        _ => {}
    }
    if !at.is_empty() {
        all.push(at);
    }
}

/// A value that a hostile peer could put there.
fn anything() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        "[/a.:~\\\\ -]{0,12}",
        "(/[a.:]{1,3}){1,4}(:(ro|rw|z))?",
        Just("container:x".to_owned()),
        Just("../..".to_owned()),
        ".{0,20}",
    ];
    prop_oneof![
        text.prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        Just(Value::Null),
        Just(json!([])),
        Just(json!({})),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_accepted_assignment_is_valid_and_round_trips(
        changes in proptest::collection::vec((pointer(), anything()), 1..4),
    ) {
        let mut hostile = assigned("prod");
        for (pointer, value) in changes {
            if let Some(place) = hostile.pointer_mut(&pointer) {
                *place = value;
            }
        }
        let found = assignment(vec![hostile]);
        for assigned in found.environments {
            for mount in &assigned.spec.volumes {
                let (source, target) = (mount.source().as_str(), mount.target().as_str());
                // Mounts of volumes go to the engine as structures, so only paths of the host must have no colons.
                let colons = source.contains(':') || mount.host_path().is_some() && target.contains(':');
                prop_assert!(!colons, "{mount}");
                let parts: Vec<_> = source.split('/').chain(target.split('/')).collect();
                prop_assert!(!parts.contains(&"..") && target.starts_with('/') && target != "/", "{mount}");
            }
            prop_assert!(assigned.spec.port != Some(0));
            let again = serde_json::to_value(&assigned).unwrap();
            prop_assert_eq!(serde_json::from_value::<Assigned>(again).unwrap(), assigned);
        }
    }

    #[test]
    fn no_line_from_a_peer_causes_a_panic(line in ".{0,200}") {
        let _ = serde_json::from_str::<ToAgent>(&line);
        let _ = serde_json::from_str::<AgentReport>(&line);
        let _ = serde_json::from_str::<Hello>(&line);
    }
}

#[test]
fn the_url_of_a_site_has_the_scheme_port_and_path_of_its_proxy() {
    let url = |front: &str, path: &str| {
        let site = if path.is_empty() { String::new() } else { format!("site = {{ path = \"{path}\" }}\n") };
        let text = format!(
            "[environment.a]\ncontainer = \"aa\"\nport = 80\npublish = false\nhostname = \"a.example\"\n{site}[front]\n{front}"
        );
        let manifest = parse(&[SourceFile { name: "m.toml".to_owned(), text }]).unwrap();
        let spec = manifest.environments.values().next().unwrap();
        ReportedProxy::of(manifest.front.as_ref()).url(spec).unwrap()
    };
    assert_eq!(url("http = 80\n", ""), "http://a.example/");
    assert_eq!(url("http = 8080\n", "/shop"), "http://a.example:8080/shop");
    assert_eq!(url("acme = {}\n", ""), "https://a.example/");
    assert_eq!(url("acme = {}\nhttps = 8443\n", ""), "https://a.example:8443/");
}
