//! The handle with which the link to agents stores their reports.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tracing::warn;

use super::draft::RecordDraft;
use super::error::RecordError;
use super::keys;
use super::reader::documents;
use super::resolver::roll_back;
use super::shared::RecordInner;
use super::status::{EVENTS_KEPT, changed, cut, happen_after, last_event};
use super::store::{DocumentKind, RecordStore, encode};
use super::wakeup::Wakeup;
use crate::model::desired::{Entry, Image, Outcome, RollbackRequest};
use crate::model::event::Event;
use crate::model::job::JobReport;
use crate::model::link::{AgentReport, LeftThere, Receipt, ReportCursor, Reported};
use crate::model::name::{AgentName, CommitId, EnvironmentName, Generation};
use crate::model::status::{RunningContainer, Status, VolumeView};
use crate::model::time::Timestamp;

/// The maximum lead of an agent's generation over the record. A record restored from an older copy is behind
/// its agents by the changes that operators made since. Later generations continue above the reported one, so
/// reports must leave room for them.
const FURTHEST_AHEAD: u64 = 1 << 20;
/// Lines that are kept of a reported plan.
const PLAN_KEPT: usize = 200;
/// Volumes and warnings that are kept of a report.
const VOLUMES_KEPT: usize = 100;
/// Runs of one job that are kept of a report.
const JOB_RUNS_KEPT: usize = 50;

/// Stores the reports of agents. It can write only what the environment's own loop could write on this host.
#[derive(Clone)]
pub struct ReportWriter {
    pub(super) shared: Arc<RecordInner>,
}

impl ReportWriter {
    /// Stores the parts of a report about `environments` and ignores all others. Repeated parts change
    /// nothing, in whatever order reports arrive.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed; nothing was recorded then.
    pub async fn record(
        &self,
        environments: BTreeSet<EnvironmentName>,
        report: AgentReport,
        at: Timestamp,
    ) -> Result<Receipt, RecordError> {
        self.shared.write(move |draft| record(draft, &environments, report, at)).await
    }

    /// Sends a wakeup for environments whose agent connected or disconnected.
    pub fn notify_presence(&self, environments: impl IntoIterator<Item = EnvironmentName>) {
        environments
            .into_iter()
            .for_each(|environment| self.shared.wakeups.notify(Wakeup::Status(environment)));
    }

    /// Stores what an agent reports to be left on its host, so that a restarted controller knows it too.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed.
    pub async fn note_left(&self, agent: &AgentName, left: LeftThere) -> Result<(), RecordError> {
        let agent = agent.clone();
        self.shared.write(move |draft| note_left(draft, &agent, &left)).await
    }

    /// What agents last reported to be left on their hosts.
    ///
    /// # Errors
    /// Returns [`RecordError`] if it cannot be read.
    pub fn left(&self) -> Result<BTreeMap<AgentName, LeftThere>, RecordError> {
        left(&self.shared.store)
    }

    /// How much the agent of an environment has reported.
    ///
    /// # Errors
    /// Returns [`RecordError`] if it cannot be read.
    pub fn cursor(&self, environment: &EnvironmentName) -> Result<Option<ReportCursor>, RecordError> {
        let key = environment.as_str().as_bytes();
        self.shared.store.document(DocumentKind::Cursors, key, || format!("the report about `{environment}`"))
    }
}

/// Reads what agents last reported to be left on their hosts.
pub(super) fn left(store: &RecordStore) -> Result<BTreeMap<AgentName, LeftThere>, RecordError> {
    let mut all = BTreeMap::new();
    for pair in store.pairs(DocumentKind::Left, b"") {
        let (key, value) = pair?;
        if let (Some(agent), Ok(left)) = (keys::agent(&key), serde_json::from_slice(&value)) {
            all.insert(agent, left);
        }
    }
    Ok(all)
}

fn note_left(draft: &mut RecordDraft<'_>, agent: &AgentName, left: &LeftThere) -> Result<(), RecordError> {
    let key = agent.as_str().as_bytes();
    let what = || format!("what is left on the host of the agent {agent}");
    let before: Option<LeftThere> = draft.store().document(DocumentKind::Left, key, what)?;
    let before = before.unwrap_or_default();
    if before == *left {
        return Ok(());
    }
    draft.put(DocumentKind::Left, key.to_vec(), left)?;
    let names = [&before, left].into_iter().flat_map(|left| left.containers.keys().chain(&left.runs));
    for environment in names.collect::<BTreeSet<_>>() {
        let of = |left: &LeftThere| (left.containers.get(environment).cloned(), left.has(environment));
        if of(&before) == of(left) {
            continue;
        }
        match draft.desired(environment)?.forget {
            Some(_) => draft.notify_desired(environment),
            None => draft.notify(Wakeup::Status(environment.clone())),
        }
    }
    Ok(())
}

fn record(
    draft: &mut RecordDraft<'_>,
    environments: &BTreeSet<EnvironmentName>,
    mut report: AgentReport,
    at: Timestamp,
) -> Result<Receipt, RecordError> {
    let mut receipt = Receipt::default();
    for reported in std::mem::take(&mut report.environments) {
        let environment = reported.status.environment.clone();
        if !environments.contains(&environment) || receipt.heard.contains_key(&environment) {
            continue;
        }
        let key = environment.as_str().as_bytes();
        let what = || format!("the report about `{environment}`");
        let before: Option<ReportCursor> = draft.store().document(DocumentKind::Cursors, key, what)?;
        let cursor = match before {
            Some(before) if before.covers(&report) => before,
            _ if is_too_far_ahead(draft, &reported.status)? => continue,
            before => record_one(draft, reported, before, &report, at)?,
        };
        receipt.heard.insert(environment, cursor);
    }
    Ok(receipt)
}

/// Whether a status names a generation that this record can never have reached.
fn is_too_far_ahead(draft: &RecordDraft<'_>, status: &Status) -> Result<bool, RecordError> {
    let (environment, observed) = (&status.environment, status.observed_generation);
    let recorded = draft.desired(environment)?.entry.generation;
    let is_too_far = observed.0.saturating_sub(recorded.0) > FURTHEST_AHEAD;
    if is_too_far {
        warn!(%environment, %observed, %recorded, "rejected a report: the record never had that \
            generation");
    }
    Ok(is_too_far)
}

fn record_one(
    draft: &mut RecordDraft<'_>,
    reported: Reported,
    before: Option<ReportCursor>,
    report: &AgentReport,
    at: Timestamp,
) -> Result<ReportCursor, RecordError> {
    let Reported { status, outcomes, events, rollback } = reported;
    let environment = status.environment.clone();
    let same = before.filter(|before| before.instance == report.instance).unwrap_or_default();
    let (instance, epoch, sequence) = (report.instance.clone(), report.epoch, report.sequence);
    let mut cursor = ReportCursor { instance, epoch, sequence, at, ..same };
    keep_events(draft, &environment, events, &mut cursor)?;
    for (generation, outcome) in outcomes {
        keep_outcome(draft, &environment, generation, outcome)?;
    }
    let key = environment.as_str().as_bytes();
    if let Some(line) = changed(draft.store(), DocumentKind::Status, key, encode(&bounded(status))?)? {
        draft.put_bytes(DocumentKind::Status, key.to_vec(), line);
        draft.notify(Wakeup::Status(environment.clone()));
    }
    if let Some(back) = rollback {
        record_rollback(draft, &environment, back)?;
    }
    draft.put(DocumentKind::Cursors, key.to_vec(), &cursor)?;
    Ok(cursor)
}

fn keep_events(
    draft: &mut RecordDraft<'_>,
    environment: &EnvironmentName,
    events: Vec<Event>,
    cursor: &mut ReportCursor,
) -> Result<(), RecordError> {
    let mut last = last_event(draft.store(), environment)?;
    // Events beyond the limit come in the next report.
    for event in events.into_iter().take(EVENTS_KEPT) {
        let count = cursor.new_repetitions(&event);
        if count == 0 {
            continue;
        }
        (cursor.event, cursor.count, cursor.event_at) = (event.sequence, event.count, Some(event.at));
        let message = cut(event.message);
        let here = Event { sequence: 0, environment: environment.clone(), count, message, ..event };
        last = Some(happen_after(draft, last, here)?);
    }
    Ok(())
}

/// Keeps a known outcome: an agent must not change the record's own outcome of a generation. The exception is
/// the current generation, which may become ready after a failure, such as when a missing dependency returns.
fn keep_outcome(
    draft: &mut RecordDraft<'_>,
    environment: &EnvironmentName,
    generation: Generation,
    outcome: Outcome,
) -> Result<(), RecordError> {
    let outcome = match outcome {
        Outcome::Failed(why) => Outcome::Failed(cut(why)),
        other => other,
    };
    let key = keys::numbered(environment, generation.0);
    let is_kept = draft.store().get(DocumentKind::History, &key)?.is_some();
    let what = || format!("the outcome of generation {generation} of `{environment}`");
    let may = match draft.store().document::<Outcome>(DocumentKind::Outcomes, &key, what)? {
        None => true,
        Some(Outcome::Failed(_)) if outcome == Outcome::Ready => {
            draft.desired(environment)?.entry.generation == generation
        }
        Some(_) => false,
    };
    if is_kept && may {
        draft.put(DocumentKind::Outcomes, key, &outcome)?;
        draft.notify(Wakeup::Status(environment.clone()));
    }
    Ok(())
}

/// Rolls back to an image that this record had before, under its recorded name. An agent that could name
/// another image could pull anything with the controller's credentials.
fn record_rollback(
    draft: &mut RecordDraft<'_>,
    environment: &EnvironmentName,
    back: RollbackRequest,
) -> Result<(), RecordError> {
    let Some((image, revision)) = recorded(draft, environment, &back.image)? else {
        let image = back.image.shown_digest().map(ToString::to_string);
        warn!(%environment, image, "rejected a rollback: its image was never recorded");
        return Ok(());
    };
    let (note, message) = (cut(back.note), cut(back.message));
    roll_back(draft, environment, RollbackRequest { image, revision, note, message, ..back }).map(drop)
}

/// The image as this record knows it, and its commit.
fn recorded(
    draft: &RecordDraft<'_>,
    environment: &EnvironmentName,
    image: &Image,
) -> Result<Option<(Image, Option<CommitId>)>, RecordError> {
    let mut entries =
        documents::<Entry>(draft.store(), DocumentKind::History, &keys::all_of(environment)).rev();
    let known = entries.find_map(|entry| match entry {
        Ok(Entry { image: Some(known), revision, .. }) => {
            known.is_same(image).then_some(Ok((known, revision)))
        }
        Ok(_) => None,
        Err(error) => Some(Err(error)),
    });
    known.transpose()
}

/// Shortens the report of a job to the limits of the record.
fn bounded_job(mut report: JobReport) -> JobReport {
    report.state.schedule = cut(report.state.schedule);
    report.state.trim();
    let excess = report.state.runs.len().saturating_sub(JOB_RUNS_KEPT);
    report.state.runs.drain(..excess);
    for run in &mut report.state.runs {
        for text in [&mut run.by, &mut run.container, &mut run.why, &mut run.output] {
            *text = text.take().map(cut);
        }
    }
    report
}

/// Shortens a status to the limits of the record.
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
    let jobs = status.jobs.into_iter().take(VOLUMES_KEPT).map(|(name, report)| (name, bounded_job(report)));
    let jobs = jobs.collect();
    Status { message: cut(status.message), plan, running, volumes, warnings, jobs, ..status }
}
