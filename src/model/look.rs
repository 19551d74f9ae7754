//! Queries for the branch or tag that an environment tracks.

use super::status::Reason;
use super::time::Timestamp;

/// The time of a query for the head of a branch or the digest of a tag. The answer is valid for this time
/// only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The time of the query.
    pub from: Timestamp,
    /// The time of the answer.
    pub to: Timestamp,
}

impl Asked {
    /// Whether the answer covers a request at the time `wish`. A request from the future was noted before the
    /// clock was set back. It counts as covered, because it would stay open until then otherwise.
    pub fn covers(self, wish: Timestamp) -> bool {
        wish <= self.from || wish > self.to
    }
}

/// A query that was answered at once.
impl From<Timestamp> for Asked {
    fn from(at: Timestamp) -> Self {
        Self { from: at, to: at }
    }
}

/// The state of the queries for one environment's branch or tag, since the process started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// The time of the last answered query; `None` if none was answered.
    pub answered: Option<Timestamp>,
    /// The time of the last query that failed.
    pub failed: Option<Timestamp>,
    /// The current problem; `None`: the head or digest is known.
    pub trouble: Option<SourceTrouble>,
    /// Whether the environment itself was reconciled.
    pub is_observed: bool,
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
        matches!(self.reason, Reason::SourceUnreachable | Reason::RegistryUnavailable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_covers_what_was_wished_before_the_question_was_sent() {
        let at = Timestamp::from_millis;
        let asked = Asked { from: at(10), to: at(20) };
        let covered = [(9, true), (10, true), (11, false), (20, false), (21, true)];
        for (wish, expected) in covered {
            assert_eq!(asked.covers(at(wish)), expected, "{wish}");
        }
    }
}
