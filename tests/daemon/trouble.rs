//! Failures: no engine, no disk space.

use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::child::{PATIENCE, Place, SECRET_VARIABLE};
use crate::common::{Daemon, SECRET, SmallDisk, Space, Standard, eventually, http_get, signed_push};

/// The record of `place` on its own small disk; `None` if this user may not mount one.
fn small_disk(place: &Place) -> Option<SmallDisk> {
    let disk = SmallDisk::mount(&place.desired_state().join("record"), "24m");
    if disk.is_none() {
        eprintln!("left out, because this user may not mount a small disk");
    }
    disk
}

#[test]
fn on_a_full_disk_webhooks_get_503_and_the_daemon_recovers() {
    let place = Place::new();
    let Some(disk) = small_disk(&place) else { return };
    let mut daemon = place.serve(&[]);
    assert_eq!(place.push(SECRET, "dev", "a").0, 202);
    disk.fill();
    for attempt in ["b", "b", "c"] {
        let (status, words) = place.push(SECRET, "dev", attempt);
        assert_eq!(status, 503, "{words}");
    }
    assert!(!daemon.has_ended());
    assert_eq!(http_get(place.port, "/healthz").unwrap().0, 200);
    let full = place.abide(&["hold", "dev", "--reason", "x"]);
    assert!(full.code == 1 && full.stderr.contains("full"), "{full:?}");
    assert_eq!(place.abide(&["status"]).code, 0);
    disk.free();
    assert_eq!(place.push(SECRET, "dev", "b").0, 202, "no restart is needed");
    assert_eq!(place.abide(&["hold", "dev", "--reason", "x"]).code, 0);
}

#[test]
fn a_daemon_without_disk_space_for_its_record_reports_it() {
    let place = Place::new();
    let Some(disk) = small_disk(&place) else { return };
    disk.fill();
    let refused = place.abide(&["daemon", "--listen", &place.listen()]);
    assert!(refused.code == 1 && refused.stderr.contains("disk"), "{refused:?}");
}

/// The copies of the record of `place` in memory.
fn copies(place: &Place) -> Vec<PathBuf> {
    let id = std::fs::read_to_string(place.desired_state().join("record/id")).unwrap();
    let prefix = format!("abide-{}-", id.trim());
    let all = std::fs::read_dir("/dev/shm").unwrap().map(|entry| entry.unwrap().path());
    all.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(&prefix)).collect()
}

#[test]
fn a_daemon_killed_on_a_full_disk_starts_there_and_recovers_once_there_is_space() {
    let place = Place::new();
    let Some(disk) = small_disk(&place) else { return };
    let mut daemon = place.serve(&[]);
    assert_eq!(place.abide(&["hold", "dev", "--reason", "before the kill"]).code, 0);
    disk.fill();
    // The memory of the host has space, and no other disk.
    let nowhere = ("TMPDIR", disk.path.to_str().unwrap());
    for _ in 0..2 {
        daemon.signal(Signal::KILL);
        daemon.end();
        daemon = place.serve(&[nowhere]);
        assert!(place.abide(&["status", "-o", "json"]).stdout.contains("before the kill"));
        let warnings = place.abide(&["status"]).stderr;
        let warning = format!("the disk of the record ({}) is full", disk.path.display());
        assert!(warnings.contains(&warning), "{warnings}");
        let (ready, why) = http_get(place.port, "/readyz").unwrap();
        assert!(ready == 503 && why.contains("full"), "{why}");
        assert_eq!(place.push(SECRET, "dev", "a").0, 503);
        let refused = place.abide(&["hold", "dev", "--reason", "on the full disk"]);
        assert!(
            refused.code == 1 && refused.stderr.contains("the disk of the record is full"),
            "{refused:?}"
        );
        assert_eq!(copies(&place).len(), 1, "that of the killed daemon is removed");
    }
    disk.free();
    eventually("the record takes writes again", PATIENCE, || place.push(SECRET, "dev", "a").0 == 202);
    assert_eq!(place.abide(&["hold", "dev", "--reason", "after the kill"]).code, 0);
    assert!(!place.abide(&["status"]).stderr.contains("disk of the record"));
    assert!(copies(&place).is_empty(), "{:?}", copies(&place));
    daemon.signal(Signal::KILL);
    daemon.end();
    let _daemon = place.serve(&[]);
    assert!(place.abide(&["status", "-o", "json"]).stdout.contains("after the kill"));
}

#[test]
fn a_daemon_that_cannot_copy_its_record_waits_for_space() {
    let place = Place::new();
    let Some(disk) = small_disk(&place) else { return };
    let mut daemon = place.serve(&[]);
    assert_eq!(place.abide(&["hold", "dev", "--reason", "imported"]).code, 0);
    let import = disk.path.join("record.importing.json");
    std::fs::write(import, place.abide(&["export"]).stdout).unwrap();
    disk.fill();
    daemon.signal(Signal::KILL);
    daemon.end();
    // An import that was interrupted must be finished first.
    let mut daemon = place.spawn(&[]);
    daemon.logs("waiting for space");
    daemon.logs("the disk of the record is full");
    daemon.signal(Signal::TERM);
    assert!(daemon.end().success());
    let daemon = place.spawn(&[]);
    daemon.logs("waiting for space");
    disk.free();
    daemon.logs("abide started");
    assert!(place.abide(&["status", "-o", "json"]).stdout.contains("imported"));
}

/// The socket of this host's engine, which `docker` uses.
fn engine_socket() -> PathBuf {
    let host = std::env::var("DOCKER_HOST").unwrap_or_default();
    Path::new(host.strip_prefix("unix://").unwrap_or("/var/run/docker.sock")).to_owned()
}

#[test]
fn pushes_without_an_engine_are_recorded_and_applied_later() {
    let Some(space) = Space::new() else { return };
    let standard = Standard::new(&space);
    // Only dev.
    let manifest = standard.manifest();
    let (dev, _) = manifest.split_once("# Every push to the master branch").unwrap();
    standard.declare(dev);
    let socket = space.dir().join("docker.sock");
    let host = format!("unix://{}", socket.display());
    let env = [("ABIDE_TEST_WEBHOOK_SECRET", SECRET), ("DOCKER_HOST", host.as_str())];
    let daemon = Daemon::start(&standard.desired_state, &env);

    let pushed = standard.repo.commit_and_push("dev", &[("www/new.html", "new")]);
    assert_eq!(signed_push(daemon.port(), "keepwork", SECRET, "dev", &pushed).unwrap().0, 202);
    let status = || daemon.abide(&["status", "dev", "-o", "json"]).stdout;
    eventually("the push is recorded", PATIENCE, || status().contains(&pushed));
    eventually("the engine is missed", PATIENCE, || status().contains("EngineUnavailable"));
    assert_eq!(http_get(daemon.port(), "/readyz").unwrap().0, 503);

    std::os::unix::fs::symlink(engine_socket(), &socket).unwrap();
    assert_eq!(daemon.abide(&["wait", "dev", "--timeout", "60s"]).code, 0, "{}", status());
    assert!(status().contains(&pushed));
    assert_eq!(http_get(standard.ports[0], "/new.html").unwrap(), (200, "new".to_owned()));
    assert_eq!(http_get(daemon.port(), "/readyz").unwrap().0, 200);
}

#[test]
fn a_record_is_restored_without_a_daemon_and_without_its_secrets() {
    let place = Place::new();
    let mut daemon = place.serve(&[]);
    assert_eq!(place.abide(&["hold", "dev", "--reason", "before the loss"]).code, 0);
    let export = place.abide(&["export"]).stdout;
    daemon.signal(Signal::TERM);
    assert!(daemon.end().success());
    std::fs::remove_dir_all(place.desired_state().join("record")).unwrap();
    std::fs::remove_file(place.path("token")).unwrap();
    std::fs::write(place.path("export.json"), export).unwrap();
    let mut import = place.command(&["import", place.path("export.json").to_str().unwrap()]);
    let restored = import.env_remove(SECRET_VARIABLE).output().unwrap();
    assert!(restored.status.success(), "{restored:?}");
    let again = place.command(&["export"]).env_remove(SECRET_VARIABLE).output().unwrap();
    assert!(String::from_utf8_lossy(&again.stdout).contains("before the loss"), "{again:?}");
}
