//! `canary`: what it declares, and what two versions at once cannot have.

use std::time::Duration;

use super::*;

/// An environment with a canary, and other lines from line 7 on.
fn with(front: &str, name: &str, canary: &str, lines: &str) -> SourceFile {
    let text = format!(
        "{front}\n[environment.shop]\ncontainer = \"shop\"\nport = 8000\n{name}\ncanary = {canary}\n{lines}\n"
    );
    file("m.toml", text)
}

fn declared(canary: &str) -> String {
    let manifest = parse(&[with("[front]", "hostname = \"a.example\"", canary, "")]).unwrap();
    let canary = manifest.environments.values().next().unwrap().canary.clone().unwrap();
    format!("{} % for {}, {}", canary.percent.get(), humantime::format_duration(canary.time), canary.fail_on)
}

#[test]
fn a_canary_has_defaults() {
    assert_eq!(declared("{}"), "10 % for 15m, 5xx > 1%");
    assert_eq!(declared("{ percent = 25, for = \"1h\", fail_on = \"5xx>0.5%\" }"), "25 % for 1h, 5xx > 0.5%");
}

#[test]
fn a_canary_is_sent_to_agents_and_read_with_the_same_grammar() {
    let manifest = parse(&[with("[front]", "", "{ percent = 25, for = \"90s\" }", "")]).unwrap();
    let spec = manifest.environments.values().next().unwrap();
    let mut sent = serde_json::to_value(spec).unwrap();
    let read: EnvironmentSpec = serde_json::from_value(sent.clone()).unwrap();
    assert_eq!(read.canary, spec.canary);
    assert_eq!(read.canary.unwrap().time, Duration::from_secs(90));
    for (field, bad) in [
        ("percent", 100.into()),
        ("fail_on", "4xx > 1%".into()),
        ("for", serde_json::json!({ "secs": 0, "nanos": 0 })),
    ] {
        let before = std::mem::replace(&mut sent["canary"][field], bad);
        assert!(serde_json::from_value::<EnvironmentSpec>(sent.clone()).is_err(), "{field}");
        sent["canary"][field] = before;
    }
}

#[test]
fn canaries_that_cannot_be_are_rejected_with_a_remedy() {
    let (front, name, all) = ("[front]", "hostname = \"a.example\"", "{}");
    let cases = [
        (front, name, "{ percent = 0 }", "", "6: `percent` must be a whole number from 1 to 99, not 0"),
        (front, name, "{ percent = 100 }", "", "6: `percent` must be a whole number from 1 to 99, not 100"),
        (front, name, "{ for = \"0s\" }", "", "6: `for` must be more than zero"),
        (front, name, "{ fail_on = \"errors\" }", "", "6: `fail_on` must be a limit such as \"5xx > 1%\""),
        (front, name, "{ fail_on = \"5xx > 100%\" }", "", "6: `fail_on` must be below 100%"),
        (
            "",
            name,
            all,
            "publish = false",
            "6: `canary` needs the proxy, which divides the visitors: add `[front]`",
        ),
        (
            front,
            "publish = false",
            all,
            "",
            "6: `canary` needs requests through the proxy: declare a `hostname`, or publish the `port`",
        ),
        (
            front,
            name,
            all,
            "replicas = 2",
            "6: `canary` does not go with `replicas`: a new version replaces one replica after the other",
        ),
        (
            front,
            name,
            all,
            "update = \"stop-first\"",
            "6: `canary` does not go with `update` = \"stop-first\": two versions have to run at once",
        ),
        (
            front,
            name,
            all,
            "volumes = [\"data:/data\"]",
            "6: `canary` runs two versions at once, which both mount the `volumes`: if they may, declare `update = \
             \"start-first\"`",
        ),
        (
            front,
            name,
            all,
            "ports = [\"9000:9000\"]",
            "6: `canary` does not go with `ports`: two containers cannot publish one host port",
        ),
        (
            front,
            name,
            all,
            "network_mode = \"host\"",
            "6: `canary` does not go with `network_mode` = \"host\": two programs cannot listen on one port",
        ),
        (
            front,
            name,
            all,
            "networks = { a = { ipv4_address = \"10.1.2.3\" } }",
            "6: `canary` does not go with a fixed address: each container needs its own",
        ),
    ];
    for (front, name, canary, lines, expected) in cases {
        let problems = parse(&[with(front, name, canary, lines)]).unwrap_err();
        let found: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert!(found.contains(&format!("m.toml:{expected}")), "{canary} {lines}\n{}", found.join("\n"));
    }
    let swarm = "swarm = {}\nimage = \"localhost:5000/a:1\"";
    let problems = parse(&[with(front, "", all, swarm)]).unwrap_err().to_string();
    assert!(problems.contains("`canary` does not go with `swarm`"), "{problems}");
    let beside = "volumes = [\"data:/data\"]\nupdate = \"start-first\"";
    assert!(parse(&[with(front, name, all, beside)]).is_ok());
}
