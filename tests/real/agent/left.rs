//! An environment moves to another host: what it leaves is warned of, forgotten on request, and taken over if it
//! comes back.

use serde_json::Value;

use crate::common::{PATIENCE, PORT, Pair, eventually, try_docker};

/// The host of an environment.
#[derive(Clone, Copy)]
enum On<'a> {
    Agent(&'a str),
    Controller,
}

/// Declares prod, which has a volume, on a host. Its port is published on the agents' host only.
fn declare(pair: &Pair, on: On<'_>) {
    pair.declare(&format!("volumes = [\"{}:/data\"]", volume(pair)));
    let file = pair.desired_state.join("prod.toml");
    let declared = std::fs::read_to_string(&file).unwrap();
    let moved = match on {
        On::Agent(agent) => declared.replace("host = \"online\"", &format!("host = \"{agent}\"")),
        On::Controller => declared
            .replace("host = \"online\"\n", "")
            .replace(&format!("publish = {PORT}"), "publish = false"),
    };
    std::fs::write(file.with_extension("new"), moved).unwrap();
    std::fs::rename(file.with_extension("new"), &file).unwrap();
}

fn volume(pair: &Pair) -> String {
    pair.space.name("prod-data")
}

/// A pair with a running prod that has a volume.
fn running(words: &str) -> Option<Pair> {
    let pair = Pair::new()?;
    declare(&pair, On::Agent("online"));
    let image = pair.push_image(words);
    pair.abide(&["set", "prod", &image]);
    pair.ready();
    pair.serves(words);
    Some(pair)
}

/// The containers of prod on the agents' host, sandboxes included.
fn there(pair: &Pair) -> Vec<String> {
    let filter = format!("name={}", pair.name());
    let listed = pair.host.docker(&["ps", "--all", "--no-trunc", "--quiet", "--filter", &filter]);
    let mut ids: Vec<_> = listed.lines().map(str::to_owned).collect();
    ids.sort();
    ids
}

/// The same on the controller's host.
fn here(pair: &Pair) -> Vec<String> {
    let filter = format!("name={}", pair.name());
    let listed = try_docker(&["ps", "--all", "--no-trunc", "--quiet", "--filter", &filter]).unwrap();
    let mut ids: Vec<_> = listed.lines().map(str::to_owned).collect();
    ids.sort();
    ids
}

fn warns(view: &Value, place: &str) -> bool {
    view["warnings"].to_string().contains(&format!("on {place}, although"))
}

const ONLINE: &str = "the host of the agent online";
const HERE: &str = "the controller's host";

fn is_ready_on(view: &Value, host: &Value) -> bool {
    view["host"] == *host
        && view["status"] == "Ready"
        && view["reason"] == "AsRecorded"
        && view["observed_generation"] == view["generation"]
}

#[test]
fn leftovers_on_a_disconnected_agent_are_removed_on_reconnection() {
    let Some(mut pair) = running("on the move") else { return };
    let left = there(&pair);
    pair.kill_agent();
    pair.until("the agent is away", |view| view["reason"] == "AgentAway");
    declare(&pair, On::Controller);
    let is_here = |view: &Value| is_ready_on(view, &Value::Null) && warns(view, ONLINE);
    pair.until("it runs here, and what may run there is named", is_here);
    pair.kill_controller();
    pair.start_controller();
    pair.until("a new controller knows it too", is_here);
    let serving = here(&pair);

    let ran = pair.controller.as_ref().unwrap().abide(&["forget", "prod", "--yes"]);
    assert!(ran.code == 1 && ran.stderr.contains("--stop"), "{ran:?}");
    let ran = pair.controller.as_ref().unwrap().abide(&["forget", "prod", "--stop", "--yes"]);
    assert!(ran.code == 1 && ran.stderr.contains("as soon as that agent is connected"), "{ran:?}");
    let why = pair.abide(&["why", "prod"]).stdout;
    assert!(why.contains("it is to be removed, as soon as that agent is connected"), "{why}");
    pair.kill_controller();
    pair.start_controller();
    assert_eq!(there(&pair), left, "nobody is there to remove it");

    pair.start_agent();
    eventually("what is left there is removed", PATIENCE, || there(&pair).is_empty());
    pair.until("the warning ends", |view| is_ready_on(view, &Value::Null) && !warns(view, ONLINE));
    let kept = pair.host.docker(&["volume", "ls", "--quiet"]);
    assert!(kept.contains(&volume(&pair)), "its volume is lost: {kept}");
    assert_eq!(here(&pair), serving, "what serves was touched");
    let events = pair.abide(&["events", "prod"]).stdout;
    assert!(events.contains("what it left on hosts that do not run it any more is removed"), "{events}");
}

#[test]
fn leftovers_are_forgotten_or_adopted_by_a_returning_environment() {
    let Some(pair) = running("on the move") else { return };
    let before = there(&pair);
    declare(&pair, On::Controller);
    pair.until("it runs here", |view| is_ready_on(view, &Value::Null) && warns(view, ONLINE));

    // It comes back to the container that it left.
    declare(&pair, On::Agent("online"));
    let online = Value::from("online");
    let view = pair.until("it runs there again", |view| is_ready_on(view, &online) && warns(view, HERE));
    assert!(!warns(&view, ONLINE), "{view}");
    assert_eq!(there(&pair), before, "what it left was not taken over");
    assert!(!here(&pair).is_empty());
    let ran = pair.abide(&["forget", "prod", "--stop", "--yes"]);
    assert!(here(&pair).is_empty(), "{ran:?}");
    assert!(format!("{ran:?}").contains(&volume(&pair)), "its volume is not named: {ran:?}");
    pair.until("the warning ends", |view| is_ready_on(view, &online) && !warns(view, HERE));
    assert_eq!(there(&pair), before, "what serves was touched");
    let ran = pair.controller.as_ref().unwrap().abide(&["forget", "prod", "--stop", "--yes"]);
    assert!(ran.code == 1 && ran.stderr.contains("no other host has containers of it"), "{ran:?}");

    declare(&pair, On::Controller);
    pair.until("what it leaves is named", |view| {
        is_ready_on(view, &Value::Null) && view["warnings"].to_string().contains("docker rm -f")
    });
    let serving = here(&pair);
    let ran = pair.abide(&["forget", "prod", "--stop", "--yes"]);
    assert!(there(&pair).is_empty(), "{ran:?}");
    assert!(format!("{ran:?}").contains(&volume(&pair)), "its volume is not named: {ran:?}");
    let kept = pair.host.docker(&["volume", "ls", "--quiet"]);
    assert!(kept.contains(&volume(&pair)), "its volume is lost: {kept}");
    assert_eq!(here(&pair), serving, "what serves was touched");
}

#[test]
fn an_undeclared_environment_can_be_forgotten_on_every_host() {
    let Some(pair) = running("to be forgotten") else { return };
    declare_another(&pair);
    pair.until("what is left there is named", |view| warns(view, ONLINE));
    let ran = pair.controller.as_ref().unwrap().abide(&["forget", "prod", "--yes"]);
    assert!(ran.code == 1 && ran.stderr.contains("still exists"), "{ran:?}");
    assert!(!there(&pair).is_empty());
    let ran = pair.abide(&["forget", "prod", "--stop", "--yes"]);
    assert!(there(&pair).is_empty(), "{ran:?}");
    assert_eq!(pair.ask("GET", "/api/v1/environments/prod", &Value::Null).0, 404);
}

#[test]
fn a_moved_environment_gets_its_name_once_its_leftovers_are_gone() {
    let Some(pair) = running("between agents") else { return };
    let (folder, token) = (pair.space.dir().join("other"), pair.new_token("other"));
    std::fs::create_dir(&folder).unwrap();
    // Both agents use one engine, as if the first had been set up anew in another folder.
    let _other = pair.another_agent(&folder, &token, 0);
    declare(&pair, On::Agent("other"));
    let view = pair.until("the name is taken, and by what it left", |view| {
        view["reason"] == "NameConflict" && warns(view, ONLINE)
    });
    assert_eq!((&view["status"], &view["host"]), (&"Blocked".into(), &"other".into()), "{view}");
    assert_eq!(pair.host.page(PORT).as_deref(), Some("between agents"), "what served was stopped");
    let left = there(&pair);
    pair.abide(&["forget", "prod", "--stop", "--yes"]);
    let other = Value::from("other");
    pair.until("it runs under its name", |view| is_ready_on(view, &other) && !warns(view, ONLINE));
    pair.serves("between agents");
    assert!(there(&pair).iter().all(|id| !left.contains(id)));
}

/// Declares another environment in place of prod: a manifest declares at least one.
fn declare_another(pair: &Pair) {
    let other = format!(
        "[environment.other]\ncontainer = \"{}\"\nport = 80\npublish = false\n",
        pair.space.name("other")
    );
    let file = pair.desired_state.join("prod.toml");
    std::fs::write(file.with_extension("new"), other).unwrap();
    std::fs::rename(file.with_extension("new"), &file).unwrap();
}

/// Requests `forget`, which has to wait for the agent.
fn forget_later(pair: &Pair) {
    let ran = pair.controller.as_ref().unwrap().abide(&["forget", "prod", "--stop", "--yes"]);
    assert!(ran.code == 1 && ran.stderr.contains("as soon as that agent is connected"), "{ran:?}");
}

fn is_forgetting(view: &Value) -> bool {
    view["forgetting"].as_array().is_some_and(|what| !what.is_empty())
}

#[test]
fn a_redeclared_environment_is_not_forgotten_by_an_earlier_request() {
    let Some(mut pair) = running("twice declared") else { return };
    let before = there(&pair);
    pair.kill_agent();
    pair.until("the agent is away", |view| view["reason"] == "AgentAway");
    declare_another(&pair);
    pair.until("it is not declared", |view| warns(view, ONLINE));
    forget_later(&pair);
    pair.until("it waits for the agent", is_forgetting);

    // Declared again on the same host: the agent that returns must keep it.
    declare(&pair, On::Agent("online"));
    pair.until("the request is withdrawn", |view| !is_forgetting(view));
    pair.start_agent();
    let online = Value::from("online");
    pair.until("it is ready", |view| is_ready_on(view, &online));
    assert_eq!(there(&pair), before, "what serves was touched");
    let events = pair.abide(&["events", "prod"]).stdout;
    assert!(events.contains("the manifest declares it again"), "{events}");

    // A later edit that removes it has no request any more, not even after a restart of both.
    declare_another(&pair);
    pair.until("it is not declared", |view| warns(view, ONLINE));
    pair.kill_controller();
    pair.kill_agent();
    pair.start_controller();
    pair.start_agent();
    pair.agent.as_ref().unwrap().is_connected();
    pair.until("nothing is removed", |view| warns(view, ONLINE) && !is_forgetting(view));
    assert_eq!(there(&pair), before, "it was removed without a request");
    // Only a connected agent carries the request out at once. Otherwise, the exit code is 1.
    pair.abide(&["forget", "prod", "--stop", "--yes"]);
    assert!(there(&pair).is_empty());
}

#[test]
fn forgetting_left_hosts_keeps_an_undeclared_environment() {
    let Some(mut pair) = running("left and undeclared") else { return };
    pair.kill_agent();
    pair.until("the agent is away", |view| view["reason"] == "AgentAway");
    declare(&pair, On::Controller);
    pair.until("it runs here", |view| is_ready_on(view, &Value::Null) && warns(view, ONLINE));
    forget_later(&pair);
    let serving = here(&pair);
    declare_another(&pair);
    pair.until("it is not declared", |view| view["container"].is_null());
    pair.start_agent();
    eventually("what it left there is removed", PATIENCE, || there(&pair).is_empty());
    pair.until("the request is carried out", |view| !is_forgetting(view) && !warns(view, ONLINE));
    assert_eq!(here(&pair), serving, "what serves was removed without a request");
    pair.abide(&["forget", "prod", "--stop", "--yes"]);
    assert!(here(&pair).is_empty());
}
