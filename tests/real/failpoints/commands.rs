//! Interrupted commands before a release.

use abide::failpoint::Point;

use super::updates::{cut_short, failpoints};
use crate::commands::{MIGRATE, declared, runs, versioned};
use crate::common::{Space, Spot, busybox};

/// The actions of a release command. Every write of the record is among them.
pub(super) const COMMAND: &[Point] = &[Point::CreateOneOff, Point::StartOneOff, Point::Flush];

#[test]
#[ignore = "slow: .ci/slow runs it"]
fn a_release_command_runs_once_after_a_kill_at_any_failpoint() {
    let Some(space) = Space::new() else { return };
    let Some(shell) = busybox(&space) else { return };
    let spot = Spot::new(&space, &declared(&space, "release", MIGRATE));
    let first = versioned(&space, &shell, "first", "");
    let daemon = spot.daemon();
    assert_eq!(spot.set(&first).code, 0);
    spot.await_ready();
    daemon.kill();
    let at_rest = space.container_names();
    for (number, failpoint) in failpoints(COMMAND).into_iter().chain(["after-remove".to_owned()]).enumerate()
    {
        let version = format!("v{number}");
        let image = versioned(&space, &shell, &version, "");
        let acknowledged = cut_short(&spot, &failpoint, &image);
        let daemon = spot.daemon();
        if !acknowledged {
            assert_eq!(spot.set(&image).code, 0, "{failpoint}");
        }
        assert_eq!(spot.await_ready(), image, "{failpoint}");
        assert_eq!(runs(&spot.name, &version), 1, "{failpoint}");
        assert_eq!(space.container_names(), at_rest, "{failpoint}: leftovers");
        daemon.kill();
    }
}
