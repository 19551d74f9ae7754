//! Leaving: the ways in which a container that may serve is stopped.
//!
//! Nothing that requests may be at is stopped before another container is seen serving. A plan stops a
//! container of its environment by [`Pass::dismiss`], which leaves it alone until then; by
//! [`Pass::hand_over`], where two cannot run at once, immediately before the other one is started; or
//! because its own program answers no more.

use super::Pass;
use super::parts::{remove, remove_stopped, stop_all_running};
use crate::model::observed::SeenContainer;
use crate::plan::{Half, Step, serving};

impl Pass<'_> {
    /// Removes a container that is not needed any more, unless requests may be at it. Then it stays: the
    /// front rings once it is known to pass them elsewhere.
    pub(super) fn dismiss(&self, half: Half, container: &SeenContainer, why: &str) -> Half {
        if serving::may_serve(container, self.intent, self.observed) {
            return half;
        }
        remove(half, container, why)
    }

    /// Removes what another container has replaced, which is ready. Behind a front it is the front that
    /// decides who serves; else whoever is ready does.
    pub(super) fn succeeded(&self, half: Half, before: &[&SeenContainer], why: &str) -> Half {
        before.iter().fold(half, |half, container| {
            if is_stopped(&half, container) {
                remove_stopped(half, container, why)
            } else if self.intent.drain.is_some() {
                self.dismiss(half, container, why)
            } else {
                remove(half, container, why)
            }
        })
    }

    /// Has containers give port and volumes to the one that is started next. If two can run at once,
    /// nothing needs to be given.
    pub(super) fn hand_over(&self, half: Half, containers: &[&SeenContainer], why: &str) -> Half {
        if self.is_start_first() { half } else { stop_all_running(half, containers, why) }
    }

    /// Removes what was handed over, and of the rest what no request can be at.
    pub(super) fn after_hand_over(&self, half: Half, containers: &[&SeenContainer], why: &str) -> Half {
        containers.iter().fold(half, |half, container| {
            if is_stopped(&half, container) {
                remove_stopped(half, container, why)
            } else {
                self.dismiss(half, container, why)
            }
        })
    }

    /// Those of `containers` that requests may be at.
    pub(super) fn staying<'s>(&self, containers: &[&'s SeenContainer]) -> Vec<&'s SeenContainer> {
        let may_serve = |seen: &&SeenContainer| serving::may_serve(seen, self.intent, self.observed);
        containers.iter().copied().filter(may_serve).collect()
    }
}

/// Whether a container is stopped by these steps.
fn is_stopped(half: &Half, container: &SeenContainer) -> bool {
    let stop = Step::Stop { id: container.id.clone() };
    half.steps.iter().any(|planned| planned.step == stop)
}

/// Whether a container is removed by these steps.
pub(super) fn is_removed(half: &Half, container: &SeenContainer) -> bool {
    let remove = Step::Remove { id: container.id.clone() };
    half.steps.iter().any(|planned| planned.step == remove)
}
