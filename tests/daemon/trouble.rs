//! Failures: no engine, no disk space.

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;

use crate::child::{PATIENCE, Place, SECRET_VARIABLE};
use crate::common::{Daemon, SECRET, Space, Standard, eventually, http_get, signed_push};

/// A small disk, unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` if this user may not mount.
    fn mount(at: PathBuf) -> Option<Self> {
        std::fs::create_dir(&at).unwrap();
        let options = ["-t", "tmpfs", "-o", "size=24m,mode=700", "abide-test"];
        let mounted = Command::new("mount").args(options).arg(&at).output().unwrap();
        mounted.status.success().then_some(Self(at))
    }

    /// Fills the disk completely.
    fn fill(&self) -> PathBuf {
        let ballast = self.0.join("ballast");
        let mut file = std::fs::File::create(&ballast).unwrap();
        let full = std::io::copy(&mut std::io::repeat(1), &mut file).unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
        ballast
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn on_a_full_disk_webhooks_get_503_and_the_daemon_recovers() {
    let place = Place::new();
    let Some(disk) = SmallDisk::mount(place.desired_state().join("record")) else {
        eprintln!("left out, because this user may not mount a small disk");
        return;
    };
    let mut daemon = place.serve(&[]);
    assert_eq!(place.push(SECRET, "dev", "a").0, 202);
    let ballast = disk.fill();
    for attempt in ["b", "b", "c"] {
        let (status, words) = place.push(SECRET, "dev", attempt);
        assert_eq!(status, 503, "{words}");
    }
    assert!(!daemon.has_ended());
    assert_eq!(http_get(place.port, "/healthz").unwrap().0, 200);
    let full = place.abide(&["hold", "dev", "--reason", "x"]);
    assert!(full.code == 1 && full.stderr.contains("full"), "{full:?}");
    assert_eq!(place.abide(&["status"]).code, 0);
    std::fs::remove_file(ballast).unwrap();
    assert_eq!(place.push(SECRET, "dev", "b").0, 202, "no restart is needed");
    assert_eq!(place.abide(&["hold", "dev", "--reason", "x"]).code, 0);
}

#[test]
fn a_daemon_without_disk_space_for_its_record_reports_it() {
    let place = Place::new();
    let Some(disk) = SmallDisk::mount(place.desired_state().join("record")) else {
        eprintln!("left out, because this user may not mount a small disk");
        return;
    };
    disk.fill();
    let refused = place.abide(&["daemon", "--listen", &place.listen()]);
    assert!(refused.code == 1 && refused.stderr.contains("disk"), "{refused:?}");
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
