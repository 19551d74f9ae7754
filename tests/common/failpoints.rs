//! The words of failpoints.

use abide::failpoint::Point;

/// `before-` and `after-` each of `points`.
pub(crate) fn around(points: &[Point]) -> Vec<String> {
    let sides = |point: &Point| ["before", "after"].map(|side| format!("{side}-{}", point.word()));
    points.iter().flat_map(sides).collect()
}
