//! The container is the desired one: keep it running, named, connected and limited.

use super::RolloutContext;
use super::health::Health;
use super::parts::{remove, start_seen, stop};
use crate::model::container::{ContainerSpec, Exit};
use crate::model::declared::Declared;
use crate::model::desired::{Entry, Outcome};
use crate::model::memory::{Good, Memory};
use crate::model::name::Generation;
use crate::model::observed::{ContainerState, ObservedContainer};
use crate::model::status::{Condition, Reason};
use crate::model::time::Timestamp;
use crate::plan::target::{self, Choice};
use crate::plan::{PartialPlan, PlannedStatus, Step, difference, restart, rollback, serving};

impl RolloutContext<'_> {
    pub(super) fn settled(
        &self,
        spec: &ContainerSpec,
        current: &ObservedContainer,
        others: &[&ObservedContainer],
        mut memory: Memory,
    ) -> (PartialPlan, Memory) {
        if let Some(partial) = self.await_cause(current) {
            return (partial, memory);
        }
        let is_complete = self.is_complete(current);
        if let (ContainerState::Exited(exit), [], false) = (&current.state, others, is_complete) {
            memory.crashes = restart::count(&memory.crashes, current, exit, self.ended_by(current), self.now);
            if let Some(memory) = rollback::given_up(self.intent, self.observed, &memory) {
                return self.give_up(spec, current, exit, memory);
            }
        }
        let state = match &current.state {
            ContainerState::Running => self.running(spec, current, others, &mut memory),
            ContainerState::Exited(_) if is_complete => self.completed(spec, current, others, &mut memory),
            ContainerState::Exited(_) | ContainerState::Created
                if !others.is_empty() && !self.is_start_first() =>
            {
                self.restore_current(current, others)
            }
            ContainerState::Exited(exit) => {
                let partial = self.restart(current, exit, &mut memory);
                others.iter().fold(partial, |partial, other| self.dismiss(partial, other, "it is a leftover"))
            }
            ContainerState::Created => {
                let partial = start_seen(PartialPlan::default(), current, "it was created but never started");
                self.with_verdict(partial, format!("starting {}", self.choice.words()))
            }
            ContainerState::Paused => self.unpause(PartialPlan::default(), current),
            ContainerState::InTransit => return (self.in_transit(), memory),
            ContainerState::Dead => {
                return (remove(PartialPlan::default(), current, "the engine reports it as dead"), memory);
            }
        };
        // It cannot be started without its network. A rejected name or limit is not a reason to leave it
        // down.
        let partial = self.connect(current).and(state);
        let mut partial = self.set_right(partial, spec, current, (others, &memory));
        if let Some(conflict) = self.name_conflict(&spec.options.name) {
            (partial.verdict, partial.outcome) = (Some(conflict), None);
        }
        (partial, memory)
    }

    /// Corrects the name and the limits of the existing container.
    fn set_right(
        &self,
        mut partial: PartialPlan,
        spec: &ContainerSpec,
        current: &ObservedContainer,
        (others, memory): (&[&ObservedContainer], &Memory),
    ) -> PartialPlan {
        let name = &spec.options.name;
        // A ready container takes the name even from a container that has to stay for a while.
        let is_free =
            target::is_proven(current, memory) || others.iter().all(|other| other.name != name.as_str());
        if current.name != name.as_str() && is_free && self.name_conflict(name).is_none() {
            partial.differences.push(format!("the name is {}, should be {name}", current.name));
            let rename = Step::Rename { id: current.id.clone(), name: name.clone() };
            partial =
                self.make_way(partial, name).then(rename, "the serving container should have this name");
        }
        let limits = difference::limits(spec, current);
        if limits.is_empty() {
            return partial;
        }
        let adjust = Step::Adjust {
            id: current.id.clone(),
            memory: spec.options.memory,
            nano_cpus: spec.options.nano_cpus,
            pids: spec.options.pids,
        };
        let mut partial = partial.then(adjust, limits.join("; "));
        partial.differences.extend(limits);
        let is_ready = partial.verdict.as_ref().is_some_and(|verdict| verdict.condition == Condition::Ready);
        if is_ready && !difference::resources(spec, current).is_empty() {
            // The engine may refuse the limits, and then the container is replaced.
            partial.verdict = Some(self.updating(format!("changing the limits of {}", self.choice.words())));
        }
        partial
    }

    fn running(
        &self,
        spec: &ContainerSpec,
        current: &ObservedContainer,
        others: &[&ObservedContainer],
        memory: &mut Memory,
    ) -> PartialPlan {
        match self.health(current, memory) {
            Health::Ready => {
                memory.crashes.stopped = None;
                self.ready(spec, current, others, memory)
            }
            Health::Awaited { until } => self.await_health(current, until),
            Health::Overdue(why) => {
                let message = format!("the container of {} {why}", self.choice.words());
                let is_of_the_record = !matches!(self.choice, Choice::Fallback(_));
                let outcome = self.failed_unless_good(&message, memory).filter(|_| is_of_the_record);
                PartialPlan {
                    outcome,
                    ..PartialPlan::with_status(Condition::Degraded, Reason::NeverReady, message)
                }
            }
            Health::Lost(why) => self.unwell(current, &why, memory),
        }
    }

    fn ready(
        &self,
        spec: &ContainerSpec,
        current: &ObservedContainer,
        others: &[&ObservedContainer],
        memory: &mut Memory,
    ) -> PartialPlan {
        let partial = self.succeeded(PartialPlan::default(), others, "it is a leftover");
        let mut partial = self.keep_spare(partial, spec, current, memory);
        partial.outcome = self.note_ready(spec, current, memory);
        partial.verdict = Some(self.status_behind_front(current, self.rest(memory)));
        partial
    }

    /// Notes that a container is the good one now. Returns the outcome of the recorded generation.
    pub(super) fn note_ready(
        &self,
        spec: &ContainerSpec,
        current: &ObservedContainer,
        memory: &mut Memory,
    ) -> Option<(Generation, Outcome)> {
        let ready = self.as_ready(spec, current, memory)?;
        if self.is_of_the_record() {
            serving::succeed(memory, ready);
            (memory.refused, memory.interrupted) = (None, None);
            return Some((self.intent.entry.generation, Outcome::Ready));
        }
        // The same good generation, in a recreated container.
        memory.good = Some(ready);
        memory.next = None;
        None
    }

    /// The readiness note of a container; `None` if its version was never recorded.
    pub(super) fn as_ready(
        &self,
        spec: &ContainerSpec,
        current: &ObservedContainer,
        memory: &Memory,
    ) -> Option<Good> {
        let (at, declared) = (self.ready_since(current, memory), self.declared(spec, current, memory));
        let container = current.id.clone();
        if !self.is_of_the_record() {
            return Some(Good { container, at, declared, ..memory.good.clone()? });
        }
        let Entry { generation, image, revision, .. } = self.intent.entry.clone();
        Some(Good { generation, image: image?, revision, container, at, first_ready: at, declared })
    }

    /// Whether the recorded version is enforced.
    fn is_of_the_record(&self) -> bool {
        matches!(self.choice, Choice::Wanted(_) | Choice::Insist(_)) && self.intent.entry.image.is_some()
    }

    /// The declaration of a ready container: the current one, unless a hold keeps the container as it was
    /// made.
    fn declared(
        &self,
        spec: &ContainerSpec,
        current: &ObservedContainer,
        memory: &Memory,
    ) -> Option<Box<Declared>> {
        if target::is_made_as(current, spec) && difference::resources(spec, current).is_empty() {
            return self.intent.declared.clone();
        }
        target::readiness(current, memory).and_then(|ready| ready.declared.clone())
    }

    fn ready_since(&self, current: &ObservedContainer, memory: &Memory) -> Timestamp {
        match target::readiness(current, memory) {
            Some(ready) if current.started_at <= Some(ready.at) => ready.at,
            _ => self.now,
        }
    }

    /// The status if everything that can run is healthy.
    pub(super) fn rest(&self, memory: &Memory) -> PlannedStatus {
        let serves = || format!("{} keeps serving", self.choice.words());
        if let Some((_, refused)) = rollback::destination(self.intent, self.choice, memory) {
            let verdict = PlannedStatus::new(Condition::Ready, Reason::AsRecorded, serves());
            return rollback::rollback_status(refused, &verdict);
        }
        match (self.choice, &memory.refused, rollback::led_here(self.intent)) {
            (Choice::Fallback(_) | Choice::Keep { .. }, Some(refused), _) => PlannedStatus::new(
                Condition::Degraded,
                refused.reason,
                format!("{}; {}", refused.message, serves()),
            ),
            (Choice::Wanted(_) | Choice::Insist(_), _, Some(why)) => PlannedStatus::new(
                Condition::RolledBack,
                Reason::RolledBack,
                format!("{why}; rolled back to {}, which is serving", self.choice.words()),
            ),
            (Choice::Fallback(_) | Choice::Keep { .. }, None, _)
            | (Choice::Wanted(_) | Choice::Insist(_), _, None)
            | (Choice::Nothing, ..) => {
                let without = match &memory.no_holder {
                    Some(no_holder) => format!(", without a sandbox ({})", no_holder.message),
                    None => String::new(),
                };
                let message = format!("{} is running and ready{without}", self.choice.words());
                PlannedStatus::new(Condition::Ready, Reason::AsRecorded, message)
            }
        }
    }

    /// The replacement of this container is no longer wanted, so it releases port and volumes. The stop of
    /// this container for the replacement does not count as a crash.
    fn restore_current(&self, current: &ObservedContainer, others: &[&ObservedContainer]) -> PartialPlan {
        if super::is_any_in_transit(others) {
            return self.in_transit();
        }
        let back = "the replacement of the container is no longer needed";
        let partial = self.hand_over(PartialPlan::default(), others, back);
        let partial = self.free_ports_of(current, partial);
        let partial = start_seen(partial, current, back);
        let partial = self.after_hand_over(partial, others, back);
        self.with_verdict(partial, format!("rolling back to {}", self.choice.words()))
    }

    /// Rolls back to the last good version, because this one does not last.
    fn give_up(
        &self,
        spec: &ContainerSpec,
        current: &ObservedContainer,
        exit: &Exit,
        memory: Memory,
    ) -> (PartialPlan, Memory) {
        let how = restart::how_last(&memory.crashes, exit);
        let within = humantime::format_duration(rollback::PROBATION);
        let what = format!(
            "crashed {} times within {within} of becoming ready; the last time it {how}",
            memory.crashes.exits
        );
        self.refuse(spec, current, Reason::CrashLoop, &what, memory)
    }

    /// Restarts a container that was ready and no longer answers, once it is due: it is stopped here, and
    /// then started like any other ended container.
    pub(super) fn unwell(&self, current: &ObservedContainer, why: &str, memory: &mut Memory) -> PartialPlan {
        let message = format!("the container of {} {why}", self.choice.words());
        let partial = PartialPlan::with_status(Condition::Degraded, Reason::Unhealthy, message);
        if !self.is_connected(current) {
            // Probes cannot reach it; once they can, it is probed again.
            return partial;
        }
        let due = restart::due(&memory.crashes, current);
        let started = current.started_at.unwrap_or(current.created_at);
        let is_forgiven = self.intent.sync.is_some_and(|sync| sync > started);
        // A start time in the future comes from before the clock was set back.
        if due > self.now && started <= self.now && !is_forgiven {
            return partial.requeue_by(due);
        }
        memory.crashes = restart::stopping(&memory.crashes, current, why);
        stop(partial.requeue_by(self.now), current, &format!("it {why}"))
    }

    /// Starts an ended container, once it is due.
    pub(super) fn restart(
        &self,
        current: &ObservedContainer,
        exit: &Exit,
        memory: &mut Memory,
    ) -> PartialPlan {
        memory.crashes = restart::count(&memory.crashes, current, exit, self.ended_by(current), self.now);
        let failed_at = memory.crashes.tried.map_or(exit.at, |tried| tried.max(exit.at));
        let forgiven = self.intent.sync.is_some_and(|sync| sync > failed_at);
        let due = memory.crashes.next_restart.filter(|due| *due > self.now && !forgiven);
        let how = restart::how_last(&memory.crashes, exit);
        if let Some(due) = due {
            let message = format!("the container {how}, {} times in a row", memory.crashes.count);
            return PartialPlan::with_status(Condition::Degraded, Reason::CrashLoop, message).requeue_by(due);
        }
        memory.crashes = restart::started(&memory.crashes, current, self.now);
        let partial = start_seen(PartialPlan::default(), current, &format!("it {how}"));
        self.with_verdict(partial, format!("restarting {}, which {how}", self.choice.words()))
    }
}
