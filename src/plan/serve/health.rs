//! How a running container does.

use super::Pass;
use crate::model::memory::Memory;
use crate::model::observed::{Readiness, SeenContainer};
use crate::model::spec::Probe;
use crate::model::time::Timestamp;
use crate::plan::target;

/// Misses in a row after which a container that was ready is called unhealthy (the kubelet's
/// default failure threshold).
const MISSES: u32 = 3;

/// How a container does.
pub(super) enum Health {
    Ready,
    /// Not ready yet, and the time has not run out.
    Awaited {
        until: Timestamp,
    },
    /// It should be ready by now.
    Overdue(String),
    /// It was ready and answers no more, or not again after a restart.
    Lost(String),
}

impl Pass<'_> {
    pub(super) fn health(&self, container: &SeenContainer, memory: &Memory) -> Health {
        if self.intent.health.probe == Probe::None {
            return Health::Ready;
        }
        let unknown = Readiness::default();
        let seen = self.observed.probes.get(&container.id).unwrap_or(&unknown);
        if target::is_proven(container, memory) {
            self.proven(container, seen, memory)
        } else {
            self.unproven(container, seen)
        }
    }

    /// What was ready stays ready until probes say otherwise: not being able to tell, as just
    /// after the daemon was started, is no verdict.
    fn proven(&self, container: &SeenContainer, seen: &Readiness, memory: &Memory) -> Health {
        let ready_at = memory.good.as_ref().map(|good| good.at);
        let since_its_start = ready_at.is_some_and(|at| started(container) <= at);
        match (since_its_start, seen.misses >= MISSES) {
            (true, true) => Health::Lost(format!("missed {} probes in a row: {}", seen.misses, miss(seen))),
            (true, false) => Health::Ready,
            (false, _) if seen.answered_once => Health::Ready,
            (false, _) => match self.until_the_deadline(container, seen) {
                Health::Overdue(why) => Health::Lost(why),
                health => health,
            },
        }
    }

    fn unproven(&self, container: &SeenContainer, seen: &Readiness) -> Health {
        let Some(since) = seen.answering_since else { return self.until_the_deadline(container, seen) };
        let ripe = since.after(self.intent.health.healthy_for);
        if self.now >= ripe { Health::Ready } else { Health::Awaited { until: ripe } }
    }

    fn until_the_deadline(&self, container: &SeenContainer, seen: &Readiness) -> Health {
        let health = &self.intent.health;
        let deadline = started(container).after(health.start_deadline);
        if self.now < deadline {
            return Health::Awaited { until: deadline };
        }
        // Past its time by a clock that may have been set, or while no daemon ran to ask it: at least half
        // of its time it must really have been asked in vain.
        let in_vain = health.start_deadline / 2;
        if !seen.answered_once && seen.unanswered < in_vain {
            let left = (in_vain - seen.unanswered).max(health.interval);
            return Health::Awaited { until: self.now.after(left) };
        }
        let patience = humantime::format_duration(health.start_deadline);
        Health::Overdue(format!("was not ready {patience} after its start: {}", miss(seen)))
    }
}

fn started(container: &SeenContainer) -> Timestamp {
    container.started_at.unwrap_or(container.created_at)
}

fn miss(seen: &Readiness) -> &str {
    seen.last_miss.as_deref().unwrap_or("nothing answered yet")
}
