//! Updates of many environments run in waves: which plans have to wait for a turn, and the plan of an
//! environment that waits.

use std::time::Duration;

use super::{Plan, PlannedStatus, RecordStep, Step, target};
use crate::model::memory::Memory;
use crate::model::name::EnvironmentName;
use crate::model::observed::{ContainerState, Observed};
use crate::model::status::{Condition, Reason};
use crate::model::time::Timestamp;

/// When to look again for the end of a command of another environment. Usually a wakeup comes first.
const RECHECK: Duration = Duration::from_secs(5);

/// Whether a plan updates its environment: it makes a container that differs from the running one, or the
/// first container ever.
///
/// Restoring a container that ran never waits. Nor does an update of an environment whose earlier container
/// no longer runs: the update takes nothing more down.
pub fn takes_turn(plan: &Plan, observed: &Observed) -> bool {
    let made = plan.steps.iter().find_map(|planned| {
        let Step::Create { spec, .. } = &planned.step else { return None };
        Some(spec)
    });
    let Some(spec) = made else { return false };
    let running = observed.containers.iter().filter(|seen| seen.state == ContainerState::Running);
    let running: Vec<_> = running.collect();
    if running.is_empty() {
        return plan.memory.good.is_none();
    }
    !running.iter().any(|seen| target::is_made_as(seen, spec))
}

/// Whether an environment no longer needs its turn, because no part of its update is in progress.
pub fn releases_turn(plan: &Plan) -> bool {
    let PlannedStatus { condition, reason, .. } = &plan.verdict;
    // A canary takes minutes, in which nothing starts. Whoever gives up a port may need this turn for that.
    let is_waiting = matches!(
        reason,
        Reason::Building | Reason::Pulling | Reason::Pushing | Reason::Canary | Reason::AwaitingPort
    );
    *condition != Condition::Progressing || is_waiting
}

/// Whether a step makes no difference to what serves: it removes what a ready container replaced, makes a spare
/// sandbox, or runs a scheduled job.
pub fn is_upkeep(plan: &Plan, step: &Step) -> bool {
    let is_converged = plan.verdict.condition == Condition::Ready && plan.differences.is_empty();
    if let Step::Stop { id } | Step::Remove { id } = step {
        return is_converged && plan.serving.as_ref() != Some(id);
    }
    is_converged && step.is_of_sandbox() || step.is_of_job()
}

/// Whether a plan begins a command of a release.
pub fn starts_command(plan: &Plan) -> bool {
    plan.steps.iter().any(|planned| planned.step.is_of_command())
}

impl Plan {
    /// The plan while `other`, a member of the same group, runs the command of a release: everything but the start of
    /// this environment's command. `before` is the state before this plan: no start of the command is remembered,
    /// and a wait is no attempt.
    #[must_use]
    pub fn until_command_ends(mut self, other: &EnvironmentName, before: Memory, now: Timestamp) -> Self {
        self.keep(|step| !step.is_of_command());
        if !self.verdict.is_bad() {
            let message = format!(
                "its command runs next, because only one of a group runs at a time: {other} runs one"
            );
            self.verdict = PlannedStatus::new(Condition::Progressing, Reason::Releasing, message);
        }
        let requeue_at = now.after(RECHECK);
        let requeue_at = Some(self.requeue_at.map_or(requeue_at, |at| at.min(requeue_at)));
        let repeat = if self.steps.is_empty() { before.repeat } else { self.memory.repeat };
        Self { memory: Memory { hooks: before.hooks, repeat, ..self.memory }, requeue_at, ..self }
    }

    /// The plan until the environment's turn: images are brought and the record is completed, but no
    /// container is touched. `memory` is the state for the next reconcile; `most` is the number of
    /// environments that are updated at once.
    #[must_use]
    pub fn until_its_turn(mut self, memory: Memory, most: usize) -> Self {
        self.keep(|step| {
            step.is_of_job()
                || matches!(
                    step,
                    Step::CancelJob
                        | Step::Acquire(_)
                        | Step::Record(RecordStep::Image { .. } | RecordStep::Rebuilt { .. })
                )
        });
        if !self.verdict.is_bad() {
            let message = format!(
                "the update is queued: {most} environments are being updated (`parallel_updates` of \
                `[docker]`)"
            );
            self.verdict = PlannedStatus::new(Condition::Progressing, Reason::Updating, message);
        }
        // Jobs run the last good version, which is not updated yet.
        let memory = Memory { jobs: self.memory.jobs, ..memory };
        Self { memory, outcome: None, ..self }
    }

    /// Leaves only the steps that `goes_on` allows.
    fn keep(&mut self, goes_on: impl Fn(&Step) -> bool) {
        let first = self.steps.iter().take(self.before_jobs);
        self.before_jobs = first.filter(|planned| goes_on(&planned.step)).count();
        self.steps.retain(|planned| goes_on(&planned.step));
    }
}
