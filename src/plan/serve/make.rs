//! The container does not exist: create it, alone or beside the previous one.

use super::RolloutContext;
use super::parts::{start_replacement, start_seen, stop, stop_running};
use crate::model::container::ContainerSpec;
use crate::model::memory::Memory;
use crate::model::mount::Mount;
use crate::model::name::ContainerName;
use crate::model::observed::{ContainerState, ObservedContainer};
use crate::model::status::{Condition, Reason};
use crate::plan::explain::short;
use crate::plan::ports::PortTurn;
use crate::plan::target::{self, KeepReason};
use crate::plan::{ContainerTarget, PartialPlan, PlannedStatus, Step, difference};

/// Why a running container is stopped before another one is started.
pub(super) const HANDOVER_REASON: &str = "the new container needs its port and volumes";

impl RolloutContext<'_> {
    pub(super) fn make(
        &self,
        spec: &ContainerSpec,
        others: &[&ObservedContainer],
        memory: Memory,
    ) -> (PartialPlan, Memory) {
        if super::is_any_in_transit(others) {
            return (self.in_transit(), memory);
        }
        if let Some(partial) = self.await_reach(others) {
            return (partial, memory);
        }
        let before = target::to_go_back_to(others.iter().copied(), self.intent, &memory);
        let prerequisites = match self.name_conflict(&spec.options.name) {
            Some(conflict) => Err(conflict),
            None => self.prerequisites(spec, &memory),
        };
        let turn = match (&prerequisites, self.port_turn(spec)) {
            (Ok(_), PortTurn::Later(waits)) => return self.wait_for_ports(waits, before, memory),
            (_, turn) => turn,
        };
        match (prerequisites, before) {
            (Err(blocked), Some(before)) => self.keep(&before.id, &KeepReason::Blocked(blocked), memory),
            (Err(blocked), None) => {
                (PartialPlan { verdict: Some(blocked), ..PartialPlan::default() }, memory)
            }
            (Ok(partial), Some(before)) => {
                (self.make_beside(spec, (before, others), turn, partial, &memory), memory)
            }
            (Ok(partial), None) => (self.make_first(spec, others, partial, &memory), memory),
        }
    }

    fn make_first(
        &self,
        spec: &ContainerSpec,
        useless: &[&ObservedContainer],
        partial: PartialPlan,
        memory: &Memory,
    ) -> PartialPlan {
        let nothing = "it cannot be used for a rollback";
        let partial = useless.iter().fold(partial, |partial, left| self.dismiss(partial, left, nothing));
        let staying = self.staying(useless);
        let partial = self.remove_unfit_holders(partial, spec, memory);
        let partial = self.make_way(partial, &spec.options.name);
        let (partial, namespace) = self.namespace(spec, partial, memory);
        let (name, joins) = (spec.options.name.clone(), namespace.joins.clone());
        let create = Step::Create { name, spec: Box::new(spec.clone()), joins };
        let partial = partial.then(create, "the environment has no container");
        let partial = self.hand_over(partial, &staying, HANDOVER_REASON);
        let partial = namespace.start(self.free_ports_for(&namespace, partial), None);
        let start = Step::Start { container: ContainerTarget::Created, replacement: None };
        let mut partial = partial.then(start, "it should be running");
        partial.differences.push(format!("container {} is missing", spec.options.name));
        partial.verdict = Some(self.updating(format!("starting {}", self.choice.words())));
        partial
    }

    /// Creates the replacement before the previous container is stopped, so that a failed creation costs
    /// nothing.
    fn make_beside(
        &self,
        spec: &ContainerSpec,
        (before, others): (&ObservedContainer, &[&ObservedContainer]),
        turn: PortTurn,
        partial: PartialPlan,
        memory: &Memory,
    ) -> PartialPlan {
        let name = &spec.options.name;
        let left: Vec<_> = others.iter().copied().filter(|other| other.id != before.id).collect();
        let mut partial =
            left.iter().fold(partial, |partial, left| self.dismiss(partial, left, "it is a leftover"));
        let staying = self.staying(&left);
        if before.name != name.as_str() {
            let rename = Step::Rename { id: before.id.clone(), name: name.clone() };
            partial = self.make_way(partial, name).then(rename, "it uses this name until it is replaced");
        }
        let is_bridged = self.must_bridge(before, memory) && (staying.is_empty() || self.is_start_first());
        if is_bridged {
            partial = start_seen(partial, before, "it serves until its replacement is ready");
        }
        let mut differences = difference::structural(spec, before);
        if let Some(why) = target::stuck(before, spec, memory) {
            let limits = difference::limits(spec, before);
            differences
                .extend(limits.into_iter().map(|what| format!("{what}, which needs a new container: {why}")));
        }
        if differences.is_empty() {
            differences.push("sandboxes do not work on this host".to_owned());
        }
        let refusable = self.refusable(spec, others, memory);
        partial = self.try_options(partial, spec, others, refusable.clone());
        let (made, namespace) = self.namespace(spec, partial, memory);
        let (name, joins) = (self.candidate_name(name), namespace.joins.clone());
        let made = self.make_way(made, &name);
        let create = Step::Create { name, spec: Box::new(spec.clone()), joins };
        let why = differences.join("; ");
        partial = if self.is_start_first() {
            let made = self.announce(namespace.start(made, refusable.clone()), &namespace);
            made.then(create, why)
        } else {
            let partial = stop_once_running(made.then(create, why), before, is_bridged);
            let partial = self.hand_over(partial, &staying, HANDOVER_REASON);
            let mut partial = self.free_ports_for(&namespace, partial);
            if let PortTurn::AfterItsStop(waits) = turn {
                partial.differences.extend(differences);
                return self.start_later(partial, waits);
            }
            namespace.start(partial, refusable.clone())
        };
        partial = start_replacement(partial, ContainerTarget::Created, refusable);
        partial.differences.extend(differences);
        partial.verdict =
            Some(self.updating(format!("replacing the container with {}", self.choice.words())));
        partial
    }

    /// The prerequisites of containers, as steps; or the status if they cannot be met.
    pub(super) fn prerequisites(
        &self,
        spec: &ContainerSpec,
        memory: &Memory,
    ) -> Result<PartialPlan, PlannedStatus> {
        let mut partial = self.network_first(PartialPlan::default());
        let volumes = spec.mounts().filter_map(|mount| Some((mount.volume()?.as_str(), mount.is_external())));
        for (name, is_external) in volumes {
            if self.observed.volumes.contains(name) {
                continue;
            }
            if is_external {
                return Err(external_volume_missing(name));
            }
            if memory.volumes.contains(name) {
                return Err(volume_missing(name));
            }
            partial = partial.then(Step::CreateVolume { name: name.to_owned() }, "it does not exist yet");
        }
        self.folders_first(partial, spec.options.volumes.iter().filter_map(Mount::host_path))
    }

    /// The status while an unmanaged container has the name.
    pub(super) fn name_conflict(&self, name: &ContainerName) -> Option<PlannedStatus> {
        let holder = self.observed.name_holder.as_ref()?;
        let whose = holder.foreign()?;
        let message = format!(
            "container {} has the name {name} and is {whose}: rename or remove it, or give the \
            environment another name",
            short(&holder.id)
        );
        Some(PlannedStatus::new(Condition::Blocked, Reason::NameConflict, message))
    }

    /// Whether the previous container has to be started although it is about to be replaced. This is so if
    /// it serves beside the replacement, or if an engine call failed last time, so that the replacement may
    /// be delayed. If a *start* failed last time, it may have been that of the previous container, and the
    /// replacement gets its turn.
    fn must_bridge(&self, before: &ObservedContainer, memory: &Memory) -> bool {
        let last = memory.trouble.as_ref().map(|trouble| trouble.reason);
        let is_useful = match last {
            Some(Reason::EngineUnavailable) => true,
            Some(Reason::StartFailed | Reason::Interrupted) => false,
            _ => self.is_start_first(),
        };
        let is_down = matches!(before.state, ContainerState::Exited(_)) && !self.is_complete(before);
        is_useful && is_down && before.has_namespace()
    }
}

fn volume_missing(name: &str) -> PlannedStatus {
    let message = format!(
        "volume {name}, which had data, is missing: restore it, or accept an empty one with `docker \
        volume create {name}`"
    );
    PlannedStatus::new(Condition::Blocked, Reason::VolumeMissing, message)
}

fn external_volume_missing(name: &str) -> PlannedStatus {
    let message = format!(
        "volume {name}, which is declared as `external`, does not exist; `docker volume create {name}` makes an \
         empty one"
    );
    PlannedStatus::new(Condition::Blocked, Reason::VolumeMissing, message)
}

/// Stops a container that runs, or that an earlier step starts.
fn stop_once_running(partial: PartialPlan, container: &ObservedContainer, is_started: bool) -> PartialPlan {
    if is_started {
        stop(partial, container, HANDOVER_REASON)
    } else {
        stop_running(partial, container, HANDOVER_REASON)
    }
}

/// The name of a container beside `name`, such as that of its replacement.
pub(super) fn suffixed(name: &ContainerName, suffix: &str) -> ContainerName {
    // The engine takes 128 characters.
    let longest = name.as_str().len().min(128 - suffix.len().min(64));
    ContainerName::new(format!("{}{suffix}", &name.as_str()[..longest])).unwrap_or_else(|_| name.clone())
}
