//! A record whose disk is full.

use crate::common::{PATIENCE, SmallDisk, Space, Spot, docker, eventually, inspected, made_image};

#[test]
fn a_daemon_killed_on_a_full_disk_heals_there_and_reports_the_disk() {
    let Some(space) = Space::new() else { return };
    let spot = Spot::new(&space, "");
    let Some(disk) = SmallDisk::mount(&spot.desired_state.join("record"), "24m") else {
        eprintln!("left out, because this user may not mount a small disk");
        return;
    };
    let daemon = spot.daemon();
    assert_eq!(spot.set(&made_image(&space, "kept", "")).code, 0);
    let image = spot.await_ready();
    disk.fill();
    daemon.kill();
    let _daemon = spot.daemon();
    // Without a change there is nothing to record, so the status is right.
    spot.await_ready();
    let container = spot.container();
    docker(&["kill", &spot.name]);
    eventually("it serves again", PATIENCE, || spot.page().as_deref() == Some("kept"));
    assert_eq!(spot.container(), container);
    let degraded = spot.until("the cause is named", |status| status["status"] == "Degraded");
    let message = degraded["message"].as_str().unwrap();
    assert!(message.contains("the disk of the record is full"), "{degraded}");
    let other = made_image(&space, "next", "");
    let refused = spot.set(&other);
    assert!(refused.code == 1 && refused.stderr.contains("the disk of the record is full"), "{refused:?}");
    assert_eq!(inspected(&spot.name, "{{.Image}}"), image);
    disk.free();
    eventually("it takes changes again", PATIENCE, || spot.set(&other).code == 0);
    assert_ne!(spot.await_ready(), image);
}
