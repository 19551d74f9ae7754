//! The controller is unreachable, the cable is cut, or one side is killed: prod keeps running, and
//! both sides agree again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::common::{Mishap, PATIENCE, PORT, Pair, Relay, bulky_image, eventually, json};

/// A pair with a running prod.
fn running(words: &str) -> Option<Pair> {
    let pair = Pair::new()?;
    let image = pair.push_image(words);
    pair.abide(&["set", "prod", &image]);
    pair.ready();
    pair.serves(words);
    Some(pair)
}

/// The ID of prod's container.
fn container(pair: &Pair) -> Option<String> {
    pair.host.try_docker(&["container", "inspect", "--format", "{{.Id}}", &pair.name()])
}

fn is_away(view: &Value) -> bool {
    view["reason"] == "AgentAway"
}

#[test]
fn agents_heal_containers_while_the_controller_is_down() {
    let Some(mut pair) = running("still here") else { return };
    let before = container(&pair).unwrap();
    pair.kill_controller();
    pair.host.docker(&["rm", "--force", &pair.name()]);
    eventually("prod is made again", PATIENCE, || container(&pair).is_some_and(|now| now != before));
    pair.serves("still here");

    pair.kill_agent();
    pair.host.docker(&["rm", "--force", &pair.name()]);
    pair.start_agent();
    pair.serves("still here");

    pair.start_controller();
    let view = pair.ready();
    assert_eq!(view["generation"], 1);
    let events = json(&pair.abide(&["events", "prod", "-o", "json"])).to_string();
    assert!(events.contains("step"), "what was done meanwhile is not told: {events}");
}

/// Copies a folder with all that is in it.
fn copy(from: &std::path::Path, to: &std::path::Path) {
    let copied = std::process::Command::new("cp").arg("--archive").args([from, to]).status();
    assert!(copied.unwrap().success());
}

/// A pair that was updated to version two, and a copy of the agent's folder from before.
fn updated_since_a_copy() -> Option<(Pair, std::path::PathBuf)> {
    let mut pair = running("version one")?;
    pair.kill_agent();
    let old = pair.space.dir().join("old");
    copy(&pair.folder, &old);
    pair.start_agent();
    let next = pair.push_image("version two");
    pair.abide(&["set", "prod", &next]);
    pair.ready();
    Some((pair, old))
}

/// Replaces the folder of the killed agent by a copy.
fn restore(pair: &Pair, old: &std::path::Path) {
    std::fs::remove_dir_all(&pair.folder).unwrap();
    copy(old, &pair.folder);
}

#[test]
fn a_restored_agent_keeps_its_containers_until_it_is_connected() {
    let Some((mut pair, old)) = updated_since_a_copy() else { return };
    let before = container(&pair).unwrap();
    for is_controller_there in [true, false] {
        if !is_controller_there {
            pair.kill_controller();
        }
        let ran = pair.agent.as_ref().unwrap().log().len();
        pair.kill_agent();
        restore(&pair, &old);
        pair.start_agent();
        let has_logged = |words: &str| pair.agent.as_ref().unwrap().log()[ran..].contains(words);
        if !is_controller_there {
            eventually("the agent goes on alone", PATIENCE, || {
                has_logged("repairing the local containers without it")
            });
            assert_eq!(container(&pair), Some(before.clone()), "what runs was replaced by what ran before");
            pair.controller = Some(pair.new_controller());
        }
        // Until the restored agent reports, the controller shows the state from before.
        let ready = "\"generation\":\"2\",\"condition\":\"Ready\"";
        eventually("the restored agent finds generation 2 ready", PATIENCE, || has_logged(ready));
        let view = pair.ready();
        assert_eq!(view["generation"], 2, "what abide stopped was taken for a failure: {view}");
        assert_eq!(container(&pair), Some(before.clone()), "what runs was replaced");
        pair.serves("version two");
    }
}

#[test]
fn a_restored_agent_keeps_its_container_if_the_registry_is_down() {
    let Some((mut pair, old)) = updated_since_a_copy() else { return };
    let before = container(&pair).unwrap();
    pair.kill_agent();
    pair.until("the agent is away", is_away);
    restore(&pair, &old);
    pair.registry.freeze();
    pair.start_agent();
    // The copy names neither the container nor the image of generation 2, only that of generation 1.
    pair.until("its image is asked for", |view| view["reason"] == "Pulling");
    assert_eq!(container(&pair), Some(before.clone()), "what serves was replaced by what ran before");
    assert_eq!(pair.host.page(PORT).as_deref(), Some("version two"));
    pair.registry.thaw();
    pair.ready();
    assert_eq!(container(&pair), Some(before), "what runs was replaced");
    pair.serves("version two");
}

#[test]
fn only_a_longer_disconnection_is_reported() {
    let Some(pair) = running("steady") else { return };
    let before = container(&pair);
    pair.host.cut();
    std::thread::sleep(Duration::from_secs(1));
    pair.host.repair();
    let next = pair.push_image("after a second");
    pair.abide(&["set", "prod", &next]);
    pair.ready();
    pair.serves("after a second");
    assert_ne!(container(&pair), before);

    pair.host.cut();
    let view = pair.until("the half-open link is found", is_away);
    assert_eq!(view["status"], "Degraded", "nobody can tell whether it serves: {view}");
    assert!(view["message"].as_str().unwrap().contains("online is disconnected, last seen"), "{view}");
    assert_eq!(pair.host.page(PORT).as_deref(), Some("after a second"));
    let recorded = pair.push_image("while it was cut");
    pair.abide(&["set", "prod", &recorded]);
    let ran = pair.controller.as_ref().unwrap().abide(&["wait", "prod", "--timeout", "1s"]);
    assert_eq!(ran.code, 1, "nobody can tell while the agent is away: {ran:?}");
    pair.host.repair();
    pair.ready();
    pair.serves("while it was cut");
}

#[test]
fn an_agent_killed_during_a_pull_keeps_its_container_and_retries() {
    let Some(mut pair) = running("the old one") else { return };
    // The registry does not answer, so the pull takes until it does.
    let next = pair.push_image("the new one");
    pair.registry.freeze();
    pair.abide(&["set", "prod", &next]);
    pair.until("the pull is under way", |view| view["reason"] == "Pulling");
    pair.kill_agent();
    pair.until("the agent is away", is_away);
    assert_eq!(pair.host.page(PORT).as_deref(), Some("the old one"));
    pair.start_agent();
    pair.until("the pull is under way again", |view| view["reason"] == "Pulling");
    pair.registry.thaw();
    pair.ready();
    pair.serves("the new one");
    let containers = pair.host.docker(&["ps", "--all", "--format", "{{.Names}}"]);
    assert!(!containers.contains(".next"), "something half made is left: {containers}");
}

#[test]
fn a_layer_pull_through_the_link_resumes_after_a_registry_kill() {
    let Some(mut pair) = running("the old one") else { return };
    let relay = Relay::start(pair.registry.port());
    relay.rule(|head| match head.starts_with("GET ") && head.contains("/blobs/") {
        true => Mishap::Hold(4 << 20),
        false => Mishap::None,
    });
    let next = pair.push(&bulky_image(&pair.space, "the new one", &[24 << 20]));
    let next = next.replace(&pair.registry.host(), &relay.host());
    pair.abide(&["set", "prod", &next]);
    relay.await_held();
    pair.registry.kill();
    relay.release();
    pair.until("the engine there tries again", |view| {
        view["message"].as_str().is_some_and(|message| message.contains("Retrying in"))
    });
    assert_eq!(pair.host.page(PORT).as_deref(), Some("the old one"));
    let is_resumed = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&is_resumed);
    relay.rule(move |head| {
        if head.to_lowercase().contains("range: bytes=") {
            seen.store(true, Ordering::SeqCst);
        }
        Mishap::None
    });
    pair.registry.run();
    pair.ready();
    pair.serves("the new one");
    assert!(is_resumed.load(Ordering::SeqCst), "the layer was asked for from its beginning");
}

#[test]
fn a_controller_restored_from_a_backup_causes_no_downgrade() {
    let Some(mut pair) = running("generation one") else { return };
    let old = pair.abide(&["export"]).stdout;
    let second = pair.push_image("generation two");
    pair.abide(&["set", "prod", &second]);
    pair.ready();
    pair.serves("generation two");

    pair.kill_controller();
    std::fs::remove_dir_all(pair.desired_state.join("record")).unwrap();
    let file = pair.space.dir().join("old.json");
    std::fs::write(&file, old).unwrap();
    pair.start_controller();
    pair.abide(&["import", file.to_str().unwrap()]);
    // An export contains no tokens.
    pair.kill_agent();
    pair.token = pair.new_token("online");
    pair.start_agent();
    let view = pair.until("it is told", |view| view["reason"] == "RecordBehind");
    assert_eq!((&view["status"], &view["generation"]), (&"Blocked".into(), &1.into()));
    assert!(view["message"].as_str().unwrap().contains("restored from an older copy"), "{view}");
    assert_eq!(pair.host.page(PORT).as_deref(), Some("generation two"));
    let ran = pair.controller.as_ref().unwrap().abide(&["wait", "prod", "--timeout", "60s"]);
    assert_eq!(ran.code, 1, "{ran:?}");

    let third = pair.push_image("said again");
    pair.abide(&["set", "prod", &third]);
    let view = pair.ready();
    assert_eq!(view["generation"], 3, "a number that was seen to run is never given again");
    pair.serves("said again");
}

/// Whether the status warns of prod's container on this host.
fn warns_of(pair: &Pair, view: &Value, host: &str) -> bool {
    let warnings = view["warnings"].to_string();
    warnings.contains(&format!("on {host}, although"))
        && warnings.contains(&format!("docker rm -f {}", pair.name()))
}

#[test]
fn moving_an_environment_warns_of_its_leftovers_in_both_directions() {
    let Some(pair) = running("on the move") else { return };
    assert!(!pair.view()["warnings"].to_string().contains("docker rm"), "{}", pair.view());
    let file = pair.desired_state.join("prod.toml");
    let declared = std::fs::read_to_string(&file).unwrap();
    let here =
        declared.replace("host = \"online\"\n", "").replace(&format!("publish = {PORT}"), "publish = false");
    std::fs::write(file.with_extension("new"), here).unwrap();
    std::fs::rename(file.with_extension("new"), &file).unwrap();
    pair.until("what is left there is named", |view| warns_of(&pair, view, "the host of the agent online"));
    pair.until("it runs here", |view| view["host"].is_null() && view["status"] == "Ready");
    let why = pair.abide(&["why", "prod"]).stdout;
    assert!(why.contains("the host of the agent online"), "{why}");

    pair.declare("");
    let back = pair.until("what is left here is named", |view| {
        warns_of(&pair, view, "the controller's host") && view["status"] == "Ready"
    });
    assert!(!warns_of(&pair, &back, "the host of the agent online"), "{back}");
}

#[test]
fn an_environment_on_a_never_connected_agent_is_not_ready() {
    let Some(pair) = Pair::apart() else { return };
    let view = pair.view();
    assert_eq!((&view["status"], &view["reason"]), (&"Blocked".into(), &"AgentAway".into()), "{view}");
    let ran = pair.controller.as_ref().unwrap().abide(&["wait", "prod", "--timeout", "1s"]);
    assert_eq!(ran.code, 1, "{ran:?}");
}
