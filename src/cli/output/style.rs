//! Colours of words.

use anstyle::{AnsiColor, Style};

use crate::model::desired::Outcome;
use crate::model::event::EventKind;
use crate::model::status::Condition;

/// Headers and labels.
pub(crate) const BOLD: Style = Style::new().bold();
/// Secondary details.
pub(crate) const DIM: Style = Style::new().dimmed();

/// The colour of a condition: green is done, blue is in progress, red needs attention, yellow is
/// safe but not the requested state.
pub(crate) fn condition(condition: Condition) -> Style {
    match condition {
        Condition::Ready => colour(AnsiColor::Green),
        Condition::Progressing => colour(AnsiColor::Blue),
        Condition::Degraded | Condition::Blocked => colour(AnsiColor::Red),
        Condition::RolledBack | Condition::Held => colour(AnsiColor::Yellow),
    }
}

/// The colour of the outcome of a generation.
pub(crate) fn outcome(outcome: Option<&Outcome>) -> Style {
    match outcome {
        Some(Outcome::Ready) => colour(AnsiColor::Green),
        Some(Outcome::Failed(_)) => colour(AnsiColor::Red),
        Some(Outcome::Superseded) => DIM,
        None => colour(AnsiColor::Blue),
    }
}

/// The colour of an event kind; only failures stand out.
pub(crate) fn event(kind: EventKind) -> Style {
    match kind {
        EventKind::Failure => colour(AnsiColor::Red),
        EventKind::Record => colour(AnsiColor::Blue),
        EventKind::Difference
        | EventKind::Step
        | EventKind::Build
        | EventKind::Status
        | EventKind::System => Style::new(),
    }
}

/// `text` in `style`.
pub(crate) fn paint(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

fn colour(colour: AnsiColor) -> Style {
    colour.on_default()
}
