//! The start and end times of containers, by the clock of this process.
//!
//! The engine uses the wall clock. As long as that is not set after the process started, the two clocks
//! agree. After it is set back, the engine's time of a new start or end is translated when it is first
//! observed, and the translation is kept. With the engine's own times, a container would seem older than the
//! sandbox that it joined, and a pause after a crash would seem long over.

use std::collections::HashMap;
use std::time::Duration;

use crate::controller::clock::translated;
use crate::model::observed::{ContainerState, ObservedContainer};
use crate::model::time::Timestamp;

/// How long after its start a process may observe containers for the first time that existed before it.
const OPENING: Duration = Duration::from_secs(10);
/// The assumed age of an event whose engine time was still in the future when the process started. Longer
/// than any pause or deadline.
const LONG: u64 = 50 * 365 * 24 * 60 * 60 * 1000;

/// The last start and end of each container.
#[derive(Default)]
pub(in crate::controller) struct Lives {
    /// The time of the first observed container.
    opened: Option<Timestamp>,
    by_container: HashMap<String, Life>,
}

#[derive(Clone, Copy, Default)]
struct Life {
    started: Option<Moment>,
    ended: Option<Moment>,
}

/// A time of the engine, and the same time by the clock of this process.
#[derive(Clone, Copy)]
struct Moment {
    engine_time: Timestamp,
    ours: Timestamp,
}

impl Moment {
    /// Returns the earlier translation if the engine's time is unchanged, else a new one. A new time in the
    /// future comes from a clock that is ahead of ours. If `is_live`, it was observed as it happened, so it
    /// is now. Otherwise, it was before the clock was set back, while abide did not run: long ago, in the
    /// engine's order.
    fn of(
        engine_time: Timestamp,
        before: Option<Self>,
        now: Timestamp,
        ahead: Duration,
        is_live: bool,
    ) -> Self {
        if let Some(before) = before.filter(|before| before.engine_time == engine_time) {
            return before;
        }
        let long_ago = Timestamp::from_millis(engine_time.as_millis().saturating_sub(LONG));
        let otherwise = if is_live { now } else { long_ago };
        Self { engine_time, ours: translated(engine_time, now, ahead).unwrap_or(otherwise) }
    }
}

impl Lives {
    /// Translates the times of a container that was just observed. `ahead`: how far the clock of this
    /// process is ahead of the engine's.
    pub(in crate::controller) fn translate(
        &mut self,
        seen: &mut ObservedContainer,
        now: Timestamp,
        ahead: Duration,
    ) {
        let opened = *self.opened.get_or_insert(now);
        let is_live = self.by_container.contains_key(&seen.id) || now.since(opened) > OPENING;
        let life = self.by_container.entry(seen.id.clone()).or_default();
        if let Some(engine_time) = seen.started_at {
            let started = Moment::of(engine_time, life.started, now, ahead, is_live);
            life.started = Some(started);
            seen.started_at = Some(started.ours);
        }
        if let ContainerState::Exited(exit) = &mut seen.state {
            let ended = Moment::of(exit.at, life.ended, now, ahead, is_live);
            life.ended = Some(ended);
            exit.at = ended.ours;
        }
    }

    /// Forgets a removed container.
    pub(in crate::controller) fn forget(&mut self, id: &str) {
        self.by_container.remove(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::cache::containers::tests::seen;

    const DAY: Duration = Duration::from_secs(86_400);
    const NOW: Timestamp = Timestamp::from_millis(1_795_449_600_000);

    fn earlier(by: Duration) -> Timestamp {
        Timestamp::from_millis(NOW.as_millis() - u64::try_from(by.as_millis()).unwrap())
    }

    fn started(lives: &mut Lives, id: &str, engine_time: Timestamp, ahead: Duration) -> Option<Timestamp> {
        let mut container = ObservedContainer { started_at: Some(engine_time), ..seen(id) };
        lives.translate(&mut container, NOW, ahead);
        container.started_at
    }

    #[test]
    fn start_times_keep_their_order_when_the_clock_is_set_back() {
        let mut lives = Lives::default();
        let hour = Duration::from_secs(3600);
        let sandbox = started(&mut lives, "sandbox", earlier(hour), Duration::ZERO);
        let container = started(&mut lives, "container", earlier(DAY), DAY);
        assert!(container > sandbox);
        assert_eq!(started(&mut lives, "sandbox", earlier(hour), DAY), sandbox, "it is translated once");
        assert_eq!(container, Some(NOW));
    }

    #[test]
    fn an_observed_start_is_dated_now_even_if_the_engine_is_ahead() {
        let mut lives = Lives::default();
        let hour = Duration::from_secs(3600);
        started(&mut lives, "container", NOW.after(hour), Duration::ZERO);
        let again = started(&mut lives, "container", NOW.after(hour * 2), Duration::ZERO);
        assert_eq!(again, Some(NOW), "it ran before, and was started while we looked");
        let only_ours = started(&mut lives, "other", NOW, hour);
        assert_eq!(only_ours, Some(NOW), "our clock was set back and the engine's was not");
    }

    #[test]
    fn a_start_time_in_the_future_is_treated_as_long_past() {
        let mut lives = Lives::default();
        let future = started(&mut lives, "sandbox", NOW.after(DAY), Duration::ZERO);
        assert!(future < started(&mut lives, "container", earlier(Duration::ZERO), Duration::ZERO));
        let later = started(&mut lives, "another", NOW.after(DAY * 2), Duration::ZERO);
        assert!(future < later && later < Some(earlier(DAY)), "their order is kept");
        let skewed = NOW.after(Duration::from_secs(5));
        assert_eq!(started(&mut lives, "remote", skewed, Duration::ZERO), Some(skewed));
    }
}
