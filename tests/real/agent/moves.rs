//! An environment moves to another host in the middle of an update, at each moment: a container goes on serving
//! on the host that it leaves, nothing half-made stays there, and no data is removed.

use crate::common::{Daemon, PATIENCE, Pair, docker, eventually, free_ports, http_get, try_docker};

/// Declares prod with a volume on the agent's host or on the controller's.
fn declare(pair: &Pair, port: u16, is_there: bool, more: &str) {
    pair.declare(&format!("volumes = [\"{}:/data\"]\n{more}", volume(pair)));
    let file = pair.desired_state.join("prod.toml");
    let declared = std::fs::read_to_string(&file).unwrap();
    let declared = declared.replace("publish = 8088\n", &format!("publish = \"127.0.0.1:{port}\"\n"));
    let declared = if is_there { declared } else { declared.replace("host = \"online\"\n", "") };
    std::fs::write(file.with_extension("new"), declared).unwrap();
    std::fs::rename(file.with_extension("new"), &file).unwrap();
}

fn volume(pair: &Pair) -> String {
    pair.space.name("prod-data")
}

/// A pair whose prod runs on the controller's host, at this port, and has data.
fn running_here(words: &str) -> Option<(Pair, u16)> {
    let pair = Pair::new()?;
    let [port] = free_ports();
    declare(&pair, port, false, "");
    let image = pair.push_image(words);
    pair.abide(&["set", "prod", &image]);
    pair.until("it runs here", |view| view["host"].is_null() && is_ready(view));
    assert_eq!(page_here(port).as_deref(), Some(words));
    let mark = pair.space.dir().join("mark");
    std::fs::write(&mark, "precious").unwrap();
    docker(&["cp", mark.to_str().unwrap(), &format!("{}:/data/mark", pair.name())]);
    Some((pair, port))
}

fn is_ready(view: &serde_json::Value) -> bool {
    view["status"] == "Ready"
        && view["reason"] == "AsRecorded"
        && view["observed_generation"] == view["generation"]
}

fn warns_of_here(view: &serde_json::Value) -> bool {
    view["warnings"].to_string().contains("on the controller's host, although")
}

fn page_here(port: u16) -> Option<String> {
    http_get(port, "/").ok().filter(|(status, _)| *status == 200).map(|(_, page)| page)
}

/// The names of its containers on the controller's host, sandboxes included.
fn here(pair: &Pair) -> Vec<String> {
    let filter = format!("name={}", pair.name());
    let listed = docker(&["ps", "--all", "--format", "{{.Names}}", "--filter", &filter]);
    let mut names: Vec<_> = listed.lines().map(str::to_owned).collect();
    names.sort();
    names
}

/// One container serves here, and nothing else is left.
fn one_serves_here(pair: &Pair, port: u16, moment: &str) -> String {
    eventually(&format!("{moment}: what it left serves, and nothing half-made is left"), PATIENCE, || {
        page_here(port).is_some() && here(pair) == [pair.name(), format!("{}.net", pair.name())]
    });
    page_here(port).unwrap()
}

fn data(pair: &Pair) -> Option<String> {
    try_docker(&["cp", &format!("{}:/data/mark", pair.name()), "-"])
}

/// Updates prod here, kills the controller at a failpoint of that, and moves prod to the agent meanwhile.
fn moved_at(moments: &[&str]) {
    let Some((mut pair, port)) = running_here("version 0") else { return };
    for (number, moment) in (1..).zip(moments) {
        let words = format!("version {number}");
        let next = pair.push_image(&words);
        pair.kill_controller();
        let doomed = Daemon::start_doomed(&pair.desired_state, moment, &[]);
        doomed.abide(&["set", "prod", &next]);
        doomed.await_doom(moment);
        declare(&pair, port, true, "");
        pair.start_controller();
        pair.until(&format!("{moment}: it runs there"), |view| view["host"] == "online" && is_ready(view));
        let left = one_serves_here(&pair, port, moment);
        assert!(left == words || left == format!("version {}", number - 1), "{moment}: {left}");
        assert!(data(&pair).is_some_and(|data| data.contains("precious")), "{moment}: its data is lost");
        let page = pair.host.page(port);
        assert_eq!(page.as_deref(), Some(words.as_str()), "{moment}");
        let view = pair.view();
        assert!(warns_of_here(&view), "{view}");

        // Back again: it takes over what it left.
        declare(&pair, port, false, "");
        pair.until(&format!("{moment}: it is back"), |view| view["host"].is_null() && is_ready(view));
        assert_eq!(one_serves_here(&pair, port, moment), words, "{moment}");
        assert!(data(&pair).is_some_and(|data| data.contains("precious")), "{moment}: its data is lost");
        pair.abide(&["forget", "prod", "--stop", "--yes"]);
    }
    let kept = pair.host.docker(&["volume", "ls", "--quiet"]);
    assert!(kept.contains(&volume(&pair)), "its volume there is lost: {kept}");
}

#[test]
#[ignore = "slow: .ci/slow runs it"]
fn a_move_early_in_an_update_leaves_one_serving_container() {
    moved_at(&["after-create", "after-stop", "before-start", "after-start"]);
}

#[test]
fn a_move_late_in_an_update_leaves_one_serving_container() {
    moved_at(&["before-remove", "after-remove", "before-rename", "after-rename"]);
}

#[test]
fn a_move_reverts_an_update_in_progress_on_the_old_host() {
    let Some((mut pair, port)) = running_here("serves") else { return };
    let name = pair.name();
    let silent = pair.push_image_with("never", "ENV SITE_NEVER_LISTEN=1");
    pair.abide(&["set", "prod", &silent]);
    eventually("the new version is on trial", PATIENCE, || {
        let listed = docker(&["ps", "--format", "{{.Names}}", "--filter", &format!("name={name}")]);
        listed.contains(".next") && page_here(port).is_none()
    });
    declare(&pair, port, true, "");
    assert_eq!(one_serves_here(&pair, port, "a live move"), "serves");
    assert!(data(&pair).is_some_and(|data| data.contains("precious")), "its data is lost");

    // A person stops what was left: it is not abide's any more.
    docker(&["stop", "--time", "1", &name]);
    pair.kill_controller();
    pair.start_controller();
    let is_reported = |view: &serde_json::Value| {
        view["host"] == "online" && view["reason"] != "AgentAway" && warns_of_here(view)
    };
    pair.until("the next controller has looked at its host and heard the agent", is_reported);
    assert_eq!(page_here(port), None, "abide started what a person stopped after the move");
}

#[test]
fn adopt_ignores_a_compose_container_of_a_remote_environment() {
    let Some(pair) = Pair::apart() else { return };
    let image = pair.push_image("of compose");
    let name = pair.name();
    docker(&[
        "run",
        "--detach",
        "--network",
        "none",
        "--name",
        &name,
        "--label",
        &format!("com.docker.compose.project={}", pair.space.prefix()),
        "--label",
        "com.docker.compose.service=prod",
        "--label",
        "com.docker.compose.oneoff=False",
        &image,
    ]);
    let before = docker(&["container", "inspect", "--format", "{{.Id}} {{.State.StartedAt}}", &name]);
    for arguments in [&["adopt"][..], &["adopt", "--yes"]] {
        let ran = pair.abide(arguments);
        let words = "stays with compose, because prod runs on the host of the agent online";
        assert!(ran.stdout.contains(words), "{ran:?}");
        let after = docker(&["container", "inspect", "--format", "{{.Id}} {{.State.StartedAt}}", &name]);
        assert_eq!(after, before, "{ran:?}");
    }
}
