//! When an ended container is started again.
//!
//! The first crash restarts at once; later ones wait 1 s, doubling to 5 min, with jitter; ten
//! healthy minutes reset the count. The numbers are the kubelet's cap and reset (300 s, 600 s)
//! with a faster start; dockerd's own policy forgets after 10 s of uptime, so that a container
//! that dies every 11 s restarts for ever without delay.

use std::time::Duration;

use crate::model::container::Exit;
use crate::model::memory::{CountedExit, Crashes};
use crate::model::observed::SeenContainer;
use crate::model::time::Timestamp;

/// The first delay.
const FIRST: Duration = Duration::from_secs(1);
/// The longest delay.
const LONGEST: Duration = Duration::from_secs(300);
/// Uptime that resets the count.
const HEALTHY: Duration = Duration::from_secs(600);

/// The delay after `count` failures in a row: none after the first, then doubling. `seed` spreads
/// containers that fail together by up to a quarter; the same seed gives the same delay.
pub fn backoff(count: u32, seed: &str) -> Duration {
    let Some(doublings) = count.checked_sub(2) else { return Duration::ZERO };
    let base = FIRST.saturating_mul(1_u32.checked_shl(doublings.min(20)).unwrap_or(u32::MAX));
    let jitter = base.mul_f64(0.25 * fraction(seed, count));
    base.saturating_add(jitter).min(LONGEST)
}

/// A number from 0 to 1 that depends on nothing but its arguments (FNV-1a).
fn fraction(seed: &str, count: u32) -> f64 {
    let bytes = seed.bytes().chain(count.to_le_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    f64::from(u32::try_from(hash >> 32).unwrap_or(u32::MAX)) / f64::from(u32::MAX)
}

/// The notes after `container` was seen ended. The same end is counted once.
pub(super) fn count(crashes: &Crashes, container: &SeenContainer, exit: &Exit) -> Crashes {
    let counted = CountedExit { container: container.id.clone(), exit: exit.clone() };
    if crashes.last.as_ref() == Some(&counted) {
        return crashes.clone();
    }
    let ran_well = container.started_at.is_some_and(|started| exit.at.since(started) >= HEALTHY);
    let count = if ran_well { 1 } else { crashes.count.saturating_add(1) };
    let delay = backoff(count, &container.id);
    let next_restart = (!delay.is_zero()).then(|| exit.at.after(delay));
    Crashes { count, last: Some(counted), next_restart, tried: None, restarts: crashes.restarts }
}

/// The notes after `container` is started again at `now`. Where that changes nothing, or fails, it
/// counts as a crash: the next attempt waits, longer every time.
pub(super) fn started(crashes: &Crashes, container: &SeenContainer, now: Timestamp) -> Crashes {
    let count = crashes.count.saturating_add(u32::from(crashes.tried.is_some()));
    let delay = backoff(count.saturating_add(1), &container.id);
    let restarts = crashes.restarts.saturating_add(1);
    let next_restart = Some(now.after(delay));
    Crashes { count, restarts, next_restart, tried: Some(now), last: crashes.last.clone() }
}

/// How a container ended, for sentences.
pub(super) fn how(exit: &Exit) -> String {
    match (exit.out_of_memory, exit.code) {
        (true, code) => format!("was killed for lack of memory (exit code {code})"),
        (false, code) => format!("ended with exit code {code}"),
    }
}
