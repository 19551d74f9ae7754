//! Leaving: the ways in which a container that may serve is stopped.
//!
//! A container that may have requests is not stopped before another one is observed serving. A plan stops a
//! container of its environment in three ways: by [`RolloutContext::dismiss`], which leaves it alone until then; by
//! [`RolloutContext::hand_over`], if two cannot run at once, immediately before the other one is started; or because
//! its own program no longer answers.

use super::RolloutContext;
use super::parts::{remove, remove_stopped, stop_all_running};
use crate::model::front::ProxyTargets;
use crate::model::observed::ObservedContainer;
use crate::model::status::{Condition, Reason};
use crate::plan::{PartialPlan, Step, serving};

/// So many containers may run while it is unknown which of them the proxy serves.
const MOST_STAYING: usize = 2;

impl RolloutContext<'_> {
    /// Removes a container that is no longer needed, unless it may have requests. It stays then: the proxy
    /// sends a wakeup once it is known to pass requests elsewhere.
    pub(super) fn dismiss(
        &self,
        partial: PartialPlan,
        container: &ObservedContainer,
        why: &str,
    ) -> PartialPlan {
        if serving::may_serve(container, self.intent, self.observed) || self.is_addressed(container) {
            return partial;
        }
        remove(partial, container, why)
    }

    /// Whether the proxy may still send requests to a canary. One that has ended keeps its address until then, and
    /// refuses them at once, so that the container beside it answers. Without the address they would wait.
    fn is_addressed(&self, container: &ObservedContainer) -> bool {
        let reach = self.observed.front.as_ref().map(|front| &front.reach);
        self.canary.as_ref() == Some(&container.id)
            && matches!(reach, Some(ProxyTargets::Only(ids)) if ids.contains(&container.id))
    }

    /// Removes containers whose replacement is ready. Behind a proxy, the proxy decides which container
    /// serves; otherwise any ready container does.
    pub(super) fn succeeded(
        &self,
        partial: PartialPlan,
        before: &[&ObservedContainer],
        why: &str,
    ) -> PartialPlan {
        before.iter().fold(partial, |partial, container| {
            if is_stopped(&partial, container) {
                remove_stopped(partial, container, why)
            } else if self.intent.drain.is_some() {
                self.dismiss(partial, container, why)
            } else {
                remove(partial, container, why)
            }
        })
    }

    /// Makes containers release their port and volumes for the next started container. If both can run at
    /// once, there is nothing to release.
    pub(super) fn hand_over(
        &self,
        partial: PartialPlan,
        containers: &[&ObservedContainer],
        why: &str,
    ) -> PartialPlan {
        if self.is_start_first() { partial } else { stop_all_running(partial, containers, why) }
    }

    /// Removes the containers that were handed over, and those of the rest that cannot have requests.
    pub(super) fn after_hand_over(
        &self,
        partial: PartialPlan,
        containers: &[&ObservedContainer],
        why: &str,
    ) -> PartialPlan {
        containers.iter().fold(partial, |partial, container| {
            if is_stopped(&partial, container) {
                remove_stopped(partial, container, why)
            } else {
                self.dismiss(partial, container, why)
            }
        })
    }

    /// Waits if several containers have to stay because it is unknown which of them the proxy serves.
    /// Otherwise each new version would add one, until the host runs out of memory.
    pub(super) fn await_reach(&self, containers: &[&ObservedContainer]) -> Option<PartialPlan> {
        let front = self.observed.front.as_ref();
        let is_known = front.is_some_and(|front| front.reach != ProxyTargets::Any);
        let staying = self.staying(containers).len();
        if self.intent.drain.is_none() || is_known || staying < MOST_STAYING {
            return None;
        }
        let why = front.and_then(|front| front.trouble.as_deref()).unwrap_or(
            "it is unknown which container \
                the proxy serves",
        );
        let message = format!(
            "{staying} containers are running, and {} waits until the proxy serves one of them: {why}",
            self.choice.words()
        );
        Some(PartialPlan::with_status(Condition::Degraded, Reason::FrontUnavailable, message))
    }

    /// Those of `containers` that may have requests.
    pub(super) fn staying<'s>(&self, containers: &[&'s ObservedContainer]) -> Vec<&'s ObservedContainer> {
        let may_serve = |seen: &&ObservedContainer| serving::may_serve(seen, self.intent, self.observed);
        containers.iter().copied().filter(may_serve).collect()
    }
}

/// Whether a container is stopped by these steps.
fn is_stopped(partial: &PartialPlan, container: &ObservedContainer) -> bool {
    let stop = Step::Stop { id: container.id.clone() };
    partial.steps.iter().any(|planned| planned.step == stop)
}

/// Whether a container is removed by these steps.
pub(super) fn is_removed(partial: &PartialPlan, container: &ObservedContainer) -> bool {
    let remove = Step::Remove { id: container.id.clone() };
    partial.steps.iter().any(|planned| planned.step == remove)
}
