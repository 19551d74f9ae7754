//! Measures how long deployments and repairs take.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::metrics::{MeasuredResult, Metrics};
use crate::model::desired::{Desired, Outcome};
use crate::model::name::{EnvironmentName, Generation};
use crate::model::status::{Condition, Status};
use crate::model::time::Timestamp;

/// Measures the environments of this host.
pub(in crate::controller) struct Stopwatch {
    metrics: Metrics,
    outages: Mutex<HashMap<EnvironmentName, Outage>>,
}

/// An environment that served and does not now, although nobody wanted another version of it.
struct Outage {
    generation: Generation,
    declaration: Option<String>,
    since: Timestamp,
}

impl Outage {
    /// Whether the environment at `status` is still to run the same.
    fn is_of(&self, status: &Status) -> bool {
        (self.generation, &self.declaration) == (status.observed_generation, &status.observed_declaration)
    }
}

impl Stopwatch {
    pub(in crate::controller) fn new(metrics: Metrics) -> Self {
        Self { metrics, outages: Mutex::default() }
    }

    pub(in crate::controller) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Begins an outage if the status changes from well to another one for the same version, and ends it once the
    /// status is well again. A deployment does not count as an outage. `lost_at` is the end of the serving container.
    pub(in crate::controller) fn status_changed(
        &self,
        lost_at: Option<Timestamp>,
        before: Option<&Status>,
        after: &Status,
    ) {
        let environment = &after.environment;
        if is_well(after.condition) {
            let ended = self.outages().remove(environment).filter(|outage| outage.is_of(after));
            if let Some(Outage { since, .. }) = ended {
                self.metrics.heal(environment, crate::controller::clock::now().since(since));
            }
            return;
        }
        let Some(before) = before.filter(|before| is_well(before.condition)) else { return };
        let outage = Outage {
            generation: before.observed_generation,
            declaration: before.observed_declaration.clone(),
            since: lost_at.unwrap_or_else(crate::controller::clock::now),
        };
        if outage.is_of(after) {
            // A later reconcile of the same outage may still know the status before it.
            self.outages().entry(environment.clone()).or_insert(outage);
        }
    }

    /// Measures a generation that became ready or failed.
    pub(in crate::controller) fn generation_ended(
        &self,
        Desired { environment, entry, .. }: &Desired,
        generation: Generation,
        outcome: &Outcome,
        at: Timestamp,
    ) {
        let result = match outcome {
            Outcome::Ready => MeasuredResult::Ready,
            Outcome::Failed(_) => MeasuredResult::Failed,
            Outcome::Superseded => return,
        };
        if entry.generation == generation {
            self.metrics.deploy(environment, result, at.since(entry.at));
        }
    }

    /// Removes an environment that this host no longer runs.
    pub(in crate::controller) fn forget(&self, environment: &EnvironmentName) {
        self.outages().remove(environment);
        self.metrics.forget(environment);
    }

    fn outages(&self) -> MutexGuard<'_, HashMap<EnvironmentName, Outage>> {
        self.outages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an environment with this status serves its users.
pub(in crate::controller) fn is_well(condition: Condition) -> bool {
    matches!(condition, Condition::Ready | Condition::RolledBack | Condition::Held)
}
