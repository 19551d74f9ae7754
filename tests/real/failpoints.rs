//! The daemon is killed before and after each of its effects on the world, and the next one
//! recovers: one container that serves, with the right image, and no leftovers.
//!
//! Each test covers the points of one kind of action; together they cover all points. A point that
//! is never reached fails its test, because the daemon lives on.

mod builds;
mod mends;
mod swaps;
mod updates;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use abide::failpoint::Point;

use crate::common::{Daemon, PATIENCE, Space, Spot, eventually, made_image};
use crate::engine::LOAD;
use crate::registry::PUSH;

/// `before-` and `after-` each of `points`.
pub(super) fn around(points: &[Point]) -> Vec<String> {
    let sides = |point: &Point| ["before", "after"].map(|side| format!("{side}-{}", point.word()));
    points.iter().flat_map(sides).collect()
}

#[test]
fn every_failpoint_has_a_test() {
    let of_updates = [updates::FIRST, updates::UPDATE, updates::ROLLBACK, updates::PULL];
    let tested = [
        of_updates.concat().as_slice(),
        mends::MENDS,
        swaps::SWAP,
        builds::BUILDS,
        PUSH,
        LOAD,
        FOLDER,
        DELIVER,
    ]
    .concat();
    let missing: Vec<&Point> = Point::ALL.iter().filter(|point| !tested.contains(point)).collect();
    assert!(missing.is_empty(), "no test has a daemon killed around {missing:?}");
}

/// The action for a missing declared folder.
const FOLDER: &[Point] = &[Point::CreateFolder];

#[test]
fn a_declared_folder_is_made_wherever_that_was_cut_short() {
    for failpoint in around(FOLDER) {
        let Some(space) = Space::new() else { return };
        let folder = space.dir().join("data");
        let mount = format!("{{ source = \"{}\", target = \"/data\", create = true }}", folder.display());
        let spot = Spot::new(&space, &format!("volumes = [{mount}]"));
        let image = made_image(&space, "with a folder", "");
        assert_eq!(spot.set(&image).code, 0);
        Daemon::start_doomed(&spot.desired_state, &failpoint, &[]).await_doom(&failpoint);
        let _daemon = spot.daemon();
        assert_eq!(spot.await_ready(), image, "{failpoint}");
        assert!(folder.is_dir(), "{failpoint}");
    }
}

/// The delivery of a message.
const DELIVER: &[Point] = &[Point::Deliver];

/// A receiver of webhooks: accepts all of them, and returns their ids as they come.
fn receiver() -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, ids) = (listener.local_addr().unwrap().port(), Arc::<Mutex<Vec<String>>>::default());
    let received = Arc::clone(&ids);
    std::thread::spawn(move || {
        // A daemon that was killed in mid-request sends no complete one.
        let requests = listener.incoming().flatten().filter_map(|stream| receive(&stream));
        requests.for_each(|id| received.lock().unwrap().push(id));
    });
    (port, ids)
}

/// Reads one request, answers it, and returns its id.
fn receive(mut stream: &TcpStream) -> Option<String> {
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let mut reader = BufReader::new(stream);
    let (mut id, mut length) = (None, 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.trim().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        id = id.or(line.strip_prefix("webhook-id: ").map(str::to_owned));
        length = line.strip_prefix("content-length: ").map_or(length, |length| length.parse().unwrap_or(0));
    }
    reader.read_exact(&mut vec![0; length]).ok()?;
    stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").ok()?;
    id
}

#[test]
fn a_notification_arrives_wherever_its_delivery_was_cut_short() {
    for failpoint in around(DELIVER) {
        let Some(space) = Space::new() else { return };
        let (port, ids) = receiver();
        let key = space.dir().join("key");
        std::fs::write(&key, "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap();
        let spot = Spot::new(
            &space,
            &format!(
                "[notify.team]\nkind = \"webhook\"\nurl = \"http://127.0.0.1:{port}/\"\n\
                 secret_file = \"{}\"\nallow_private = true\non = [\"ready\"]",
                key.display()
            ),
        );
        let image = made_image(&space, "announced", "");
        assert_eq!(spot.set(&image).code, 0);
        Daemon::start_doomed(&spot.desired_state, &failpoint, &[]).await_doom(&failpoint);
        let _daemon = spot.daemon();
        assert_eq!(spot.await_ready(), image, "{failpoint}");
        eventually("the notification arrives", PATIENCE, || !ids.lock().unwrap().is_empty());
        let mut ids = ids.lock().unwrap().clone();
        ids.dedup();
        assert_eq!(ids.len(), 1, "{failpoint}: one message, whatever its attempts: {ids:?}");
    }
}
