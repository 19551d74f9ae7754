//! Interrupted updates behind the proxy: without any gap, not even while no daemon runs.

use abide::failpoint::Point;

use super::updates::{cut_short, failpoints};
use crate::common::{PATIENCE, Space, Spot, Watcher, eventually, made_image};

/// The actions of an update that switches the proxy.
pub(super) const SWAP: &[Point] = &[
    Point::Connect,
    Point::Announce,
    Point::Create,
    Point::Start,
    Point::Rename,
    Point::Stop,
    Point::Remove,
    Point::CreateHolder,
    Point::StartHolder,
    Point::Disconnect,
    Point::Flush,
];

#[test]
fn no_request_fails_behind_the_proxy_after_a_kill_at_any_failpoint() {
    let Some(space) = Space::new() else { return };
    let (spot, _) = Spot::fronted(&space, "");
    let images = ["one", "two"].map(|page| (page, made_image(&space, page, "")));
    let daemon = spot.daemon();
    assert_eq!(spot.set(&images[0].1).code, 0);
    eventually("there is a spare", PATIENCE, || space.is_at_rest_behind_proxy());
    daemon.kill();
    let mut current = 0;
    let watcher = Watcher::start(&space, spot.port);
    for failpoint in failpoints(SWAP) {
        let wanted = 1 - current;
        let acknowledged = cut_short(&spot, &failpoint, &images[wanted].1);
        let daemon = spot.daemon();
        let runs = spot.await_ready();
        assert!(!acknowledged || runs == images[wanted].1, "{failpoint}: what was acknowledged does not run");
        current = images.iter().position(|(_, image)| *image == runs).unwrap();
        let page = images[current].0;
        eventually("the page of what runs is served", PATIENCE, || spot.page().as_deref() == Some(page));
        let what = format!("{failpoint}: one container, its sandbox, a spare and the front are left");
        eventually(&what, PATIENCE, || space.is_at_rest_behind_proxy());
        daemon.kill();
    }
    watcher.finish().assert_no_gap("any update");
}
