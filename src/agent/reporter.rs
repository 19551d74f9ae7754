//! Reports: the complete state of an environment, whenever any of it changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use http_body_util::BodyExt as _;
use tokio::sync::Notify;
use tokio::sync::broadcast::error::RecvError;
use tracing::warn;

use super::assign::{AssignmentRefusal, RefusedEnvironments};
use super::server::{AskError, ControllerClient};
use crate::model::error::chain;
use crate::model::link::{
    AgentReport, Assignment, LeftThere, Receipt, ReportCursor, Reported, SimilarRequests,
};
use crate::model::name::EnvironmentName;
use crate::model::status::{Condition, Reason, Status};
use crate::record::{DesiredReader, RecordError, StatusReader, Wakeup, Wakeups};

/// Changes that come within this time are reported together.
const GATHERED_FOR: Duration = Duration::from_millis(20);
/// How often to check for requests, and for containers of environments that this host does not run.
const LOOK_FOR_LEFT: Duration = Duration::from_secs(5);
/// A rejected report is sent again after this time.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Events in one report of an environment; more follow in the next.
const EVENTS_AT_ONCE: usize = 200;
/// The maximum number of generations whose outcome is reported: the controller keeps earlier outcomes.
const OUTCOMES: usize = 20;
/// The longest receipt that is read, in bytes.
const LONGEST_RECEIPT: usize = 4 << 20;

/// Reports this host's state of its environments.
pub(super) struct Reporter {
    pub(super) instance: String,
    pub(super) status: StatusReader,
    pub(super) desired: DesiredReader,
    pub(super) wakeups: Wakeups,
    pub(super) refusals: RefusedEnvironments,
    pub(super) state: Mutex<ReporterState>,
    /// Notified about news that no wakeup of the record covers.
    pub(super) report_requested: Notify,
    /// Whether an environment has been reconciled since this process started.
    pub(super) is_observed: IsObserved,
    /// Lists the leftovers on this host of environments that it does not run.
    pub(super) left: ListLeft,
    /// Takes the requests out that the host's proxy served since the last call, as far as they fit in one report.
    pub(super) take_requests: TakeRequests,
}

pub(super) type IsObserved = Box<dyn Fn(&EnvironmentName) -> bool + Send + Sync>;
/// Returns `None` while the containers of this host are unknown.
pub(super) type ListLeft = Box<dyn Fn() -> Option<LeftThere> + Send + Sync>;
pub(super) type TakeRequests = Box<dyn Fn() -> Vec<SimilarRequests> + Send + Sync>;

/// The progress of the controller's acknowledgements.
#[derive(Debug, Default)]
pub(super) struct ReporterState {
    /// By environment of the last assignment.
    cursors: BTreeMap<EnvironmentName, ReportCursor>,
    /// The environments that changed since the last report.
    changed: BTreeSet<EnvironmentName>,
    /// The leftovers in the last report.
    left: Option<LeftThere>,
    /// Whether this host runs what the controller assigned in this session. Until then, the leftovers are
    /// unknown.
    is_settled: bool,
}

/// The reason why reporting in a session ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReportError {
    /// The session is no longer valid, or the connection broke.
    #[error("the controller rejected a report")]
    Ask(#[from] AskError),
    /// The record is being closed.
    #[error("the record is being closed")]
    Closed,
}

impl Reporter {
    /// Begins a session. Acknowledgements from an earlier session do not count, because the controller may
    /// have been replaced since.
    pub(super) fn begin(&self) {
        *self.state() = ReporterState::default();
    }

    /// Notes the assignment, and how much the controller has acknowledged of it. Everything in it is
    /// reported: refusals may have changed.
    pub(super) fn assigned(&self, assignment: &Assignment) {
        let mut state = self.state();
        let mut before = std::mem::take(&mut state.cursors);
        for assigned in &assignment.environments {
            let environment = &assigned.desired.environment;
            let cursor = before.remove(environment).or_else(|| assigned.heard.clone()).unwrap_or_default();
            state.cursors.insert(environment.clone(), cursor);
            state.changed.insert(environment.clone());
        }
        for misread in &assignment.misread {
            let environment = &misread.environment;
            state.cursors.insert(environment.clone(), before.remove(environment).unwrap_or_default());
            state.changed.insert(environment.clone());
        }
    }

    /// Notes that the assignment is stored and handed to the loop.
    pub(super) fn settled(&self) {
        self.state().is_settled = true;
    }

    /// Requests a report about news that no wakeup covers.
    pub(super) fn request_report(&self) {
        self.report_requested.notify_one();
    }

    /// Reports for as long as a session lasts, and returns why it ended.
    pub(super) async fn run(self: Arc<Self>, asker: ControllerClient, epoch: u64) -> ReportError {
        let mut wakeups = self.wakeups.subscribe();
        let mut sequence = 0;
        // No wakeup covers requests, and containers that belong to no environment of this host.
        let mut look = tokio::time::interval(LOOK_FOR_LEFT);
        loop {
            tokio::select! {
                wakeup = wakeups.recv() => match wakeup {
                    Ok(wakeup) => self.note_change(wakeup),
                    Err(RecvError::Lagged(_)) => self.all_changed(),
                    Err(RecvError::Closed) => return ReportError::Closed,
                },
                () = self.report_requested.notified() => {}
                _ = look.tick() => {}
            }
            tokio::time::sleep(GATHERED_FOR).await;
            while let Ok(wakeup) = wakeups.try_recv() {
                self.note_change(wakeup);
            }
            while let Some(report) = self.report(epoch, sequence + 1) {
                sequence += 1;
                match self.send(&asker, &report).await {
                    Ok(receipt) => self.receive(&report, receipt),
                    // If the report is at fault, so is the session.
                    Err(AskError::Refused { status, .. }) if status.is_server_error() => {
                        self.state().changed.extend(environments(&report));
                        self.state().left = None;
                        tokio::time::sleep(AGAIN_AFTER).await;
                    }
                    Err(error) => return error.into(),
                }
            }
        }
    }

    fn note_change(&self, wakeup: Wakeup) {
        let environment = match wakeup {
            Wakeup::Desired(environment) | Wakeup::Status(environment) | Wakeup::Event(environment) => {
                environment
            }
            // The controller judges promotions, and agents collect no evidence.
            Wakeup::Evidence(_) => return,
        };
        self.state().changed.insert(environment);
    }

    fn all_changed(&self) {
        let mut state = self.state();
        let all: Vec<_> = state.cursors.keys().cloned().collect();
        state.changed.extend(all);
    }

    /// The next report; `None`: nothing is new.
    fn report(&self, epoch: u64, sequence: u64) -> Option<AgentReport> {
        let (changed, cursors) = {
            let mut state = self.state();
            (std::mem::take(&mut state.changed), state.cursors.clone())
        };
        let of_ours = changed.iter().filter_map(|environment| cursors.get_key_value(environment));
        let reported = of_ours.filter_map(|(environment, cursor)| match self.of(environment, cursor) {
            Ok(reported) => reported,
            Err(error) => {
                warn!(%environment, error = %chain(&error), "failed to report an environment");
                None
            }
        });
        let environments: Vec<_> = reported.collect();
        let left = self.changed_leftovers();
        let requests = (self.take_requests)();
        let is_news = !environments.is_empty() || left.is_some() || !requests.is_empty();
        is_news.then(|| AgentReport {
            instance: self.instance.clone(),
            epoch,
            sequence,
            environments,
            left: left.as_ref().map(|left| left.containers.clone()),
            left_volumes: left.map(|left| left.volumes),
            requests,
        })
    }

    /// The leftovers on this host, if they differ from the last report.
    fn changed_leftovers(&self) -> Option<LeftThere> {
        let is_settled = self.state().is_settled;
        let left = is_settled.then(|| (self.left)()).flatten()?;
        let mut state = self.state();
        let has_changed = state.left.as_ref() != Some(&left);
        state.left = Some(left.clone());
        has_changed.then_some(left)
    }

    fn of(
        &self,
        environment: &EnvironmentName,
        cursor: &ReportCursor,
    ) -> Result<Option<Reported>, RecordError> {
        let refusal = self.refusals.of(environment);
        let reported = of(&self.status, &self.desired, environment, cursor, &self.instance)?;
        Ok(match (reported, refusal) {
            (Some(reported), Some(refusal)) => {
                Some(Reported { status: refused(reported.status, refusal), ..reported })
            }
            (None, Some(refusal)) => {
                let status = refused(nothing_known(environment), refusal);
                Some(Reported { status, outcomes: Vec::new(), events: Vec::new(), rollback: None })
            }
            (Some(reported), None) if !(self.is_observed)(environment) => {
                Some(Reported { status: of_before(reported.status), ..reported })
            }
            (reported, None) => reported,
        })
    }

    async fn send(&self, asker: &ControllerClient, report: &AgentReport) -> Result<Receipt, AskError> {
        let response = asker.post("/api/v1/agent/report", report).await?;
        let receipt = http_body_util::Limited::new(response.into_body(), LONGEST_RECEIPT).collect().await;
        // An invalid receipt acknowledges nothing; the next report repeats the content.
        let receipt = receipt.ok().and_then(|receipt| serde_json::from_slice(&receipt.to_bytes()).ok());
        Ok(receipt.unwrap_or_default())
    }

    fn receive(&self, report: &AgentReport, receipt: Receipt) {
        let mut state = self.state();
        for (environment, cursor) in receipt.heard {
            if let Some(before) = state.cursors.get_mut(&environment) {
                *before = cursor;
            }
        }
        let full = report.environments.iter().filter(|one| one.events.len() == EVENTS_AT_ONCE);
        state.changed.extend(full.map(|one| one.status.environment.clone()));
    }

    fn state(&self) -> MutexGuard<'_, ReporterState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn environments(report: &AgentReport) -> impl Iterator<Item = EnvironmentName> {
    report.environments.iter().map(|one| one.status.environment.clone())
}

/// The content of the record about an environment that the controller may not have; `None` if the
/// environment has not been reconciled yet.
pub(super) fn of(
    status: &StatusReader,
    desired: &DesiredReader,
    environment: &EnvironmentName,
    cursor: &ReportCursor,
    instance: &str,
) -> Result<Option<Reported>, RecordError> {
    let Some(stored) = status.status(environment)? else { return Ok(None) };
    let history = status.history(environment)?.into_iter().take(OUTCOMES);
    let outcomes = history.filter_map(|kept| Some((kept.entry.generation, kept.outcome?))).collect();
    let cursor = if cursor.instance == instance { cursor.clone() } else { ReportCursor::default() };
    // The last acknowledged event may have happened again since.
    let after = cursor.event.saturating_sub(1);
    let mut events = status.events(Some(environment), Some(after), usize::MAX)?;
    events.retain(|event| cursor.new_repetitions(event) > 0);
    events.truncate(EVENTS_AT_ONCE);
    Ok(Some(Reported { status: stored, outcomes, events, rollback: desired.proposed(environment)? }))
}

/// The status of an environment whose declaration or record this host refuses.
fn refused(status: Status, refusal: AssignmentRefusal) -> Status {
    let AssignmentRefusal { reason, message, generation, mark, since } = refusal;
    Status {
        condition: Condition::Blocked,
        reason,
        message,
        since,
        observed_generation: generation,
        observed_declaration: mark,
        next_retry: None,
        ..status
    }
}

/// Marks a status from an earlier process: nobody knows whether it is still correct.
fn of_before(status: Status) -> Status {
    if status.condition != Condition::Ready {
        return status;
    }
    let message = format!("not reconciled since the agent started; before that: {}", status.message);
    Status { condition: Condition::Progressing, reason: Reason::Unknown, message, ..status }
}

fn nothing_known(environment: &EnvironmentName) -> Status {
    let why = (Condition::Progressing, Reason::Unknown);
    Status::new(environment.clone(), Default::default(), why, "", SystemTime::now().into())
}
