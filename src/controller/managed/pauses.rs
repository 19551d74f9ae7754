//! Pauses between attempts: after a failed pull or start, and after a container that ended.

use std::time::Duration;

use crate::model::time::Timestamp;
use crate::plan::backoff;

/// Uptime after which an end counts as the first one again, as for environments.
const HEALTHY: Duration = Duration::from_secs(600);
/// The longest pause between attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Failed attempts in a row.
#[derive(Clone, Debug)]
pub(super) struct FailedAttempts {
    seed: &'static str,
    failures: u32,
    /// The reason of the last failure, and the time of the next attempt.
    failed: Option<(String, Timestamp)>,
}

impl FailedAttempts {
    /// No failures; `seed` spreads the attempts.
    pub(super) fn new(seed: &'static str) -> Self {
        Self { seed, failures: 0, failed: None }
    }

    /// # Errors
    /// Returns the reason of the last failure, if the next attempt is not due yet.
    pub(super) fn check_due(&self, now: Timestamp) -> Result<(), String> {
        match &self.failed {
            Some((why, next)) if *next > now => Err(why.clone()),
            _ => Ok(()),
        }
    }

    /// The reason of the last failure.
    pub(super) fn last(&self) -> Option<&str> {
        self.failed.as_ref().map(|(why, _)| why.as_str())
    }

    /// Notes the result of an attempt at `now`, and returns it.
    pub(super) fn note(&mut self, tried: Result<(), String>, now: Timestamp) -> Result<(), String> {
        match &tried {
            Ok(()) => *self = Self::new(self.seed),
            Err(why) => {
                self.failures = self.failures.saturating_add(1);
                let pause = backoff(self.failures + 1, self.seed).min(LONGEST_PAUSE);
                self.failed = Some((why.clone(), now.after(pause)));
            }
        }
        tried
    }
}

/// Counts the ends of a container in quick succession.
#[derive(Clone, Debug)]
pub(super) struct Ends {
    seed: &'static str,
    count: u32,
    /// The last counted end.
    last: Option<Timestamp>,
    start_at: Option<Timestamp>,
}

impl Ends {
    /// No ends; `seed` spreads the starts.
    pub(super) fn new(seed: &'static str) -> Self {
        Self { seed, count: 0, last: None, start_at: None }
    }

    /// Whether an end at this time was counted already.
    pub(super) fn is_counted(&self, at: Timestamp) -> bool {
        self.last == Some(at)
    }

    /// The number of ends in a row.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// Ends the pause, and begins to count again.
    pub(super) fn forgive(&mut self) {
        (self.count, self.start_at) = (0, None);
    }

    /// Returns when it may be started again after it ended `at`, having run since `started`: the first time
    /// at once, later after a growing pause. `is_new_cause`: the end has a new cause, so it is a first one. The
    /// pause begins `now`, at the observation: `at` is by the engine's clock, which may have been set.
    pub(super) fn next_start(
        &mut self,
        started: Option<Timestamp>,
        at: Timestamp,
        now: Timestamp,
        is_new_cause: bool,
    ) -> Timestamp {
        if !self.is_counted(at) {
            self.last = Some(at);
            let ran_well = started.is_some_and(|started| at.since(started) >= HEALTHY);
            self.count = if ran_well || is_new_cause { 1 } else { self.count + 1 };
            self.start_at = Some(now.after(backoff(self.count, self.seed).min(LONGEST_PAUSE)));
        }
        self.start_at.unwrap_or(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_exit_is_repaired_at_once_and_later_ones_after_a_pause() {
        let at = Timestamp::from_millis;
        let mut ends = Ends::new("registry");
        let mut next = |started, ended, is_new_cause| {
            ends.next_start(Some(at(started)), at(ended), at(ended), is_new_cause)
        };
        assert_eq!(next(0, 1_000, false), at(1_000));
        assert_eq!(next(0, 1_000, false), at(1_000), "the same end is counted once");
        assert!(next(1_000, 2_000, false) > at(2_000));
        assert_eq!(next(2_000, 700_000, false), at(700_000), "it had run well");
        assert!(next(700_000, 701_000, false) > at(701_000));
        assert_eq!(next(701_000, 702_000, true), at(702_000), "it ended for another reason");
    }

    #[test]
    fn pauses_are_at_most_a_minute_and_end_when_they_are_forgiven() {
        let at = |second: u64| Timestamp::from_millis(second * 1000);
        let mut ends = Ends::new("registry");
        let next = |ends: &mut Ends, ended| ends.next_start(Some(at(ended)), at(ended), at(ended), false);
        for ended in 0..30 {
            assert!(next(&mut ends, ended) <= at(ended).after(LONGEST_PAUSE));
        }
        assert_eq!((ends.count(), next(&mut ends, 29)), (30, at(29).after(LONGEST_PAUSE)));
        ends.forgive();
        assert_eq!(next(&mut ends, 29), at(29), "the same end is not counted again");
        assert_eq!(next(&mut ends, 30), at(30), "and the next one is the first");
    }

    #[test]
    fn repeated_failures_back_off_until_a_success() {
        let (mut attempts, mut at) = (FailedAttempts::new("registry"), Timestamp::from_millis(1));
        let mut pauses = Vec::new();
        for _ in 0..12 {
            assert_eq!(attempts.check_due(at), Ok(()));
            attempts.note(Err("no".to_owned()), at).unwrap_err();
            assert_eq!(attempts.check_due(at), Err("no".to_owned()), "it is told meanwhile");
            let (_, next) = attempts.failed.clone().unwrap();
            pauses.push(next.since(at));
            at = next;
        }
        assert!(pauses.is_sorted(), "{pauses:?}");
        assert_eq!(pauses.last(), Some(&LONGEST_PAUSE));
        attempts.note(Ok(()), at).unwrap();
        assert_eq!(attempts.check_due(at), Ok(()));
        attempts.note(Err("no".to_owned()), at).unwrap_err();
        assert_eq!(attempts.failed.unwrap().1.since(at), pauses[0]);
    }
}
