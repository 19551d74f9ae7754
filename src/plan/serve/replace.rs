//! A replacement exists beside the previous container, and has to become ready.

use super::RolloutContext;
use super::canary;
use super::health::Health;
use super::holder::wake_holder;
use super::make::HANDOVER_REASON;
use super::output::last_output;
use super::parts::{remove, start_replacement};
use crate::model::container::{ContainerSpec, label};
use crate::model::memory::{Memory, RefusedOptions};
use crate::model::observed::{ContainerState, ObservedContainer};
use crate::model::status::{Condition, Reason};
use crate::model::time::Timestamp;
use crate::plan::ports::PortTurn;
use crate::plan::{ContainerTarget, PartialPlan, Step, generation_words, restart, target};

/// The reason for recreating a replacement.
const OF_BEFORE: &str = "it failed before this attempt was requested, and is recreated";

impl<'a> RolloutContext<'a> {
    pub(super) fn replacing(
        &self,
        spec: &ContainerSpec,
        new: &ObservedContainer,
        others: &[&'a ObservedContainer],
        memory: Memory,
    ) -> (PartialPlan, Memory) {
        match &new.state {
            ContainerState::Created => (self.start_beside(spec, new, others), memory),
            // Probes cannot reach it, and that is not its own fault.
            ContainerState::Running if self.is_cut_off(new) => {
                let message = format!("connecting {} to the managed network", self.choice.words());
                (self.with_verdict(self.connect(new), message), memory)
            }
            ContainerState::Running => match self.health(new, &memory) {
                Health::Ready if others.is_empty() => self.settled(spec, new, others, memory),
                Health::Ready if self.is_start_first() => self.promote_ready(spec, new, others, memory),
                Health::Ready => self.take_over(spec, new, others, memory),
                Health::Awaited { until } => self.await_beside(new, until, others, memory),
                Health::Overdue(_) | Health::Lost(_) if self.is_of_before(spec, new) => {
                    (remove(PartialPlan::default(), new, OF_BEFORE), memory)
                }
                Health::Overdue(why) | Health::Lost(why) => {
                    let reason = self.failure_of(new, &memory, Reason::NeverReady);
                    self.refuse(spec, new, reason, &why, memory)
                }
            },
            ContainerState::Exited(_) if self.await_cause(new).is_some() || self.is_complete(new) => {
                self.settled(spec, new, others, memory)
            }
            ContainerState::Exited(_) if self.is_of_before(spec, new) => {
                (remove(PartialPlan::default(), new, OF_BEFORE), memory)
            }
            ContainerState::Exited(exit) if self.is_retried(new, exit, &memory) => {
                self.retry(spec, new, others, exit, memory)
            }
            ContainerState::Exited(exit) => match self.ended_by(new) {
                None => {
                    let reason = self.failure_of(new, &memory, Reason::StartFailed);
                    self.refuse(spec, new, reason, &restart::how(exit, None), memory)
                }
                Some(by) => self.interrupted(spec, new, others, (exit, by), memory),
            },
            ContainerState::Paused => (self.unpause(PartialPlan::default(), new), memory),
            ContainerState::InTransit => (self.in_transit(), memory),
            ContainerState::Dead => {
                (remove(PartialPlan::default(), new, "the engine reports it as dead"), memory)
            }
        }
    }

    /// Whether a replacement was made, or last started, before a user asked for this attempt: its failure
    /// does not count for this attempt.
    fn is_of_before(&self, spec: &ContainerSpec, new: &ObservedContainer) -> bool {
        let made_for = new.labels.get(label::GENERATION);
        let is_forgiven =
            self.intent.sync.is_some_and(|sync| sync > new.started_at.unwrap_or(new.created_at));
        is_forgiven || made_for != Some(&spec.generation.to_string())
    }

    pub(super) fn start_beside(
        &self,
        spec: &ContainerSpec,
        new: &ObservedContainer,
        others: &[&ObservedContainer],
    ) -> PartialPlan {
        if super::is_any_in_transit(others) {
            return self.in_transit();
        }
        let turn = match self.port_turn(spec) {
            PortTurn::Later(waits) if self.may_wait_for_ports(others) => {
                return self.start_later(PartialPlan::default(), waits);
            }
            turn => turn,
        };
        let mut partial = self.connect(new);
        partial = self.try_options(partial, spec, others, Some(spec.fingerprint()));
        partial = self.hand_over(partial, others, HANDOVER_REASON);
        partial = self.free_ports_of(new, partial);
        if let PortTurn::AfterItsStop(waits) = turn {
            return self.start_later(partial, waits);
        }
        let partial = wake_holder(partial, new);
        let mut partial =
            start_replacement(partial, ContainerTarget::Seen(new.id.clone()), Some(spec.fingerprint()));
        partial.verdict =
            Some(self.updating(format!("replacing the container with {}", self.choice.words())));
        partial
    }

    /// Heals the serving container as usual while its replacement is not ready.
    fn await_beside(
        &self,
        new: &ObservedContainer,
        until: Timestamp,
        others: &[&'a ObservedContainer],
        mut memory: Memory,
    ) -> (PartialPlan, Memory) {
        let partial = self.await_health(new, until);
        let healed = self.heal_beside(others, &mut memory);
        (partial.and(healed), memory)
    }

    /// Heals the serving container beside a replacement, if there is one.
    pub(super) fn heal_beside(&self, others: &[&'a ObservedContainer], memory: &mut Memory) -> PartialPlan {
        if !self.is_start_first() {
            return PartialPlan::default();
        }
        let serves = |other: &&ObservedContainer| target::is_proven(other, memory) && other.has_namespace();
        let Some(before) = others.iter().copied().find(serves) else { return PartialPlan::default() };
        match &before.state {
            ContainerState::Exited(_) if self.is_complete(before) => PartialPlan::default(),
            ContainerState::Exited(exit) => self.restart(before, exit, memory),
            ContainerState::Running => match self.health(before, memory) {
                Health::Lost(why) => self.unwell(before, &why, memory),
                Health::Ready | Health::Awaited { .. } | Health::Overdue(_) => PartialPlan::default(),
            },
            ContainerState::Created
            | ContainerState::Paused
            | ContainerState::InTransit
            | ContainerState::Dead => PartialPlan::default(),
        }
    }

    pub(super) fn take_over(
        &self,
        spec: &ContainerSpec,
        new: &ObservedContainer,
        others: &[&ObservedContainer],
        mut memory: Memory,
    ) -> (PartialPlan, Memory) {
        // It serves from now on, whichever code path observes that.
        self.note_ready(spec, new, &mut memory);
        let mut partial = self.succeeded(PartialPlan::default(), others, "the new container is ready");
        let name = &spec.options.name;
        if new.name != name.as_str() && self.name_conflict(name).is_none() {
            partial = self.make_way(partial, name).then(
                Step::Rename { id: new.id.clone(), name: name.clone() },
                "it replaces the old \
                    container",
            );
        }
        partial = self.remove_empty_holders(partial);
        partial.verdict = Some(self.updating(format!("{} is taking over", self.choice.words())));
        (partial, memory)
    }

    pub(super) fn await_health(&self, container: &ObservedContainer, until: Timestamp) -> PartialPlan {
        let (what, seen) = (self.choice.words(), self.readiness(container));
        if let Some(why) = self.why_unknown(container, &seen) {
            let message = format!("{what} is running, but its readiness cannot be checked: {why}");
            return PartialPlan::with_status(Condition::Degraded, Reason::HealthUnknown, message)
                .requeue_by(until);
        }
        let last = seen.unknown.as_deref().or(seen.last_miss.as_deref());
        let last = last.map(|last| format!("; last probe: {}", self.presentable(last)));
        let message =
            format!("{what} is running; waiting for it to become ready{}", last.unwrap_or_default());
        PartialPlan::with_status(Condition::Progressing, Reason::AwaitingHealth, message).requeue_by(until)
    }

    /// Notes that these options fail and plans again, which returns to the previous container.
    pub(super) fn refuse(
        &self,
        spec: &ContainerSpec,
        new: &ObservedContainer,
        reason: Reason,
        what: &str,
        memory: Memory,
    ) -> (PartialPlan, Memory) {
        let failed = format!("{what}{}", last_output(&spec.options, new));
        self.roll_back_from(self.refused(spec, reason, &failed), what, memory)
    }

    /// The refusal of these options, because their container `failed`.
    pub(super) fn refused(&self, spec: &ContainerSpec, reason: Reason, failed: &str) -> RefusedOptions {
        let who = generation_words(spec.generation, spec.revision.as_ref());
        RefusedOptions {
            fingerprint: spec.fingerprint(),
            generation: self.intent.entry.generation,
            reason,
            message: format!("the container of {who} {failed}"),
            of_the_host: false,
            retry_at: None,
            at: self.now,
        }
    }

    /// Plans again with these options refused.
    pub(super) fn roll_back_from(
        &self,
        refused: RefusedOptions,
        what: &str,
        mut memory: Memory,
    ) -> (PartialPlan, Memory) {
        if memory.refused.as_ref().is_some_and(|refused| refused.at == self.now) {
            // The container that this plan would return to fails as well, so it continues with the current
            // one.
            let message = format!("{} {what}", self.choice.words());
            return (PartialPlan::with_status(Condition::Degraded, refused.reason, message), memory);
        }
        canary::note_refusal(&mut memory, &refused.fingerprint, what);
        memory.refused = Some(refused);
        memory.next = None;
        let choice = target::choose(self.intent, self.observed, &memory);
        RolloutContext::new(self.intent, self.observed, &choice, &memory, self.now).decide(memory)
    }
}
