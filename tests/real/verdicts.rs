//! Permanent failures of a version: only answers or actions of its own program count.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::common::{
    Daemon, Fault, Life, PATIENCE, Proxy, SITE_PORT, Space, Spot, docker, eventually, inspected, made_image,
    try_docker,
};

/// A probe of the kind `kind` that succeeds and fails quickly.
fn hasty(kind: &str) -> String {
    format!(
        "health = {{ {kind}, interval = \"100ms\", timeout = \"1s\", start_deadline = \"3s\", healthy_for = \"200ms\" }}"
    )
}

/// Leaves time to act on a container before it is ready.
const SLOW: &str = "health = { http = \"/\", interval = \"100ms\", timeout = \"1s\", start_deadline = \"60s\", \
                    healthy_for = \"8s\" }";

fn message(status: &Value) -> String {
    status["message"].as_str().unwrap_or_default().to_owned()
}

fn is_rolled_back(spot: &Spot) -> Value {
    spot.until("it is rolled back", |status| status["status"] == "RolledBack")
}

fn is_never_ready(spot: &Spot, what: &str) -> String {
    message(&spot.until(what, |status| status["reason"] == "NeverReady"))
}

#[test]
fn a_program_that_never_listens_is_not_ready() {
    let Some(space) = Space::new() else { return };
    let spot = Spot::new(&space, &hasty("tcp = true"));
    let good = made_image(&space, "good", "");
    let _daemon = spot.daemon();
    assert_eq!(spot.set(&good).code, 0);
    assert_eq!(spot.await_ready(), good);
    let container = spot.container();
    assert_eq!(spot.set(&made_image(&space, "deaf", "ENV SITE_NEVER_LISTEN=1")).code, 0);
    let status = is_rolled_back(&spot);
    let words = format!(
        "nothing listens on port {SITE_PORT} in the container (the program does not \
        listen on any port yet)"
    );
    assert!(message(&status).contains(&words), "{status}");
    assert_eq!((spot.container(), spot.page().as_deref()), (container, Some("good")));
}

#[test]
fn a_program_listening_on_another_port_is_reported() {
    let Some(space) = Space::new() else { return };
    for kind in ["tcp = true", "http = \"/\""] {
        let spot = Spot::new(&space, &format!("command = [\"--port\", \"3000\"]\n{}", hasty(kind)));
        let daemon = spot.daemon();
        assert_eq!(spot.set(&made_image(&space, "elsewhere", "")).code, 0);
        let reported = is_never_ready(&spot, "it listens elsewhere");
        let words = format!(
            "nothing listens on port {SITE_PORT} in the container (the program listens on \
                0.0.0.0:3000)"
        );
        assert!(reported.contains(&words), "{kind}: {reported}");
        drop(daemon);
        space.clear();
        std::fs::remove_dir_all(&spot.desired_state).unwrap();
    }
}

#[test]
fn a_failed_http_check_reports_its_request_host_and_port() {
    let Some(space) = Space::new() else { return };
    let spot = Spot::new(&space, &hasty("http = \"/up\""));
    let picky = made_image(&space, "picky", "ENV SITE_HTTP_STATUS=400");
    let _daemon = spot.daemon();
    assert_eq!(spot.set(&picky).code, 0);
    let reported = is_never_ready(&spot, "it answers 400");
    let asked = format!("GET /up on port {SITE_PORT} with Host localhost answered 400");
    assert!(reported.contains(&asked) && reported.contains("set one as `host` in `health`"), "{reported}");
    spot.declare(&hasty("http = \"/\", host = \"shop.example\", port = 9999"));
    spot.until("another port and host are asked", |status| {
        message(status).contains("nothing listens on port 9999 in the container")
    });
    spot.declare(&hasty("http = \"/\", host = \"shop.example\""));
    spot.until("the declared host is asked for", |status| {
        message(status).contains("with Host shop.example answered 400")
            && !message(status).contains("set one")
    });
}

#[test]
fn a_command_health_check_runs_in_the_container() {
    let Some(space) = Space::new() else { return };
    let spot = Spot::new(&space, &hasty("command = [\"/site\", \"no-such-verb\"]"));
    let image = made_image(&space, "page", "");
    let _daemon = spot.daemon();
    assert_eq!(spot.set(&image).code, 0);
    let reported = is_never_ready(&spot, "the command fails");
    assert!(reported.contains("`/site no-such-verb` exited with 1"), "{reported}");
    spot.declare(&hasty("command = [\"/nothing\"]"));
    spot.until("there is no such program", |status| message(status).contains("`/nothing`"));
    spot.declare(&hasty("command = [\"/site\", \"version\"]"));
    assert_eq!(spot.await_ready(), image);
}

#[test]
fn a_healthcheck_gets_enough_time_and_its_result_counts() {
    let Some(space) = Space::new() else { return };
    let check = |command: &str| format!("HEALTHCHECK --interval=4s --timeout=4s --retries=2 CMD {command}");
    // As with Docker's own interval of 30 s: the deadline passes before the first check.
    let health =
        "health = { docker = true, interval = \"200ms\", start_deadline = \"1s\", healthy_for = \"0s\" }";
    let spot = Spot::new(&space, health);
    let good = made_image(&space, "good", &check("[\"/site\", \"version\"]"));
    let _daemon = spot.daemon();
    assert_eq!(spot.set(&good).code, 0);
    let status =
        spot.until("it is said that it has not run", |status| message(status).contains("no result yet"));
    assert!(message(&status).contains("runs every 4s"), "{status}");
    assert_eq!(spot.await_ready(), good);

    let better = made_image(&space, "better", &check("[\"/site\", \"version\"]"));
    assert_eq!(spot.set(&better).code, 0);
    assert_eq!(spot.await_ready(), better, "a good update is not rolled back before its check has run");

    assert_eq!(spot.set(&made_image(&space, "bad", &check("[\"/site\", \"no-such-verb\"]"))).code, 0);
    let status = is_rolled_back(&spot);
    let reported = message(&status);
    assert!(
        reported.contains("times in a row: site: usage: ") && reported.contains("site version"),
        "{reported}"
    );
    assert_eq!(spot.page().as_deref(), Some("better"));

    assert_eq!(spot.set(&made_image(&space, "none", "HEALTHCHECK NONE")).code, 0);
    spot.until("it is said that there is no check", |status| {
        status["status"] == "RolledBack" && message(status).contains("HEALTHCHECK turned off")
    });
}

#[test]
fn a_worker_needs_no_port_and_is_ready_once_it_keeps_running() {
    let Some(space) = Space::new() else { return };
    let spot = Spot::new(&space, "");
    let manifest = format!(
        "[docker]\nnetwork = \"{}\"\n[environment.dev]\ncontainer = \"{}\"\n\
         health = {{ healthy_for = \"2s\", start_deadline = \"10s\" }}\n",
        spot.network, spot.name
    );
    std::fs::write(spot.desired_state.join("spot.toml"), manifest).unwrap();
    let worker = made_image(&space, "worker", "ENV SITE_NEVER_LISTEN=1");
    let _daemon = spot.daemon();
    assert_eq!(spot.set(&worker).code, 0);
    assert_eq!(spot.await_ready(), worker);
    assert_eq!(inspected(&spot.holder(), "{{len .HostConfig.PortBindings}}"), "0");
    let status = spot.status().unwrap();
    assert_eq!(status["port"], Value::Null, "{status}");
    assert_eq!(spot.abide(&["diff", "dev"]).code, 0);

    let ends = made_image(&space, "ends", "ENV SITE_CRASH_AFTER=1s SITE_EXIT_CODE=0");
    assert_eq!(spot.set(&ends).code, 0);
    let status = is_rolled_back(&spot);
    assert!(message(&status).contains("exited with code 0, but a service must keep running"), "{status}");
    assert_eq!(spot.await_serving_image(), worker);
}

trait Serving {
    /// The image of the container with the environment's name.
    fn await_serving_image(&self) -> String;
}

impl Serving for Spot {
    fn await_serving_image(&self) -> String {
        eventually("it runs", PATIENCE, || Life::of(&self.name).is_some_and(|life| life.is_running()));
        inspected(&self.name, "{{.Image}}")
    }
}

/// The candidate container beside the serving one, once it runs.
fn candidate(spot: &Spot) -> String {
    let name = format!("{}.next", spot.name);
    eventually("the new container runs", PATIENCE, || Life::of(&name).is_some_and(|life| life.is_running()));
    name
}

#[test]
fn manual_interference_does_not_fail_a_new_version() {
    let Some(space) = Space::new() else { return };
    let spot = Spot::new(&space, SLOW);
    let good = made_image(&space, "good", "");
    let daemon = spot.daemon();
    assert_eq!(spot.set(&good).code, 0);
    assert_eq!(spot.await_ready(), good);
    let commands: [(&str, &[&str]); 4] = [
        ("stopped", &["stop"]),
        ("killed", &["kill"]),
        ("restarted", &["restart"]),
        ("removed", &["rm", "--force"]),
    ];
    for (page, command) in commands {
        let image = made_image(&space, page, "");
        assert_eq!(spot.set(&image).code, 0);
        let name = candidate(&spot);
        docker(&[command, &[name.as_str()]].concat());
        assert_eq!(spot.await_ready(), image, "{page}");
        assert_eq!(spot.page().as_deref(), Some(page));
    }
    let image = made_image(&space, "cut off", "");
    assert_eq!(spot.set(&image).code, 0);
    candidate(&spot);
    docker(&["network", "disconnect", &spot.network, &spot.holder()]);
    assert_eq!(spot.await_ready(), image);
    let history = spot.abide(&["history", "dev", "-o", "json"]).stdout;
    assert!(!history.contains("automatic rollback") && !history.contains("automatic_rollback"), "{history}");
    let events = daemon.abide(&["events", "dev", "--limit", "1000"]).stdout;
    assert!(events.contains("was stopped by a user or by a stop"), "it is said what ended it: {events}");
}

#[test]
fn a_container_removed_before_its_start_is_recreated() {
    let Some(space) = Space::new() else { return };
    let (proxy, spot) = (Proxy::start(space.dir()), Spot::new(&space, ""));
    let daemon = Daemon::start(&spot.desired_state, &[("DOCKER_HOST", &proxy.host())]);
    let good = made_image(&space, "good", "");
    assert_eq!(spot.set(&good).code, 0);
    assert_eq!(spot.await_ready(), good);
    let better = made_image(&space, "better", "");
    let (name, holder) = (format!("{}.next", spot.name), spot.holder());
    let is_done = Arc::new(AtomicBool::new(false));
    let done = Arc::clone(&is_done);
    proxy.rule(move |request| {
        let is_start = request.starts_with("POST /containers/") && request.ends_with("/start");
        if is_start && Life::of(&name).is_some() && !done.swap(true, Ordering::SeqCst) {
            try_docker(&["rm", "--force", &name, &holder]);
        }
        Fault::None
    });
    assert_eq!(spot.set(&better).code, 0);
    eventually("it is removed before it is started", PATIENCE, || is_done.load(Ordering::SeqCst));
    assert_eq!(spot.await_ready(), better);
    assert_eq!(spot.page().as_deref(), Some("better"));
    let history = spot.abide(&["history", "dev", "-o", "json"]).stdout;
    assert_eq!(history.matches("\"generation\"").count(), 2, "nothing was rolled back: {history}");
    assert!(daemon.terminate().success());
}

#[test]
fn a_port_used_by_another_process_is_reported_and_waited_for() {
    let Some(space) = Space::new() else { return };
    let spot = Spot::new(&space, "");
    let image = made_image(&space, "page", "");
    let taken = TcpListener::bind(("127.0.0.1", spot.port)).unwrap();
    let _daemon = spot.daemon();
    assert_eq!(spot.set(&image).code, 0);
    let words = format!("another process uses 127.0.0.1:{}: `ss -ltnp` shows it", spot.port);
    let status = spot.until("the port is told", |status| message(status).contains(&words));
    assert!(!status["next_retry"].is_null() && status["status"] == "Degraded", "{status}");
    drop(taken);
    assert_eq!(spot.await_ready(), image);
}

#[test]
fn only_declared_secrets_are_redacted() {
    let Some(space) = Space::new() else { return };
    let secret = space.dir().join("secret");
    std::fs::write(&secret, "ends with\n").unwrap();
    let env = format!("env = {{ WORDS = \"as told\", KEY = {{ secret_file = \"{}\" }} }}", secret.display());
    let spot = Spot::new(&space, &format!("{env}\n{}", hasty("http = \"/\"")));
    let _daemon = spot.daemon();
    let good = made_image(&space, "good", "");
    assert_eq!(spot.set(&good).code, 0);
    assert_eq!(spot.await_ready(), good);
    assert_eq!(spot.set(&made_image(&space, "bad", "ENV SITE_CRASH_AFTER=0s SITE_EXIT_CODE=7")).code, 0);
    let reported = message(&is_rolled_back(&spot));
    assert!(reported.contains("[redacted] 7, as told"), "{reported}");
}
