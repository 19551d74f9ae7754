//! Environments on another host show and accept the same as local ones.

use std::process::{Command, Stdio};

use crate::common::{PATIENCE, PORT, Pair, eventually, json, list};

#[test]
fn logs_plans_events_history_and_holds_work_through_the_link() {
    let Some(pair) = Pair::new() else { return };
    let first = pair.push_image("one");
    pair.abide(&["set", "prod", &first]);
    pair.ready();
    pair.serves("one");

    // The requested page appears in the container's output, which is followed from there.
    let log = pair.space.dir().join("followed");
    let mut follow = Command::new(env!("CARGO_BIN_EXE_abide"));
    follow.env("ABIDE_DESIRED_STATE", &pair.desired_state).args(["logs", "prod", "-f"]);
    let mut child = follow.stdin(Stdio::null()).stdout(std::fs::File::create(&log).unwrap()).spawn().unwrap();
    eventually("a request shows in the followed output", PATIENCE, || {
        pair.host.page(PORT);
        std::fs::read_to_string(&log).unwrap().contains("GET /")
    });
    child.kill().unwrap();
    child.wait().unwrap();

    let ran = pair.controller.as_ref().unwrap().abide(&["diff", "prod"]);
    assert_eq!(ran.code, 0, "nothing is to be done: {ran:?}");
    let history = list(json(&pair.abide(&["history", "prod", "-o", "json"])));
    assert_eq!(history[0]["outcome"]["outcome"], "ready", "{history:?}");
    let events = pair.abide(&["events", "prod"]).stdout;
    for words in ["pull", "create", "Ready"] {
        assert!(events.contains(words), "{words} is in no event: {events}");
    }

    pair.abide(&["hold", "prod", "--reason", "a demo"]);
    pair.until("it is held", |view| view["status"] == "Held");
    let second = pair.push_image("two");
    pair.abide(&["set", "prod", &second]);
    assert_eq!(pair.host.page(PORT).as_deref(), Some("one"));
    pair.abide(&["resume", "prod"]);
    pair.ready();
    pair.serves("two");
}

#[test]
fn an_agent_rolls_back_a_failed_version_and_the_controller_records_it() {
    let Some(pair) = Pair::new() else { return };
    let good = pair.push_image("good");
    pair.abide(&["set", "prod", &good]);
    pair.ready();
    let bad = pair.push_image_with("bad", "ENV SITE_CRASH_AFTER=0s");
    pair.abide(&["set", "prod", &bad]);
    let view = pair.until("it is rolled back", |view| {
        view["status"] == "RolledBack" && view["observed_generation"] == view["generation"]
    });
    assert_eq!((&view["generation"], &view["origin"]), (&3.into(), &"automatic rollback".into()), "{view}");
    assert_eq!(view["image"]["digest"], good.split_once('@').unwrap().1, "{view}");
    pair.serves("good");
    let history = list(json(&pair.abide(&["history", "prod", "-o", "json"])));
    assert_eq!(history[1]["outcome"]["outcome"], "failed", "{history:?}");
    assert_eq!(history.len(), 3, "one failure is one rollback: {history:?}");
}

#[test]
fn a_mount_denied_by_the_policy_blocks_but_stops_nothing() {
    let Some(mut pair) = Pair::new() else { return };
    let image = pair.push_image("allowed");
    pair.abide(&["set", "prod", &image]);
    pair.ready();
    pair.declare("volumes = [\"/etc:/host\"]");
    let view = pair.until("the mount is refused", |view| view["reason"] == "PolicyRefused");
    assert_eq!(view["status"], "Blocked");
    assert!(view["message"].as_str().unwrap().contains("mounting /etc"), "{view}");
    pair.serves("allowed");
    pair.host.docker(&["rm", "--force", &pair.name()]);
    pair.serves("allowed");
    let mounts = pair.host.docker(&["inspect", "--format", "{{json .Mounts}}", &pair.name()]);
    assert!(!mounts.contains("/etc"), "{mounts}");

    let allowed = pair.folder.parent().unwrap().join("allowed");
    std::fs::create_dir(&allowed).unwrap();
    std::fs::write(pair.folder.join("policy.toml"), format!("binds = [\"{}\"]\n", allowed.display()))
        .unwrap();
    pair.kill_agent();
    pair.start_agent();
    let source = allowed.join("data").display().to_string();
    pair.declare(&format!("volumes = [\"{source}:/data\"]"));
    let view = pair.until("the source is missed", |view| view["reason"] == "BindSourceMissing");
    assert!(view["status"] == "Blocked" && view["message"].as_str().unwrap().contains(&source), "{view}");
    pair.serves("allowed");
    pair.declare(&format!("volumes = [{{ source = \"{source}\", target = \"/data\", create = true }}]"));
    pair.ready();
    let mounts = pair.host.docker(&["inspect", "--format", "{{json .Mounts}}", &pair.name()]);
    assert!(mounts.contains(&source) && allowed.join("data").is_dir(), "{mounts}");

    pair.declare("");
    pair.ready();
    let policy = format!("images = [\"{}/other\"]\n", pair.registry.host());
    std::fs::write(pair.folder.join("policy.toml"), policy).unwrap();
    pair.kill_agent();
    pair.start_agent();
    pair.until("the image is refused", |view| view["reason"] == "PolicyRefused");
    pair.serves("allowed");
}

#[test]
fn an_image_that_an_agent_could_not_pull_is_rejected() {
    let Some(pair) = Pair::new() else { return };
    let id = format!("sha256:{}", "a".repeat(64));
    let ran = pair.controller.as_ref().unwrap().abide(&["set", "prod", &id]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.stderr.contains("name@sha256:"), "{ran:?}");
    assert_eq!(pair.view()["generation"], 0);
}
