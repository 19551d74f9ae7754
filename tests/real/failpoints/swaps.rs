//! Updates behind a front, cut short: at no moment is there none that serves.

use abide::failpoint::Point;

use super::around;
use crate::common::{Daemon, PATIENCE, Space, Spot, Watcher, eventually, made_image};

/// What a swap does. All of them have a test with other updates too.
const SWAP: &[Point] = &[
    Point::CreateHolder,
    Point::StartHolder,
    Point::Create,
    Point::Start,
    Point::Stop,
    Point::Remove,
    Point::Rename,
];

#[test]
fn a_swap_behind_the_front_goes_on_wherever_it_was_cut_short_and_something_always_serves() {
    let Some(space) = Space::new() else { return };
    let (spot, _) = Spot::fronted(&space, "");
    let images = ["one", "two"].map(|page| (page, made_image(&space, page, "")));
    let mut daemon = spot.daemon();
    assert_eq!(spot.set(&images[0].1).code, 0);
    assert_eq!(spot.await_ready(), images[0].1);
    eventually("the front serves it", PATIENCE, || spot.page().as_deref() == Some("one"));
    let at_rest = space.container_names().len();
    let watcher = Watcher::start(&space, spot.port);
    for (number, failpoint) in around(SWAP).into_iter().enumerate() {
        let (page, image) = &images[(number + 1) % images.len()];
        daemon.kill();
        let doomed = Daemon::start_doomed(&spot.desired_state, &failpoint, &[]);
        assert_eq!(spot.set(image).code, 0, "{failpoint}");
        doomed.await_doom(&failpoint);
        assert!(spot.page().is_some(), "{failpoint}: nothing serves without a daemon");
        daemon = spot.daemon();
        assert_eq!(&spot.await_ready(), image, "{failpoint}");
        eventually(&format!("{failpoint}: the new version is served"), PATIENCE, || {
            spot.page().as_deref() == Some(page)
        });
        eventually(&format!("{failpoint}: nothing is left over"), PATIENCE, || {
            space.container_names().len() == at_rest
        });
    }
    watcher.finish().assert_no_gap("swaps");
}
