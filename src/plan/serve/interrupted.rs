//! A replacement ended for an external reason, so it is not judged.

use std::time::Duration;

use super::RolloutContext;
use crate::model::cause::EndedBy;
use crate::model::container::{ContainerSpec, Exit};
use crate::model::memory::{Interrupted, Memory, RefusedOptions};
use crate::model::observed::{ContainerState, ObservedContainer};
use crate::model::status::{Condition, Reason};
use crate::model::time::Timestamp;
use crate::plan::restart::{backoff, how};
use crate::plan::{PartialPlan, TRANSIT};

/// The number of signals of unknown origin in a row after which the program itself is held responsible.
const SIGNALS: u32 = 3;
/// The tolerated difference between the clocks of the engine and of abide.
const CLOCKS: Duration = Duration::from_secs(5);

impl<'a> RolloutContext<'a> {
    /// The external cause of a container's end; `None`: its own program.
    pub(super) fn ended_by(&self, container: &ObservedContainer) -> Option<EndedBy> {
        let stopped = self.stopped.get(&container.id);
        let is_by_abide = |exit: &Exit| stopped.is_some_and(|at| exit.at.after(CLOCKS) >= *at);
        match &container.state {
            ContainerState::Exited(exit) if is_by_abide(exit) => Some(EndedBy::Abide),
            _ => self.observed.ended_by.get(&container.id).copied(),
        }
    }

    /// Restarts a replacement that ended for an external reason: at once the first time, and later with
    /// backoff. If no other container runs, the previous one comes back meanwhile.
    pub(super) fn interrupted(
        &self,
        spec: &ContainerSpec,
        new: &ObservedContainer,
        others: &[&'a ObservedContainer],
        (exit, by): (&Exit, EndedBy),
        mut memory: Memory,
    ) -> (PartialPlan, Memory) {
        let how = how(exit, Some(by));
        if by == EndedBy::Untold {
            let message = format!("{} {how}; checking the cause with the engine", self.choice.words());
            let partial = PartialPlan::with_status(Condition::Progressing, Reason::AwaitingHealth, message);
            return (partial.requeue_by(self.now.after(TRANSIT)), memory);
        }
        let count = count(&mut memory, &spec.fingerprint(), exit.at);
        if by == EndedBy::Signal && count >= SIGNALS {
            let what = format!("{how}, {count} times in a row");
            return self.refuse(spec, new, Reason::StartFailed, &what, memory);
        }
        let due = exit.at.after(backoff(count, &new.id));
        if self.now >= due {
            // The serving container may have ended too, and comes first.
            let healed = self.heal_beside(others, &mut memory);
            let mut partial = healed.and(self.start_beside(spec, new, others));
            partial.verdict = Some(self.updating(format!("restarting {}, which {how}", self.choice.words())));
            return (partial, memory);
        }
        if !self.is_start_first() {
            return self.step_aside(spec, &how, due, memory);
        }
        let message = format!("{} {how}, {count} times in a row", self.choice.words());
        let partial =
            PartialPlan::with_status(Condition::Degraded, Reason::Interrupted, message).requeue_by(due);
        let healed = self.heal_beside(others, &mut memory);
        (partial.and(healed), memory)
    }

    /// Returns to the previous container until the replacement is tried again.
    fn step_aside(
        &self,
        spec: &ContainerSpec,
        how: &str,
        due: Timestamp,
        memory: Memory,
    ) -> (PartialPlan, Memory) {
        let refused = self.refused(spec, Reason::Interrupted, &format!("{how}; abide retries it"));
        let refused = RefusedOptions { of_the_host: true, retry_at: Some(due), ..refused };
        self.roll_back_from(refused, how, memory)
    }
}

/// Returns how often a replacement with these options has ended so far. The same end is counted once.
fn count(memory: &mut Memory, fingerprint: &str, at: Timestamp) -> u32 {
    let known = memory.interrupted.take().filter(|known| known.fingerprint == fingerprint);
    let before = known.as_ref().map_or(0, |known| known.count);
    let is_counted = known.is_some_and(|known| known.at == at);
    let count = if is_counted { before } else { before.saturating_add(1) };
    memory.interrupted = Some(Interrupted { fingerprint: fingerprint.to_owned(), count, at });
    count
}
