//! The health of a running container.

use std::time::Duration;

use super::RolloutContext;
use super::output::without_secrets;
use crate::model::memory::Memory;
use crate::model::observed::{ObservedContainer, Readiness};
use crate::model::spec::Probe;
use crate::model::time::Timestamp;
use crate::plan::target;

/// Failed probes in a row after which a container that was ready is called unhealthy (the kubelet's default
/// failure threshold).
const MISSES: u32 = 3;

/// The health of a container.
pub(super) enum Health {
    Ready,
    /// Not ready yet, and within its deadline.
    Awaited {
        until: Timestamp,
    },
    /// Not ready by its deadline.
    Overdue(String),
    /// No longer answering after being ready, or not again after a restart.
    Lost(String),
}

impl RolloutContext<'_> {
    pub(super) fn health(&self, container: &ObservedContainer, memory: &Memory) -> Health {
        match self.intent.health.probe {
            Probe::None => return Health::Ready,
            Probe::Running => return self.has_run_for(self.intent.health.healthy_for, container),
            Probe::Http(_) | Probe::Tcp | Probe::Command(_) | Probe::Docker => {}
        }
        let seen = self.readiness(container);
        let ready_at = target::readiness(container, memory).map(|ready| ready.at);
        match ready_at.or_else(|| self.canary_ready_at(container, memory)) {
            Some(ready_at) => self.proven(container, &seen, ready_at),
            None => self.unproven(container, &seen),
        }
    }

    /// The prober's observations of a running container.
    pub(super) fn readiness(&self, container: &ObservedContainer) -> Readiness {
        self.observed.probes.get(&container.id).cloned().unwrap_or_default()
    }

    /// Returns a probe's message in a form that a sentence may contain.
    pub(super) fn presentable(&self, words: &str) -> String {
        without_secrets(self.intent.options.as_ref().ok(), &self.observed.containers, words)
    }

    /// Returns why the readiness of a container is unknown after its deadline. Without a failed probe, the
    /// container is not judged.
    pub(super) fn why_unknown(&self, container: &ObservedContainer, seen: &Readiness) -> Option<String> {
        let why = seen.unknown.as_deref().filter(|_| seen.answering_since.is_none())?;
        (self.now >= self.deadline(container, seen)).then(|| self.presentable(why))
    }

    fn has_run_for(&self, time: Duration, container: &ObservedContainer) -> Health {
        let ripe = started(container).after(time);
        if self.now >= ripe { Health::Ready } else { Health::Awaited { until: ripe } }
    }

    /// The readiness deadline: never before the image's own `HEALTHCHECK` can have decided.
    fn deadline(&self, container: &ObservedContainer, seen: &Readiness) -> Timestamp {
        started(container).after(self.patience(seen))
    }

    fn patience(&self, seen: &Readiness) -> Duration {
        self.intent.health.start_deadline.max(seen.needs)
    }

    /// A ready container stays ready until probes fail. Missing probe results, as just after a start of the
    /// daemon, do not change that.
    fn proven(&self, container: &ObservedContainer, seen: &Readiness, ready_at: Timestamp) -> Health {
        let since_its_start = started(container) <= ready_at;
        match (since_its_start, seen.misses >= MISSES) {
            (true, true) => {
                Health::Lost(format!("failed {} probes in a row: {}", seen.misses, self.miss(seen)))
            }
            (true, false) => Health::Ready,
            (false, _) if seen.answered_once => Health::Ready,
            (false, _) => match self.until_the_deadline(container, seen) {
                Health::Overdue(why) => Health::Lost(why),
                health => health,
            },
        }
    }

    fn unproven(&self, container: &ObservedContainer, seen: &Readiness) -> Health {
        let Some(since) = seen.answering_since else { return self.until_the_deadline(container, seen) };
        let ripe = since.after(self.intent.health.healthy_for);
        if self.now >= ripe { Health::Ready } else { Health::Awaited { until: ripe } }
    }

    fn until_the_deadline(&self, container: &ObservedContainer, seen: &Readiness) -> Health {
        let health = &self.intent.health;
        let deadline = self.deadline(container, seen);
        if self.now < deadline {
            return Health::Awaited { until: deadline };
        }
        // The deadline may have passed because the clock was set, or while no daemon ran to probe. So real
        // failed probes must cover at least half of the time. The engine's own check runs with or without a
        // daemon.
        let required = if seen.needs.is_zero() { health.start_deadline / 2 } else { Duration::ZERO };
        let is_asked = seen.misses > 0 && seen.unanswered >= required;
        if seen.unknown.is_some() || !seen.answered_once && !is_asked {
            let left = required.saturating_sub(seen.unanswered).max(health.interval);
            return Health::Awaited { until: self.now.after(left) };
        }
        let patience = humantime::format_duration(self.patience(seen));
        Health::Overdue(format!("was not ready within {patience} of its start: {}", self.miss(seen)))
    }

    fn miss(&self, seen: &Readiness) -> String {
        self.presentable(seen.last_miss.as_deref().unwrap_or("no probe was answered yet"))
    }
}

fn started(container: &ObservedContainer) -> Timestamp {
    container.started_at.unwrap_or(container.created_at)
}
