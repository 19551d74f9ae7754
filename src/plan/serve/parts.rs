//! Steps that several plans share.

use super::holder::wake_holder;
use crate::model::observed::{ContainerState, ObservedContainer};
use crate::plan::{PartialPlan, Step, Target};

pub(super) fn stop(half: PartialPlan, container: &ObservedContainer, why: &str) -> PartialPlan {
    half.then(Step::Stop { id: container.id.clone() }, why)
}

pub(super) fn stop_running(half: PartialPlan, container: &ObservedContainer, why: &str) -> PartialPlan {
    match container.state {
        ContainerState::Running | ContainerState::Paused => stop(half, container, why),
        _ => half,
    }
}

pub(super) fn stop_all_running(
    half: PartialPlan,
    containers: &[&ObservedContainer],
    why: &str,
) -> PartialPlan {
    containers.iter().fold(half, |half, container| stop_running(half, container, why))
}

/// Stops a running container first, so that its program can end gracefully.
pub(super) fn remove(half: PartialPlan, container: &ObservedContainer, why: &str) -> PartialPlan {
    remove_stopped(stop_running(half, container, why), container, why)
}

pub(super) fn remove_all(half: PartialPlan, containers: &[&ObservedContainer], why: &str) -> PartialPlan {
    containers.iter().fold(half, |half, container| remove(half, container, why))
}

pub(super) fn remove_stopped(half: PartialPlan, container: &ObservedContainer, why: &str) -> PartialPlan {
    half.then(Step::Remove { id: container.id.clone() }, why)
}

/// Starts its sandbox first.
pub(super) fn start_seen(half: PartialPlan, container: &ObservedContainer, why: &str) -> PartialPlan {
    let half = wake_holder(half, container);
    let start = Step::Start { container: Target::Seen(container.id.clone()), replacement: None };
    half.then(start, why)
}

/// Starts a replacement: if that fails, the `refused` options are refused.
pub(super) fn start_replacement(
    half: PartialPlan,
    container: Target,
    refused: Option<String>,
) -> PartialPlan {
    half.then(Step::Start { container, replacement: refused }, "it replaces the old container")
}

/// Joins both. The status is that of the first part that has one.
pub(super) fn merge(mut first: PartialPlan, second: PartialPlan) -> PartialPlan {
    first.differences.extend(second.differences);
    first.steps.extend(second.steps);
    first.verdict = first.verdict.or(second.verdict);
    first.outcome = first.outcome.or(second.outcome);
    first.serving = first.serving.or(second.serving);
    first.look_again = [first.look_again, second.look_again].into_iter().flatten().min();
    first
}
