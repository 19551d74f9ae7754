//! When to ask: renewals, and attempts after failures. Pure.

use std::time::Duration;

use super::store::{Advice, FailureStreak};
use crate::model::time::Timestamp;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Below this lifetime, half of it is left at a renewal; above it, a third.
const SHORT_LIVED: Duration = Duration::from_secs(10 * 24 * 60 * 60);
/// Let's Encrypt issues five certificates a week for exactly the same names; the last one is for people.
const A_WEEK: (usize, Duration) = (4, Duration::from_secs(7 * 24 * 60 * 60));

/// The pause after failures in a row. Let's Encrypt allows 5 failures an hour for each name. With a staging
/// directory, which is asked first and has wide limits, the pauses stay short.
pub(super) fn pause(failures: u32, has_staging: bool) -> Duration {
    match (failures, has_staging) {
        (0 | 1, _) => MINUTE,
        (2, _) => 10 * MINUTE,
        (_, true) => HOUR,
        (3, false) => 100 * MINUTE,
        (_, false) => DAY,
    }
}

/// Adds a failure to those before. `not_before` is the authority's own answer.
pub(super) fn failed(
    before: Option<&FailureStreak>,
    message: String,
    now: Timestamp,
    not_before: Option<Timestamp>,
    has_staging: bool,
) -> FailureStreak {
    let count = before.map_or(0, |before| before.count).saturating_add(1);
    let retry_at = now.after(pause(count, has_staging)).max(not_before.unwrap_or_default());
    FailureStreak { count, at: now, retry_at, message }
}

/// When a certificate is to be renewed without advice: a share of its lifetime before its end.
pub(super) fn renew_at(from: Timestamp, until: Timestamp) -> Timestamp {
    let lifetime = until.since(from);
    let left = if lifetime < SHORT_LIVED { lifetime / 2 } else { lifetime / 3 };
    from.after(lifetime.saturating_sub(left))
}

/// Whether so little of the lifetime is left that a certificate for fewer names is better than none.
pub(super) fn is_late(from: Timestamp, until: Timestamp, now: Timestamp) -> bool {
    until.since(now) < until.since(from) / 8
}

/// When another certificate for exactly the same names may be ordered: the weekly limit of authorities.
pub(super) fn next_for_same_names(issued: &[Timestamp], now: Timestamp) -> Option<Timestamp> {
    let (most, period) = A_WEEK;
    let mut recent: Vec<Timestamp> = issued.iter().copied().filter(|at| now.since(*at) < period).collect();
    recent.sort_unstable();
    (recent.len() >= most).then(|| recent[recent.len() - most].after(period))
}

/// Applies the authority's answer about the certificate in `file`. `chance` picks the moment in the window, and
/// only a changed window picks again. A window that ends before it begins is not advice.
pub(super) fn advised(
    before: Option<&Advice>,
    file: &str,
    window: Option<(Timestamp, Timestamp)>,
    ask_at: Timestamp,
    chance: u64,
) -> Advice {
    let window = window.filter(|(start, end)| end > start);
    let same = before.filter(|before| before.file == file && before.window == window);
    let pick = |(start, end): (Timestamp, Timestamp)| {
        let length = u64::try_from(end.since(start).as_millis()).unwrap_or(u64::MAX).max(1);
        start.after(Duration::from_millis(chance % length))
    };
    let renew_at = same.map_or_else(|| window.map(pick), |same| same.renew_at);
    Advice { file: file.to_owned(), window, renew_at, ask_at }
}

/// The pause before the next question for advice, from the authority's `Retry-After`.
pub(super) fn ask_again(retry_after: Duration) -> Duration {
    retry_after.clamp(MINUTE, DAY)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(number: u64) -> Timestamp {
        Timestamp::from_millis(0).after(DAY * u32::try_from(number).unwrap())
    }

    #[test]
    fn retries_stay_within_the_authoritys_rate_limits() {
        for has_staging in [false, true] {
            let mut at = day(0);
            let mut failure: Option<FailureStreak> = None;
            let mut attempts = Vec::new();
            for _ in 0..12 {
                attempts.push(at);
                let next = failed(failure.as_ref(), "no".to_owned(), at, None, has_staging);
                at = next.retry_at;
                failure = Some(next);
            }
            for first in &attempts {
                let within = attempts.iter().filter(|at| **at >= *first && at.since(*first) < HOUR).count();
                assert!(within <= 4, "{within} attempts in an hour, {has_staging}");
            }
        }
        let not_before = day(3);
        let failure = failed(None, "slow down".to_owned(), day(1), Some(not_before), true);
        assert_eq!((failure.retry_at, failure.count), (not_before, 1), "the authority's own answer counts");
    }

    #[test]
    fn renewal_is_due_after_a_fixed_share_of_the_lifetime() {
        assert_eq!(renew_at(day(0), day(90)), day(60));
        assert_eq!(renew_at(day(0), day(45)), day(30));
        assert_eq!(renew_at(day(10), day(16)), day(13));
        assert_eq!(renew_at(day(5), day(5)), day(5), "a certificate that is valid for no time is due");
        assert!(!is_late(day(0), day(80), day(60)) && is_late(day(0), day(80), day(71)));
    }

    #[test]
    fn the_same_names_are_not_ordered_repeatedly() {
        let issued = [day(1), day(2), day(3), day(4)];
        assert_eq!(next_for_same_names(&issued[..3], day(4)), None);
        assert_eq!(next_for_same_names(&issued, day(5)), Some(day(8)));
        assert_eq!(next_for_same_names(&issued, day(8)), None);
    }

    #[test]
    fn a_renewal_time_is_picked_once_per_window() {
        let window = Some((day(10), day(12)));
        let first = advised(None, "a", window, day(1), 5);
        assert!(first.renew_at.is_some_and(|at| at >= day(10) && at < day(12)));
        let again = advised(Some(&first), "a", window, day(2), 99_999_999);
        assert_eq!((again.renew_at, again.ask_at), (first.renew_at, day(2)));
        let earlier = advised(Some(&again), "a", Some((day(1), day(2))), day(3), 7);
        assert!(earlier.renew_at.is_some_and(|at| at < day(2)), "the window changed");
        let other = advised(Some(&again), "b", window, day(3), 7);
        assert_ne!(other.renew_at, again.renew_at, "another certificate");
        assert_eq!(advised(None, "a", Some((day(2), day(2))), day(1), 7).renew_at, None);
        assert_eq!(ask_again(Duration::ZERO), MINUTE);
        assert_eq!(ask_again(DAY * 9), DAY);
    }
}
