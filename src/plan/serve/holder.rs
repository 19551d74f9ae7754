//! Network namespaces: which sandbox a container joins, and which sandboxes need repair or removal.

use super::RolloutContext;
use super::leave::is_removed;
use super::parts::{merge, remove, stop_running};
use crate::model::container::{ContainerSpec, label};
use crate::model::holder::HolderSpec;
use crate::model::memory::Memory;
use crate::model::name::ContainerName;
use crate::model::observed::{ContainerState, ObservedContainer, SandboxState};
use crate::plan::{PartialPlan, Step, Target, difference};

/// The network namespace of a container that is about to be created.
pub(super) struct Namespace {
    /// The sandbox that it joins; `None`: it gets its own namespace.
    pub(super) joins: Option<Target>,
    /// Whether that sandbox has to be started first.
    is_down: bool,
}

impl Namespace {
    /// Whether the sandbox `id` is this one.
    fn is(&self, id: &str) -> bool {
        matches!(&self.joins, Some(Target::Seen(seen)) if seen == id)
    }

    /// Starts the sandbox if it does not run. If it cannot be started, the `refused` options are refused.
    pub(super) fn start(&self, half: PartialPlan, refused: Option<String>) -> PartialPlan {
        match self.joins.clone().filter(|_| self.is_down) {
            Some(holder) => half.then(
                Step::StartHolder { holder, replacement: refused },
                "it holds the network address of the container",
            ),
            None => half,
        }
    }
}

impl RolloutContext<'_> {
    /// Whether new containers join a sandbox.
    fn has_holders(&self, memory: &Memory) -> bool {
        self.intent.holder && memory.no_holder.is_none()
    }

    /// Whether a container cannot run in its namespace, because sandboxes do not work here.
    pub(super) fn is_stranded(&self, container: &ObservedContainer, memory: &Memory) -> bool {
        let holds = |state| matches!(state, SandboxState::Holds | SandboxState::Anew | SandboxState::Paused);
        let joined = container.joined.as_ref();
        !self.has_holders(memory) && joined.is_some_and(|joined| !holds(joined.state))
    }

    /// The namespace of a container of `spec`, created if it cannot join an existing one. A container beside
    /// a serving one needs its own: both listen on the same port.
    pub(super) fn namespace(
        &self,
        spec: &ContainerSpec,
        half: PartialPlan,
        memory: &Memory,
    ) -> (PartialPlan, Namespace) {
        if !self.has_holders(memory) {
            return (half, Namespace { joins: None, is_down: false });
        }
        let wanted = HolderSpec::of(&spec.options);
        if let Some(holder) = self.fitting(&wanted) {
            let is_down = holder.state != ContainerState::Running;
            return (half, Namespace { joins: Some(Target::Seen(holder.id.clone())), is_down });
        }
        let half = if self.observed.holder_image {
            half
        } else {
            half.then(Step::LoadHolder, "sandboxes are created from it")
        };
        let create =
            Step::CreateHolder { name: self.holder_name(&spec.options.name), spec: Box::new(wanted) };
        let half = half.then(create, "it keeps the network address when containers are replaced");
        (half, Namespace { joins: Some(Target::Created), is_down: true })
    }

    /// The sandbox that a new container can join. Of several, a running one. Its label alone is no proof: a
    /// user may have created it again with other options.
    fn fitting(&self, wanted: &HolderSpec) -> Option<&ObservedContainer> {
        let fingerprint = wanted.fingerprint();
        let fits = |holder: &&ObservedContainer| {
            holder.labels.get(label::SPEC) == Some(&fingerprint)
                && difference::is_sandbox(wanted, holder)
                && !matches!(holder.state, ContainerState::Dead | ContainerState::InTransit)
                && !self.is_taken(holder)
        };
        let fitting = self.holders.iter().copied().filter(fits);
        fitting.min_by_key(|holder| (holder.state != ContainerState::Running, holder.created_at, &holder.id))
    }

    /// Whether the namespace of this sandbox belongs to a container that keeps serving beside a new one.
    fn is_taken(&self, holder: &ObservedContainer) -> bool {
        let is_inside = |container: &&ObservedContainer| is_joined_to(container, &holder.id);
        self.is_draining(holder) || (self.is_start_first() && self.containers.iter().any(is_inside))
    }

    fn holder_name(&self, container: &ContainerName) -> ContainerName {
        self.free_name(container, ".net", |name| self.holders.iter().all(|holder| holder.name != name))
    }

    /// Stops the sandboxes that may occupy the port of the one in `namespace`.
    pub(super) fn free_ports_for(&self, namespace: &Namespace, half: PartialPlan) -> PartialPlan {
        self.stop_holders(half, |holder| !namespace.is(&holder.id))
    }

    /// Stops the sandboxes that may occupy the port of the one of `container`.
    pub(super) fn free_ports_of(&self, container: &ObservedContainer, half: PartialPlan) -> PartialPlan {
        self.stop_holders(half, |holder| !is_joined_to(container, &holder.id))
    }

    fn stop_holders(&self, half: PartialPlan, is_other: impl Fn(&ObservedContainer) -> bool) -> PartialPlan {
        if self.is_start_first() {
            return half;
        }
        let others = self.holders.iter().filter(|holder| is_other(holder) && !self.is_draining(holder));
        others.fold(half, |half, holder| stop_running(half, holder, "another sandbox needs its port"))
    }

    /// Removes the sandboxes that are empty after the steps of `half`.
    pub(super) fn remove_empty_holders(&self, half: PartialPlan) -> PartialPlan {
        self.remove_holders(half, |_| false)
    }

    /// Removes the remaining sandboxes before the first container is created, except for the one it joins.
    pub(super) fn remove_unfit_holders(
        &self,
        half: PartialPlan,
        spec: &ContainerSpec,
        memory: &Memory,
    ) -> PartialPlan {
        let fit = self.fitting(&HolderSpec::of(&spec.options)).filter(|_| self.has_holders(memory));
        self.remove_holders(half, |holder| fit.is_some_and(|fit| fit.id == holder.id))
    }

    /// Removes the sandboxes that are not needed, and that have no container that stays or drains.
    fn remove_holders(
        &self,
        half: PartialPlan,
        is_needed: impl Fn(&ObservedContainer) -> bool,
    ) -> PartialPlan {
        let is_inside = |half: &PartialPlan, holder: &ObservedContainer| {
            let mut containers = self.containers.iter();
            containers.any(|seen| is_joined_to(seen, &holder.id) && !is_removed(half, seen))
        };
        let is_left = |half: &PartialPlan, holder: &ObservedContainer| {
            !is_needed(holder) && !self.is_draining(holder) && !is_inside(half, holder)
        };
        self.holders.iter().fold(half, |half, holder| {
            if is_left(&half, holder) { remove(half, holder, "no container uses its network") } else { half }
        })
    }

    /// Whether a replaced container still answers its last requests in the namespace of this sandbox.
    fn is_draining(&self, holder: &ObservedContainer) -> bool {
        self.draining.iter().any(|container| is_joined_to(container, &holder.id))
    }

    /// Brings a running container back into the current namespace of its sandbox; `None` if it is already
    /// there.
    pub(super) fn rejoin(&self, container: &ObservedContainer) -> Option<PartialPlan> {
        let joined = container.joined.as_ref()?;
        let mut half = PartialPlan::default();
        let restart = Step::Restart { id: container.id.clone() };
        match joined.state {
            SandboxState::Holds | SandboxState::Gone => return None,
            SandboxState::Paused => {
                half.differences.push("its sandbox is paused".to_owned());
                half = half.then(Step::Unpause { id: joined.holder.clone() }, "it was paused");
            }
            SandboxState::Down => {
                half.differences.push("its sandbox is not running".to_owned());
                half = merge(half, self.connect(container));
                half = wake_holder(half, container).then(
                    restart,
                    "it lost its network when its sandbox \
                    stopped",
                );
            }
            SandboxState::Anew => {
                half.differences.push("it is not in the network of its sandbox".to_owned());
                half = half.then(restart, "it lost its network when its sandbox stopped");
            }
        }
        Some(self.with_verdict(half, format!("reconnecting {} to its network", self.choice.words())))
    }
}

fn is_joined_to(container: &ObservedContainer, holder: &str) -> bool {
    container.joined.as_ref().is_some_and(|joined| joined.holder == holder)
}

/// The ID of the container that connects `container` to the network; `None` if it was removed.
pub(super) fn connectable(container: &ObservedContainer) -> Option<&str> {
    match &container.joined {
        None => Some(&container.id),
        Some(joined) if joined.state == SandboxState::Gone => None,
        Some(joined) => Some(&joined.holder),
    }
}

/// Starts the sandbox of a container before the container itself is started.
pub(super) fn wake_holder(half: PartialPlan, container: &ObservedContainer) -> PartialPlan {
    let Some(joined) = &container.joined else { return half };
    let id = joined.holder.clone();
    match joined.state {
        SandboxState::Down => {
            let start = Step::StartHolder { holder: Target::Seen(id), replacement: None };
            half.then(start, "it holds the network address of the container")
        }
        SandboxState::Paused => half.then(Step::Unpause { id }, "it was paused"),
        SandboxState::Holds | SandboxState::Anew | SandboxState::Gone => half,
    }
}
