//! The delivery to one target: one item at a time, in order per subject, with pauses after failures.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tracing::{debug, info, warn};

use crate::failpoint::{self, Point};
use crate::metrics::Metrics;
use crate::model::error::chain;
use crate::model::outbox::commit::CommitState;
use crate::model::outbox::group::{group, to_group};
use crate::model::outbox::{
    DeliveryAttempts, Deployment, MESSAGE_PATIENCE, Message, OutboxTarget, PROJECTION_PATIENCE, Projection,
    Subject, backoff,
};
use crate::model::time::Timestamp;
use crate::record::{Outbox, RecordError};

/// Failures in a row after which the whole target is paused.
const BREAKS_AFTER: u32 = 3;
/// The pause of a target that rejects the credentials. Services ban clients that keep trying.
const AFTER_DENIAL: Duration = Duration::from_secs(10 * 60);

/// Delivers items to one target.
pub(super) trait Deliver: Send + Sync {
    /// Delivers a message. `thread` is the channel's name of the incident's first message. Returns the channel's
    /// name of this message, if it has one.
    fn message<'a>(
        &'a self,
        message: &'a Message,
        thread: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Option<String>, DeliveryRefusal>>;

    /// Takes the next step to show the state of a commit: the status, then the deployment. Compares with the
    /// remote state before writing.
    fn project<'a>(&'a self, row: &'a Projection) -> BoxFuture<'a, Result<ProjectionStep, DeliveryRefusal>>;

    /// The shortest time between two writes.
    fn gap(&self) -> Duration {
        Duration::from_secs(1)
    }
}

/// The result of one step of a projection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ProjectionStep {
    /// The commit's status shows this state.
    Status(CommitState),
    /// A deployment exists under this id.
    Created(Deployment),
    /// The deployment shows this state.
    Deployment(CommitState),
}

/// The reason why an item was not delivered. The text contains no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub(super) struct DeliveryRefusal {
    /// What to do about it.
    pub(super) then: Then,
    /// The failure, as a clause.
    pub(super) why: String,
}

/// The consequence of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// Try again, with abide's own pause.
    Retry,
    /// The target asked for a pause of this length.
    Wait(Duration),
    /// The target limits the rate and names no time: at least this long, and longer each time.
    WaitLonger(Duration),
    /// The item can never be delivered.
    GiveUp,
    /// The target rejects the credentials, or no longer exists: nothing can be delivered until a person acts.
    Denied,
}

impl DeliveryRefusal {
    /// A failure that may pass.
    pub(super) fn passing(why: impl Into<String>) -> Self {
        Self { then: Then::Retry, why: why.into() }
    }

    /// A failure of this item.
    pub(super) fn permanent(why: impl Into<String>) -> Self {
        Self { then: Then::GiveUp, why: why.into() }
    }

    /// A failure of the whole target.
    pub(super) fn denied(why: impl Into<String>) -> Self {
        Self { then: Then::Denied, why: why.into() }
    }
}

/// The delivery to one target.
pub(super) struct DeliveryLane {
    target: OutboxTarget,
    outbox: Outbox,
    deliver: Arc<dyn Deliver>,
    clock: ClockFn,
    metrics: Metrics,
    /// Failures in a row.
    failures: u32,
    /// Nothing is sent before this time, unless a person asks for it.
    closed_until: Timestamp,
}

/// The clock, which tests move.
pub(super) type ClockFn = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// When a lane has to run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NextRun {
    /// At once, after the gap between two writes.
    Again,
    /// At this time, or after a change of the outbox.
    At(Timestamp),
    /// After a change of the outbox.
    OnChange,
}

impl DeliveryLane {
    /// A lane to `target` by `deliver`.
    pub(super) fn new(
        target: OutboxTarget,
        outbox: Outbox,
        deliver: Arc<dyn Deliver>,
        clock: ClockFn,
        metrics: Metrics,
    ) -> Self {
        let closed_until = Timestamp::default();
        outbox.pause(&target, closed_until);
        Self { target, outbox, deliver, clock, metrics, failures: 0, closed_until }
    }

    /// The shortest time between two steps.
    pub(super) fn gap(&self) -> Duration {
        self.deliver.gap()
    }

    /// Delivers the next due item, if there is one.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the record cannot be read or written.
    pub(super) async fn step(&mut self) -> Result<NextRun, RecordError> {
        let now = (self.clock)();
        match &self.target {
            OutboxTarget::Channel(_) => self.step_messages(now).await,
            OutboxTarget::Forge(_) => self.step_projections(now).await,
        }
    }

    // --- messages -----------------------------------------------------------------------------

    async fn step_messages(&mut self, now: Timestamp) -> Result<NextRun, RecordError> {
        let waiting = self.outbox.messages(&self.target)?;
        let (mut due, mut next) = sendable(&waiting, now);
        if now < self.closed_until {
            let waits = due.iter().any(|message| !message.attempts.asked);
            next = next.into_iter().chain(waits.then_some(now)).min();
            due.retain(|message| message.attempts.asked);
        }
        if due.is_empty() {
            return Ok(self.later(next));
        }
        let together = to_group(&due, now);
        if !together.is_empty() {
            let id = format!("msg_{}", uuid::Uuid::new_v4().simple());
            if let Some(one) = group(&together, id, now) {
                info!(target = %self.target, messages = together.len(), "grouped messages into one");
                self.outbox.group(&together, one).await?;
            }
            return Ok(NextRun::Again);
        }
        let Some(message) = due.first() else { return Ok(self.later(next)) };
        let incident = message.announcement.incident.as_deref();
        let thread = match incident {
            Some(incident) => self.outbox.thread(&self.target, incident)?,
            None => None,
        };
        failpoint::before(Point::Deliver);
        let result = self.deliver.message(message, thread.as_deref()).await;
        failpoint::after(Point::Deliver);
        match result {
            Ok(thread) => {
                self.succeeded();
                debug!(target = %self.target, message = %message.id, "delivered");
                self.outbox.delivered(message, thread).await?;
            }
            Err(refusal) => {
                let attempts = self.failed(&message.attempts, &refusal, MESSAGE_PATIENCE);
                self.outbox.postpone(message, attempts).await?;
            }
        }
        Ok(NextRun::Again)
    }

    // --- states of commits --------------------------------------------------------------------

    async fn step_projections(&mut self, now: Timestamp) -> Result<NextRun, RecordError> {
        let rows: Vec<Projection> =
            self.outbox.projections(&self.target)?.into_iter().filter(|row| !row.is_shown()).collect();
        let alive = rows.iter().filter(|row| row.attempts.dead.is_none());
        let next = alive.map(|row| row.attempts.next.max(now)).min();
        // The oldest generations first, so that a commit is closed before its successor succeeds.
        let is_open = now >= self.closed_until;
        let due = rows.iter().filter(|row| row.attempts.is_due(now) && (is_open || row.attempts.asked));
        let Some(row) = due.min_by_key(|row| row.generation) else { return Ok(self.later(next)) };
        failpoint::before(Point::Deliver);
        let result = self.deliver.project(row).await;
        failpoint::after(Point::Deliver);
        match result {
            Ok(shown) => {
                self.succeeded();
                debug!(target = %self.target, environment = %row.environment, commit = %row.revision, "shown");
                self.outbox.progress(row, move |row| apply(row, shown)).await?;
            }
            Err(refusal) => {
                let attempts = self.failed(&row.attempts, &refusal, PROJECTION_PATIENCE);
                let tried = row.wanted.clone();
                // A newer state is not to blame for the failure of the one before.
                let note = move |row: &mut Projection| match row.wanted == tried {
                    true => row.attempts = attempts,
                    false => row.attempts.next = attempts.next,
                };
                self.outbox.progress(row, note).await?;
            }
        }
        Ok(NextRun::Again)
    }

    // --- failures -----------------------------------------------------------------------------

    fn succeeded(&mut self) {
        if self.failures >= BREAKS_AFTER {
            info!(target = %self.target, "deliveries succeed again");
        }
        self.failures = 0;
        self.close_until(Timestamp::default());
        self.metrics.attempt(&self.target, true);
    }

    fn failed(
        &mut self,
        before: &DeliveryAttempts,
        refusal: &DeliveryRefusal,
        patience: Duration,
    ) -> DeliveryAttempts {
        let now = (self.clock)();
        let why = refusal.why.clone();
        self.metrics.attempt(&self.target, false);
        let attempts = match refusal.then {
            Then::Retry => before.failed(why, now, None, patience),
            Then::Wait(pause) => before.failed(why, now, Some(pause), patience),
            Then::WaitLonger(least) => {
                let pause = least.saturating_mul(1 << before.count.min(16));
                before.failed(why, now, Some(pause), patience)
            }
            Then::GiveUp | Then::Denied => before.refused(why, now),
        };
        match refusal.then {
            // The target works: only this item is at fault.
            Then::GiveUp => self.failures = 0,
            Then::Retry => {
                self.failures = self.failures.saturating_add(1);
                if self.failures >= BREAKS_AFTER {
                    self.close_until(now.after(backoff(self.failures)));
                }
            }
            Then::Wait(_) | Then::WaitLonger(_) => self.close_until(attempts.next),
            Then::Denied => self.close_until(now.after(AFTER_DENIAL)),
        }
        let gave_up = attempts.dead.is_some();
        warn!(target = %self.target, attempt = attempts.count, gave_up, error = %refusal.why, "not delivered");
        attempts
    }

    /// Sends nothing before this time, and shows it with the items.
    fn close_until(&mut self, until: Timestamp) {
        self.closed_until = until;
        self.outbox.pause(&self.target, until);
    }

    fn later(&self, next: Option<Timestamp>) -> NextRun {
        next.map_or(NextRun::OnChange, |next| NextRun::At(next.max(self.closed_until)))
    }
}

fn apply(row: &mut Projection, shown: ProjectionStep) {
    match shown {
        ProjectionStep::Status(state) => row.shown = Some(state),
        ProjectionStep::Created(deployment) => row.deployment = Some(deployment),
        ProjectionStep::Deployment(state) => {
            if let Some(deployment) = &mut row.deployment {
                deployment.shown = Some(state);
            }
        }
    }
    if row.is_shown() {
        row.attempts = DeliveryAttempts::default();
    }
}

/// The messages that may be sent now, in order, and the time at which another one may be. A message waits for
/// the earlier ones of its subject, unless they are dead.
fn sendable(waiting: &[Message], now: Timestamp) -> (Vec<Message>, Option<Timestamp>) {
    let (mut due, mut next) = (Vec::new(), None);
    let mut blocked: BTreeSet<&Subject> = BTreeSet::new();
    for message in waiting.iter().filter(|message| message.attempts.dead.is_none()) {
        let subject = &message.announcement.subject;
        // A group may be about any subject.
        if blocked.contains(&Subject::Several) || blocked.contains(subject) {
            continue;
        }
        let is_group_behind = *subject == Subject::Several && !blocked.is_empty();
        if message.attempts.is_due(now) && !is_group_behind {
            due.push(message.clone());
        } else {
            blocked.insert(subject);
            if !is_group_behind {
                next = Some(
                    next.map_or(message.attempts.next, |next: Timestamp| next.min(message.attempts.next)),
                );
            }
        }
    }
    (due, next)
}

/// The error of the record for a log line.
pub(super) fn report(target: &OutboxTarget, error: &RecordError) {
    warn!(%target, error = %chain(error), "the outbox cannot be used");
}
