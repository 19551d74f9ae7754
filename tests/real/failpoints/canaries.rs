//! Interrupted canaries: no request fails, and the update is completed.

use abide::failpoint::Point;

use super::around;
use crate::canary::Canaries;
use crate::common::{Daemon, PATIENCE, eventually};

/// The actions of an update with a canary, at which the daemon is killed.
pub(super) const CANARY: &[Point] =
    &[Point::Announce, Point::Create, Point::Start, Point::Rename, Point::Stop, Point::Remove];

#[test]
#[ignore = "slow: .ci/slow runs it"]
fn no_request_fails_after_a_kill_at_any_failpoint_of_a_canary() {
    let Some(canaries) = Canaries::new("1s") else { return };
    let images = ["one", "two"].map(|page| canaries.image(page, ""));
    canaries.begin(&images[0]).kill();
    let load = canaries.load();
    let writes = [4, 7, 10, 13].map(|nth| format!("after-flush:{nth}"));
    let mut current = 0;
    for failpoint in around(CANARY).into_iter().chain(writes) {
        let wanted = 1 - current;
        let daemon = Daemon::start_doomed(&canaries.spot.desired_state, &failpoint, &[]);
        let acknowledged = canaries.spot.set(&images[wanted]).code == 0;
        daemon.await_doom(&failpoint);
        let daemon = canaries.spot.daemon();
        let runs = canaries.spot.await_ready();
        assert!(!acknowledged || runs == images[wanted], "{failpoint}: what was acknowledged does not run");
        current = images.iter().position(|image| *image == runs).unwrap();
        let what = format!("{failpoint}: one container, its sandbox, a spare and the front are left");
        eventually(&what, PATIENCE, || canaries.space.is_at_rest_behind_proxy());
        daemon.kill();
    }
    let tally = load.finish();
    assert!(tally.failed.is_empty(), "{} failed; {tally:#?}", tally.failed.len());
}
