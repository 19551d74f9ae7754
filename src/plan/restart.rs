//! When an ended container is started again.
//!
//! The first crash restarts at once; later ones wait 1 s, doubling to 5 min, with jitter; ten
//! healthy minutes reset the count. The numbers are the kubelet's cap and reset (300 s, 600 s)
//! with a faster start; dockerd's own policy forgets after 10 s of uptime, so that a container
//! that dies every 11 s restarts for ever without delay.

use std::time::Duration;

use crate::model::cause::EndedBy;
use crate::model::container::Exit;
use crate::model::memory::{CountedExit, Crashes, Stopped};
use crate::model::observed::ObservedContainer;
use crate::model::time::Timestamp;

/// The first delay.
const FIRST: Duration = Duration::from_secs(1);
/// The longest delay.
pub(super) const LONGEST: Duration = Duration::from_secs(300);
/// Uptime that resets the count.
const HEALTHY: Duration = Duration::from_secs(600);

/// The delay after `count` failures in a row: none after the first, then doubling. `seed` spreads
/// containers that fail together by up to a quarter; the same seed gives the same delay.
///
/// ```
/// use std::time::Duration;
///
/// use abide::plan::backoff;
///
/// assert_eq!(backoff(1, "dev-server"), Duration::ZERO);
/// let second = backoff(2, "dev-server");
/// assert!(second >= Duration::from_secs(1) && second <= Duration::from_millis(1250));
/// assert_eq!(backoff(30, "dev-server"), Duration::from_secs(300));
/// ```
pub fn backoff(count: u32, seed: &str) -> Duration {
    let Some(doublings) = count.checked_sub(2) else { return Duration::ZERO };
    let base = FIRST.saturating_mul(1_u32.checked_shl(doublings.min(20)).unwrap_or(u32::MAX));
    let jitter = base.mul_f64(0.25 * fraction(seed, count));
    base.saturating_add(jitter).min(LONGEST)
}

/// Returns a number from 0 to 1 that depends only on its arguments (FNV-1a).
fn fraction(seed: &str, count: u32) -> f64 {
    let bytes = seed.bytes().chain(count.to_le_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    f64::from(u32::try_from(hash >> 32).unwrap_or(u32::MAX)) / f64::from(u32::MAX)
}

/// The notes after `container` was observed at `now` to have been ended by `by`. The same end is counted
/// once. The pause begins at the observation: if the engine's clock has been set since, a pause from the
/// container's end could be zero, or a day.
pub(super) fn count(
    crashes: &Crashes,
    container: &ObservedContainer,
    exit: &Exit,
    by: Option<EndedBy>,
    now: Timestamp,
) -> Crashes {
    let is_last = |last: &CountedExit| last.container == container.id && last.exit == *exit;
    if crashes.last.as_ref().is_some_and(is_last) {
        return crashes.clone();
    }
    let stopped = crashes.stopped.as_ref().filter(|stopped| stopped.container == container.id);
    let why = stopped.map(|stopped| stopped.why.clone());
    let ran_well = container.started_at.is_some_and(|started| exit.at.since(started) >= HEALTHY);
    let (before, exits) = if ran_well { (0, 0) } else { (crashes.count, crashes.exits) };
    // A container that abide stopped for something else, such as a restore, has not crashed.
    let is_stop = by == Some(EndedBy::Abide) && why.is_none();
    let count = before.saturating_add(u32::from(!is_stop));
    // A container that abide stopped has already waited before the stop, while it still ran.
    let delay = if why.is_some() || is_stop { Duration::ZERO } else { backoff(count, &container.id) };
    Crashes {
        count,
        exits: exits.saturating_add(u32::from(EndedBy::counts(by))),
        last: Some(CountedExit { container: container.id.clone(), exit: exit.clone(), why, by }),
        next_restart: (!delay.is_zero()).then(|| now.after(delay)),
        tried: None,
        restarts: crashes.restarts,
        stopped: None,
    }
}

/// The time to restart a container that no longer answers. After its last start, it gets the delay that it
/// would have after a crash. It keeps running meanwhile, because it may recover.
pub(super) fn due(crashes: &Crashes, container: &ObservedContainer) -> Timestamp {
    let started = container.started_at.unwrap_or(container.created_at);
    let started = crashes.tried.map_or(started, |tried| tried.max(started));
    started.after(backoff(crashes.count.saturating_add(1), &container.id))
}

/// The notes for stopping `container` to start it again.
pub(super) fn stopping(crashes: &Crashes, container: &ObservedContainer, why: &str) -> Crashes {
    let stopped = Some(Stopped { container: container.id.clone(), why: why.to_owned() });
    Crashes { stopped, ..crashes.clone() }
}

/// The notes after `container` is started again at `now`. If the start fails or changes nothing, it counts
/// as a crash: each next attempt waits longer.
pub(super) fn started(crashes: &Crashes, container: &ObservedContainer, now: Timestamp) -> Crashes {
    let count = crashes.count.saturating_add(u32::from(crashes.tried.is_some()));
    let delay = backoff(count.saturating_add(1), &container.id);
    let restarts = crashes.restarts.saturating_add(1);
    let next_restart = Some(now.after(delay));
    Crashes { count, restarts, next_restart, tried: Some(now), ..crashes.clone() }
}

/// Describes how the container of the last counted exit ended.
pub(super) fn how_last(crashes: &Crashes, exit: &Exit) -> String {
    let last = crashes.last.as_ref();
    match last.and_then(|last| last.why.as_deref()) {
        Some(why) => format!("was stopped because it {why}"),
        None => how(exit, last.and_then(|last| last.by)),
    }
}

/// Describes how a container ended.
pub(super) fn how(exit: &Exit, by: Option<EndedBy>) -> String {
    let code = exit.code;
    match (by, exit.out_of_memory) {
        (Some(EndedBy::Hand), _) => {
            format!("was stopped by a user or by a stop of the Docker Engine (exit code {code})")
        }
        (Some(EndedBy::Abide), _) => {
            format!("was stopped by abide (exit code {code})")
        }
        (Some(EndedBy::Absence), _) => {
            format!("exited while the Docker Engine or abide was not running (exit code {code})")
        }
        (Some(EndedBy::Host), _) => {
            format!(
                "was killed because the host ran out of memory (exit code {code}); it has no memory \
                limit of its own"
            )
        }
        (Some(EndedBy::Signal), false) => format!("was terminated by a signal (exit code {code})"),
        (_, true) => format!("was killed because it ran out of memory (exit code {code})"),
        _ if code == 0 => "exited with code 0, but a service must keep running".to_owned(),
        _ => format!("exited with code {code}"),
    }
}
