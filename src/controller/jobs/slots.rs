//! Slots for long operations, fair between their origins.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Slots for jobs of many origins. One origin never has all of them, so that a hanging repository or
/// registry does not delay the others. Cheap to clone.
#[derive(Clone)]
pub(in crate::controller) struct Slots(Arc<Mutex<SlotState>>);

struct SlotState {
    /// The maximum for one origin.
    each: usize,
    /// The maximum for all origins together.
    all: usize,
    /// The slots in use, by origin.
    held: HashMap<String, usize>,
    waiting: VecDeque<SlotWaiter>,
}

struct SlotWaiter {
    origin: String,
    turn: oneshot::Sender<Slot>,
}

/// A slot, which is released when dropped.
pub(in crate::controller) struct Slot {
    slots: Slots,
    origin: String,
}

impl Slots {
    /// `each` slots for every origin, of `all` together.
    pub(in crate::controller) fn new(each: usize, all: usize) -> Self {
        Self(Arc::new(Mutex::new(SlotState { each, all, held: HashMap::new(), waiting: VecDeque::new() })))
    }

    /// Waits for a slot. The origin with the fewest slots is served first; within an origin, the earliest
    /// request.
    pub(in crate::controller) async fn acquire(&self, origin: &str) -> Slot {
        let (turn, granted) = oneshot::channel();
        self.state().waiting.push_back(SlotWaiter { origin: origin.to_owned(), turn });
        self.grant();
        match granted.await {
            Ok(slot) => slot,
            // The other end is never dropped without a grant; waiting forever would be worse.
            Err(_) => {
                self.state().take(origin);
                Slot { slots: self.clone(), origin: origin.to_owned() }
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, SlotState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Grants free slots to waiting requests.
    fn grant(&self) {
        loop {
            let Some(SlotWaiter { origin, turn }) = self.state().next() else { return };
            // A cancelled request drops the slot, outside of the lock, and that grants it again.
            drop(turn.send(Slot { slots: self.clone(), origin }));
        }
    }
}

impl SlotState {
    fn take(&mut self, origin: &str) {
        *self.held.entry(origin.to_owned()).or_default() += 1;
    }

    /// Takes the next waiting request and counts its slot, if one is free.
    fn next(&mut self) -> Option<SlotWaiter> {
        self.waiting.retain(|waiting| !waiting.turn.is_closed());
        if self.held.values().sum::<usize>() >= self.all {
            return None;
        }
        let held = |waiting: &SlotWaiter| self.held.get(&waiting.origin).copied().unwrap_or(0);
        let may = self.waiting.iter().enumerate().filter(|(_, waiting)| held(waiting) < self.each);
        let (at, _) = may.min_by_key(|(at, waiting)| (held(waiting), *at))?;
        let next = self.waiting.remove(at)?;
        self.take(&next.origin);
        Some(next)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        {
            let mut state = self.slots.state();
            if let Some(held) = state.held.get_mut(&self.origin) {
                *held -= 1;
            }
            state.held.retain(|_, held| *held > 0);
        }
        self.slots.grant();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn now(slots: &Slots, origin: &str) -> Option<Slot> {
        slots.acquire(origin).now_or_never()
    }

    #[tokio::test]
    async fn one_origin_never_has_all_slots() {
        let slots = Slots::new(2, 3);
        let of_a = [now(&slots, "a").unwrap(), now(&slots, "a").unwrap()];
        assert!(now(&slots, "a").is_none());
        let of_b = now(&slots, "b").unwrap();
        assert!(now(&slots, "c").is_none(), "there are three in all");
        drop(of_a);
        assert!(now(&slots, "c").is_some());
        drop(of_b);
        assert!(slots.state().waiting.is_empty() && slots.state().held.is_empty());
    }

    #[tokio::test]
    async fn who_holds_fewest_is_served_first_and_then_who_came_first() {
        let slots = Slots::new(2, 2);
        let (first, second) = (now(&slots, "a").unwrap(), now(&slots, "a").unwrap());
        let mut waiting: Vec<_> =
            ["a", "b", "c"].map(|origin| Box::pin(slots.acquire(origin))).into_iter().collect();
        for wait in &mut waiting {
            assert!(wait.as_mut().now_or_never().is_none());
        }
        drop(first);
        let of_b = waiting[1].as_mut().now_or_never().expect("b holds none and came before c");
        assert!(waiting[0].as_mut().now_or_never().is_none());
        drop(of_b);
        assert!(waiting[0].as_mut().now_or_never().is_none());
        assert!(waiting[2].as_mut().now_or_never().is_some());
        // The slot of c was dropped at once, and b's turn is over.
        assert!(waiting[0].as_mut().now_or_never().is_some());
        drop(second);
    }

    #[tokio::test]
    async fn one_that_waits_no_more_takes_no_turn() {
        let slots = Slots::new(1, 1);
        let held = now(&slots, "a").unwrap();
        let mut gone = Box::pin(slots.acquire("b"));
        assert!(gone.as_mut().now_or_never().is_none());
        let mut next = Box::pin(slots.acquire("c"));
        assert!(next.as_mut().now_or_never().is_none());
        drop(gone);
        drop(held);
        assert!(next.as_mut().now_or_never().is_some());
    }
}
