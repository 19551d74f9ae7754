//! A status as a shape, a word and a colour: nobody has to see the colour.

use crate::model::status::{Condition, Reason};
use crate::model::view::EnvironmentView;

/// The look of a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Badge {
    /// The class and the icon.
    pub(super) look: &'static str,
    /// The word.
    pub(super) word: &'static str,
}

impl Badge {
    /// The badge of an environment. An unknown status is never green.
    pub(super) fn of(view: &EnvironmentView) -> Self {
        let (look, word) = match (view.status, view.reason) {
            (_, Reason::NothingRecorded) => ("unsure", "Nothing yet"),
            (Condition::Progressing, Reason::Unknown) if view.generation.0 == 0 => ("unsure", "Nothing yet"),
            (_, Reason::AgentAway | Reason::Unknown) => ("unsure", "Unsure"),
            (Condition::Ready, _) => ("ready", "Ready"),
            (Condition::Progressing, reason) => ("progress", reason.as_str()),
            (Condition::Degraded, _) => ("degraded", "Degraded"),
            (Condition::RolledBack, _) => ("rolled", "RolledBack"),
            (Condition::Held, _) => ("held", "Held"),
            (Condition::Blocked, _) => ("blocked", "Blocked"),
        };
        Self { look, word }
    }

    /// Whether it turns, because something is in progress.
    pub(super) fn turns(&self) -> bool {
        self.look == "progress"
    }

    /// The class of a card with this badge.
    pub(super) fn card(&self) -> &'static str {
        match self.look {
            "degraded" => "bad",
            "rolled" => "warn",
            "blocked" => "block",
            _ => "",
        }
    }
}

/// The urgency of an environment that needs attention; `None` if it needs none. Lower is more urgent.
pub(super) fn urgency(view: &EnvironmentView) -> Option<u8> {
    if view.reason == Reason::NothingRecorded {
        return None;
    }
    match view.status {
        Condition::Blocked => Some(0),
        Condition::Degraded => Some(1),
        Condition::RolledBack => Some(2),
        Condition::Ready | Condition::Progressing | Condition::Held => None,
    }
}
