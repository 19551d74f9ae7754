//! The proxy under the daemon: pushes reach it, and it outlives the daemon.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::common::{
    Daemon, PATIENCE, Scene, Space, Spot, docker, eventually, free_ports, inspected, json, made_image,
    nginx_image, try_docker,
};

/// The name of the proxy's container, running or not.
fn proxy(space: &Space) -> Option<String> {
    let filters = [format!("label=abide.test={}", space.prefix()), "name=abide-front-".to_owned()];
    let [test, name] = filters.each_ref().map(String::as_str);
    let names = try_docker(&["ps", "--all", "--format", "{{.Names}}", "--filter", test, "--filter", name])?;
    names.lines().next().map(str::to_owned)
}

/// The ID of the proxy's container and its start time.
fn life(space: &Space) -> Option<String> {
    Some(inspected(&proxy(space)?, "{{.Id}} {{.State.StartedAt}}"))
}

/// `dev` behind a proxy, ready with an image, with its daemon and the name of the proxy's container.
fn fronted(space: &Space) -> (Spot, u16, Daemon, String) {
    let (spot, http) = Spot::fronted(space, "");
    let daemon = spot.daemon();
    assert_eq!(spot.set(&made_image(space, "one", "")).code, 0);
    spot.await_ready();
    let proxy = proxy(space).expect("there is a proxy");
    (spot, http, daemon, proxy)
}

/// Waits until the proxy is reported to prevent the service, with these words in the message.
#[track_caller]
fn await_unavailable(spot: &Spot, words: &[&str]) {
    spot.until(&format!("the proxy is reported: {words:?}"), |status| {
        let message = status["message"].as_str().unwrap_or_default();
        (&status["status"], &status["reason"]) == (&"Degraded".into(), &"FrontUnavailable".into())
            && words.iter().all(|word| message.contains(word))
    });
    let why = spot.abide(&["why", "dev"]).stdout;
    assert!(why.contains("FrontUnavailable") && why.contains("automatic: "), "{why}");
}

/// Asserts that the service recovers by itself, in the same container of the proxy, and that nothing is reported any
/// more.
#[track_caller]
fn assert_recovers(spot: &Spot, http: u16, proxy: &str, id: &str) {
    spot.await_ready();
    eventually("it is served", PATIENCE, || page(http, Spot::HOST) == (200, "one".to_owned()));
    assert_eq!(inspected(proxy, "{{.Id}}"), id, "its container was recreated");
    eventually("nothing is reported any more", PATIENCE, || {
        let status = spot.abide(&["status"]);
        !status.stdout.contains("the proxy") && !status.stderr.contains("the proxy")
    });
}

/// The answer for a host name.
fn page(http: u16, host: &str) -> (u16, String) {
    named(http, host).unwrap_or_default()
}

fn named(http: u16, host: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", http)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(format!("GET / HTTP/1.0\r\nHost: {host}\r\n\r\n").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// Pushes a page and waits until it is served by name and by port.
fn goes_live(scene: &Scene, http: u16, words: &str) {
    let commit = scene.push_page("dev", words);
    assert_eq!(scene.announce("dev").0, 202);
    scene.ready_at("dev", &commit);
    let expected = (200, words.to_owned());
    eventually(words, PATIENCE, || page(http, "dev.example") == expected);
    assert_eq!(scene.page("dev"), words);
}

#[test]
fn the_proxy_serves_by_port_and_name_and_outlives_the_daemon() {
    let Some((scene, http)) = Scene::fronted(&["dev"]) else { return };
    scene.ready("dev");
    eventually("dev is served by its name", PATIENCE, || page(http, "dev.example").0 == 200);
    let holder = format!("{}.net", scene.container("dev"));
    assert_eq!(inspected(&holder, "{{len .HostConfig.PortBindings}}"), "0", "the port is the front's");
    let before = life(&scene.space).expect("there is a front");
    goes_live(&scene, http, "a second page");

    let scene = scene.restarted();
    scene.ready("dev");
    assert_eq!(page(http, "dev.example"), (200, "a second page".to_owned()));
    goes_live(&scene, http, "a third page");
    assert_eq!(
        life(&scene.space),
        Some(before),
        "neither a push nor a restart of the daemon touches its container"
    );
    let Value::Array(all) = json(&scene.abide(&["status", "-o", "json"])) else { panic!("no list") };
    assert_eq!(all.len(), 1, "the front is no environment");
}

#[test]
fn push_wait_and_promote_succeed_while_the_old_container_drains() {
    let Some((scene, _)) = Scene::fronted(&["test", "prod"]) else { return };
    scene.ready("test");
    for number in 0..6 {
        let words = format!("page {number}");
        let commit = scene.push_page("master", &words);
        // Both containers run until the old one has drained: 5 seconds, longer than the next command.
        scene.abide(&["wait", "test", "--commit", &commit, "--timeout", "60s"]);
        scene.abide(&["promote", "test", "prod", "--yes", "--wait", "--timeout", "60s"]);
        assert_eq!(scene.page("prod"), words);
    }
}

#[test]
fn a_frozen_proxy_is_recreated_and_events_report_it() {
    let Some(space) = Space::new() else { return };
    let (spot, _) = Spot::fronted(&space, "");
    let [first, second] = ["one", "two"].map(|words| made_image(&space, words, ""));
    let _daemon = spot.daemon();
    assert_eq!(spot.set(&first).code, 0);
    assert_eq!(spot.await_ready(), first);
    let frozen = life(&space).expect("there is a front");
    let master: i32 = inspected(frozen.split(' ').next().unwrap(), "{{.State.Pid}}").parse().unwrap();
    let master = Pid::from_raw(master).unwrap();
    if kill_process(master, Signal::STOP).is_err() {
        eprintln!("left out: only root can stop the processes of a container");
        return;
    }
    // Whoever lets its first process continue is answered by the next signal.
    let freeze = std::thread::spawn(move || {
        while kill_process(master, Signal::STOP).is_ok() {
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    assert_eq!(spot.set(&second).code, 0);
    assert_eq!(spot.await_ready(), second);
    assert_eq!(spot.page().as_deref(), Some("two"));
    eventually("the frozen one is gone", PATIENCE, || freeze.is_finished());
    assert_ne!(life(&space).expect("there is a front"), frozen);
    let events = spot.abide(&["events", "dev"]).stdout;
    assert!(events.contains("the proxy's container is being recreated: nginx ignored"), "{events}");
}

#[test]
fn a_proxy_that_is_killed_again_and_again_is_reported_and_started_after_a_pause() {
    let Some(space) = Space::new() else { return };
    let (spot, http, _daemon, proxy) = fronted(&space);
    let id = inspected(&proxy, "{{.Id}}");
    let stop = Arc::new(AtomicBool::new(false));
    let killer = std::thread::spawn({
        let (stop, id) = (Arc::clone(&stop), id.clone());
        move || {
            while !stop.load(Ordering::Relaxed) {
                try_docker(&["kill", &id]);
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    });
    let killed = "times in a row (exit code 137";
    let remedy = format!("docker events --since 10m --filter container={proxy}");
    await_unavailable(&spot, &[killed, "after a pause", &remedy, "journalctl -k"]);
    eventually("the overview has the remedy", PATIENCE, || spot.abide(&["status"]).stdout.contains(&remedy));
    stop.store(true, Ordering::Relaxed);
    killer.join().unwrap();
    assert_recovers(&spot, http, &proxy, &id);
    let events = spot.abide(&["events", "dev"]).stdout;
    assert!(events.contains("the proxy's container exited: exit code 137"), "{events}");
}

#[test]
#[ignore = "slow: .ci/slow runs it"]
fn a_proxy_whose_program_does_not_run_is_reported_until_it_runs() {
    let Some(space) = Space::new() else { return };
    let (spot, http, _daemon, proxy) = fronted(&space);
    let (id, program) = (inspected(&proxy, "{{.Id}}"), format!("{proxy}:/usr/sbin/nginx"));
    docker(&["cp", "/bin/false", &program]);
    docker(&["kill", &proxy]);
    let log = format!("`docker logs {proxy}` shows its output");
    await_unavailable(&spot, &["times in a row (exit code 1", "after a pause", &log]);
    docker(&["cp", "/usr/sbin/nginx", &program]);
    assert_recovers(&spot, http, &proxy, &id);
}

#[test]
#[ignore = "slow: .ci/slow runs it"]
fn a_proxy_without_any_free_port_is_reported_until_one_is_free() {
    let Some(space) = Space::new() else { return };
    let (spot, http, _daemon, proxy) = fronted(&space);
    let id = inspected(&proxy, "{{.Id}}");
    // Another program is quicker than the next start of the proxy.
    let every_address = if std::net::UdpSocket::bind("[::1]:0").is_ok() { "::" } else { "0.0.0.0" };
    let occupied = [http, spot.port].map(|port| {
        std::thread::spawn(move || {
            loop {
                if let Ok(listener) = TcpListener::bind((every_address, port)) {
                    return listener;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        })
    });
    docker(&["kill", &proxy]);
    let occupied = occupied.map(|thread| thread.join().unwrap());
    await_unavailable(&spot, &["any of its ports", "Address already in use", "`ss -ltnp` shows the process"]);
    let [by_name, own] = occupied;
    drop(by_name);
    eventually("it is served by its name", PATIENCE, || page(http, Spot::HOST) == (200, "one".to_owned()));
    let own_port = format!("cannot listen on host port {}", spot.port);
    await_unavailable(&spot, &[&own_port, "`ss -ltnp` shows the process"]);
    drop(own);
    assert_recovers(&spot, http, &proxy, &id);
    assert_eq!(spot.page().as_deref(), Some("one"));
}

#[test]
fn a_container_in_the_hosts_network_is_served_and_updated() {
    let Some(space) = Space::new() else { return };
    let image = space.name("nginx");
    nginx_image(&image, &space.label());
    let [http, port] = free_ports();
    let spot = Spot::new(&space, "");
    let declare = |hostname: &str| {
        let (name, network) = (&spot.name, &spot.network);
        let manifest = format!(
            "[docker]\nnetwork = \"{network}\"\n[front]\nimage = \"{image}\"\nhttp = {http}\ndrain = \"1s\"\n\
             [environment.dev]\ncontainer = \"{name}\"\nport = {port}\nnetwork_mode = \"host\"\n{hostname}\n\
             entrypoint = [\"/site\", \"serve\", \"--root\", \"/www\", \"--port\", \"{port}\"]\n\
             health = {{ http = \"/\", interval = \"50ms\", start_deadline = \"10s\", healthy_for = \"200ms\" }}\n"
        );
        std::fs::write(spot.desired_state.join("spot.toml"), manifest).unwrap();
    };
    declare("");
    let _daemon = spot.daemon();
    // Without a host name, nothing reaches it through the proxy.
    assert_eq!(spot.set(&made_image(&space, "first", "")).code, 0);
    spot.await_ready();
    declare(&format!("hostname = \"{}\"", Spot::HOST));
    eventually("it is served", PATIENCE, || page(http, Spot::HOST) == (200, "first".to_owned()));
    let second = made_image(&space, "second", "");
    assert_eq!(spot.set(&second).code, 0);
    assert_eq!(spot.await_ready(), second);
    eventually("the update is served", PATIENCE, || page(http, Spot::HOST) == (200, "second".to_owned()));
    assert_eq!(spot.abide(&["sync", "dev", "--wait"]).code, 0);
}
