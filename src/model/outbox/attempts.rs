//! How far a delivery is, and when it is tried again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::time::Timestamp;

/// How far a delivery is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryAttempts {
    /// Failed attempts.
    pub count: u32,
    /// The time of the first attempt, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<Timestamp>,
    /// No attempt before this time.
    pub next: Timestamp,
    /// The last failure, as a sentence without secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Set once abide gave up: only `outbox retry` or a newer state tries again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead: Option<Timestamp>,
    /// A person asked for the next attempt, so it does not wait for a paused target.
    #[serde(default)]
    pub asked: bool,
}

impl DeliveryAttempts {
    /// No attempt yet; the first one not before `at`.
    pub fn from(at: Timestamp) -> Self {
        Self { next: at, ..Self::default() }
    }

    /// No attempt yet; a person asked for the first one, now.
    pub fn asked(now: Timestamp) -> Self {
        Self { asked: true, ..Self::from(now) }
    }

    /// The state after a failed attempt at `now` that may be repeated. The service asked to wait `asked`.
    /// Gives up `patience` after the first attempt.
    #[must_use]
    pub fn failed(&self, error: String, now: Timestamp, asked: Option<Duration>, patience: Duration) -> Self {
        let count = self.count.saturating_add(1);
        let first = self.first.unwrap_or(now);
        let pause = asked.map_or_else(|| spread(backoff(count), now), |asked| asked.min(LONGEST_PAUSE));
        let dead = (now.since(first) >= patience).then_some(now);
        Self { count, first: Some(first), next: now.after(pause), error: Some(error), dead, asked: false }
    }

    /// The state after a permanent failure.
    #[must_use]
    pub fn refused(&self, error: String, now: Timestamp) -> Self {
        let (count, first) = (self.count.saturating_add(1), Some(self.first.unwrap_or(now)));
        Self { count, first, next: now, error: Some(error), dead: Some(now), asked: false }
    }

    /// Whether an attempt is due.
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.dead.is_none() && self.next <= now
    }
}

/// The first pause after a failure; it doubles with each further failure.
const FIRST_PAUSE: Duration = Duration::from_secs(5);

/// The longest pause, also if a service asks for more.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(60 * 60);

/// How long a message is tried: the schedule of Standard Webhooks is as long.
pub const MESSAGE_PATIENCE: Duration = Duration::from_secs(72 * 60 * 60);

/// How long a state of a commit is tried.
pub const PROJECTION_PATIENCE: Duration = Duration::from_secs(24 * 60 * 60);

/// The pause after `count` failures: 5 s doubling to an hour.
pub fn backoff(count: u32) -> Duration {
    let doublings = count.saturating_sub(1).min(16);
    FIRST_PAUSE.saturating_mul(1 << doublings).min(LONGEST_PAUSE)
}

/// `pause`, up to a fifth shorter or longer, so that daemons that failed together do not return together.
fn spread(pause: Duration, now: Timestamp) -> Duration {
    let per_mille = 800 + u32::try_from(now.as_millis() % 401).unwrap_or_default();
    (pause.saturating_mul(per_mille) / 1000).min(LONGEST_PAUSE)
}
