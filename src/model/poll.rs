//! Queries for the branch or tag that an environment tracks.

use std::time::Duration;

use super::checks::UncheckedHead;
use super::status::Reason;
use super::time::Timestamp;

/// How long a remote may take to show a push that was announced. A registry sends its notification before
/// the tag points at the new manifest, and a git host may answer from a replica that lags behind.
pub const VISIBLE_WITHIN: Duration = Duration::from_secs(15);

/// How far a time of a client may be ahead of an answer. Beyond that, it was noted before the clock was set
/// back.
const AHEAD: Duration = Duration::from_secs(60);

/// The time of a query for the head of a branch or the digest of a tag. The answer is valid for this time
/// only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryPeriod {
    /// The time of the query.
    pub from: Timestamp,
    /// The time of the answer.
    pub to: Timestamp,
}

impl QueryPeriod {
    /// Whether the answer covers a request at the time `requested_at`. A request from the far future was noted before
    /// the clock was set back. It counts as covered, because it would stay open until then otherwise. A
    /// request shortly after the answer came while the answer was being recorded, so it stays open.
    pub fn covers(self, requested_at: Timestamp) -> bool {
        requested_at <= self.from || requested_at > self.to.after(AHEAD)
    }

    /// Whether the answer is final for a push that was announced at the time `hint`, although the answer does
    /// not show that push. Until then, the remote may only be late.
    pub fn settles(self, hint: Timestamp) -> bool {
        self.covers(hint) && (hint > self.to || hint.after(VISIBLE_WITHIN) <= self.from)
    }
}

/// A query that was answered at once.
impl From<Timestamp> for QueryPeriod {
    fn from(at: Timestamp) -> Self {
        Self { from: at, to: at }
    }
}

/// The state of the queries for one environment's branch or tag, since the process started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PollStatus {
    /// The time of the last answered query; `None` if none was answered.
    pub answered: Option<Timestamp>,
    /// The time of the last query that failed.
    pub failed: Option<Timestamp>,
    /// The current problem; `None`: the head or digest is known.
    pub trouble: Option<SourceTrouble>,
    /// The head whose checks have not passed; `None`: they have, or none are needed.
    pub unchecked: Option<UncheckedHead>,
    /// Whether the environment itself was reconciled.
    pub is_observed: bool,
    /// Why the result of the last reconcile could not be recorded, as a sentence; `None`: it was.
    pub unrecorded: Option<String>,
}

/// The reason why the head of a branch or the digest of a tag is unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceTrouble {
    /// The reason, as one word.
    pub reason: Reason,
    /// The reason, as a sentence.
    pub message: String,
    /// The start of the problem.
    pub since: Timestamp,
    /// The time of the next query.
    pub next_retry: Timestamp,
}

impl SourceTrouble {
    /// Whether the problem is temporary: it may end without a change by an operator.
    pub fn may_pass(&self) -> bool {
        matches!(
            self.reason,
            Reason::SourceUnreachable | Reason::RegistryUnavailable | Reason::ForgeUnavailable
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_covers_only_requests_made_before_the_query_was_sent() {
        let at = Timestamp::from_millis;
        let asked = QueryPeriod { from: at(10), to: at(20) };
        let covered = [(9, true), (10, true), (11, false), (20, false), (21, false), (60_021, true)];
        for (requested_at, expected) in covered {
            assert_eq!(asked.covers(at(requested_at)), expected, "{requested_at}");
        }
    }

    #[test]
    fn an_answer_soon_after_an_announcement_is_not_final() {
        let at = Timestamp::from_millis;
        let asked = QueryPeriod { from: at(20_000), to: at(20_100) };
        let settled = [(4_999, true), (5_000, true), (5_001, false), (20_050, false), (20_200, false)];
        for (hint, expected) in settled.into_iter().chain([(80_101, true)]) {
            assert_eq!(asked.settles(at(hint)), expected, "{hint}");
        }
    }
}
