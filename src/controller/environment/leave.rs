//! An environment left this host: it left the manifest, or moved to another host. Its container keeps serving,
//! because an edit must not take a service down. An update may have been under way; its rest is cleared away
//! here, and the container that was ready serves.
//!
//! The decision is the plan of a held environment: keep the container that was ready, remove all others.

use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use super::reconciler::{PassError, Planned, Reconciler};
use crate::controller::clock::now;
use crate::model::desired::{Desired, Entry, Hold};
use crate::model::error::chain;
use crate::model::memory::Memory;
use crate::model::name::EnvironmentName;
use crate::model::observed::ContainerState;
use crate::model::spec::{EnvironmentSpec, Manifest, Supply};
use crate::plan;

/// The largest number of plans. The rest is continued after the next resync.
const ROUNDS: usize = 60;
/// The pause between two plans while something takes its time, such as a proxy that switches.
const PAUSE: Duration = Duration::from_millis(500);

/// Whether an environment runs on this host.
fn is_here(manifest: &Manifest, environment: &EnvironmentName) -> bool {
    manifest.environments.get(environment).is_some_and(|spec| spec.host.is_none())
}

impl Reconciler {
    /// Whether an environment that does not run here has the rest of an interrupted update here.
    pub(in crate::controller) fn is_partly_left(&self, environment: &EnvironmentName) -> bool {
        let containers = self.cache.containers(environment);
        let names = containers.iter().map(|seen| seen.name.as_str());
        !is_here(&self.manifest.borrow(), environment) && plan::left::is_interrupted(names)
    }

    /// Brings the containers of an environment that left this host to rest. Ends at once if the environment
    /// runs here again, or if a user asked to remove them.
    pub(in crate::controller) async fn leave(&self, environment: &EnvironmentName) {
        for _ in 0..ROUNDS {
            match self.leave_once(environment).await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    let error = chain(&error);
                    warn!(%environment, %error, "cannot end the update of an environment that left; retrying");
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Returns whether nothing is left to do.
    async fn leave_once(&self, environment: &EnvironmentName) -> Result<bool, PassError> {
        let Some(planned) = self.plan_to_leave(environment).await? else { return Ok(true) };
        let serves = |state: &ContainerState| *state == ContainerState::Running;
        if let [only] = planned.observed.containers.as_slice()
            && planned.plan.steps.is_empty()
            && serves(&only.state)
        {
            return Ok(true);
        }
        // If the daemon is killed now, the next one knows which container was ready.
        self.writer.notes(environment, &planned.plan.memory).await?;
        self.update_front(&planned);
        let memory = match self.act(&planned).await {
            Ok(()) => planned.plan.memory,
            Err(failed) => {
                let message = failed.to_string();
                warn!(%environment, error = %message, "step failed");
                let failure = plan::StepFailure { cause: failed.cause(), message: &message };
                plan::after_failure(&planned.plan, &failed.step, failure, &planned.intent, now())
            }
        };
        self.writer.notes(environment, &memory).await?;
        Ok(false)
    }

    async fn plan_to_leave(&self, environment: &EnvironmentName) -> Result<Option<Planned>, PassError> {
        self.engine_is_known().await?;
        let keeps_what_runs = self.is_alone().await;
        let manifest = Arc::clone(&self.manifest.borrow());
        let desired = self.desired.get(environment)?;
        if is_here(&manifest, environment) || desired.forget.is_some() {
            return Ok(None);
        }
        let containers = self.cache.containers(environment);
        let runs = |id: &str| {
            let found = containers.iter().find(|seen| seen.id == id)?;
            Some(found.state == ContainerState::Running)
        };
        let Some(memory) = plan::left::staying(&self.status.memory(environment)?, runs) else {
            return Ok(None);
        };
        let Some((manifest, desired, entry)) = as_held(&manifest, desired, &memory) else { return Ok(None) };
        self.plan_for(environment, &manifest, desired, entry, memory, keeps_what_runs).await
    }
}

/// The environment as if it had been held here, at the version that was ready, when it left.
fn as_held(manifest: &Manifest, desired: Desired, memory: &Memory) -> Option<(Manifest, Desired, Entry)> {
    let good = memory.good.as_ref()?;
    let spec = EnvironmentSpec {
        host: None,
        // Nothing is acquired or run for it here any more.
        supply: Supply::Manual,
        build: None,
        push: None,
        release: None,
        after: None,
        ..good.declared.as_ref()?.spec.clone()
    };
    let mut manifest = manifest.clone();
    manifest.environments.insert(desired.environment.clone(), spec);
    let hold = Hold {
        reason: "it left this host".to_owned(),
        by: "abide".to_owned(),
        since: now(),
        generation: Some(good.generation),
    };
    let entry = Entry {
        generation: good.generation,
        image: Some(good.image.clone()),
        revision: good.revision.clone(),
        ..Entry::default()
    };
    Some((manifest, Desired { hold: Some(hold), ..desired }, entry))
}
