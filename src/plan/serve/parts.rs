//! Steps that several plans share.

use super::holder::wake_holder;
use crate::model::observed::{ContainerState, ObservedContainer};
use crate::plan::{ContainerTarget, PartialPlan, Step};

pub(super) fn stop(partial: PartialPlan, container: &ObservedContainer, why: &str) -> PartialPlan {
    partial.then(Step::Stop { id: container.id.clone() }, why)
}

pub(super) fn stop_running(partial: PartialPlan, container: &ObservedContainer, why: &str) -> PartialPlan {
    match container.state {
        ContainerState::Running | ContainerState::Paused => stop(partial, container, why),
        ContainerState::Created
        | ContainerState::Exited(_)
        | ContainerState::InTransit
        | ContainerState::Dead => partial,
    }
}

pub(super) fn stop_all_running(
    partial: PartialPlan,
    containers: &[&ObservedContainer],
    why: &str,
) -> PartialPlan {
    containers.iter().fold(partial, |partial, container| stop_running(partial, container, why))
}

/// Stops a running container first, so that its program can end gracefully.
pub(super) fn remove(partial: PartialPlan, container: &ObservedContainer, why: &str) -> PartialPlan {
    remove_stopped(stop_running(partial, container, why), container, why)
}

pub(super) fn remove_all(partial: PartialPlan, containers: &[&ObservedContainer], why: &str) -> PartialPlan {
    containers.iter().fold(partial, |partial, container| remove(partial, container, why))
}

pub(super) fn remove_stopped(partial: PartialPlan, container: &ObservedContainer, why: &str) -> PartialPlan {
    partial.then(Step::Remove { id: container.id.clone() }, why)
}

/// Starts its sandbox first.
pub(super) fn start_seen(partial: PartialPlan, container: &ObservedContainer, why: &str) -> PartialPlan {
    let partial = wake_holder(partial, container);
    let start = Step::Start { container: ContainerTarget::Seen(container.id.clone()), replacement: None };
    partial.then(start, why)
}

/// Starts a replacement: if that fails, the `refused` options are refused.
pub(super) fn start_replacement(
    partial: PartialPlan,
    container: ContainerTarget,
    refused: Option<String>,
) -> PartialPlan {
    partial.then(Step::Start { container, replacement: refused }, "it replaces the old container")
}
