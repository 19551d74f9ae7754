//! Containers of compose projects, and how an environment takes the place of one: the old container is stopped
//! and kept, and started again if the new one fails. Only `abide adopt` does this, never the reconcile loop.

use std::time::Duration;

use super::docker::{Engine, EngineError};
use crate::model::container::label;
use crate::model::name::{ContainerName, EnvironmentName};

/// The labels by which compose knows its containers.
const PROJECT: &str = "com.docker.compose.project";
const SERVICE: &str = "com.docker.compose.service";
/// Set on containers of `compose run`, which do not belong to a service.
const ONE_OFF: &str = "com.docker.compose.oneoff";

/// How long a container may take to stop before the engine kills it. It is longer than most programs need.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// The end of the name of a container that is kept.
const KEPT: &str = ".before-abide";
/// Attempts to get a name back from the reconcile loop, which may give it to its own container meanwhile.
const MOST_ATTEMPTS: usize = 10;

/// A container of a compose project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComposeContainer {
    /// The engine's id.
    pub id: String,
    /// The name.
    pub name: String,
    /// The project.
    pub project: String,
    /// The service.
    pub service: String,
    /// The state, in the engine's spelling.
    pub state: String,
}

/// A container that was stopped and kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptContainer {
    /// The engine's id.
    pub id: String,
    /// The name that it had.
    pub before: ContainerName,
    /// The name that it has.
    pub name: ContainerName,
    /// The restart policy that it had.
    restarts: String,
}

/// Returns the containers of all compose projects that this record does not manage.
///
/// # Errors
/// Returns a sentence if the engine does not answer.
pub async fn compose_containers() -> Result<Vec<ComposeContainer>, String> {
    let listed = Engine::new(None).list().await.map_err(|error| error.to_string())?;
    let mut found: Vec<_> = listed
        .into_iter()
        .filter_map(|one| {
            let text = |name: &str| one.labels.get(name).cloned();
            let is_one_off = text(ONE_OFF).is_some_and(|flag| flag.eq_ignore_ascii_case("true"));
            if is_one_off || one.labels.contains_key(label::RECORD) {
                return None;
            }
            let (project, service) = (text(PROJECT)?, text(SERVICE)?);
            // Links add names with a slash.
            let name = one.names.iter().find(|name| !name.contains('/'))?.clone();
            Some(ComposeContainer { project, service, name, id: one.id, state: one.state })
        })
        .collect();
    found.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(found)
}

/// Stops a container and gives it another name, so that its name, its ports and its volumes are free. The engine
/// does not start it again.
///
/// # Errors
/// Returns a sentence if the engine fails. The container then runs under its own name, if the engine still answers.
pub async fn set_aside(container: &ComposeContainer) -> Result<KeptContainer, String> {
    let engine = Engine::new(None);
    let before = ContainerName::new(container.name.clone()).map_err(|error| error.to_string())?;
    let name = ContainerName::new(format!("{before}{KEPT}")).map_err(|error| error.to_string())?;
    let seen = engine.inspect(&container.id).await.map_err(|error| error.to_string())?;
    let seen = seen.ok_or_else(|| format!("the container {before} is gone"))?;
    let kept = KeptContainer { id: container.id.clone(), before, name, restarts: seen.restart_policy };
    match free(&engine, &kept).await {
        Ok(()) => Ok(kept),
        Err(error) => {
            let again = restore(&engine, &kept).await;
            let note = again
                .err()
                .map(|again| format!("; and starting it again failed: {again}"))
                .unwrap_or_default();
            Err(format!("{error}{note}"))
        }
    }
}

async fn free(engine: &Engine, kept: &KeptContainer) -> Result<(), EngineError> {
    engine.set_restart_policy(&kept.id, "no").await?;
    engine.stop(&kept.id, STOP_TIMEOUT).await?;
    engine.rename(&kept.id, &kept.name).await
}

/// Removes what an environment runs and starts the kept container in its place.
///
/// # Errors
/// Returns a sentence if the engine fails.
pub async fn put_back(environment: &EnvironmentName, kept: &KeptContainer) -> Result<(), String> {
    let engine = Engine::new(None);
    let mut last = String::new();
    for _ in 0..MOST_ATTEMPTS {
        match take_name(&engine, environment, kept).await {
            Ok(()) => return restore(&engine, kept).await.map_err(|error| error.to_string()),
            Err(error) => last = error.to_string(),
        }
    }
    Err(last)
}

/// Gives the kept container its name back. As soon as it has it, the environment is blocked by the name, and
/// creates nothing more.
async fn take_name(
    engine: &Engine,
    environment: &EnvironmentName,
    kept: &KeptContainer,
) -> Result<(), EngineError> {
    let beside = |name: &str| name == kept.before.as_str() || name.starts_with(&format!("{}.", kept.before));
    let is_ours = |labels: &std::collections::HashMap<String, String>| {
        labels.get(label::ENVIRONMENT).is_some_and(|name| name == environment.as_str())
    };
    let listed = engine.list().await?;
    let ours: Vec<_> = listed
        .iter()
        .filter(|one| is_ours(&one.labels) && one.names.iter().any(|name| beside(name)))
        .collect();
    let failed = ContainerName::new(format!("{}.failed", kept.before)).ok();
    for container in &ours {
        if let Some(failed) =
            failed.as_ref().filter(|_| container.names.iter().any(|name| name == kept.before.as_str()))
        {
            engine.rename(&container.id, failed).await?;
        }
    }
    let is_done = listed
        .iter()
        .any(|one| one.id == kept.id && one.names.iter().any(|name| name == kept.before.as_str()));
    if !is_done {
        engine.rename(&kept.id, &kept.before).await?;
    }
    for container in ours {
        engine.remove(&container.id).await?;
    }
    Ok(())
}

async fn restore(engine: &Engine, kept: &KeptContainer) -> Result<(), EngineError> {
    engine.set_restart_policy(&kept.id, &kept.restarts).await?;
    // It still has its own name if the renaming failed.
    let _ = engine.rename(&kept.id, &kept.before).await;
    engine.start(&kept.id).await
}
