//! The serving container: which one it is, and which other containers may have requests. Both follow from
//! the observed state, never from the intended one.

use super::Intent;
use super::target;
use crate::model::canary::CanaryState;
use crate::model::desired::Outcome;
use crate::model::memory::{Good, Memory};
use crate::model::name::Generation;
use crate::model::observed::{ContainerState, Observed, ObservedContainer};
use crate::model::time::Timestamp;

/// Whether a container of this environment may have requests.
///
/// Behind a proxy, this is every container that the proxy passes requests to, or may still pass them to.
/// Without a proxy, it is every running container.
pub(super) fn may_serve(container: &ObservedContainer, intent: &Intent, observed: &Observed) -> bool {
    container.state.has_process() && container.has_namespace() && may_be_reached(container, intent, observed)
}

fn may_be_reached(container: &ObservedContainer, intent: &Intent, observed: &Observed) -> bool {
    let front = || observed.front.as_ref();
    intent.drain.is_none() || front().is_none_or(|front| front.reach.may_include(&container.id))
}

/// The serving container: the one that the proxy passes traffic to. Without a proxy, or if its state is
/// unknown, it is the container that became ready; otherwise any running one.
pub fn serving<'o>(
    intent: &Intent,
    observed: &'o Observed,
    memory: &Memory,
) -> Option<&'o ObservedContainer> {
    let front = observed.front.as_ref().filter(|_| intent.drain.is_some());
    let served = front.and_then(|front| front.serves.as_ref());
    let running = observed.containers.iter().filter(|seen| seen.state == ContainerState::Running);
    running.min_by_key(|seen| {
        let is_served = served == Some(&seen.id);
        (!is_served, !target::is_proven(seen, memory), seen.created_at, &seen.id)
    })
}

/// The reconcile state once the proxy passes traffic to the container that became ready last: that container
/// is now the good one, and the previous good one drains. Also returns the outcome of a generation that has
/// been superseded meanwhile.
pub(super) fn recognise(
    mut memory: Memory,
    intent: &Intent,
    observed: &Observed,
    now: Timestamp,
) -> (Memory, Option<(Generation, Outcome)>) {
    let is_up = |next: &Good| {
        let mut containers = observed.containers.iter();
        containers.any(|seen| seen.id == next.container && seen.state == ContainerState::Running)
    };
    let serves = |next: &Good| {
        let front = observed.front.as_ref();
        front.is_some_and(|front| front.serves.as_ref() == Some(&next.container))
    };
    memory.next.take_if(|next| !is_up(next));
    let (Some(drain), Some(next)) = (intent.drain, memory.next.take_if(|next| serves(next))) else {
        return (memory, None);
    };
    let before = memory.good.as_ref().map(|good| good.container.clone());
    memory.draining.extend(before.filter(|id| *id != next.container).map(|id| (id, now.after(drain))));
    memory.draining.remove(&next.container);
    let generation = next.generation;
    succeed(&mut memory, next);
    if generation == intent.entry.generation {
        (memory.refused, memory.interrupted) = (None, None);
        return (memory, None);
    }
    (memory, Some((generation, Outcome::Ready)))
}

/// Makes `ready` the good state. The previous one is remembered, in case `ready` does not last.
pub(super) fn succeed(memory: &mut Memory, ready: Good) {
    let same = memory.good.as_ref().filter(|good| good.image.is_same(&ready.image));
    let first_ready = same.map(|good| good.first_ready);
    if first_ready.is_none() {
        memory.before = memory.good.take();
    }
    memory.good = Some(Good { first_ready: first_ready.unwrap_or(ready.first_ready), ..ready });
    memory.next = None;
}

/// Whether `after` contains a readiness, a stop or a run of a command or job that `before` does not. Such a state is
/// stored before abide acts on it.
pub fn must_be_stored(before: &Memory, after: &Memory) -> bool {
    fn containers(memory: &Memory) -> [Option<&String>; 2] {
        [&memory.good, &memory.next].map(|good| good.as_ref().map(|good| &good.container))
    }
    /// Its time and its counts change all the time, and losing a moment of them does no harm.
    fn canary(memory: &Memory) -> Option<(&String, &CanaryState)> {
        memory.canary.as_ref().map(|canary| (&canary.container, &canary.state))
    }
    containers(before) != containers(after)
        || before.draining != after.draining
        || before.stopped != after.stopped
        || before.hooks != after.hooks
        || before.jobs != after.jobs
        || before.workload != after.workload
        || canary(before) != canary(after)
}
