//! The network namespace stays while containers are replaced, and a damaged sandbox is repaired.

use rustix::process::{Pid, Signal, kill_process};

use crate::common::{Life, PATIENCE, Solo, Space, docker, eventually, eventually_some, inspected};

const ADDRESS: &str = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";

/// Waits until it serves in another life than `before`.
fn await_other_life(solo: &Solo, what: &str, before: &Life) -> Life {
    eventually_some(&format!("it serves after {what}"), PATIENCE, || {
        solo.life().filter(|now| now.is_running() && now != before && solo.serves())
    })
}

#[test]
fn crashes_and_updates_keep_the_namespace_and_its_address() {
    let Some(space) = Space::new() else { return };
    let solo = Solo::new(&space);
    let daemon = solo.daemon(&[]);
    let first = solo.await_ready();
    let holder = Life::of(&solo.holder()).unwrap();
    let address = inspected(&solo.holder(), ADDRESS);
    assert_eq!(inspected(&solo.name, "{{.HostConfig.NetworkMode}}"), format!("container:{}", holder.id));

    kill_process(Pid::from_raw(first.pid).unwrap(), Signal::KILL).unwrap();
    let second = await_other_life(&solo, "a kill", &first);
    docker(&["rm", "--force", &solo.name]);
    let third = await_other_life(&solo, "a removal", &second);
    solo.push(&daemon, &[("www/index.html", "another page")]);
    solo.await_ready();
    assert_ne!(solo.life().unwrap().id, third.id);

    assert_eq!(Life::of(&solo.holder()).unwrap(), holder, "the holder lived through it all");
    assert_eq!(inspected(&solo.holder(), ADDRESS), address);
    assert_eq!(space.holders().len(), 1);
}

#[test]
fn a_killed_stopped_paused_or_removed_sandbox_is_restored() {
    let Some(space) = Space::new() else { return };
    let solo = Solo::new(&space);
    let _daemon = solo.daemon(&[]);
    solo.await_ready();
    solo.leave_in_volume("kept");
    let holder = solo.holder();

    for harm in
        [&["kill", &holder][..], &["stop", &holder], &["restart", &holder], &["rm", "--force", &holder]]
    {
        let before = solo.await_ready();
        docker(harm);
        await_other_life(&solo, &harm.join(" "), &before);
    }
    let before = solo.await_ready();
    docker(&["pause", &holder]);
    eventually("it goes on", PATIENCE, || Life::of(&holder).is_some_and(|life| life.is_running()));
    assert_eq!(solo.await_ready(), before, "its container was left alone");
    assert!(solo.finds_in_volume("kept"));
    assert_eq!((space.containers().len(), space.holders().len()), (1, 1));
}

#[test]
fn a_changed_port_replaces_the_sandbox() {
    let Some(space) = Space::new() else { return };
    let mut solo = Solo::new(&space);
    let _daemon = solo.daemon(&[]);
    let before = solo.await_ready();
    let [other] = crate::common::free_ports();
    solo.port = other;
    solo.declare("");
    await_other_life(&solo, "an edit of its port", &before);
    solo.await_ready();
    eventually("one holder is left", PATIENCE, || space.holders().len() == 1);
}

#[test]
fn docker_logs_exec_and_stats_show_the_program() {
    let Some(space) = Space::new() else { return };
    let solo = Solo::new(&space);
    let _daemon = solo.daemon(&[]);
    solo.await_ready();
    assert!(docker(&["logs", &solo.name]).contains("listens on port"));
    let version = docker(&["exec", &solo.name, "/bin/site", "version"]);
    assert!(!version.is_empty());
    let stats = docker(&["stats", "--no-stream", "--format", "{{.PIDs}} {{.NetIO}}", &solo.name]);
    assert!(!stats.starts_with('0') && !stats.ends_with("0B / 0B"), "{stats}");
}

#[test]
fn a_frozen_pull_of_the_sandbox_image_times_out() {
    let Some(space) = Space::new() else { return };
    // Accepts connections and never answers.
    let frozen = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = frozen.local_addr().unwrap();
    let solo = Solo::new(&space);
    let patient = format!("[registry_access.\"{host}\"]\nplain_http = true\npatience = \"2s\"\n");
    std::fs::write(solo.desired_state.join("registries.toml"), patient).unwrap();
    let named = format!("[docker]\nholder = \"{host}/holder\"\n");
    let manifest = std::fs::read_to_string(solo.desired_state.join("keepwork.toml")).unwrap();
    solo.declare_all(&manifest.replace("[docker]\n", &named));
    let _daemon = solo.daemon(&[]);
    solo.await_ready();
    let message = solo.status().unwrap()["message"].as_str().unwrap().to_owned();
    assert!(message.contains("no progress for 2s while pulling"), "{message}");
    assert_eq!(space.holders().len(), 0);
}
