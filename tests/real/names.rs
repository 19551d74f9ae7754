//! Environments that exchange their container names and published ports in one edit, and environments that are
//! renamed.

use serde_json::Value;

use crate::common::{
    Daemon, PATIENCE, SITE_PORT, Space, Spot, docker, eventually, free_ports, http_get, inspected, made_image,
};

/// The name and the port of each environment.
type Declared<'a> = [(&'a str, &'a str, u16); 2];

fn declare(spot: &Spot, environments: Declared<'_>) {
    let health = "health = { http = \"/\", interval = \"50ms\", timeout = \"1s\", start_deadline = \"10s\", \
                  healthy_for = \"200ms\" }";
    let tables = environments.map(|(environment, container, port)| {
        format!(
            "[environment.{environment}]\ncontainer = \"{container}\"\nport = {SITE_PORT}\npublish = \
             \"127.0.0.1:{port}\"\n{health}\n"
        )
    });
    let manifest = format!("[docker]\nnetwork = \"{}\"\n{}", spot.network, tables.concat());
    let path = spot.desired_state.join("spot.toml");
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, manifest).unwrap();
    std::fs::rename(fresh, path).unwrap();
}

/// Waits until each environment runs under its name and serves its own page on its port.
fn await_served(daemon: &Daemon, environments: Declared<'_>) {
    for (environment, container, port) in environments {
        let mut last = Value::Null;
        eventually(&format!("{environment} runs as declared"), PATIENCE, || {
            let ran = daemon.abide(&["status", environment, "-o", "json"]);
            last = serde_json::from_str::<Vec<Value>>(&ran.stdout).ok().and_then(|mut all| all.pop()).into();
            last["status"] == "Ready" && last["container"] == container && last["port"] == port
        });
        let page = http_get(port, "/").ok();
        assert_eq!(page, Some((200, environment.to_owned())), "{last}");
        let owner = inspected(container, "{{index .Config.Labels \"abide.environment\"}}");
        assert_eq!(owner, environment, "{last}");
    }
}

#[test]
fn two_environments_can_swap_names_and_ports_in_one_edit() {
    let Some(space) = Space::new() else { return };
    let spot = Spot::new(&space, "");
    let [low, high] = free_ports();
    let [left, right] = ["left", "right"].map(|name| space.name(name));
    let first = [("one", left.as_str(), low), ("two", right.as_str(), high)];
    let exchanged = [("one", right.as_str(), high), ("two", left.as_str(), low)];
    let ports_only = [("one", right.as_str(), low), ("two", left.as_str(), high)];
    declare(&spot, first);
    let mut daemon = spot.daemon();
    for environment in ["one", "two"] {
        let ran = daemon.abide(&["set", environment, &made_image(&space, environment, "")]);
        assert_eq!(ran.code, 0, "{ran:?}");
    }
    await_served(&daemon, first);
    declare(&spot, exchanged);
    await_served(&daemon, exchanged);
    declare(&spot, ports_only);
    await_served(&daemon, ports_only);
    // Both at once, while no daemon runs.
    daemon.kill();
    declare(&spot, first);
    daemon = spot.daemon();
    await_served(&daemon, first);
    let all = docker(&["ps", "--all", "--format", "{{.Names}}"]);
    let mut names: Vec<_> = all.lines().filter(|name| name.starts_with(space.prefix())).collect();
    names.retain(|name| name.starts_with(&left) || name.starts_with(&right));
    names.sort_unstable();
    // A sandbox whose name is still taken gets the next number.
    let names: Vec<_> = names.iter().map(|name| name.trim_end_matches(char::is_numeric)).collect();
    let nets = [&left, &right].map(|name| format!("{name}.net"));
    assert_eq!(names, [&left, &nets[0], &right, &nets[1]], "something is left over");
}

#[test]
fn environments_exchange_their_ports_without_a_failed_start() {
    let Some(space) = Space::new() else { return };
    let spot = Spot::new(&space, "");
    let [low, high] = free_ports();
    let [left, right] = ["left", "right"].map(|name| space.name(name));
    let ports = |one, two| [("one", left.as_str(), one), ("two", right.as_str(), two)];
    declare(&spot, ports(low, high));
    let daemon = spot.daemon();
    for environment in ["one", "two"] {
        assert_eq!(daemon.abide(&["set", environment, &made_image(&space, environment, "")]).code, 0);
    }
    await_served(&daemon, ports(low, high));
    for (one, two) in [(high, low), (low, high), (high, low)] {
        declare(&spot, ports(one, two));
        await_served(&daemon, ports(one, two));
    }
    assert!(!daemon.log().contains("step failed"), "{}", daemon.log());
}

/// The former name remains only on the sandbox, which is not replaced.
#[test]
fn a_renamed_environment_survives_a_replacement_and_a_restart() {
    let Some(space) = Space::new() else { return };
    let spot = Spot::new(&space, "");
    let [port, other] = free_ports();
    let [container, beside] = ["web", "beside"].map(|name| space.name(name));
    let rename =
        |name| declare(&spot, [(name, container.as_str(), port), ("beside", beside.as_str(), other)]);
    rename("one");
    let mut daemon = spot.daemon();
    for (environment, page) in [("one", "one"), ("beside", "beside")] {
        assert_eq!(daemon.abide(&["set", environment, &made_image(&space, page, "")]).code, 0);
    }
    await_served(&daemon, [("one", &container, port), ("beside", &beside, other)]);
    let holder = || docker(&["inspect", "--format", "{{.Id}}", &format!("{container}.net")]);
    let sandbox = holder();
    let mut replaced = String::new();
    for name in ["two", "three"] {
        rename(name);
        assert_eq!(daemon.abide(&["set", name, &made_image(&space, name, "")]).code, 0);
        await_served(&daemon, [(name, &container, port), ("beside", &beside, other)]);
        replaced = docker(&["inspect", "--format", "{{.Id}} {{.State.StartedAt}}", &container]);
        daemon.kill();
        daemon = spot.daemon();
        await_served(&daemon, [(name, &container, port), ("beside", &beside, other)]);
    }
    let now = docker(&["inspect", "--format", "{{.Id}} {{.State.StartedAt}}", &container]);
    assert_eq!((now, holder()), (replaced, sandbox), "what served is not replaced by a restart of abide");
}
