//! Getting a container running: create, replace, heal, tidy up.
//!
//! A replacement has a temporary name (`dev-server.next`) and takes the final name only once it is ready.
//! The previous container is stopped to free its port and volumes, and is removed only after that. So after
//! any interruption the observed state is enough to continue, and there is always a container to return to.
//!
//! In reading order: [`make`] if the container does not exist, [`replace`] while it is on trial beside the
//! previous one, [`settle`] once it is the final one, [`keep`] if nothing better can be made. [`holder`] is
//! about the network namespaces that containers join, [`spare`] about the one that is ready for the next
//! version, [`naming`] about the names that they need, [`ports`] about waiting for host ports, [`swap`] about
//! replacing a container behind the proxy, [`canary`] about versions that serve a part of the visitors first,
//! [`leave`] about which containers may be stopped, and when, [`trial`] about options that are tried before
//! that.

mod backups;
pub(super) mod canary;
mod complete;
mod folders;
mod health;
mod holder;
pub(super) mod hooks;
mod interrupted;
pub(super) mod jobs;
mod keep;
mod leave;
mod make;
mod naming;
mod output;
mod parts;
mod ports;
mod replace;
mod settle;
mod spare;
mod swap;
mod trial;

pub(crate) use output::without_secrets;

use std::collections::BTreeMap;

use super::notes::retry_of;
use super::target::{self, Choice, KeepReason};
use super::{Intent, PartialPlan, PlannedStatus, Step, TRANSIT, difference, rollback};
use crate::model::container::ContainerSpec;
use crate::model::desired::Outcome;
use crate::model::memory::Memory;
use crate::model::name::Generation;
use crate::model::observed::{ContainerState, NetworkPresence, Observed, ObservedContainer};
use crate::model::status::{Condition, Reason};
use crate::model::time::Timestamp;

/// Plans the steps and the status of the container, and returns the reconcile state after them.
pub(super) fn plan(
    intent: &Intent,
    observed: &Observed,
    choice: &Choice,
    memory: Memory,
    now: Timestamp,
) -> (PartialPlan, Memory) {
    let mut memory = memory;
    if let Choice::Keep { id, .. } = choice {
        // A kept container serves, even if it was draining before.
        memory.draining.remove(id);
    }
    let pass = RolloutContext::new(intent, observed, choice, &memory, now);
    if let Some(partial) = pass.volume_in_use(&memory) {
        return (partial, memory);
    }
    let drained = pass.drain_away(&memory);
    let (partial, memory) = pass.decide(memory);
    (partial.and(drained), memory)
}

/// The input of decisions about containers, except for the reconcile state.
#[derive(Clone)]
struct RolloutContext<'a> {
    intent: &'a Intent,
    observed: &'a Observed,
    containers: Vec<&'a ObservedContainer>,
    /// Replaced containers that still answer their last requests: no other decision considers them.
    draining: Vec<&'a ObservedContainer>,
    holders: Vec<&'a ObservedContainer>,
    /// The container of the last canary.
    canary: Option<String>,
    /// The times at which abide stopped containers.
    stopped: BTreeMap<String, Timestamp>,
    choice: &'a Choice,
    now: Timestamp,
}

impl<'a> RolloutContext<'a> {
    fn new(
        intent: &'a Intent,
        observed: &'a Observed,
        choice: &'a Choice,
        memory: &Memory,
        now: Timestamp,
    ) -> Self {
        let (draining, containers) = in_order(&observed.containers)
            .into_iter()
            .partition(|container| memory.draining.contains_key(&container.id));
        let (holders, stopped) = (in_order(&observed.holders), memory.stopped.clone());
        let canary = memory.canary.as_ref().map(|canary| canary.container.clone());
        Self { intent, observed, containers, draining, holders, canary, stopped, choice, now }
    }

    fn decide(&self, memory: Memory) -> (PartialPlan, Memory) {
        let (mut partial, memory) = match self.choice {
            Choice::Wanted(spec) | Choice::Insist(spec) | Choice::Fallback(spec) => {
                self.enforce(spec, memory)
            }
            Choice::Keep { id, why } => self.keep(id, why, memory),
            Choice::Nothing => (self.nothing(), memory),
        };
        partial = self.take_back_restarts(partial);
        partial.serving = partial.serving.or_else(|| self.serves_now(&memory));
        partial.outcome = partial.outcome.or_else(|| self.refusal(&memory));
        partial.verdict = partial.verdict.map(|verdict| self.status_during_rollback(verdict, &memory));
        if let Some(refused) = memory.refused.as_ref().filter(|refused| refused.of_the_host) {
            partial = partial.requeue_by(retry_of(refused));
        }
        let partial = self.only_with_folders(partial);
        (self.roll_back(partial, &memory), memory)
    }

    /// The outcome of the generation whose container was refused.
    fn refusal(&self, memory: &Memory) -> Option<(Generation, Outcome)> {
        match (self.choice, &memory.refused) {
            (Choice::Fallback(_) | Choice::Keep { why: KeepReason::Refused, .. }, Some(refused))
                if !refused.of_the_host =>
            {
                self.failed_unless_good(&refused.message, memory)
            }
            _ => None,
        }
    }

    /// Replaces a good status during a rollback.
    fn status_during_rollback(&self, verdict: PlannedStatus, memory: &Memory) -> PlannedStatus {
        if verdict.condition != Condition::Progressing || verdict.reason == Reason::RolledBack {
            return verdict;
        }
        if let Some((_, refused)) = rollback::destination(self.intent, self.choice, memory) {
            return rollback::rollback_status(refused, &verdict);
        }
        match (self.choice, &memory.refused) {
            (Choice::Fallback(_), Some(refused)) => {
                let message = format!("{}; {}", refused.message, verdict.message);
                PlannedStatus::new(Condition::Degraded, refused.reason, message)
            }
            _ => self.status_until_ready(verdict, memory),
        }
    }

    /// Replaces the status until the result of a rollback is ready.
    fn status_until_ready(&self, verdict: PlannedStatus, memory: &Memory) -> PlannedStatus {
        let generation = self.intent.entry.generation;
        let was_ready = memory.good.as_ref().is_some_and(|good| good.generation == generation);
        match rollback::led_here(self.intent) {
            Some(why) if !was_ready => {
                let message = format!("{why}; {}", verdict.message);
                PlannedStatus::new(Condition::Progressing, Reason::RolledBack, message)
            }
            _ => verdict,
        }
    }

    /// Rolls the record back once the good version runs again in place of the recorded one.
    fn roll_back(&self, partial: PartialPlan, memory: &Memory) -> PartialPlan {
        match rollback::destination(self.intent, self.choice, memory) {
            Some((good, refused)) if self.is_back(&partial, memory) && !self.intent.proposed => {
                rollback::move_record(partial, self.intent, good, refused)
            }
            _ => partial,
        }
    }

    /// Whether the version that is enforced in place of the recorded one runs, and keeps running.
    fn is_back(&self, partial: &PartialPlan, memory: &Memory) -> bool {
        let is_it = |container: &ObservedContainer| match self.choice {
            Choice::Fallback(spec) => target::is_it(container, spec, self.intent, memory),
            Choice::Keep { id, .. } => container.id == *id,
            Choice::Wanted(_) | Choice::Insist(_) | Choice::Nothing => false,
        };
        let is_up =
            |seen: &&&ObservedContainer| seen.state == ContainerState::Running || self.is_complete(seen);
        let mut running = self.containers.iter().filter(is_up);
        let stops =
            |id: &String| partial.steps.iter().any(|planned| planned.step == Step::Stop { id: id.clone() });
        running.any(|container| is_it(container) && !stops(&container.id))
    }

    /// Reports a failure, unless the generation was ready once: if it fails under options that were edited
    /// since, it remains a ready generation.
    fn failed_unless_good(&self, message: &str, memory: &Memory) -> Option<(Generation, Outcome)> {
        let generation = self.intent.entry.generation;
        let was_good = memory.good.as_ref().is_some_and(|good| good.generation == generation);
        (!was_good).then(|| (generation, Outcome::Failed(message.to_owned())))
    }

    fn nothing(&self) -> PartialPlan {
        match &self.intent.options {
            Err(why) => PartialPlan::with_status(Condition::Blocked, Reason::SecretMissing, why.clone()),
            Ok(_) => PartialPlan::default(),
        }
    }

    fn enforce(&self, spec: &ContainerSpec, memory: Memory) -> (PartialPlan, Memory) {
        let containers = self.containers.iter().copied();
        let (exact, mut others): (Vec<_>, Vec<_>) = containers.partition(|container| {
            target::is_it(container, spec, self.intent, &memory) && !self.is_stranded(container, &memory)
        });
        let Some(current) = target::best(exact.iter().copied(), &memory) else {
            return self.make(spec, &others, memory);
        };
        if current.state == ContainerState::Running
            && let Some(partial) = self.rejoin(current)
        {
            return (partial, memory);
        }
        let on_trial = self.is_on_trial(spec, current, &others, &memory);
        others.extend(exact.into_iter().filter(|container| container.id != current.id));
        if on_trial {
            self.replacing(spec, current, &others, memory)
        } else {
            self.settled(spec, current, &others, memory)
        }
    }

    /// Whether `current` still has to become ready while there is something to return to: another container,
    /// or a good image. Names alone cannot decide this: users rename containers.
    fn is_on_trial(
        &self,
        spec: &ContainerSpec,
        current: &ObservedContainer,
        others: &[&ObservedContainer],
        memory: &Memory,
    ) -> bool {
        if target::is_proven(current, memory) {
            return false;
        }
        let has_final_name = current.name == spec.options.name.as_str();
        match (target::to_go_back_to(others.iter().copied(), self.intent, memory), self.choice) {
            (Some(before), _) if target::is_proven(before, memory) => true,
            (Some(_), Choice::Wanted(_) | Choice::Insist(_)) if !has_final_name => true,
            (_, Choice::Wanted(_)) => target::good(self.intent, self.observed, memory)
                .is_some_and(|good| good.fingerprint() != spec.fingerprint()),
            _ => false,
        }
    }

    /// The options to refuse if a replacement of `others` cannot be started. Good options are never refused
    /// in favor of a container that was never ready: refusing both in turn would swap them forever.
    fn refusable(
        &self,
        spec: &ContainerSpec,
        others: &[&ObservedContainer],
        memory: &Memory,
    ) -> Option<String> {
        let is_good_again = matches!(self.choice, Choice::Fallback(_));
        let is_proven = others.iter().any(|other| target::is_proven(other, memory));
        (is_proven || !is_good_again).then(|| spec.fingerprint())
    }

    fn network_first(&self, partial: PartialPlan) -> PartialPlan {
        match self.observed.network {
            NetworkPresence::Missing => partial.then(Step::CreateNetwork, "containers join it"),
            NetworkPresence::Ours | NetworkPresence::Foreign => partial,
        }
    }

    /// If a secret cannot be read, the options do not name the network, so any network is accepted.
    fn is_connected(&self, container: &ObservedContainer) -> bool {
        match &self.intent.options {
            Ok(options) if options.network_mode().is_some() => true,
            Ok(options) => container.networks.contains_key(options.network.as_str()),
            Err(_) => !container.networks.is_empty(),
        }
    }

    /// Whether a container, or its sandbox, was disconnected from the managed network and can be
    /// reconnected.
    fn is_cut_off(&self, container: &ObservedContainer) -> bool {
        !self.is_connected(container) && holder::connectable(container).is_some()
    }

    fn connect(&self, container: &ObservedContainer) -> PartialPlan {
        let mut partial = self.network_first(PartialPlan::default());
        if !self.is_connected(container)
            && let Some(id) = holder::connectable(container)
        {
            partial.differences.push("it is not connected to the managed network".to_owned());
            partial = partial.then(Step::Connect { id: id.to_owned() }, "other containers reach it there");
        }
        partial
    }

    /// Takes restarts back from the engine, which performed them while abide was down. This applies whatever
    /// else a container needs: two restarters would interfere with each other.
    fn take_back_restarts(&self, partial: PartialPlan) -> PartialPlan {
        let all = self.containers.iter().chain(&self.holders).copied();
        let of_engine: Vec<_> = all.filter(|seen| difference::restarts(seen).is_some()).collect();
        of_engine.into_iter().fold(partial, |mut partial, seen| {
            let id = &seen.id;
            let is_done = |step: &Step| {
                matches!(step, Step::Adjust { id: adjusted, .. } | Step::Remove { id: adjusted } if adjusted == id)
            };
            if partial.steps.iter().any(|planned| is_done(&planned.step)) {
                return partial;
            }
            let why = difference::restarts(seen).unwrap_or_default();
            partial.differences.push(why.clone());
            let adjust = Step::Adjust { id: id.clone(), memory: None, nano_cpus: None, pids: None };
            partial.then(adjust, why)
        })
    }

    fn unpause(&self, mut partial: PartialPlan, container: &ObservedContainer) -> PartialPlan {
        partial.differences.push("it is paused".to_owned());
        let partial = partial.then(Step::Unpause { id: container.id.clone() }, "it was paused");
        self.with_verdict(partial, format!("unpausing {}", self.choice.words()))
    }

    fn in_transit(&self) -> PartialPlan {
        let message = "the engine is restarting or removing the container";
        PartialPlan::with_status(Condition::Progressing, Reason::Updating, message)
            .requeue_by(self.now.after(TRANSIT))
    }

    fn updating(&self, message: String) -> PlannedStatus {
        PlannedStatus::new(Condition::Progressing, Reason::Updating, message)
    }

    fn with_verdict(&self, mut partial: PartialPlan, message: String) -> PartialPlan {
        partial.verdict.get_or_insert_with(|| self.updating(message));
        partial
    }
}

/// The plan must not depend on the order in which the engine lists them.
fn in_order(containers: &[ObservedContainer]) -> Vec<&ObservedContainer> {
    let mut containers: Vec<_> = containers.iter().collect();
    containers.sort_by_key(|container| (container.created_at, &container.id));
    containers
}

/// Whether the engine is busy with one of them, so that the state of port and name is unknown.
fn is_any_in_transit(containers: &[&ObservedContainer]) -> bool {
    containers.iter().any(|container| container.state == ContainerState::InTransit)
}
