//! What is known of the branch or tag that an environment follows.

use super::status::Reason;
use super::time::Timestamp;

/// When git or a registry was asked for the head of a branch or the digest of a tag: its answer
/// speaks of that time, and of nothing that came later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// When the question was sent.
    pub from: Timestamp,
    /// When the answer came.
    pub to: Timestamp,
}

impl Asked {
    /// Whether the answer covers a wish of this moment. A wish from the future was noted before the
    /// clock was set back, so it is covered too; otherwise it would stay open until then.
    pub fn covers(self, wish: Timestamp) -> bool {
        wish <= self.from || wish > self.to
    }
}

/// A question that was answered at once.
impl From<Timestamp> for Asked {
    fn from(at: Timestamp) -> Self {
        Self { from: at, to: at }
    }
}

/// The state of the questions about one environment's branch or tag, since the process started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// When the last question was sent that was answered; `None`: none was.
    pub answered: Option<Timestamp>,
    /// When the last question was sent that was not answered.
    pub failed: Option<Timestamp>,
    /// What is wrong now; `None`: the head or digest is known.
    pub trouble: Option<SourceTrouble>,
    /// Whether a pass has looked at the environment itself.
    pub is_observed: bool,
}

/// Why the head of a branch or the digest of a tag is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceTrouble {
    /// In one word.
    pub reason: Reason,
    /// In a sentence.
    pub message: String,
    /// Since when.
    pub since: Timestamp,
    /// When the question is asked again.
    pub next_retry: Timestamp,
}

impl SourceTrouble {
    /// Whether it may pass by itself: nobody has to change anything here or there.
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
