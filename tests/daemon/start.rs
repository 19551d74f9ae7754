//! Start: notifications to systemd, the socket, and refused starts.

use std::net::TcpListener;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;

use rustix::process::Signal;

use crate::child::{PATIENCE, Place};
use crate::common::{eventually, http_get};

/// The notification socket of systemd.
struct Manager {
    socket: UnixDatagram,
    path: String,
}

impl Manager {
    fn new(place: &Place) -> Self {
        let path = place.path("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, path: path.to_str().unwrap().to_owned() }
    }

    fn next(&self) -> String {
        let mut message = [0; 512];
        let length = self.socket.recv(&mut message).expect("systemd would wait for a message in vain");
        String::from_utf8_lossy(&message[..length]).trim().to_owned()
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn systemd_is_notified_when_the_daemon_is_ready_and_when_it_stops() {
    let place = Place::new();
    let manager = Manager::new(&place);
    let mut daemon = place.spawn(&[("NOTIFY_SOCKET", &manager.path)]);
    assert_eq!(manager.next(), "READY=1");
    assert_eq!(http_get(place.port, "/healthz").unwrap().0, 200);
    assert_eq!(place.get("/api/v1/environments").0, 200);
    daemon.signal(Signal::TERM);
    assert_eq!(manager.next(), "STOPPING=1");
    assert!(daemon.end().success());
}

#[test]
fn a_failed_start_is_never_reported_as_ready() {
    let place = Place::new();
    let manager = Manager::new(&place);
    let _taken = TcpListener::bind(place.listen()).unwrap();
    let mut daemon = place.spawn(&[("NOTIFY_SOCKET", &manager.path)]);
    assert_eq!(daemon.end().code(), Some(1));
    manager.socket.set_nonblocking(true).unwrap();
    assert!(manager.socket.recv(&mut [0; 64]).is_err(), "something was told");
}

#[test]
fn the_watchdog_is_notified_in_time() {
    let place = Place::new();
    let manager = Manager::new(&place);
    let _daemon = place.spawn(&[("NOTIFY_SOCKET", &manager.path), ("WATCHDOG_USEC", "10000000")]);
    assert_eq!(manager.next(), "READY=1");
    // systemd itself would kill the daemon after these ten seconds; abide notifies every five.
    manager.socket.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
    assert_eq!([manager.next(), manager.next()], ["WATCHDOG=1", "WATCHDOG=1"]);
}

#[test]
fn the_socket_is_limited_to_owner_and_group_and_removed_on_exit() {
    let place = Place::new();
    let mut daemon = place.serve(&[]);
    assert_eq!(mode(&place.socket()), 0o660);
    daemon.signal(Signal::TERM);
    assert!(daemon.end().success());
    assert!(!place.socket().exists());
}

#[test]
fn a_socket_that_a_killed_daemon_left_is_replaced() {
    let place = Place::new();
    let mut daemon = place.serve(&[]);
    daemon.signal(Signal::KILL);
    daemon.end();
    assert!(std::fs::symlink_metadata(place.socket()).unwrap().file_type().is_socket());
    assert!(UnixStream::connect(place.socket()).is_err());
    let _again = place.serve(&[]);
    assert_eq!(place.abide(&["status"]).code, 0);
}

#[test]
fn a_second_daemon_on_the_same_folder_is_rejected() {
    let place = Place::new();
    let _first = place.serve(&[]);
    let second = place.abide(&["daemon", "--listen", "127.0.0.1:0"]);
    assert_eq!(second.code, 1);
    assert!(second.stderr.contains("is in use by another abide process"), "{}", second.stderr);
    assert_eq!(place.abide(&["status"]).code, 0);
}

#[test]
fn an_address_in_use_is_reported_and_leaves_no_files() {
    let place = Place::new();
    let taken = TcpListener::bind(place.listen()).unwrap();
    let refused = place.abide(&["daemon", "--listen", &place.listen()]);
    assert_eq!(refused.code, 1);
    for words in [place.listen().as_str(), "--listen", "in use"] {
        assert!(refused.stderr.contains(words), "{words}: {}", refused.stderr);
    }
    assert!(!place.socket().exists());
    drop(taken);
    place.serve(&[]);
}

#[test]
fn an_invalid_manifest_is_rejected_with_every_problem() {
    let place = Place::new();
    let wrong = "[environment.dev]\ncontianer = \"x\"\n[environment.x]\nport = 0\n";
    std::fs::write(place.desired_state().join("shop.toml"), wrong).unwrap();
    let refused = place.abide(&["daemon", "--listen", &place.listen()]);
    assert_eq!(refused.code, 1);
    for words in ["shop.toml:2", "contianer", "shop.toml:4"] {
        assert!(refused.stderr.contains(words), "{words}: {}", refused.stderr);
    }
}

#[test]
fn an_existing_record_folder_is_made_private() {
    let place = Place::new();
    let record = place.desired_state().join("record");
    std::fs::create_dir(&record).unwrap();
    std::fs::set_permissions(&record, std::fs::Permissions::from_mode(0o755)).unwrap();
    let _daemon = place.serve(&[]);
    eventually("the record is mirrored", PATIENCE, || record.join("record.json").exists());
    assert_eq!(mode(&record), 0o700);
    assert_eq!([mode(&record.join("record.json")), mode(&record.join("lock"))], [0o600, 0o600]);
}
