//! Network namespaces: which sandbox a container joins, and which sandboxes need repair or removal.

use super::RolloutContext;
use super::leave::is_removed;
use super::parts::{remove, stop_running};
use crate::model::container::{ContainerSpec, label};
use crate::model::holder::{HolderPurpose, HolderSpec};
use crate::model::memory::Memory;
use crate::model::name::ContainerName;
use crate::model::observed::{ContainerState, ObservedContainer, SandboxState};
use crate::plan::{ContainerTarget, PartialPlan, Step, difference};

/// The network namespace of a container that is about to be created.
pub(super) struct Namespace {
    /// The sandbox that it joins; `None`: it gets its own namespace.
    pub(super) joins: Option<ContainerTarget>,
    /// Whether that sandbox has to be started first.
    is_down: bool,
}

impl Namespace {
    /// Whether the sandbox `id` is this one.
    fn is(&self, id: &str) -> bool {
        matches!(&self.joins, Some(ContainerTarget::Seen(seen)) if seen == id)
    }

    /// Starts the sandbox if it does not run. If it cannot be started, the `refused` options are refused.
    pub(super) fn start(&self, partial: PartialPlan, refused: Option<String>) -> PartialPlan {
        match self.joins.clone().filter(|_| self.is_down) {
            Some(holder) => partial.then(
                Step::StartHolder { holder, replacement: refused },
                "it holds the network address of the container",
            ),
            None => partial,
        }
    }
}

impl<'a> RolloutContext<'a> {
    /// Whether new containers join a sandbox.
    fn has_holders(&self, memory: &Memory) -> bool {
        self.intent.holder && memory.no_holder.is_none()
    }

    /// Whether a container cannot run in its namespace, because sandboxes do not work here.
    pub(super) fn is_stranded(&self, container: &ObservedContainer, memory: &Memory) -> bool {
        let holds =
            |state| matches!(state, SandboxState::Holds | SandboxState::Restarted | SandboxState::Paused);
        let joined = container.joined.as_ref();
        !self.has_holders(memory) && joined.is_some_and(|joined| !holds(joined.state))
    }

    /// The namespace of a container of `spec`, created if it cannot join an existing one. A container beside
    /// a serving one needs its own: both listen on the same port.
    pub(super) fn namespace(
        &self,
        spec: &ContainerSpec,
        partial: PartialPlan,
        memory: &Memory,
    ) -> (PartialPlan, Namespace) {
        if !self.has_holders(memory) {
            return (partial, Namespace { joins: None, is_down: false });
        }
        let wanted = HolderSpec::of(&spec.options);
        if let Some(holder) = self.fitting(&wanted) {
            let is_down = holder.state != ContainerState::Running;
            let partial = if self.is_connected(holder) {
                partial
            } else {
                let connect = Step::Connect { id: holder.id.clone() };
                partial.then(connect, "a spare sandbox is outside the network until a container joins it")
            };
            return (partial, Namespace { joins: Some(ContainerTarget::Seen(holder.id.clone())), is_down });
        }
        let (name, purpose) = (self.holder_name(&spec.options.name), HolderPurpose::Container);
        let create = Step::CreateHolder { name, spec: Box::new(wanted), purpose };
        let partial = self
            .holder_image_first(partial)
            .then(create, "it keeps the network address when containers are replaced");
        (partial, Namespace { joins: Some(ContainerTarget::Created), is_down: true })
    }

    pub(super) fn holder_image_first(&self, partial: PartialPlan) -> PartialPlan {
        if self.observed.holder_image {
            partial
        } else {
            partial.then(Step::LoadHolder, "sandboxes are created from it")
        }
    }

    /// The sandbox that a new container can join. Of several, a running one.
    fn fitting(&self, wanted: &HolderSpec) -> Option<&ObservedContainer> {
        self.all_fitting(wanted)
            .min_by_key(|holder| (holder.state != ContainerState::Running, holder.created_at, &holder.id))
    }

    /// The sandboxes that a new container can join. The label alone does not prove it: a user may have created one
    /// again with other options.
    pub(super) fn all_fitting(&self, wanted: &HolderSpec) -> impl Iterator<Item = &'a ObservedContainer> {
        let fingerprint = wanted.fingerprint();
        let fits = move |holder: &&ObservedContainer| {
            holder.labels.get(label::SPEC) == Some(&fingerprint)
                && difference::is_sandbox(wanted, holder)
                && !matches!(holder.state, ContainerState::Dead | ContainerState::InTransit)
                && !self.is_taken(holder)
        };
        self.holders.iter().copied().filter(fits)
    }

    /// Whether the namespace of this sandbox belongs to a container that keeps serving beside a new one.
    fn is_taken(&self, holder: &ObservedContainer) -> bool {
        let is_inside = |container: &&ObservedContainer| is_joined_to(container, &holder.id);
        self.is_draining(holder) || (self.is_start_first() && self.containers.iter().any(is_inside))
    }

    pub(super) fn holder_name(&self, container: &ContainerName) -> ContainerName {
        self.free_name(container, ".net", |name| self.holders.iter().all(|holder| holder.name != name))
    }

    /// Stops the sandboxes that may occupy the port of the one in `namespace`.
    pub(super) fn free_ports_for(&self, namespace: &Namespace, partial: PartialPlan) -> PartialPlan {
        self.stop_holders(partial, |holder| !namespace.is(&holder.id))
    }

    /// Stops the sandboxes that may occupy the port of the one of `container`.
    pub(super) fn free_ports_of(&self, container: &ObservedContainer, partial: PartialPlan) -> PartialPlan {
        self.stop_holders(partial, |holder| !is_joined_to(container, &holder.id))
    }

    fn stop_holders(
        &self,
        partial: PartialPlan,
        is_other: impl Fn(&ObservedContainer) -> bool,
    ) -> PartialPlan {
        if self.is_start_first() {
            return partial;
        }
        let others = self.holders.iter().filter(|holder| is_other(holder) && !self.is_draining(holder));
        others
            .fold(partial, |partial, holder| stop_running(partial, holder, "another sandbox needs its port"))
    }

    /// Removes the sandboxes that are empty after the steps of `half`.
    pub(super) fn remove_empty_holders(&self, partial: PartialPlan) -> PartialPlan {
        self.remove_holders(partial, |_| false)
    }

    /// Removes the remaining sandboxes before the first container is created, except for the one it joins.
    pub(super) fn remove_unfit_holders(
        &self,
        partial: PartialPlan,
        spec: &ContainerSpec,
        memory: &Memory,
    ) -> PartialPlan {
        let fit = self.fitting(&HolderSpec::of(&spec.options)).filter(|_| self.has_holders(memory));
        self.remove_holders(partial, |holder| fit.is_some_and(|fit| fit.id == holder.id))
    }

    /// Removes the sandboxes that are not needed, and that have no container that stays or drains.
    pub(super) fn remove_holders(
        &self,
        partial: PartialPlan,
        is_needed: impl Fn(&ObservedContainer) -> bool,
    ) -> PartialPlan {
        let is_inside = |partial: &PartialPlan, holder: &ObservedContainer| {
            let mut containers = self.containers.iter();
            containers.any(|seen| is_joined_to(seen, &holder.id) && !is_removed(partial, seen))
        };
        let is_left = |partial: &PartialPlan, holder: &ObservedContainer| {
            !is_needed(holder) && !self.is_draining(holder) && !is_inside(partial, holder)
        };
        self.holders.iter().fold(partial, |partial, holder| {
            if is_left(&partial, holder) {
                remove(partial, holder, "no container uses its network")
            } else {
                partial
            }
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
        let mut partial = PartialPlan::default();
        let restart = Step::Restart { id: container.id.clone() };
        match joined.state {
            SandboxState::Holds | SandboxState::Gone => return None,
            SandboxState::Paused => {
                partial.differences.push("its sandbox is paused".to_owned());
                partial = partial.then(Step::Unpause { id: joined.holder.clone() }, "it was paused");
            }
            SandboxState::Down => {
                partial.differences.push("its sandbox is not running".to_owned());
                partial = partial.and(self.connect(container));
                partial = wake_holder(partial, container).then(
                    restart,
                    "it lost its network when its sandbox \
                    stopped",
                );
            }
            SandboxState::Restarted => {
                partial.differences.push("it is not in the network of its sandbox".to_owned());
                partial = partial.then(restart, "it lost its network when its sandbox stopped");
            }
        }
        Some(self.with_verdict(partial, format!("reconnecting {} to its network", self.choice.words())))
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
pub(super) fn wake_holder(partial: PartialPlan, container: &ObservedContainer) -> PartialPlan {
    let Some(joined) = &container.joined else { return partial };
    let id = joined.holder.clone();
    match joined.state {
        SandboxState::Down => {
            let start = Step::StartHolder { holder: ContainerTarget::Seen(id), replacement: None };
            partial.then(start, "it holds the network address of the container")
        }
        SandboxState::Paused => partial.then(Step::Unpause { id }, "it was paused"),
        SandboxState::Holds | SandboxState::Restarted | SandboxState::Gone => partial,
    }
}
