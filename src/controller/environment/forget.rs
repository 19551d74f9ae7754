//! Removing an environment that left the manifest, or the containers that it left on hosts which do not run it
//! any more, at a user's request.
//!
//! Otherwise nothing of it is removed: an edit of the manifest must not take a service down. Volumes are
//! never removed. What is left on an agent's host, the agent removes by this same code; its report then names
//! nothing that is left.

use std::time::Duration;

use tracing::{info, warn};

use super::authority::Authority;
use super::pass::{PassError, Reconciler};
use crate::controller::cache::watch::EngineState;
use crate::controller::clock::now;
use crate::controller::docker::EngineError;
use crate::model::desired::{Forget, LeftOn};
use crate::model::error::chain;
use crate::model::event::EventKind;
use crate::model::name::{AgentName, EnvironmentName};
use crate::model::observed::ObservedContainer;

/// Grace period for containers whose declared period left with the manifest: Docker's own default.
const GRACE: Duration = Duration::from_secs(10);

/// Carries out a recorded request to forget `environment`, if there is one. A failed removal is tried again
/// after the next resync.
pub(in crate::controller) async fn forget(pass: &Reconciler, environment: &EnvironmentName) {
    if let Err(error) = try_to(pass, environment).await {
        warn!(%environment, error = %chain(&error), "cannot remove the environment yet; retrying later");
    }
}

async fn try_to(pass: &Reconciler, environment: &EnvironmentName) -> Result<(), PassError> {
    let Some(request) = pass.desired.get(environment)?.forget else { return Ok(()) };
    let manifest = pass.manifest.borrow().clone();
    match (manifest.environments.get(environment), request.left.clone()) {
        (None, _) => remove_all(pass, environment, request).await,
        (Some(spec), Some(left)) => {
            let spared = left.clone().without(spec.host.as_ref());
            if spared != left {
                pass.resolver.spare(environment, spec.host.clone()).await?;
            }
            clear(pass, environment, &request, &spared).await
        }
        (Some(_), None) => Ok(()),
    }
}

/// Whether containers of this host may be removed now: they are known, and the request is not from an old
/// copy of the record.
fn may_remove(pass: &Reconciler) -> bool {
    *pass.engine_state.borrow() == EngineState::Known && *pass.authority.borrow() == Authority::Given
}

/// Removes an environment that is not declared.
async fn remove_all(
    pass: &Reconciler,
    environment: &EnvironmentName,
    request: Forget,
) -> Result<(), PassError> {
    if !may_remove(pass) {
        return Ok(());
    }
    let containers = pass.fleet.all_of(environment);
    if !containers.is_empty() && !request.stop {
        let message = format!("not removed: {} still exists", names(&containers));
        pass.resolver.keep(environment).await?;
        pass.writer.event(environment, EventKind::System, message, now()).await?;
        return Ok(());
    }
    for container in &containers {
        remove(pass, container).await?;
    }
    if !still_there(pass, environment, |_| true)?.is_empty() {
        // The report of the last agent continues this.
        return Ok(());
    }
    if let Err(error) = pass.previous.forget(environment) {
        warn!(%environment, %error, "failed to remove the output of its last container");
    }
    if pass.resolver.erase(environment).await? {
        info!(%environment, by = request.by, removed = names(&containers), "forgotten");
    }
    Ok(())
}

/// Removes what a declared environment left on hosts that do not run it.
async fn clear(
    pass: &Reconciler,
    environment: &EnvironmentName,
    request: &Forget,
    left: &LeftOn,
) -> Result<(), PassError> {
    if left.here {
        if !may_remove(pass) {
            return Ok(());
        }
        for container in pass.fleet.all_of(environment) {
            remove(pass, &container).await?;
        }
    }
    if still_there(pass, environment, |agent| left.agents.contains(agent))?.is_empty() {
        pass.resolver.keep(environment).await?;
        let message = "what it left on hosts that do not run it any more is removed".to_owned();
        info!(%environment, by = request.by, "{message}");
        pass.writer.event(environment, EventKind::System, message, now()).await?;
    }
    Ok(())
}

/// The agents on whose hosts something of the environment is left, according to their last reports.
fn still_there(
    pass: &Reconciler,
    environment: &EnvironmentName,
    is_meant: impl Fn(&AgentName) -> bool,
) -> Result<Vec<AgentName>, PassError> {
    let left = pass.desired.left()?.into_iter();
    let there = left.filter(|(agent, left)| is_meant(agent) && left.has(environment));
    Ok(there.map(|(agent, _)| agent).collect())
}

async fn remove(pass: &Reconciler, container: &ObservedContainer) -> Result<(), EngineError> {
    pass.engine.stop(&container.id, GRACE).await?;
    pass.engine.remove(&container.id).await?;
    pass.fleet.look(&pass.engine, &container.id).await.map(drop)
}

fn names(containers: &[ObservedContainer]) -> String {
    let names: Vec<&str> = containers.iter().map(|container| container.name.as_str()).collect();
    names.join(", ")
}
