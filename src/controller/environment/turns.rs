//! Turns of updates: how many environments of this host are updated at once, and which is next.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::reconciler::{PassError, Planned, Reconciler};
use crate::controller::docker::Urgency;
use crate::controller::wake::WakeQueue;
use crate::model::name::EnvironmentName;
use crate::plan;

/// The environments that are updated at once for each processor, with the total minimum and maximum, if the
/// manifest sets no value.
const FOR_EACH_PROCESSOR: usize = 2;
const BOUNDS: (usize, usize) = (4, 32);

/// How many environments are updated at once, if the manifest sets no value.
fn default_parallel() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    (processors * FOR_EACH_PROCESSOR).clamp(BOUNDS.0, BOUNDS.1)
}

/// The turns of one host. Cheap to clone.
#[derive(Clone)]
pub(in crate::controller) struct Turns {
    wake: WakeQueue,
    queue: Arc<Mutex<TurnQueue>>,
}

#[derive(Default)]
struct TurnQueue {
    updating: BTreeSet<EnvironmentName>,
    waiting: VecDeque<EnvironmentName>,
}

impl Turns {
    pub(in crate::controller) fn new(wake: WakeQueue) -> Self {
        Self { wake, queue: Arc::default() }
    }

    /// Takes one of `most` turns. `false`: it waits for one, and gets a wakeup then. Taking a turn again is
    /// allowed.
    pub(in crate::controller) fn take(&self, environment: &EnvironmentName, most: usize) -> bool {
        let mut queue = self.queue();
        if queue.updating.contains(environment) {
            return true;
        }
        let place = queue.waiting.iter().position(|waiting| waiting == environment);
        let place = place.unwrap_or(queue.waiting.len());
        let is_next = queue.updating.len() + place < most;
        if is_next {
            queue.waiting.retain(|waiting| waiting != environment);
            queue.updating.insert(environment.clone());
        } else if place == queue.waiting.len() {
            queue.waiting.push_back(environment.clone());
        }
        is_next
    }

    /// Returns a turn, or cancels the wait for one. The longest waiting environment gets a wakeup.
    pub(in crate::controller) fn leave(&self, environment: &EnvironmentName) {
        let mut queue = self.queue();
        let waited = queue.waiting.len();
        queue.waiting.retain(|waiting| waiting != environment);
        if queue.updating.remove(environment) || queue.waiting.len() < waited {
            queue.waiting.iter().take(BOUNDS.1).for_each(|next| self.wake.wake(next));
        }
    }

    fn queue(&self) -> MutexGuard<'_, TurnQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reconciler {
    /// The part of the plan that the environment's turn allows, and its urgency.
    pub(in crate::controller) fn in_turn(&self, planned: Planned) -> Result<(Planned, Urgency), PassError> {
        let environment = &planned.intent.environment;
        if !plan::takes_turn(&planned.plan, &planned.observed) {
            if plan::releases_turn(&planned.plan) {
                self.turns.leave(environment);
            }
            return Ok((planned, Urgency::Heal));
        }
        let most = self.manifest.borrow().parallel_updates.unwrap_or_else(default_parallel);
        if self.turns.take(environment, most) {
            return Ok((planned, Urgency::Rollout));
        }
        // No step runs, so none is remembered as done.
        let memory = self.status.memory(environment)?;
        let plan = planned.plan.until_its_turn(memory, most);
        Ok((Planned { plan, ..planned }, Urgency::Rollout))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_granted_in_order_and_kept_until_released() {
        let names: Vec<EnvironmentName> =
            (0..6).map(|number| EnvironmentName::new(format!("e{number}")).unwrap()).collect();
        let turns = Turns::new(WakeQueue::default());
        let take = |number: usize| turns.take(&names[number], 2);
        let taken: Vec<_> = (0..6).map(take).collect();
        assert_eq!(taken, [true, true, false, false, false, false]);
        assert!(take(0), "it has its turn");
        turns.leave(&names[0]);
        assert_eq!([take(5), take(3), take(2)], [false, false, true]);
        turns.leave(&names[3]);
        turns.leave(&names[1]);
        turns.leave(&names[2]);
        assert_eq!([take(5), take(4), take(3)], [true, true, false]);
    }

    #[tokio::test]
    async fn a_waiting_environment_is_notified_when_a_turn_is_released() {
        let names = ["a", "b"].map(|name| EnvironmentName::new(name).unwrap());
        let wake = WakeQueue::default();
        let turns = Turns::new(wake.clone());
        assert!(turns.take(&names[0], 1) && !turns.take(&names[1], 1));
        turns.leave(&names[0]);
        wake.notifier(&names[1]).notified().await;
        assert!(turns.take(&names[1], 1));
    }
}
