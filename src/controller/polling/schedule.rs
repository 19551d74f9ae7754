//! When a poller asks again.

use std::time::Duration;

use crate::plan::backoff;

/// The minimum interval between requests to a remote, however often pushes are announced.
pub(super) const AT_LEAST_BETWEEN: Duration = Duration::from_millis(200);

/// When an announced push that the remote does not show yet is requested again, by its age. The last request
/// settles it, see [`Asked::settles`](crate::model::poll::Asked::settles).
const RECHECKED_AT: [Duration; 5] = [
    Duration::from_millis(500),
    Duration::from_millis(1_500),
    Duration::from_millis(3_500),
    Duration::from_millis(7_500),
    Duration::from_millis(15_500),
];

/// The pauses of one poller.
pub(super) struct Pause<'a> {
    /// The declared interval; zero: polling is off.
    pub(super) interval: Duration,
    /// Spreads the attempts of several pollers.
    pub(super) seed: &'a str,
}

impl Pause<'_> {
    /// The pause after a number of failures in a row.
    pub(super) fn after_failure(&self, failures: u32) -> Duration {
        let retry = backoff(failures + 1, self.seed);
        if self.interval.is_zero() { retry } else { retry.min(self.interval) }
    }

    /// Waits until the next poll. After failures that is sooner, because an announced push must be applied
    /// soon after the other side answers again. An announced push that the remote does not show yet is
    /// requested again after `recheck`. Waits forever if there is none, nothing failed and polling is off.
    pub(super) async fn until_next(&self, failures: u32, recheck: Option<Duration>) {
        let regular = match failures {
            0 => Some(self.interval).filter(|interval| !interval.is_zero()),
            failures => Some(self.after_failure(failures)),
        };
        match recheck.into_iter().chain(regular).min() {
            Some(pause) => tokio::time::sleep(pause).await,
            None => std::future::pending().await,
        }
    }
}

/// The time until a push that was announced this long ago is requested again; `None`: its last request is
/// over.
pub(super) fn next_recheck(age: Duration) -> Option<Duration> {
    RECHECKED_AT.into_iter().find(|due| *due > age).map(|due| due - age)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::poll::VISIBLE_WITHIN;

    #[test]
    fn an_announced_change_that_stays_invisible_is_rechecked_a_few_times() {
        let mut age = Duration::ZERO;
        let mut asked = Vec::new();
        while let Some(pause) = next_recheck(age) {
            age += pause;
            asked.push(age.as_millis());
        }
        assert_eq!(asked, [500, 1_500, 3_500, 7_500, 15_500]);
        assert!(age > VISIBLE_WITHIN, "the last answer settles it");
    }
}
