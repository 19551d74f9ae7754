//! Slots for long operations, fair between their origins.

use std::collections::{HashMap, HashSet, VecDeque};
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
    /// The number of slots that were granted.
    granted: u64,
    /// The number of the last grant of each origin that has or waits for a slot.
    last: HashMap<String, u64>,
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
        let (held, last, waiting) = (HashMap::new(), HashMap::new(), VecDeque::new());
        Self(Arc::new(Mutex::new(SlotState { each, all, held, granted: 0, last, waiting })))
    }

    /// Waits for a slot. The origin with the fewest slots is served first; of several, the one that waited
    /// longest since its last slot, so that an origin with many requests does not delay those with few; within
    /// an origin, the earliest request.
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
        self.granted += 1;
        self.last.insert(origin.to_owned(), self.granted);
    }

    /// Forgets the grants of origins that neither have nor want a slot.
    fn forget_idle(&mut self) {
        let wanted: HashSet<&str> = self.waiting.iter().map(|waiting| waiting.origin.as_str()).collect();
        let held = &self.held;
        self.last.retain(|origin, _| held.contains_key(origin) || wanted.contains(origin.as_str()));
    }

    /// Takes the next waiting request and counts its slot, if one is free.
    fn next(&mut self) -> Option<SlotWaiter> {
        self.waiting.retain(|waiting| !waiting.turn.is_closed());
        if self.held.values().sum::<usize>() >= self.all {
            return None;
        }
        let held = |waiting: &SlotWaiter| self.held.get(&waiting.origin).copied().unwrap_or(0);
        let last = |waiting: &SlotWaiter| self.last.get(&waiting.origin).copied().unwrap_or(0);
        let may = self.waiting.iter().enumerate().filter(|(_, waiting)| held(waiting) < self.each);
        let (at, _) = may.min_by_key(|(at, waiting)| (held(waiting), last(waiting), *at))?;
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
            state.forget_idle();
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

    /// Nine hundred pushes to one repository come before a hundred to others.
    #[tokio::test]
    async fn a_busy_origin_does_not_delay_the_others() {
        let slots = Slots::new(1, 2);
        let origin = |request: usize| match request {
            0..900 => "busy".to_owned(),
            other => format!("r{other}"),
        };
        let mut waiting: Vec<_> = (0..1_000)
            .map(|request| {
                let (slots, origin) = (slots.clone(), origin(request));
                // Tokio ends a turn of one task after some polls; this test polls them all.
                let wait = tokio::task::unconstrained(async move { slots.acquire(&origin).await });
                (request, Box::pin(wait))
            })
            .collect();
        let (mut served, mut held) = (Vec::new(), Vec::new());
        while served.len() < 1_000 {
            waiting.retain_mut(|(request, wait)| match wait.as_mut().now_or_never() {
                Some(slot) => {
                    served.push(*request);
                    held.push(slot);
                    false
                }
                None => true,
            });
            assert!(!held.is_empty() && held.len() <= 2);
            held.remove(0);
        }
        let last_of_few = served.iter().rposition(|request| *request >= 900).unwrap();
        assert!(last_of_few < 2 * 101, "every other repository is served in turn, not after {last_of_few}");
        assert!(slots.state().last.is_empty() && slots.state().held.is_empty());
    }

    #[tokio::test]
    async fn slots_go_to_the_origin_with_the_fewest_then_to_the_earliest() {
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
    async fn a_cancelled_waiter_takes_no_slot() {
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
