//! Limits the number of concurrent calls to the engine, and orders the waiting ones by urgency.
//!
//! An engine that gets a hundred starts at once answers none of them in time, nor anything else. So calls
//! wait here for their turn, and calls that heal go before calls that roll something out.

use std::collections::VecDeque;
use std::future::Future;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bollard::Docker;
use tokio::sync::oneshot;

/// Concurrent calls for each processor, and the least and the most in all.
const FOR_EACH_PROCESSOR: usize = 4;
const BOUNDS: (usize, usize) = (8, 64);
/// This many turns are reserved for healing, so that rollouts never take all of them.
const FOR_HEALING: usize = 2;
/// The most turns that upkeep may take.
const FOR_UPKEEP: usize = 2;

/// The purpose of a call, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// Restore a container that ran before, or inspect.
    Heal,
    /// Roll out something new.
    Rollout,
    /// Clean up.
    Upkeep,
}

tokio::task_local! {
    static URGENCY: Urgency;
}

impl Urgency {
    /// Runs `future`, whose calls then have this urgency.
    pub(crate) fn scope<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        URGENCY.scope(self, future)
    }

    fn present() -> Self {
        URGENCY.try_with(|urgency| *urgency).unwrap_or(Self::Heal)
    }
}

/// The concurrent calls of one engine. Cheap to clone.
#[derive(Clone)]
pub(super) struct CallBudget(Arc<Mutex<CallQueue>>);

struct CallQueue {
    calls: usize,
    /// By urgency.
    running: [usize; 3],
    waiting: [VecDeque<oneshot::Sender<CallPermit>>; 3],
}

/// Permission to make one call, until it is dropped.
pub(super) struct CallPermit {
    budget: CallBudget,
    urgency: Urgency,
}

/// A connection, with the turn to use it.
pub(super) struct BudgetedConnection {
    pub(super) docker: Docker,
    pub(super) _turn: CallPermit,
}

impl Deref for BudgetedConnection {
    type Target = Docker;
    fn deref(&self) -> &Docker {
        &self.docker
    }
}

impl Default for CallBudget {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self::new((processors * FOR_EACH_PROCESSOR).clamp(BOUNDS.0, BOUNDS.1))
    }
}

impl CallBudget {
    pub(super) fn new(calls: usize) -> Self {
        Self(Arc::new(Mutex::new(CallQueue { calls, running: [0; 3], waiting: Default::default() })))
    }

    /// Waits for a turn. Among the most urgent calls, the one that has waited longest is next.
    pub(super) async fn turn(&self) -> CallPermit {
        let urgency = Urgency::present();
        let waiting = {
            let mut queue = self.queue();
            if queue.may_start(urgency) && queue.waiting[urgency as usize].is_empty() {
                queue.running[urgency as usize] += 1;
                return self.given(urgency);
            }
            let (give, waiting) = oneshot::channel();
            queue.waiting[urgency as usize].push_back(give);
            waiting
        };
        match waiting.await {
            Ok(turn) => turn,
            // A sender is never dropped unsent. If it were, one more call would do no harm.
            Err(_) => {
                self.queue().running[urgency as usize] += 1;
                self.given(urgency)
            }
        }
    }

    fn given(&self, urgency: Urgency) -> CallPermit {
        CallPermit { budget: self.clone(), urgency }
    }

    fn give_back(&self, urgency: Urgency) {
        let mut queue = self.queue();
        queue.running[urgency as usize] -= 1;
        let next = queue.next();
        drop(queue);
        for (urgency, give) in next {
            // The waiting call may have been cancelled. The turn is then dropped, which passes it to the next
            // call.
            drop(give.send(self.given(urgency)));
        }
    }

    fn queue(&self) -> MutexGuard<'_, CallQueue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CallQueue {
    fn may_start(&self, urgency: Urgency) -> bool {
        let [healing, rollout, upkeep] = self.running;
        let others = rollout + upkeep;
        let is_free = healing + others < self.calls;
        let is_free_for_others = others + FOR_HEALING < self.calls;
        match urgency {
            Urgency::Heal => is_free,
            Urgency::Rollout => is_free && is_free_for_others,
            Urgency::Upkeep => is_free && is_free_for_others && upkeep < FOR_UPKEEP,
        }
    }

    /// Removes the calls that may start now from the queue, and returns them.
    fn next(&mut self) -> Vec<(Urgency, oneshot::Sender<CallPermit>)> {
        let mut next = Vec::new();
        for urgency in [Urgency::Heal, Urgency::Rollout, Urgency::Upkeep] {
            while self.may_start(urgency)
                && let Some(give) = self.waiting[urgency as usize].pop_front()
            {
                self.running[urgency as usize] += 1;
                next.push((urgency, give));
            }
        }
        next
    }
}

impl Drop for CallPermit {
    fn drop(&mut self) {
        self.budget.give_back(self.urgency);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn turns(budget: &CallBudget, urgency: Urgency, count: usize) -> Vec<CallPermit> {
        let mut turns = Vec::new();
        for _ in 0..count {
            turns.push(urgency.scope(budget.turn()).await);
        }
        turns
    }

    async fn must_wait(budget: &CallBudget, urgency: Urgency) -> bool {
        tokio::time::timeout(Duration::from_millis(20), urgency.scope(budget.turn())).await.is_err()
    }

    #[tokio::test]
    async fn rollouts_and_upkeep_leave_call_slots_for_heals() {
        let budget = CallBudget::new(8);
        let upkeep = turns(&budget, Urgency::Upkeep, 2).await;
        assert!(must_wait(&budget, Urgency::Upkeep).await);
        let rollouts = turns(&budget, Urgency::Rollout, 4).await;
        assert!(must_wait(&budget, Urgency::Rollout).await);
        let heals = turns(&budget, Urgency::Heal, 2).await;
        assert!(must_wait(&budget, Urgency::Heal).await);
        drop((upkeep, rollouts, heals));
        assert_eq!(budget.queue().running, [0; 3], "those who gave up waiting keep a turn");
        drop(turns(&budget, Urgency::Heal, 8).await);
    }

    #[tokio::test]
    async fn heals_overtake_earlier_rollouts_and_upkeep() {
        let budget = CallBudget::new(8);
        let mut heals = turns(&budget, Urgency::Heal, 8).await;
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        for urgency in [Urgency::Upkeep, Urgency::Rollout, Urgency::Heal, Urgency::Rollout, Urgency::Heal] {
            let (budget, sender) = (budget.clone(), sender.clone());
            tokio::spawn(urgency.scope(async move {
                let turn = budget.turn().await;
                let _ = sender.send(urgency);
                // The turn is kept, so that each turn that is given back reaches one more call.
                std::mem::forget(turn);
            }));
            tokio::task::yield_now().await;
        }
        let mut order = Vec::new();
        for _ in 0..2 {
            drop(heals.pop());
            order.push(receiver.recv().await.unwrap());
        }
        assert_eq!(order, [Urgency::Heal; 2]);
        drop(heals.drain(..4).collect::<Vec<_>>());
        assert_eq!(receiver.recv().await.unwrap(), Urgency::Rollout);
        assert_eq!(receiver.recv().await.unwrap(), Urgency::Rollout);
        assert_eq!(receiver.recv().await.unwrap(), Urgency::Upkeep);
    }
}
