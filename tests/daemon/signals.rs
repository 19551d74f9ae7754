//! Signals: an orderly stop, an immediate stop, a reload of the manifest.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use rustix::process::Signal;

use crate::child::{PATIENCE, Place};
use crate::common::{Space, Standard, docker, eventually};

#[test]
fn either_stop_signal_shuts_the_daemon_down_cleanly() {
    for signal in [Signal::TERM, Signal::INT] {
        let place = Place::new();
        let mut daemon = place.serve(&[]);
        daemon.signal(signal);
        assert_eq!(daemon.end().code(), Some(0), "{signal:?}");
        assert!(daemon.log().contains("\"message\":\"stopped\""), "{}", daemon.log());
    }
}

#[test]
fn a_second_stop_signal_ends_the_daemon_immediately() {
    let place = Place::new();
    let mut daemon = place.serve(&[]);
    // The daemon waits several seconds for a request whose body never arrives.
    let mut slow = TcpStream::connect(place.listen()).unwrap();
    let head = b"POST /webhooks/shop HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n";
    slow.write_all(head).unwrap();
    // Connections are accepted in order, so this answer proves that the one above was accepted.
    assert_eq!(crate::common::http_get(place.port, "/healthz").unwrap().0, 200);
    daemon.signal(Signal::TERM);
    daemon.logs("the containers keep running");
    assert!(!daemon.has_ended(), "it did not wait for the request");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.end().code(), Some(0));
    assert!(daemon.log().contains("stopped immediately"), "{}", daemon.log());
}

#[test]
fn sighup_reloads_an_unchanged_manifest() {
    let place = Place::new();
    let daemon = place.serve(&[]);
    std::fs::rename(place.path("token"), place.path("away")).unwrap();
    daemon.signal(Signal::HUP);
    daemon.logs("the edited manifest is invalid");
    let warned = place.abide(&["status"]);
    assert!(warned.stderr.contains("token"), "{}", warned.stderr);
    std::fs::rename(place.path("away"), place.path("token")).unwrap();
    daemon.signal(Signal::HUP);
    eventually("the warning goes", PATIENCE, || !place.abide(&["status"]).stderr.contains("token"));
}

/// The number of processes whose command line contains `word`.
fn processes_with(word: &str) -> usize {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    lines.filter(|line| line.split(|byte| *byte == 0).any(|argument| argument == word.as_bytes())).count()
}

#[test]
fn stopping_the_daemon_ends_builds_but_touches_no_container() {
    let Some(space) = Space::new() else { return };
    let standard = Standard::new(&space);
    // dev runs; test is being built by a script that takes very long.
    let duration = format!("{}.5", 100_000 + std::process::id());
    let manifest = standard.manifest();
    let (before, rest) = manifest.split_once("[environment.test.build]").unwrap();
    let (_, after) = rest.split_once("[environment.prod]").unwrap();
    let script = format!("script = [\"sleep\", \"{duration}\"]\nimage = \"{}never\"", space.prefix());
    standard.declare(&format!("{before}[environment.test.build]\n{script}\n[environment.prod]{after}"));
    let daemon = standard.daemon();
    assert_eq!(daemon.abide(&["wait", "dev", "--timeout", "60s"]).code, 0, "{}", daemon.log());
    eventually("the script runs", PATIENCE, || processes_with(&duration) == 1);
    let dev = space.name("dev-server");
    let life = || docker(&["inspect", "--format", "{{.Id}} {{.State.Pid}} {{.State.StartedAt}}", &dev]);
    let before = life();
    assert_eq!(daemon.terminate().code(), Some(0));
    eventually("the script is ended", Duration::from_secs(10), || processes_with(&duration) == 0);
    assert_eq!(life(), before);
}
