//! The requests of the last minutes, by environment: what the page shows, and what promotions can be judged by.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::model::link::SimilarRequests;
use crate::model::name::EnvironmentName;
use crate::model::time::Timestamp;

/// How long a request counts as recent.
pub(crate) const RECENT: Duration = Duration::from_secs(5 * 60);
/// The time that one slice covers.
const SLICE: Duration = Duration::from_secs(10);
/// Upper bounds of the buckets of durations, in milliseconds. Each is at most 1.6 times the one before, so a
/// quantile is too high by less than 60 %.
const BOUNDS: [u64; 24] = [
    1, 2, 3, 5, 8, 12, 18, 27, 40, 60, 90, 140, 200, 300, 450, 700, 1_000, 1_600, 2_500, 4_000, 6_300,
    10_000, 16_000, 25_000,
];

/// A request that a proxy served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestRecord {
    /// The environment that it was for.
    pub(crate) environment: EnvironmentName,
    /// The status of the answer.
    pub(crate) status: u16,
    /// From its first byte to the last one of the answer.
    pub(crate) time: Duration,
    /// The method, in the client's words.
    pub(crate) method: String,
}

/// The requests of an environment in the last [`RECENT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecentRequests {
    /// Their number.
    pub(crate) count: u64,
    /// Those with a status from 500.
    pub(crate) failed: u64,
    /// Half of them took at most this long.
    pub(crate) median: Duration,
    /// 95 % of them took at most this long.
    pub(crate) p95: Duration,
}

#[derive(Debug)]
struct RequestSlice {
    begins: Timestamp,
    failed: u64,
    /// The number of requests by duration; the last one has those longer than all bounds.
    times: [u64; BOUNDS.len() + 1],
}

/// Recent requests of all environments, in slices of time.
#[derive(Debug, Default)]
pub(super) struct RequestWindow {
    slices: BTreeMap<EnvironmentName, VecDeque<RequestSlice>>,
}

impl RequestWindow {
    /// Adds `count` requests like this one.
    pub(super) fn add(&mut self, record: &RequestRecord, count: u64, now: Timestamp) {
        let slices = self.slices.entry(record.environment.clone()).or_default();
        drop_old(slices, now);
        // After the clock was set back, the newest slice is used.
        if slices.back().is_none_or(|slice| now.since(slice.begins) >= SLICE) {
            slices.push_back(RequestSlice { begins: now, failed: 0, times: [0; BOUNDS.len() + 1] });
        }
        let Some(slice) = slices.back_mut() else { return };
        slice.failed += if record.status >= 500 { count } else { 0 };
        slice.times[bucket_of(record.time)] += count;
    }

    pub(super) fn of(&mut self, environment: &EnvironmentName, now: Timestamp) -> Option<RecentRequests> {
        let slices = self.slices.get_mut(environment)?;
        drop_old(slices, now);
        let times: Vec<u64> =
            (0..=BOUNDS.len()).map(|bucket| slices.iter().map(|slice| slice.times[bucket]).sum()).collect();
        let count = times.iter().sum();
        let failed = slices.iter().map(|slice| slice.failed).sum();
        (count > 0).then(|| RecentRequests {
            count,
            failed,
            median: quantile(&times, count.div_ceil(2)),
            p95: quantile(&times, count.saturating_mul(19).div_ceil(20)),
        })
    }

    pub(super) fn forget(&mut self, environment: &EnvironmentName) {
        self.slices.remove(environment);
    }
}

fn drop_old(slices: &mut VecDeque<RequestSlice>, now: Timestamp) {
    while slices.front().is_some_and(|slice| now.since(slice.begins) >= RECENT) {
        slices.pop_front();
    }
}

/// The bucket of requests that took this long.
fn bucket_of(time: Duration) -> usize {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    BOUNDS.partition_point(|bound| *bound < millis)
}

/// The longest time in a bucket. That of the last bucket is its shortest.
fn bound_of(bucket: usize) -> u64 {
    BOUNDS.get(bucket).copied().unwrap_or(BOUNDS[BOUNDS.len() - 1] + 1)
}

/// Requests that are not reported to the controller yet.
#[derive(Debug, Default)]
pub(super) struct UnreportedRequests {
    counts: BTreeMap<(EnvironmentName, &'static str, u16, usize), u64>,
}

impl UnreportedRequests {
    pub(super) fn add(&mut self, record: &RequestRecord, method: &'static str, status: u16) {
        let key = (record.environment.clone(), method, status, bucket_of(record.time));
        *self.counts.entry(key).or_default() += 1;
    }

    /// Takes at most `most` tallies out.
    pub(super) fn take(&mut self, most: usize) -> Vec<SimilarRequests> {
        let taken = std::iter::from_fn(|| self.counts.pop_first()).take(most);
        let tally = |((environment, method, status, bucket), count)| SimilarRequests {
            environment,
            method: String::from(method),
            status,
            millis: bound_of(bucket),
            count,
        };
        taken.map(tally).collect()
    }
}

/// The bound of the bucket that has the request of this rank.
fn quantile(times: &[u64], rank: u64) -> Duration {
    let mut seen = 0;
    let bucket = times.iter().position(|count| {
        seen += count;
        seen >= rank
    });
    let last = BOUNDS[BOUNDS.len() - 1];
    Duration::from_millis(bucket.and_then(|bucket| BOUNDS.get(bucket)).copied().unwrap_or(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dev() -> EnvironmentName {
        EnvironmentName::new("dev").unwrap()
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    fn took(millis: u64, status: u16) -> RequestRecord {
        let time = Duration::from_millis(millis);
        RequestRecord { environment: dev(), status, time, method: "GET".to_owned() }
    }

    #[test]
    fn requests_are_counted_with_failures_and_quantiles() {
        let mut window = RequestWindow::default();
        for millis in 1..=100 {
            window.add(&took(millis, if millis > 98 { 502 } else { 404 }), 1, at(1000 + millis));
        }
        let recent = window.of(&dev(), at(1100)).unwrap();
        assert_eq!((recent.count, recent.failed), (100, 2));
        assert_eq!((recent.median, recent.p95), (Duration::from_millis(60), Duration::from_millis(140)));
    }

    #[test]
    fn old_requests_and_forgotten_environments_do_not_count() {
        let mut window = RequestWindow::default();
        window.add(&took(1, 500), 1, at(1000));
        window.add(&took(1, 200), 1, at(1200));
        assert_eq!(window.of(&dev(), at(1299)).unwrap().count, 2);
        let recent = window.of(&dev(), at(1300)).unwrap();
        assert_eq!((recent.count, recent.failed), (1, 0));
        assert_eq!(window.of(&dev(), at(1500)), None);
        window.add(&took(1, 200), 1, at(1600));
        window.forget(&dev());
        assert_eq!(window.of(&dev(), at(1600)), None);
    }

    #[test]
    fn a_clock_that_is_set_back_loses_nothing() {
        let mut window = RequestWindow::default();
        window.add(&took(1, 200), 1, at(1000));
        window.add(&took(1, 200), 1, at(500));
        assert_eq!(window.of(&dev(), at(500)).unwrap().count, 2);
        assert_eq!(window.slices[&dev()].len(), 1);
    }

    #[test]
    fn the_slowest_request_has_the_last_bound() {
        let mut window = RequestWindow::default();
        window.add(&took(3_600_000, 200), 1, at(1000));
        assert_eq!(window.of(&dev(), at(1000)).unwrap().p95, Duration::from_secs(25));
    }

    #[test]
    fn each_request_is_taken_once_for_a_report_with_its_bucket() {
        let mut unreported = UnreportedRequests::default();
        for (millis, status) in [(4, 200), (5, 200), (6, 200), (99_000, 502)] {
            unreported.add(&took(millis, status), "GET", status);
        }
        let mut all = unreported.take(2);
        assert_eq!(all.len(), 2);
        all.extend(unreported.take(2));
        let seen: Vec<_> = all.iter().map(|tally| (tally.status, tally.millis, tally.count)).collect();
        assert_eq!(seen, [(200, 5, 2), (200, 8, 1), (502, 25_001, 1)]);
        assert!(unreported.take(2).is_empty());
        // The controller counts each in the same bucket.
        for tally in all {
            let millis = Duration::from_millis(tally.millis);
            assert_eq!(bound_of(bucket_of(millis)), tally.millis);
        }
    }
}
