//! Removing an environment that left the manifest, or the containers that it left on hosts which do not run it
//! any more, at a user's request.
//!
//! Otherwise nothing of it is removed: an edit of the manifest must not take a service down. Volumes are
//! never removed. An agent removes leftovers on its host by this same code; its report then names
//! none.

use std::time::Duration;

use tracing::{info, warn};

use super::authority::Authority;
use super::reconciler::{PassError, Reconciler};
use crate::controller::cache::watch::EngineState;
use crate::controller::clock::now;
use crate::controller::docker::{EngineError, FoundService};
use crate::model::desired::{Forget, LeftOn};
use crate::model::error::chain;
use crate::model::event::EventKind;
use crate::model::name::{AgentName, EnvironmentName};
use crate::model::observed::ObservedContainer;

/// Grace period for containers whose declared period left with the manifest: Docker's own default.
const GRACE: Duration = Duration::from_secs(10);

/// Carries out a recorded request to forget `environment`, if there is one. A failed removal is tried again
/// after the next resync.
pub(in crate::controller) async fn forget(reconciler: &Reconciler, environment: &EnvironmentName) {
    if let Err(error) = try_to(reconciler, environment).await {
        warn!(%environment, error = %chain(&error), "cannot remove the environment yet; retrying later");
    }
}

async fn try_to(reconciler: &Reconciler, environment: &EnvironmentName) -> Result<(), PassError> {
    let Some(request) = reconciler.desired.get(environment)?.forget else { return Ok(()) };
    let manifest = reconciler.manifest.borrow().clone();
    match (manifest.environments.get(environment), request.left.clone()) {
        (None, None) => remove_all(reconciler, environment, request).await,
        (Some(_), None) => declared_again(reconciler, environment, &request).await,
        // The request was made while it was declared, so it is only about the hosts that it had left.
        (None, Some(left)) => clear(reconciler, environment, &request, &left).await,
        (Some(spec), Some(left)) => {
            let spared = left.clone().without(spec.host.as_ref());
            if spared != left {
                reconciler.resolver.spare(environment, spec.host.clone()).await?;
            }
            clear(reconciler, environment, &request, &spared).await
        }
    }
}

/// Withdraws a request that could not be carried out before the manifest declared the environment again.
/// Otherwise a later edit of the manifest would remove the environment without a new request.
async fn declared_again(
    reconciler: &Reconciler,
    environment: &EnvironmentName,
    request: &Forget,
) -> Result<(), PassError> {
    if !reconciler.resolver.withdraw(environment).await? {
        return Ok(());
    }
    let message =
        format!("the manifest declares it again: the request of {} to remove it is withdrawn", request.by);
    info!(%environment, "{message}");
    reconciler.writer.event(environment, EventKind::System, message, now()).await?;
    Ok(())
}

/// Whether containers of this host may be removed now: they are known, and the request is not from an old
/// copy of the record.
fn may_remove(reconciler: &Reconciler) -> bool {
    *reconciler.engine_state.borrow() == EngineState::Known
        && *reconciler.authority.borrow() == Authority::Given
}

/// Removes an environment that is not declared.
async fn remove_all(
    reconciler: &Reconciler,
    environment: &EnvironmentName,
    request: Forget,
) -> Result<(), PassError> {
    if !may_remove(reconciler) {
        return Ok(());
    }
    let containers = reconciler.cache.all_of(environment);
    let services = match reconciler.status.memory(environment)?.workload {
        Some(_) => reconciler.engine.workloads(&reconciler.record, environment).await?,
        None => Vec::new(),
    };
    let names = names(&containers, &services);
    let is_there = !containers.is_empty() || !services.is_empty();
    if is_there && !request.stop {
        let message = format!("not removed: {names} still exists");
        reconciler.resolver.keep(environment).await?;
        reconciler.writer.event(environment, EventKind::System, message, now()).await?;
        return Ok(());
    }
    reconciler.front.forget(environment);
    reconciler.front.await_left(environment).await;
    for container in &containers {
        remove(reconciler, container).await?;
    }
    for service in &services {
        reconciler.engine.remove_workload(&reconciler.record, environment, &service.id).await?;
    }
    if !still_there(reconciler, environment, |_| true)?.is_empty() {
        // The report of the last agent continues this.
        return Ok(());
    }
    if let Err(error) = reconciler.previous.forget(environment) {
        warn!(%environment, %error, "failed to remove the output of its last container");
    }
    if reconciler.resolver.erase(environment).await? {
        info!(%environment, by = request.by, removed = names, "forgotten");
    }
    Ok(())
}

/// Removes the leftovers of a declared environment on hosts that do not run it.
async fn clear(
    reconciler: &Reconciler,
    environment: &EnvironmentName,
    request: &Forget,
    left: &LeftOn,
) -> Result<(), PassError> {
    if left.here {
        if !may_remove(reconciler) {
            return Ok(());
        }
        reconciler.front.forget(environment);
        reconciler.front.await_left(environment).await;
        for container in reconciler.cache.all_of(environment) {
            remove(reconciler, &container).await?;
        }
    }
    if still_there(reconciler, environment, |agent| left.agents.contains(agent))?.is_empty() {
        reconciler.resolver.keep(environment).await?;
        let message = "what it left on hosts that do not run it any more is removed".to_owned();
        info!(%environment, by = request.by, "{message}");
        reconciler.writer.event(environment, EventKind::System, message, now()).await?;
    }
    Ok(())
}

/// The agents on whose hosts something of the environment is left, according to their last reports.
fn still_there(
    reconciler: &Reconciler,
    environment: &EnvironmentName,
    is_meant: impl Fn(&AgentName) -> bool,
) -> Result<Vec<AgentName>, PassError> {
    let left = reconciler.desired.left()?.into_iter();
    let there = left.filter(|(agent, left)| is_meant(agent) && left.has(environment));
    Ok(there.map(|(agent, _)| agent).collect())
}

async fn remove(reconciler: &Reconciler, container: &ObservedContainer) -> Result<(), EngineError> {
    reconciler.engine.stop(&container.id, GRACE).await?;
    reconciler.engine.remove(&container.id).await?;
    reconciler.cache.look(&reconciler.engine, &container.id).await.map(drop)
}

fn names(containers: &[ObservedContainer], services: &[FoundService]) -> String {
    let containers = containers.iter().map(|container| container.name.as_str());
    let names: Vec<&str> = containers.chain(services.iter().map(|service| service.name.as_str())).collect();
    names.join(", ")
}
