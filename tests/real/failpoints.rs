//! The daemon is killed before and after everything that it does to the world, and the next one
//! finds its way from there: one container that serves, of the right image, and nothing left over.
//!
//! Each test takes the points that one kind of deed has, and all of them together have every point
//! that there is. A point that is never reached fails its test, for the daemon lives on.

mod builds;
mod mends;
mod swaps;
mod updates;

use abide::failpoint::Point;

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
    let tested =
        [of_updates.concat().as_slice(), mends::MENDS, swaps::SWAP, builds::BUILDS, PUSH, LOAD].concat();
    let missing: Vec<&Point> = Point::ALL.iter().filter(|point| !tested.contains(point)).collect();
    assert!(missing.is_empty(), "no test has a daemon killed around {missing:?}");
}
