//! `abide why`: explains the state, from the event to the next retry.

#[cfg(test)]
mod tests;

use serde::Serialize;

use super::client::Client;
use super::events::sentence;
use super::exit::{Exit, Failure};
use super::output::style::{BOLD, paint};
use super::output::text::{ago, ahead, one_line};
use super::session::{Need, Session};
use super::status::headline;
use crate::model::desired::{Image, Origin};
use crate::model::event::{Event, EventKind};
use crate::model::name::{CommitId, Digest, EnvironmentName};
use crate::model::status::{Condition, Ends};
use crate::model::time::Timestamp;
use crate::model::view::{EnvironmentView, HistoryView, Overview, PlanView};

/// The number of events to search: those of one generation and some of the previous one.
const LOOKED_THROUGH: usize = 200;

const EXAMPLES: &str = "\
Examples:
  abide why dev
  abide why prod -o json

`-o json` prints the data of the chain: {environment, record, plan, plan_error, warnings, events}.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct WhyArgs {
    /// Environment to explain
    environment: EnvironmentName,
}

pub(crate) async fn run(args: &WhyArgs, session: &mut Session) -> Result<Exit, Failure> {
    let client = session.client(Need::Daemon("why")).await?;
    let evidence = gather(&client, &args.environment).await?;
    if session.console.is_json() {
        session.console.json(&evidence)?;
    } else {
        let text = render(&evidence, session.now());
        session.console.data(&text)?;
    }
    Ok(Exit::Done)
}

/// The data that the chain is built from.
#[derive(Clone, Debug, Serialize)]
struct Evidence {
    environment: EnvironmentView,
    /// The current generation.
    record: Option<HistoryView>,
    plan: Option<PlanView>,
    /// Why the plan is missing; the engine that it needs may be the broken part.
    plan_error: Option<String>,
    /// Other warnings, global or of this environment.
    warnings: Vec<String>,
    /// Oldest first.
    events: Vec<Event>,
}

async fn gather(client: &Client, name: &EnvironmentName) -> Result<Evidence, Failure> {
    let Overview { mut environments, mut warnings, .. } = client.overview_of(name).await?;
    let environment =
        environments.pop().ok_or_else(|| Failure::No(format!("nothing is known about {name}")))?;
    warnings.extend(environment.warnings.iter().cloned());
    let generation = environment.generation;
    let record = client.history(name).await?.into_iter().find(|view| view.generation == generation);
    let events = client.events(Some(name), None, LOOKED_THROUGH).await?;
    let (plan, plan_error) = match client.plan(name).await {
        Ok(plan) => (Some(plan), None),
        Err(error) => (None, Some(error.to_string())),
    };
    Ok(Evidence { environment, record, plan, plan_error, warnings, events })
}

fn render(evidence: &Evidence, now: Timestamp) -> String {
    let mut text = headline(&evidence.environment, now);
    for link in chain(evidence, now) {
        for (index, line) in link.lines.iter().enumerate() {
            let label = format!("{:<10}", if index == 0 { link.label } else { "" });
            text.push_str(&format!("  {}  {}\n", paint(BOLD, &label), one_line(line)));
        }
    }
    text
}

/// One part of the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Link {
    label: &'static str,
    lines: Vec<String>,
}

fn chain(evidence: &Evidence, now: Timestamp) -> Vec<Link> {
    let link = |label, lines| Link { label, lines };
    let mut chain = vec![
        link("event", vec![event(evidence, now)]),
        link("record", record(evidence, now)),
        link("difference", differences(evidence, now)),
        link("step", steps(evidence, now)),
        link("result", result(evidence, now)),
        link("next retry", vec![next_retry(&evidence.environment, now)]),
        link("warning", evidence.warnings.clone()),
    ];
    // Only an environment with gates has this part.
    if let Some(waiting) = &evidence.environment.waiting {
        chain.push(link("promotion", vec![waiting.clone()]));
    }
    chain
}

/// The last change of the record, with its original message.
fn event(evidence: &Evidence, now: Timestamp) -> String {
    let of_record = newest(evidence, EventKind::Record);
    let event = of_record.or_else(|| evidence.events.last());
    event.map_or_else(|| "none recorded".to_owned(), |event| told(event, now))
}

fn record(evidence: &Evidence, now: Timestamp) -> Vec<String> {
    let Some(view) = &evidence.record else { return vec!["nothing was ever recorded".to_owned()] };
    let origin = view.origin.map_or("unknown origin", Origin::as_str);
    let by = view.by.as_ref().map_or_else(String::new, |by| format!(" by {by}"));
    let note = view.note.as_ref().map_or_else(String::new, |note| format!(", {note}"));
    let moved = format!("generation {}: {origin}{by} {}{note}", view.generation, ago(now, view.at));
    let revision = view.revision.as_ref().map(|id| format!("revision {}", CommitId::short(id)));
    let image = view.image.as_ref().and_then(Image::shown_digest).map(Digest::short);
    let image = image.map_or_else(|| "no image yet".to_owned(), |image| format!("image {image}"));
    let named = revision.into_iter().chain([image]).collect::<Vec<_>>().join(", ");
    vec![moved, named]
}

/// The current differences; else the last difference found for this generation.
fn differences(evidence: &Evidence, now: Timestamp) -> Vec<String> {
    match (&evidence.plan, &evidence.plan_error) {
        (Some(plan), _) if !plan.differences.is_empty() => plan.differences.clone(),
        (None, Some(error)) => vec![format!("cannot be computed: {error}")],
        _ => past(evidence, EventKind::Difference, now).unwrap_or_else(|| vec!["none".to_owned()]),
    }
}

/// The steps to take now; else the last steps taken for this generation.
fn steps(evidence: &Evidence, now: Timestamp) -> Vec<String> {
    match &evidence.plan {
        Some(plan) if !plan.steps.is_empty() => {
            plan.steps.iter().map(|step| format!("to do: {step}")).collect()
        }
        _ => past(evidence, EventKind::Step, now).unwrap_or_else(|| vec!["none".to_owned()]),
    }
}

fn result(evidence: &Evidence, now: Timestamp) -> Vec<String> {
    let view = &evidence.environment;
    let mut lines = vec![format!("{} ({}): {}", view.status.as_str(), view.reason.as_str(), view.message)];
    // The failure behind a status; irrelevant once the environment is Ready.
    if view.status != Condition::Ready {
        lines.extend(past(evidence, EventKind::Failure, now).into_iter().flatten());
    }
    lines
}

fn next_retry(view: &EnvironmentView, now: Timestamp) -> String {
    let name = &view.environment;
    match (view.next_retry, view.status) {
        (Some(at), _) => ahead(now, at),
        (None, Condition::Ready) => "none is needed".to_owned(),
        (None, Condition::Progressing) => "none: already in progress".to_owned(),
        (None, Condition::Held) => format!("none: `abide resume {name}` ends the hold"),
        (None, Condition::RolledBack) => {
            format!("none until the next version; `abide set {name}` with the failed version retries it")
        }
        (None, Condition::Degraded | Condition::Blocked) => match view.reason.ends() {
            Ends::ByItself => "automatic: it is reconciled after every change and every minute".to_owned(),
            Ends::BySomeone => format!("none: someone has to act; then `abide sync {name}` retries"),
        },
    }
}

/// The newest event of `kind` since the record changed.
fn past(evidence: &Evidence, kind: EventKind, now: Timestamp) -> Option<Vec<String>> {
    let moved_at = evidence.record.as_ref().map(|view| view.at);
    let event = newest(evidence, kind).filter(|event| moved_at.is_none_or(|moved| event.at >= moved));
    event.map(|event| vec![told(event, now)])
}

fn newest(evidence: &Evidence, kind: EventKind) -> Option<&Event> {
    evidence.events.iter().rev().find(|event| event.kind == kind)
}

fn told(event: &Event, now: Timestamp) -> String {
    format!("{}: {}", ago(now, event.at), sentence(event))
}
