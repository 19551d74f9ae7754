//! Start-first: the replacement runs beside the serving container. The proxy is switched to it once it is
//! ready, and the previous container is removed once its last requests have ended.

use super::RolloutContext;
use super::holder::Namespace;
use super::parts::remove_all;
use crate::model::container::ContainerSpec;
use crate::model::memory::Memory;
use crate::model::observed::{ContainerState, ObservedContainer};
use crate::model::status::{Condition, Reason};
use crate::plan::target;
use crate::plan::{PartialPlan, PlannedStatus, Step, TRANSIT};

impl<'a> RolloutContext<'a> {
    /// Whether a replacement runs beside the previous container.
    pub(super) fn is_start_first(&self) -> bool {
        crate::plan::is_start_first(self.intent, self.observed)
    }

    /// Makes the proxy prepare for a container that is to join this namespace, while the container is
    /// created, started and probed. A container with its own network has no address until then.
    pub(super) fn announce(&self, partial: PartialPlan, namespace: &Namespace) -> PartialPlan {
        match namespace.joins.clone().filter(|_| self.intent.drain.is_some()) {
            Some(holder) => partial.then(
                Step::Announce { holder },
                "the proxy prepares to send traffic \
                there",
            ),
            None => partial,
        }
    }

    /// The replacement is ready: it gets the traffic, and then the previous container may be removed.
    pub(super) fn switch(
        &self,
        spec: &ContainerSpec,
        new: &ObservedContainer,
        others: &[&'a ObservedContainer],
        memory: Memory,
    ) -> (PartialPlan, Memory) {
        let Some(drain) = self.intent.drain else { return self.take_over(spec, new, others, memory) };
        let mut memory = memory;
        if !self.is_served(new) {
            memory.next = self.as_ready(spec, new, &memory);
            return (self.switching(new), memory);
        }
        let (drained, useless): (Vec<&'a ObservedContainer>, Vec<_>) =
            others.iter().copied().partition(|other| other.state == ContainerState::Running);
        let partial = remove_all(PartialPlan::default(), &useless, "it is a leftover");
        memory.draining.extend(drained.iter().map(|old| (old.id.clone(), self.now.after(drain))));
        let draining = [self.draining.as_slice(), &drained].concat();
        let is_new = |container: &&&ObservedContainer| container.id == new.id;
        let containers = self.containers.iter().filter(is_new).copied().collect();
        let still = RolloutContext { draining, containers, ..self.clone() };
        let (settled, memory) = still.settled(spec, new, &[], memory);
        // Requeues soon: a draining container may be finished already.
        (partial.and(settled).requeue_by(self.now.after(TRANSIT)), memory)
    }

    fn switching(&self, new: &ObservedContainer) -> PartialPlan {
        let what = self.choice.words();
        let trouble = self.observed.front.as_ref().and_then(|front| front.trouble.as_ref());
        let partial = match trouble {
            Some(why) => {
                let message = format!("{what} is ready, but the proxy cannot switch to it: {why}");
                PartialPlan::with_status(Condition::Degraded, Reason::FrontUnavailable, message)
            }
            None => {
                let message = format!("{what} is ready; switching the proxy to it");
                PartialPlan::with_status(Condition::Progressing, Reason::Updating, message)
            }
        };
        PartialPlan { serving: Some(new.id.clone()), ..partial }
    }

    /// Whether the proxy passes traffic to this container.
    fn is_served(&self, container: &ObservedContainer) -> bool {
        let front = self.observed.front.as_ref();
        front.and_then(|front| front.serves.as_ref()).is_some_and(|serves| *serves == container.id)
    }

    /// Removes replaced containers whose last requests have ended, or whose time is up.
    pub(super) fn drain_away(&self, memory: &Memory) -> PartialPlan {
        let why = "it was replaced, and its last requests are done or out of time";
        self.draining.iter().fold(PartialPlan::default(), |partial, old| {
            let until = memory.draining.get(&old.id).copied().unwrap_or(self.now);
            // Without a proxy any more, the container runs for the time that was planned.
            if self.intent.drain.is_some() || self.now >= until {
                self.succeeded(partial, &[old], why)
            } else {
                partial.requeue_by(until)
            }
        })
    }

    /// The container that gets the proxy's traffic, unless the plan names another one: the ready container,
    /// also while it is restarted; else one that answers. One that does not answer yet may still be better
    /// than nothing.
    pub(super) fn serves_now(&self, memory: &Memory) -> Option<String> {
        let is_running = |container: &&&ObservedContainer| container.state == ContainerState::Running;
        let is_proven = |container: &&&ObservedContainer| target::is_proven(container, memory);
        let answers = |container: &&&ObservedContainer| {
            let seen = self.observed.probes.get(&container.id);
            self.intent.health.probe.needs_no_probe() || seen.is_some_and(|seen| seen.answered_once)
        };
        let all = || self.containers.iter();
        let proven = all().filter(is_running).find(is_proven);
        let answering = || all().filter(is_running).find(answers);
        let anyone = || all().find(is_proven).or_else(|| all().find(is_running));
        proven.or_else(answering).or_else(anyone).map(|container| container.id.clone())
    }

    /// A ready container serves only if the proxy passes traffic to it.
    pub(super) fn status_behind_front(
        &self,
        current: &ObservedContainer,
        verdict: PlannedStatus,
    ) -> PlannedStatus {
        if self.intent.drain.is_none() || verdict.condition != Condition::Ready {
            return verdict;
        }
        let trouble = self.observed.front.as_ref().and_then(|front| front.trouble.as_ref());
        let runs = format!("{} is running and ready", self.choice.words());
        match trouble {
            Some(why) => {
                let message = format!("{runs}, but the proxy has a problem: {why}");
                PlannedStatus::new(Condition::Degraded, Reason::FrontUnavailable, message)
            }
            None if self.observed.front.as_ref().is_some_and(|front| front.has_drifted) => {
                let message = format!(
                    "{runs}; the proxy's configuration was changed by hand and is \
                    being restored"
                );
                PlannedStatus::new(Condition::Progressing, Reason::Updating, message)
            }
            None if self.is_served(current) => verdict,
            None => {
                let message = format!("{runs}; the proxy is switching to it");
                PlannedStatus::new(Condition::Progressing, Reason::Updating, message)
            }
        }
    }
}
