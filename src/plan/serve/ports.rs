//! Waiting for host ports that other environments still publish.

use std::time::Duration;

use super::RolloutContext;
use crate::model::container::ContainerSpec;
use crate::model::memory::Memory;
use crate::model::observed::ObservedContainer;
use crate::plan::ports::{self, PortTurn};
use crate::plan::target::KeepReason;
use crate::plan::{PartialPlan, PlannedStatus};

/// When to look again: a change of another environment's containers sends no wakeup.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// How long a stopped container waits for its port, before its replacement is tried, and it starts again. The other
/// one needs time to stop.
const LONGEST_STOP: Duration = Duration::from_secs(30);

impl RolloutContext<'_> {
    /// Decides when a container of `spec` may take its host ports. Behind a proxy, the proxy publishes them.
    pub(super) fn port_turn(&self, spec: &ContainerSpec) -> PortTurn {
        if self.is_start_first() {
            return PortTurn::Now;
        }
        ports::turn(self.intent, self.observed, spec.options.ports().collect())
    }

    /// Keeps the serving container until the ports of its replacement are free.
    pub(super) fn wait_for_ports(
        &self,
        waits: PlannedStatus,
        before: Option<&ObservedContainer>,
        memory: Memory,
    ) -> (PartialPlan, Memory) {
        let Some(before) = before else { return (self.start_later(PartialPlan::default(), waits), memory) };
        let (partial, memory) = self.keep(&before.id, &KeepReason::Blocked(waits), memory);
        (partial.requeue_by(self.now.after(LOOK_AGAIN)), memory)
    }

    /// Ends a plan before the start of the replacement.
    pub(super) fn start_later(&self, partial: PartialPlan, waits: PlannedStatus) -> PartialPlan {
        PartialPlan { verdict: Some(waits), ..partial }.requeue_by(self.now.after(LOOK_AGAIN))
    }

    /// Whether the replacement may wait for its ports: one of `others` serves, or was stopped for it a moment ago.
    pub(super) fn may_wait_for_ports(&self, others: &[&ObservedContainer]) -> bool {
        let was_just_stopped =
            |id: &String| self.stopped.get(id).is_some_and(|at| self.now < at.after(LONGEST_STOP));
        others.iter().any(|other| other.state.has_process() || was_just_stopped(&other.id))
    }
}
