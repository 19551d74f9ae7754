//! Start-first: the replacement runs beside the serving container. The proxy is switched to it once it is
//! ready, and the previous container is removed once its last requests have ended.

use super::Pass;
use super::holder::Namespace;
use super::parts::{merge, remove_all};
use crate::model::container::ContainerSpec;
use crate::model::memory::Memory;
use crate::model::observed::{ContainerState, SeenContainer};
use crate::model::status::{Condition, Reason};
use crate::plan::target;
use crate::plan::{Half, Step, TRANSIT, Verdict};

impl<'a> Pass<'a> {
    /// Whether a replacement runs beside the previous container.
    pub(super) fn is_start_first(&self) -> bool {
        crate::plan::is_start_first(self.intent, self.observed)
    }

    /// Makes the proxy prepare for a container that is to join this namespace, while the container is
    /// created, started and probed. A container with its own network has no address until then.
    pub(super) fn announce(&self, half: Half, namespace: &Namespace) -> Half {
        match namespace.joins.clone().filter(|_| self.intent.drain.is_some()) {
            Some(holder) => half.then(
                Step::Announce { holder },
                "the proxy prepares to send traffic \
                there",
            ),
            None => half,
        }
    }

    /// The replacement is ready: it gets the traffic, and then the previous container may be removed.
    pub(super) fn switch(
        &self,
        spec: &ContainerSpec,
        new: &SeenContainer,
        others: &[&'a SeenContainer],
        memory: Memory,
    ) -> (Half, Memory) {
        let Some(drain) = self.intent.drain else { return self.take_over(spec, new, others, memory) };
        let mut memory = memory;
        if !self.is_served(new) {
            memory.next = self.as_ready(spec, new, &memory);
            return (self.switching(new), memory);
        }
        let (drained, useless): (Vec<&'a SeenContainer>, Vec<_>) =
            others.iter().copied().partition(|other| other.state == ContainerState::Running);
        let half = remove_all(Half::default(), &useless, "it is a leftover");
        memory.draining.extend(drained.iter().map(|old| (old.id.clone(), self.now.after(drain))));
        let draining = [self.draining.as_slice(), &drained].concat();
        let is_new = |container: &&&SeenContainer| container.id == new.id;
        let containers = self.containers.iter().filter(is_new).copied().collect();
        let still = Pass { draining, containers, ..self.clone() };
        let (settled, memory) = still.settled(spec, new, &[], memory);
        // Requeues soon: a draining container may be finished already.
        (merge(half, settled).look_again_at(self.now.after(TRANSIT)), memory)
    }

    fn switching(&self, new: &SeenContainer) -> Half {
        let what = self.choice.words();
        let trouble = self.observed.front.as_ref().and_then(|front| front.trouble.as_ref());
        let half = match trouble {
            Some(why) => {
                let message = format!("{what} is ready, but the proxy cannot switch to it: {why}");
                Half::say(Condition::Degraded, Reason::FrontUnavailable, message)
            }
            None => {
                let message = format!("{what} is ready; switching the proxy to it");
                Half::say(Condition::Progressing, Reason::Updating, message)
            }
        };
        Half { serving: Some(new.id.clone()), ..half }
    }

    /// Whether the proxy passes traffic to this container.
    fn is_served(&self, container: &SeenContainer) -> bool {
        let front = self.observed.front.as_ref();
        front.and_then(|front| front.serves.as_ref()).is_some_and(|serves| *serves == container.id)
    }

    /// Removes replaced containers whose last requests have ended, or whose time is up.
    pub(super) fn drain_away(&self, memory: &Memory) -> Half {
        let why = "it was replaced, and its last requests are done or out of time";
        self.draining.iter().fold(Half::default(), |half, old| {
            let until = memory.draining.get(&old.id).copied().unwrap_or(self.now);
            // Without a proxy any more, the container runs for the time that was planned.
            if self.intent.drain.is_some() || self.now >= until {
                self.succeeded(half, &[old], why)
            } else {
                half.look_again_at(until)
            }
        })
    }

    /// The container that gets the proxy's traffic, unless the plan names another one: the ready container,
    /// also while it is restarted; else one that answers. One that does not answer yet may still be better
    /// than nothing.
    pub(super) fn serves_now(&self, memory: &Memory) -> Option<String> {
        let is_running = |container: &&&SeenContainer| container.state == ContainerState::Running;
        let is_proven = |container: &&&SeenContainer| target::is_proven(container, memory);
        let answers = |container: &&&SeenContainer| {
            let seen = self.observed.probes.get(&container.id);
            self.intent.health.probe.asks_nobody() || seen.is_some_and(|seen| seen.answered_once)
        };
        let all = || self.containers.iter();
        let proven = all().filter(is_running).find(is_proven);
        let answering = || all().filter(is_running).find(answers);
        let anyone = || all().find(is_proven).or_else(|| all().find(is_running));
        proven.or_else(answering).or_else(anyone).map(|container| container.id.clone())
    }

    /// A ready container serves only if the proxy passes traffic to it.
    pub(super) fn said_of_front(&self, current: &SeenContainer, verdict: Verdict) -> Verdict {
        if self.intent.drain.is_none() || verdict.condition != Condition::Ready {
            return verdict;
        }
        let trouble = self.observed.front.as_ref().and_then(|front| front.trouble.as_ref());
        let runs = format!("{} is running and ready", self.choice.words());
        match trouble {
            Some(why) => {
                let message = format!("{runs}, but the proxy has a problem: {why}");
                Verdict::new(Condition::Degraded, Reason::FrontUnavailable, message)
            }
            None if self.observed.front.as_ref().is_some_and(|front| front.has_drifted) => {
                let message = format!(
                    "{runs}; the proxy's configuration was changed by hand and is \
                    being restored"
                );
                Verdict::new(Condition::Progressing, Reason::Updating, message)
            }
            None if self.is_served(current) => verdict,
            None => {
                let message = format!("{runs}; the proxy is switching to it");
                Verdict::new(Condition::Progressing, Reason::Updating, message)
            }
        }
    }
}
