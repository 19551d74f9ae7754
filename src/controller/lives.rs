//! When containers were started and ended, by the clock of this process.
//!
//! The engine tells both by the wall clock. While that is as it was when the process started, the two
//! clocks agree. After it was set back, what the engine tells of a new start or end is translated when it
//! is first seen, and stays so: compared as the engine writes it, a container would seem to be older than
//! the sandbox that it joined, and a pause after a crash to be over long ago.

use std::collections::HashMap;
use std::time::Duration;

use crate::model::observed::{ContainerState, SeenContainer};
use crate::model::time::Timestamp;

/// How far the clock of an engine on another host may be ahead.
const SKEW: Duration = Duration::from_secs(60);

/// The last start and end of each container.
#[derive(Default)]
pub(super) struct Lives {
    by_container: HashMap<String, Life>,
}

#[derive(Clone, Copy, Default)]
struct Life {
    started: Option<Moment>,
    ended: Option<Moment>,
}

/// A moment as the engine tells it, and by the clock of this process.
#[derive(Clone, Copy)]
struct Moment {
    told: Timestamp,
    ours: Timestamp,
}

impl Moment {
    /// The same moment as before if the engine tells the same, else one that is new. One that is still to
    /// come was before the clock was set back, while abide did not run: that was long ago.
    fn of(told: Timestamp, before: Option<Self>, now: Timestamp, ahead: Duration) -> Self {
        if let Some(before) = before.filter(|before| before.told == told) {
            return before;
        }
        let ours = Some(told.after(ahead)).filter(|ours| *ours <= now.after(SKEW));
        Self { told, ours: ours.unwrap_or_default() }
    }
}

impl Lives {
    /// Translates the moments of a container that was just seen. `ahead`: how far the clock of this process
    /// is ahead of the engine's.
    pub(super) fn translate(&mut self, seen: &mut SeenContainer, now: Timestamp, ahead: Duration) {
        let life = self.by_container.entry(seen.id.clone()).or_default();
        if let Some(told) = seen.started_at {
            let started = Moment::of(told, life.started, now, ahead);
            life.started = Some(started);
            seen.started_at = Some(started.ours);
        }
        if let ContainerState::Exited(exit) = &mut seen.state {
            let ended = Moment::of(exit.at, life.ended, now, ahead);
            life.ended = Some(ended);
            exit.at = ended.ours;
        }
    }

    /// Forgets a container that is gone.
    pub(super) fn forget(&mut self, id: &str) {
        self.by_container.remove(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::fleet::tests::seen;

    const DAY: Duration = Duration::from_secs(86_400);
    const NOW: Timestamp = Timestamp::from_millis(1_795_449_600_000);

    fn earlier(by: Duration) -> Timestamp {
        Timestamp::from_millis(NOW.as_millis() - u64::try_from(by.as_millis()).unwrap())
    }

    fn started(lives: &mut Lives, id: &str, told: Timestamp, ahead: Duration) -> Option<Timestamp> {
        let mut container = SeenContainer { started_at: Some(told), ..seen(id) };
        lives.translate(&mut container, NOW, ahead);
        container.started_at
    }

    #[test]
    fn a_start_after_the_clock_was_set_back_is_later_than_one_before() {
        let mut lives = Lives::default();
        let hour = Duration::from_secs(3600);
        let sandbox = started(&mut lives, "sandbox", earlier(hour), Duration::ZERO);
        let container = started(&mut lives, "container", earlier(DAY), DAY);
        assert!(container > sandbox);
        assert_eq!(started(&mut lives, "sandbox", earlier(hour), DAY), sandbox, "it is translated once");
        assert_eq!(container, Some(NOW));
    }

    #[test]
    fn what_was_started_in_the_future_was_started_long_ago() {
        let mut lives = Lives::default();
        let future = started(&mut lives, "sandbox", NOW.after(DAY), Duration::ZERO);
        assert!(future < started(&mut lives, "container", earlier(Duration::ZERO), Duration::ZERO));
        let skewed = NOW.after(Duration::from_secs(5));
        assert_eq!(started(&mut lives, "remote", skewed, Duration::ZERO), Some(skewed));
    }
}
