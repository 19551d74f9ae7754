//! The daemon is killed before and after each of its effects on the world, and the next one
//! recovers: one container that serves, with the right image, and no leftovers.
//!
//! Each test covers the points of one kind of action; together they cover all points. A point that
//! is never reached fails its test, because the daemon lives on.

mod backups;
mod builds;
mod canaries;
mod commands;
mod mends;
mod reports;
mod swaps;
mod updates;

use abide::failpoint::Point;

pub(super) use crate::common::around;
use crate::common::{Daemon, Life, Space, Spot, made_image};
use crate::engine::LOAD;
use crate::registry::PUSH;

#[test]
fn every_failpoint_has_a_test() {
    let of_updates = [updates::FIRST, updates::UPDATE, updates::ROLLBACK, updates::PULL];
    let tested = [
        of_updates.concat().as_slice(),
        mends::REPAIRS,
        commands::COMMAND,
        backups::JOB,
        backups::BACKUP,
        backups::RESTORE,
        swaps::SWAP,
        canaries::CANARY,
        builds::BUILDS,
        PUSH,
        LOAD,
        FOLDER,
        TRIAL,
        reports::REPORTS,
        SWARM,
    ]
    .concat();
    let missing: Vec<&Point> = Point::ALL.iter().filter(|point| !tested.contains(point)).collect();
    assert!(missing.is_empty(), "no test has a daemon killed around {missing:?}");
}

/// The actions on services of a swarm, which have a suite of their own: `tests/swarm`.
const SWARM: &[Point] = &[Point::ApplyWorkload, Point::RemoveWorkload];

/// The action for a missing declared folder.
const FOLDER: &[Point] = &[Point::CreateFolder];

#[test]
fn creating_a_folder_resumes_after_a_kill_at_any_failpoint() {
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

/// The action before a container is stopped for edited options.
const TRIAL: &[Point] = &[Point::TryOptions];

#[test]
fn trying_options_resumes_after_a_kill_at_any_failpoint() {
    for failpoint in around(TRIAL) {
        let Some(space) = Space::new() else { return };
        let spot = Spot::new(&space, "");
        let image = made_image(&space, "edited", "");
        updates::running(&spot, &image);
        let serves = Life::of(&spot.name);
        spot.declare("init = false");
        Daemon::start_doomed(&spot.desired_state, &failpoint, &[]).await_doom(&failpoint);
        assert_eq!(Life::of(&spot.name), serves, "{failpoint}");
        let _daemon = spot.daemon();
        spot.until("it has the option", |status| {
            status["status"] == "Ready" && Life::of(&spot.name) != serves
        });
        assert_eq!(spot.await_ready(), image, "{failpoint}");
    }
}
