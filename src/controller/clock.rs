//! The clock of the process. Plans have no clock: they get the time as an argument.
//!
//! Waiting must not depend on a wall clock that can be set. This clock equals the wall clock when the
//! process starts, advances with the monotonic clock, and never goes back. After the wall clock is set back,
//! this clock stays ahead. If the wall clock is set forward, as on a host that learns the time after it
//! started, this clock follows, and pending waits are due early.
//!
//! Dates and times of day are another matter: schedules, windows and freezes follow the [`wall`] clock.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::model::time::Timestamp;

/// How far the clock of an engine on another host may be ahead without being noticed.
const SKEW: Duration = Duration::from_secs(60);

static CLOCK: Clock = Clock { anchor: Mutex::new(None) };

/// The time, by a clock that never goes back.
pub fn now() -> Timestamp {
    CLOCK.read(Instant::now(), wall())
}

/// The time of the wall clock: for dates and times of day, and for comparison with times from the engine and in
/// its files.
pub fn wall() -> Timestamp {
    SystemTime::now().into()
}

/// How far [`now`] is ahead of the wall clock: the amount by which that was set back since the process
/// started.
pub(super) fn ahead() -> Duration {
    let wall = wall();
    now().since(wall)
}

/// Translates a time from the engine to the clock of this process, which is `ahead` of the wall clock. The
/// engine's own clock was set back together with ours, or it runs on another host and was not. `None`: by
/// either account, the time is in the future.
pub(super) fn translated(engine_time: Timestamp, now: Timestamp, ahead: Duration) -> Option<Timestamp> {
    [engine_time.after(ahead), engine_time].into_iter().find(|ours| *ours <= now.after(SKEW))
}

struct Clock {
    /// A monotonic time, and the time of this clock at that moment.
    anchor: Mutex<Option<(Instant, Timestamp)>>,
}

impl Clock {
    fn read(&self, instant: Instant, wall: Timestamp) -> Timestamp {
        let mut anchor = self.anchor.lock().unwrap_or_else(PoisonError::into_inner);
        let run_on = anchor.map(|(at, time)| time.after(instant.saturating_duration_since(at)));
        match run_on.filter(|run_on| *run_on >= wall) {
            Some(run_on) => run_on,
            None => {
                *anchor = Some((instant, wall));
                wall
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_follows_forward_jumps_but_never_goes_back() {
        let clock = Clock { anchor: Mutex::default() };
        let (start, day) = (Instant::now(), Duration::from_secs(86_400));
        let (wall, second) = (Timestamp::from_millis(u64::MAX / 4), Duration::from_secs(1));
        assert_eq!(clock.read(start, wall), wall);
        let yesterday = Timestamp::from_millis(wall.as_millis() - 86_400_000);
        assert_eq!(clock.read(start + second, yesterday), wall.after(second));
        assert_eq!(clock.read(start + second * 2, yesterday.after(second)), wall.after(second * 2));
        assert_eq!(clock.read(start + second * 3, wall.after(day)), wall.after(day));
        assert_eq!(clock.read(start + second * 4, wall.after(second)), wall.after(day + second));
    }

    #[test]
    fn engine_times_are_translated_to_the_monotonic_clock() {
        let (now, hour) = (Timestamp::from_millis(1_795_449_600_000), Duration::from_secs(3600));
        let set_back = Timestamp::from_millis(now.as_millis() - 3_600_000);
        assert_eq!(translated(set_back, now, hour), Some(now));
        assert_eq!(translated(now, now, hour), Some(now));
        assert_eq!(translated(now.after(hour), now, hour), None);
    }

    #[test]
    fn reading_it_often_does_not_slow_it_down() {
        let clock = Clock { anchor: Mutex::default() };
        let (start, wall) = (Instant::now(), Timestamp::from_millis(1_000_000));
        clock.read(start, wall);
        for step in 1..=10_000 {
            clock.read(start + Duration::from_micros(100) * step, Timestamp::from_millis(0));
        }
        assert_eq!(
            clock.read(start + Duration::from_secs(1), Timestamp::from_millis(0)).as_millis(),
            1_001_000
        );
    }
}
