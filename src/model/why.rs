//! The causal chain of a state: event, record, difference, step, result, next retry. The command line and the web page
//! render the same chain. Pure.

use serde::Serialize;

use super::desired::{Image, Origin};
use super::event::{Event, EventKind};
use super::name::{CommitId, Digest};
use super::status::{Condition, ResolvedBy};
use super::time::Timestamp;
use super::view::{EnvironmentView, HistoryView, PlanView};

/// The number of events to search: those of one generation and some of the previous one.
pub const LOOKED_THROUGH: usize = 200;

/// The data that the chain is built from.
#[derive(Clone, Debug, Serialize)]
pub struct WhyEvidence {
    /// The environment.
    pub environment: EnvironmentView,
    /// The current generation.
    pub record: Option<HistoryView>,
    /// The current plan.
    pub plan: Option<PlanView>,
    /// Why the plan is missing; the engine that it needs may be the broken part.
    pub plan_error: Option<String>,
    /// Other warnings, global or of this environment.
    pub warnings: Vec<String>,
    /// Oldest first.
    pub events: Vec<Event>,
}

/// One part of the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainLink {
    /// Its name: `event`, `record`, `difference`, `step`, `result`, `next retry`, `warning`, `canary` or `promotion`.
    pub label: &'static str,
    /// Whether it reports a failure.
    pub is_bad: bool,
    /// Its lines.
    pub lines: Vec<Line>,
}

/// One line, whose times the reader's clock turns into words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line(pub Vec<Piece>);

/// A piece of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Text.
    Text(String),
    /// A moment in the past.
    Ago(Timestamp),
    /// A moment in the future.
    Ahead(Timestamp),
}

impl Line {
    fn text(text: impl Into<String>) -> Self {
        Self(vec![Piece::Text(text.into())])
    }

    fn from_event(event: &Event) -> Self {
        Self(vec![Piece::Ago(event.at), Piece::Text(format!(": {}", sentence(event)))])
    }
}

/// The message of an event with its number of repetitions.
pub fn sentence(event: &Event) -> String {
    if event.count > 1 { format!("{} ({} times)", event.message, event.count) } else { event.message.clone() }
}

/// Returns the chain. Links may be empty.
pub fn chain(evidence: &WhyEvidence) -> Vec<ChainLink> {
    let is_failed = matches!(
        evidence.environment.status,
        Condition::Degraded | Condition::Blocked | Condition::RolledBack
    );
    let link = |label, is_bad, lines| ChainLink { label, is_bad, lines };
    let mut chain = vec![
        link("event", false, vec![event(evidence)]),
        link("record", false, record(evidence)),
        link("difference", false, differences(evidence)),
        link("step", false, steps(evidence)),
        link("result", is_failed, result(evidence)),
        link("next retry", false, vec![next_retry(&evidence.environment)]),
        link("warning", true, evidence.warnings.iter().map(Line::text).collect()),
    ];
    // Only an environment that had a canary has this part.
    if let Some(canary) = &evidence.environment.canary {
        chain.push(link("canary", false, vec![Line::text(&canary.summary)]));
    }
    // Only an environment with gates has this part.
    if let Some(waiting) = &evidence.environment.waiting {
        chain.push(link("promotion", false, vec![Line::text(waiting)]));
    }
    chain
}

/// The last change of the record, with its original message.
fn event(evidence: &WhyEvidence) -> Line {
    let of_record = newest(evidence, EventKind::Record);
    let event = of_record.or_else(|| evidence.events.last());
    event.map_or_else(|| Line::text("none recorded"), Line::from_event)
}

fn record(evidence: &WhyEvidence) -> Vec<Line> {
    let Some(view) = &evidence.record else { return vec![Line::text("nothing was ever recorded")] };
    let origin = view.origin.map_or("unknown origin", Origin::as_str);
    let by = view.by.as_ref().map_or_else(String::new, |by| format!(" by {by}"));
    let note = view.note.as_ref().map_or_else(String::new, |note| format!(", {note}"));
    let moved = Line(vec![
        Piece::Text(format!("generation {}: {origin}{by} ", view.generation)),
        Piece::Ago(view.at),
        Piece::Text(note),
    ]);
    let revision = view.revision.as_ref().map(|id| format!("revision {}", CommitId::short(id)));
    let image = view.image.as_ref().and_then(Image::shown_digest).map(Digest::short);
    let image = image.map_or_else(|| "no image yet".to_owned(), |image| format!("image {image}"));
    let named = revision.into_iter().chain([image]).collect::<Vec<_>>().join(", ");
    vec![moved, Line::text(named)]
}

/// The current differences; else the last difference found for this generation.
fn differences(evidence: &WhyEvidence) -> Vec<Line> {
    match (&evidence.plan, &evidence.plan_error) {
        (Some(plan), _) if !plan.differences.is_empty() => plan.differences.iter().map(Line::text).collect(),
        (None, Some(error)) => vec![Line::text(format!("cannot be computed: {error}"))],
        _ => vec![past(evidence, EventKind::Difference).unwrap_or_else(|| Line::text("none"))],
    }
}

/// The steps to take now; else the last steps taken for this generation.
fn steps(evidence: &WhyEvidence) -> Vec<Line> {
    match &evidence.plan {
        Some(plan) if !plan.steps.is_empty() => {
            plan.steps.iter().map(|step| Line::text(format!("to do: {step}"))).collect()
        }
        _ => vec![past(evidence, EventKind::Step).unwrap_or_else(|| Line::text("none"))],
    }
}

fn result(evidence: &WhyEvidence) -> Vec<Line> {
    let view = &evidence.environment;
    let mut lines =
        vec![Line::text(format!("{} ({}): {}", view.status.as_str(), view.reason.as_str(), view.message))];
    // The failure behind a status; irrelevant once the environment is Ready.
    if view.status != Condition::Ready {
        lines.extend(past(evidence, EventKind::Failure));
    }
    lines
}

fn next_retry(view: &EnvironmentView) -> Line {
    let name = &view.environment;
    let words = match (view.next_retry, view.status) {
        (Some(at), _) => return Line(vec![Piece::Ahead(at)]),
        (None, Condition::Ready) => "none is needed".to_owned(),
        (None, Condition::Progressing) => "none: already in progress".to_owned(),
        (None, Condition::Held) => format!("none: `abide resume {name}` ends the hold"),
        (None, Condition::RolledBack) => {
            format!("none until the next version; `abide set {name}` with the failed version retries it")
        }
        (None, Condition::Degraded | Condition::Blocked) => match view.reason.ends() {
            ResolvedBy::ByItself => {
                "automatic: it is reconciled after every change and every minute".to_owned()
            }
            ResolvedBy::BySomeone => format!("none: someone has to act; then `abide sync {name}` retries"),
        },
    };
    Line::text(words)
}

/// The newest event of `kind` since the record changed.
fn past(evidence: &WhyEvidence, kind: EventKind) -> Option<Line> {
    let moved_at = evidence.record.as_ref().map(|view| view.at);
    let event = newest(evidence, kind).filter(|event| moved_at.is_none_or(|moved| event.at >= moved));
    event.map(Line::from_event)
}

fn newest(evidence: &WhyEvidence, kind: EventKind) -> Option<&Event> {
    evidence.events.iter().rev().find(|event| event.kind == kind)
}
