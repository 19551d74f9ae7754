//! The handle with which the link to agents keeps what they report.

use std::collections::BTreeSet;
use std::sync::Arc;

use tracing::warn;

use super::bell::Bell;
use super::draft::Draft;
use super::error::RecordError;
use super::keys;
use super::reader::documents;
use super::resolver::go_back;
use super::shared::Shared;
use super::status::{EVENTS_KEPT, changed, cut, happen_after, last_event};
use super::store::{Kind, encode};
use crate::model::desired::{Entry, GoBack, Image, Outcome};
use crate::model::event::Event;
use crate::model::link::{Heard, Receipt, Report, Reported};
use crate::model::name::{CommitId, EnvironmentName, Generation};
use crate::model::status::{RunningContainer, Status, VolumeView};
use crate::model::time::Timestamp;

/// How far above the record an agent's generation can be. One that was restored from an older copy is
/// behind its agents by as many changes as people made since; and generations after what is heard
/// go on above it, so what is heard must leave room for them.
const FURTHEST_AHEAD: u64 = 1 << 20;
/// Lines of a plan that are kept, of those that an agent reports.
const PLAN_KEPT: usize = 200;
/// Volumes and warnings that are kept, of those that an agent reports.
const VOLUMES_KEPT: usize = 100;

/// Keeps what agents report. It can write of an environment what its loop could, were it here, and
/// nothing else.
#[derive(Clone)]
pub struct Hearer {
    pub(super) shared: Arc<Shared>,
}

impl Hearer {
    /// Keeps what a report says of `environments`; of others it may not speak. What was heard before
    /// changes nothing, in whatever order reports come.
    ///
    /// # Errors
    /// [`RecordError`] where nothing was recorded.
    pub async fn hear(
        &self,
        environments: BTreeSet<EnvironmentName>,
        report: Report,
        at: Timestamp,
    ) -> Result<Receipt, RecordError> {
        self.shared.write(move |draft| hear(draft, &environments, report, at)).await
    }

    /// Rings for environments whose agent came or went.
    pub fn tell_of_presence(&self, environments: impl IntoIterator<Item = EnvironmentName>) {
        environments.into_iter().for_each(|environment| self.shared.bells.ring(Bell::Status(environment)));
    }

    /// How much was heard of an environment.
    ///
    /// # Errors
    /// [`RecordError`] where it cannot be read.
    pub fn heard(&self, environment: &EnvironmentName) -> Result<Option<Heard>, RecordError> {
        let key = environment.as_str().as_bytes();
        self.shared.store.document(Kind::Heard, key, || format!("what was heard of `{environment}`"))
    }
}

fn hear(
    draft: &mut Draft<'_>,
    environments: &BTreeSet<EnvironmentName>,
    mut report: Report,
    at: Timestamp,
) -> Result<Receipt, RecordError> {
    let mut receipt = Receipt::default();
    for reported in std::mem::take(&mut report.environments) {
        let environment = reported.status.environment.clone();
        if !environments.contains(&environment) || receipt.heard.contains_key(&environment) {
            continue;
        }
        let key = environment.as_str().as_bytes();
        let what = || format!("what was heard of `{environment}`");
        let before: Option<Heard> = draft.store().document(Kind::Heard, key, what)?;
        let heard = match before {
            Some(before) if before.covers(&report) => before,
            _ if is_too_far_ahead(draft, &reported.status)? => continue,
            before => hear_one(draft, reported, before, &report, at)?,
        };
        receipt.heard.insert(environment, heard);
    }
    Ok(receipt)
}

/// Whether a status speaks of a generation that this record cannot ever have made.
fn is_too_far_ahead(draft: &Draft<'_>, status: &Status) -> Result<bool, RecordError> {
    let (environment, observed) = (&status.environment, status.observed_generation);
    let recorded = draft.desired(environment)?.entry.generation;
    let is_too_far = observed.0.saturating_sub(recorded.0) > FURTHEST_AHEAD;
    if is_too_far {
        warn!(%environment, %observed, %recorded, "a report is not taken: no record was ever at that generation");
    }
    Ok(is_too_far)
}

fn hear_one(
    draft: &mut Draft<'_>,
    reported: Reported,
    before: Option<Heard>,
    report: &Report,
    at: Timestamp,
) -> Result<Heard, RecordError> {
    let Reported { status, outcomes, events, rollback } = reported;
    let environment = status.environment.clone();
    let same = before.filter(|before| before.instance == report.instance).unwrap_or_default();
    let (instance, epoch, sequence) = (report.instance.clone(), report.epoch, report.sequence);
    let mut heard = Heard { instance, epoch, sequence, at, ..same };
    keep_events(draft, &environment, events, &mut heard)?;
    for (generation, outcome) in outcomes {
        keep_outcome(draft, &environment, generation, outcome)?;
    }
    let key = environment.as_str().as_bytes();
    if let Some(line) = changed(draft.store(), Kind::Status, key, encode(&bounded(status))?)? {
        draft.put_bytes(Kind::Status, key.to_vec(), line);
        draft.ring(Bell::Status(environment.clone()));
    }
    if let Some(back) = rollback {
        hear_rollback(draft, &environment, back)?;
    }
    draft.put(Kind::Heard, key.to_vec(), &heard)?;
    Ok(heard)
}

fn keep_events(
    draft: &mut Draft<'_>,
    environment: &EnvironmentName,
    events: Vec<Event>,
    heard: &mut Heard,
) -> Result<(), RecordError> {
    let mut last = last_event(draft.store(), environment)?;
    // More than are kept come in the next report.
    for event in events.into_iter().take(EVENTS_KEPT) {
        let count = heard.news_of(&event);
        if count == 0 {
            continue;
        }
        (heard.event, heard.count) = (event.sequence, event.count);
        let message = cut(event.message);
        let here = Event { sequence: 0, environment: environment.clone(), count, message, ..event };
        last = Some(happen_after(draft, last, here)?);
    }
    Ok(())
}

/// An outcome that is known stays: what the record itself made of a generation is not an agent's to
/// change. But the current one may become ready after all, such as when what it needs is there again.
fn keep_outcome(
    draft: &mut Draft<'_>,
    environment: &EnvironmentName,
    generation: Generation,
    outcome: Outcome,
) -> Result<(), RecordError> {
    let outcome = match outcome {
        Outcome::Failed(why) => Outcome::Failed(cut(why)),
        other => other,
    };
    let key = keys::numbered(environment, generation.0);
    let is_kept = draft.store().get(Kind::History, &key)?.is_some();
    let what = || format!("what became of generation {generation} of `{environment}`");
    let may = match draft.store().document::<Outcome>(Kind::Outcomes, &key, what)? {
        None => true,
        Some(Outcome::Failed(_)) if outcome == Outcome::Ready => {
            draft.desired(environment)?.entry.generation == generation
        }
        Some(_) => false,
    };
    if is_kept && may {
        draft.put(Kind::Outcomes, key, &outcome)?;
        draft.ring(Bell::Status(environment.clone()));
    }
    Ok(())
}

/// Goes back to what this record had before, under the name that it has here: an agent that could
/// name another image would choose what it pulls with the credentials of the controller.
fn hear_rollback(
    draft: &mut Draft<'_>,
    environment: &EnvironmentName,
    back: GoBack,
) -> Result<(), RecordError> {
    let Some((image, revision)) = recorded(draft, environment, &back.image)? else {
        let image = back.image.shown_digest().map(ToString::to_string);
        warn!(%environment, image, "a rollback is not taken: it leads to an image that was never recorded");
        return Ok(());
    };
    let (note, message) = (cut(back.note), cut(back.message));
    go_back(draft, environment, GoBack { image, revision, note, message, ..back }).map(drop)
}

/// The image as this record knows it, and its commit.
fn recorded(
    draft: &Draft<'_>,
    environment: &EnvironmentName,
    image: &Image,
) -> Result<Option<(Image, Option<CommitId>)>, RecordError> {
    let mut entries = documents::<Entry>(draft.store(), Kind::History, &keys::all_of(environment)).rev();
    let known = entries.find_map(|entry| match entry {
        Ok(Entry { image: Some(known), revision, .. }) => {
            known.is_same(image).then_some(Ok((known, revision)))
        }
        Ok(_) => None,
        Err(error) => Some(Err(error)),
    });
    known.transpose()
}

/// A status of which nothing is longer than the record keeps it.
fn bounded(status: Status) -> Status {
    let running = status.running.map(|running| {
        let container_id = cut(running.container_id);
        RunningContainer { container_id, ..running }
    });
    let plan = status.plan.into_iter().take(PLAN_KEPT).map(cut).collect();
    let volumes = status.volumes.into_iter().take(VOLUMES_KEPT).map(|volume| {
        let (source, target) = (cut(volume.source), cut(volume.target));
        VolumeView { source, target, ..volume }
    });
    let volumes = volumes.collect();
    let warnings = status.warnings.into_iter().take(VOLUMES_KEPT).map(cut).collect();
    Status { message: cut(status.message), plan, running, volumes, warnings, ..status }
}
