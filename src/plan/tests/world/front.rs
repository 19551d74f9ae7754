//! The proxy of the world, which switches with a delay, and the law that no container is stopped that may
//! still get its requests.

use super::*;
use crate::model::canary::{CountedRequests, RequestCount};
use crate::model::front::{FrontSeen, ProxyTargets};

/// How long the last requests to a replaced container take.
const LAST_REQUESTS: Duration = Duration::from_secs(5);
/// How long a started daemon does not know the state of the proxy.
const UNKNOWN: Duration = Duration::from_millis(300);
/// The requests that a canary gets in a second.
const REQUESTS: u64 = 10;

/// The state of the proxy, and the daemon's knowledge of it.
#[derive(Clone, Debug)]
pub(in crate::plan::tests) struct Front {
    /// The container that it passes traffic to.
    pub(in crate::plan::tests) serves: Option<String>,
    /// The last target that the daemon sent; `None`: none since the daemon started.
    sent: Option<Target>,
    /// The next target, and the time of the switch.
    switch: Option<(Target, Timestamp)>,
    /// The container that it passes a part of the traffic to.
    pub(in crate::plan::tests) canary: Option<String>,
    /// Since when this daemon counts its requests.
    counted_since: Timestamp,
    /// Whether all of them fail.
    pub(in crate::plan::tests) fails: bool,
    /// How long a switch takes.
    pub(in crate::plan::tests) takes: Duration,
    /// The containers that still have requests from before a switch.
    from: BTreeSet<String>,
    /// When those requests have ended.
    pub(in crate::plan::tests) drained: Timestamp,
    /// Whether the daemon knows those containers.
    is_drain_known: bool,
    /// When the daemon knows the state of the proxy.
    known_at: Timestamp,
}

/// The containers that get all of the traffic, or most of it and a part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Target {
    serves: Option<String>,
    canary: Option<String>,
}

impl Target {
    fn of(plan: &Plan) -> Self {
        let serves = plan.serving.clone();
        let canary = plan.canary.as_ref().map(|share| share.container.clone());
        Self { canary: canary.filter(|_| serves.is_some()), serves }
    }

    fn containers(&self) -> impl Iterator<Item = &String> {
        self.serves.iter().chain(&self.canary)
    }
}

impl Front {
    pub(super) fn new(now: Timestamp) -> Self {
        Self {
            serves: None,
            sent: None,
            switch: None,
            canary: None,
            counted_since: now,
            fails: false,
            takes: Duration::ZERO,
            from: BTreeSet::new(),
            drained: now,
            is_drain_known: true,
            known_at: now,
        }
    }

    /// The containers that new or remaining requests really reach.
    fn reaches(&self, now: Timestamp) -> BTreeSet<String> {
        let under_way = self.from.iter().filter(|_| now < self.drained);
        let next = self.switch.iter().flat_map(|(next, _)| next.containers());
        under_way.chain(&self.serves).chain(&self.canary).chain(next).cloned().collect()
    }

    /// The times of the next events in the proxy.
    pub(super) fn next_times(&self) -> [Option<Timestamp>; 3] {
        [Some(self.drained), Some(self.known_at), self.switch.as_ref().map(|(_, at)| *at)]
    }

    /// Switches to the sent target, once it is time. Returns whether that changed the target.
    fn turn(&mut self, now: Timestamp) -> bool {
        let mut has_changed = false;
        if let Some((next, at)) = self.switch.take_if(|(_, at)| *at <= now) {
            if now >= self.drained {
                self.from.clear();
                self.is_drain_known = true;
            }
            if self.canary != next.canary {
                self.counted_since = at;
            }
            self.from.extend(std::mem::replace(&mut self.serves, next.serves));
            self.from.extend(std::mem::replace(&mut self.canary, next.canary));
            self.drained = at.after(LAST_REQUESTS);
            has_changed = true;
        }
        let now_served = Target { serves: self.serves.clone(), canary: self.canary.clone() };
        let sent = self.sent.clone().filter(|sent| *sent != now_served && self.switch.is_none());
        if let Some(sent) = sent {
            self.switch = Some((sent, now.after(self.takes)));
            return self.takes.is_zero() && self.turn(now) || has_changed;
        }
        has_changed
    }

    fn seen(&self, now: Timestamp) -> Option<FrontSeen> {
        if now < self.known_at {
            return None;
        }
        let is_draining = now < self.drained;
        let reach = if is_draining && !self.is_drain_known {
            ProxyTargets::Any
        } else {
            let sent = self.sent.iter().flat_map(Target::containers).cloned();
            ProxyTargets::Only(self.reaches(now)).and(sent)
        };
        let serves = self.serves.clone();
        let requests = now.since(self.counted_since).as_secs() * REQUESTS;
        let count = RequestCount { requests, failed: if self.fails { requests } else { 0 } };
        let since = self.counted_since;
        let canary = self.canary.clone().map(|container| CountedRequests { container, since, count });
        Some(FrontSeen { serves, canary, since: now, is_draining, reach, ..FrontSeen::default() })
    }
}

impl World {
    /// Sends the target of a plan to the proxy.
    pub(super) fn update_front(&mut self, plan: &Plan) {
        let now = self.now;
        if let Some(front) = self.front.as_mut().filter(|front| now >= front.known_at) {
            let target = Target::of(plan);
            let has_changed = front.sent.as_ref() != Some(&target);
            front.sent = Some(target);
            self.is_woken |= has_changed;
        }
    }

    /// Does the due work of the proxy, and sends a wakeup.
    pub(super) fn turn_front(&mut self) {
        let (now, always) = (self.now, self.always_served);
        self.is_woken |= self.front.as_mut().is_some_and(|front| front.turn(now));
        assert!(!always || self.is_served(), "the front serves nothing that answers: {self:?}");
    }

    /// The daemon that sent the target is killed. Its switch happens, or does not.
    pub(super) fn restart_front_worker(&mut self, is_switched: bool) {
        let now = self.now;
        let Some(front) = &mut self.front else { return };
        front.sent = None;
        if let Some((next, _)) = front.switch.take().filter(|_| is_switched) {
            front.switch = Some((next, now));
            front.turn(now);
        }
        front.counted_since = now;
        front.is_drain_known = now >= front.drained;
        front.known_at = now.after(UNKNOWN);
    }

    pub(super) fn front_seen(&self) -> Option<FrontSeen> {
        self.front.as_ref()?.seen(self.now)
    }

    fn is_served(&self) -> bool {
        let Some(Front { serves: Some(serves), .. }) = &self.front else { return false };
        self.serving().iter().any(|container| container.id == *serves)
    }

    /// The law of stopped containers: an answering container is stopped only once it can have no request. If
    /// two cannot run at once, it may also be stopped when its successor exists and can be started.
    pub(super) fn may_leave(&self, id: &str) {
        let serving = self.serving();
        let answers = |container: &&&ObservedContainer| {
            container.id == id && !self.hung.contains_key(id) && self.is_connected(container)
        };
        let Some(container) = serving.iter().find(answers) else { return };
        if self.is_restoring() {
            // Somebody asked for the restore, and nothing may write to the volume meanwhile.
            return;
        }
        if crate::plan::is_start_first(&self.intent, &self.observed)
            && let Some(front) = &self.front
        {
            let reached = front.reaches(self.now).contains(id);
            assert!(!reached, "the front may send requests to what is stopped: {id} in {self:?}");
        } else if serving.len() == 1 {
            let could_follow = |other: &ObservedContainer| {
                let is_down = matches!(other.state, ContainerState::Created | ContainerState::Exited(_));
                other.id != container.id && is_down
            };
            let follows = self.observed.containers.iter().any(could_follow);
            assert!(follows, "what serves is stopped and nothing is there to follow: {self:?}");
        }
    }

    fn is_connected(&self, container: &ObservedContainer) -> bool {
        let seen = container.clone().with_holder(&self.observed.holders);
        !seen.networks.is_empty()
    }
}
