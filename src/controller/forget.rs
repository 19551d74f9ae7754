//! Removing an environment that left the manifest, at a user's request.
//!
//! Otherwise nothing of it is removed: an edit of the manifest must not take a service down. Volumes are
//! never removed.

use std::time::Duration;

use tracing::{info, warn};

use super::clock::now;
use super::docker::EngineError;
use super::pass::{EngineState, Pass, PassError};
use crate::model::error::chain;
use crate::model::event::EventKind;
use crate::model::name::EnvironmentName;
use crate::model::observed::SeenContainer;

/// Grace period for containers whose declared period left with the manifest: Docker's own default.
const GRACE: Duration = Duration::from_secs(10);

/// Carries out a recorded request to forget `environment`, if there is one. A failed removal is tried again
/// after the next resync.
pub(super) async fn forget(pass: &Pass, environment: &EnvironmentName) {
    if let Err(error) = try_to(pass, environment).await {
        warn!(%environment, error = %chain(&error), "cannot remove the environment yet; retrying later");
    }
}

async fn try_to(pass: &Pass, environment: &EnvironmentName) -> Result<(), PassError> {
    let is_declared = pass.manifest.borrow().environments.contains_key(environment);
    let is_known = *pass.engine_state.borrow() == EngineState::Known;
    let Some(request) = pass.desired.get(environment)?.forget.filter(|_| is_known && !is_declared) else {
        return Ok(());
    };
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
    if let Err(error) = pass.previous.forget(environment) {
        warn!(%environment, %error, "failed to remove the output of its last container");
    }
    if pass.resolver.erase(environment).await? {
        info!(%environment, by = request.by, removed = names(&containers), "forgotten");
    }
    Ok(())
}

async fn remove(pass: &Pass, container: &SeenContainer) -> Result<(), EngineError> {
    pass.engine.stop(&container.id, GRACE).await?;
    pass.engine.remove(&container.id).await?;
    pass.fleet.look(&pass.engine, &container.id).await.map(drop)
}

fn names(containers: &[SeenContainer]) -> String {
    let names: Vec<&str> = containers.iter().map(|container| container.name.as_str()).collect();
    names.join(", ")
}
