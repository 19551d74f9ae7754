//! A hold keeps the container unchanged, image and options, on this host and on another.

use serde_json::Value;

use crate::common::{PATIENCE, Pair, Space, Spot, eventually, inspected, made_image, try_docker};

fn env(text: &str) -> bool {
    text.contains("MODE=one")
}

#[test]
fn an_edit_of_a_held_environment_is_shown_but_not_applied() {
    let Some(space) = Space::new() else { return };
    let spot = Spot::new(&space, "env = { MODE = \"one\" }");
    let daemon = spot.daemon();
    assert_eq!(spot.set(&made_image(&space, "held", "")).code, 0);
    spot.await_ready();
    let before = spot.container().unwrap();
    assert_eq!(daemon.abide(&["diff", "dev"]).code, 0);
    assert_eq!(daemon.abide(&["hold", "dev", "--reason", "an audit"]).code, 0);
    spot.until("it is held", |view| view["status"] == "Held");
    assert_eq!(daemon.abide(&["diff", "dev"]).code, 0, "it runs what is recorded and declared");

    spot.declare("env = { MODE = \"two\" }\nmemory = \"64MiB\"");
    let view = spot.until("the difference is shown", |view| {
        view["message"].as_str().is_some_and(|message| message.contains("`resume` would update: env, memory"))
    });
    assert_eq!(view["status"], "Held");
    assert_eq!(spot.container().as_deref(), Some(&*before));
    let diff = daemon.abide(&["diff", "dev"]);
    assert!(diff.code == 1 && diff.stdout.contains("`resume` would update: env, memory"), "{diff:?}");

    crate::common::docker(&["rm", "--force", &spot.name]);
    eventually("it is made again", PATIENCE, || spot.container().is_some_and(|now| now != before));
    let view = spot.until("it is held again", |view| view["status"] == "Held");
    assert!(env(&inspected(&spot.name, "{{.Config.Env}}")), "{view}");
    assert_eq!(inspected(&spot.name, "{{.HostConfig.Memory}}"), "0");

    // A later daemon knows it too.
    daemon.kill();
    crate::common::docker(&["rm", "--force", &spot.name]);
    let daemon = spot.daemon();
    eventually("it is made again", PATIENCE, || {
        try_docker(&["inspect", "--format", "{{.State.Running}} {{.Config.Env}}", &spot.name])
            .is_some_and(|seen| seen.starts_with("true") && env(&seen))
    });
    assert_eq!(daemon.abide(&["resume", "dev", "--wait", "--timeout", "60s"]).code, 0);
    assert!(inspected(&spot.name, "{{.Config.Env}}").contains("MODE=two"));
    assert_eq!(inspected(&spot.name, "{{.HostConfig.Memory}}"), (64 << 20).to_string());
}

#[test]
fn a_hold_of_an_agents_environment_keeps_its_container() {
    let Some(mut pair) = Pair::new() else { return };
    pair.declare("env = { MODE = \"one\" }");
    let image = pair.push_image("held there");
    pair.abide(&["set", "prod", &image, "--wait"]);
    let seen = |pair: &Pair| {
        pair.host.try_docker(&["container", "inspect", "--format", "{{.Id}} {{.Config.Env}}", &pair.name()])
    };
    let before = seen(&pair).unwrap();
    assert!(env(&before), "{before}");
    pair.abide(&["hold", "prod", "--reason", "an audit"]);
    let is_held = |view: &Value| view["status"] == "Held";
    pair.until("it is held", is_held);
    pair.declare("env = { MODE = \"two\" }");
    pair.until("the difference is shown", |view| {
        view["message"].as_str().is_some_and(|message| message.contains("`resume` would update: env"))
    });
    assert_eq!(seen(&pair).as_ref(), Some(&before));
    let diff = pair.controller.as_ref().unwrap().abide(&["diff", "prod"]);
    assert!(diff.code == 1 && diff.stdout.contains("env"), "{diff:?}");
    pair.kill_controller();
    pair.host.docker(&["rm", "--force", &pair.name()]);
    eventually("it is made again", PATIENCE, || seen(&pair).is_some_and(|now| now != before && env(&now)));
    pair.start_controller();
    pair.until("it is held again", is_held);
    pair.abide(&["resume", "prod", "--wait", "--timeout", "60s"]);
    assert!(seen(&pair).unwrap().contains("MODE=two"));
}
