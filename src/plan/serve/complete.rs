//! Containers whose program is meant to end: `restart = "on-failure"`.

use super::RolloutContext;
use super::parts::remove;
use crate::model::cause::EndedBy;
use crate::model::container::{ContainerSpec, Exit};
use crate::model::memory::Memory;
use crate::model::observed::{ContainerState, ObservedContainer};
use crate::model::spec::RestartMode;
use crate::model::status::{Condition, Reason};
use crate::plan::{PartialPlan, PlannedStatus, TRANSIT, restart, rollback};

impl<'a> RolloutContext<'a> {
    /// Whether a container has done what it is meant to do: its program ended by itself with exit code 0. An
    /// end that nobody watched counts, because a second run could do harm, and the engine's own policy
    /// `on-failure` decides likewise.
    pub(super) fn is_complete(&self, container: &ObservedContainer) -> bool {
        self.ended_well(container) && matches!(self.ended_by(container), None | Some(EndedBy::Absence))
    }

    fn ended_well(&self, container: &ObservedContainer) -> bool {
        let is_well = |exit: &Exit| exit.code == 0 && !exit.out_of_memory;
        self.intent.restart == RestartMode::OnFailure
            && matches!(&container.state, ContainerState::Exited(exit) if is_well(exit))
    }

    /// Waits if the engine has not reported yet why a container ended with exit code 0: if it was stopped, it
    /// is not complete.
    pub(super) fn await_cause(&self, container: &ObservedContainer) -> Option<PartialPlan> {
        let is_untold = self.ended_by(container) == Some(EndedBy::Untold);
        (is_untold && self.ended_well(container)).then(|| {
            let message = format!("{} exited with code 0; checking the cause", self.choice.words());
            let partial = PartialPlan::with_status(Condition::Progressing, Reason::AwaitingHealth, message);
            partial.requeue_by(self.now.after(TRANSIT))
        })
    }

    /// The container is the desired one, and is complete. Nothing serves now, so nothing stays beside it.
    pub(super) fn completed(
        &self,
        spec: &ContainerSpec,
        current: &ObservedContainer,
        others: &[&ObservedContainer],
        memory: &mut Memory,
    ) -> PartialPlan {
        let removed =
            |partial, other: &&ObservedContainer| remove(partial, other, "the new container is complete");
        let mut partial = self.remove_empty_holders(others.iter().fold(PartialPlan::default(), removed));
        partial.outcome = self.note_ready(spec, current, memory);
        let verdict = self.rest(memory);
        partial.verdict = Some(if verdict.condition == Condition::Ready {
            let message = format!("{} ended with exit code 0 and is complete", self.choice.words());
            PlannedStatus::new(Condition::Ready, Reason::Completed, message)
        } else {
            verdict
        });
        partial
    }

    /// Whether a failed replacement is started again, before its version is given up.
    pub(super) fn is_retried(&self, new: &ObservedContainer, exit: &Exit, memory: &Memory) -> bool {
        let by = self.ended_by(new);
        self.intent.restart == RestartMode::OnFailure
            && by.is_none()
            && restart::count(&memory.crashes, new, exit, by, self.now).exits < rollback::CRASHES
    }

    /// Starts a failed replacement again, once it is due.
    pub(super) fn retry(
        &self,
        spec: &ContainerSpec,
        new: &ObservedContainer,
        others: &[&'a ObservedContainer],
        exit: &Exit,
        mut memory: Memory,
    ) -> (PartialPlan, Memory) {
        memory.crashes = restart::count(&memory.crashes, new, exit, None, self.now);
        let how = restart::how(exit, None);
        let (what, failures) = (self.choice.words(), memory.crashes.exits);
        if let Some(due) = memory.crashes.next_restart.filter(|due| *due > self.now) {
            let message = format!("{what} {how}, {failures} times in a row; abide starts it again");
            let partial = PartialPlan::with_status(Condition::Progressing, Reason::AwaitingHealth, message);
            return (partial.requeue_by(due), memory);
        }
        memory.crashes = restart::started(&memory.crashes, new, self.now);
        let mut partial = self.start_beside(spec, new, others);
        partial.verdict = Some(self.updating(format!("restarting {what}, which {how}")));
        (partial, memory)
    }
}
