//! Removes all that a record owns, for a demo that leaves nothing behind. The reconcile loop never does
//! this.

use super::docker::{Engine, EngineError, guard, holder};
use crate::controller::jobs::builder::tag_prefix;
use crate::model::container::label;
use crate::model::name::NetworkName;

/// Returns the names of all containers of the engine.
///
/// # Errors
/// Returns a sentence if the engine does not answer.
pub async fn names_in_use() -> Result<Vec<String>, String> {
    let listed = Engine::new(None).list().await.map_err(|error| error.to_string())?;
    Ok(listed.into_iter().flat_map(|container| container.names).collect())
}

/// Removes the containers, images, network and volumes of a record. Its daemon must have been stopped.
///
/// # Errors
/// Returns a sentence if the engine fails to remove one of them.
pub async fn remove_record(record: &str, network: &NetworkName, volumes: &[String]) -> Result<(), String> {
    let engine = Engine::new(None);
    remove(&engine, record, network, volumes).await.map_err(|error| error.to_string())
}

async fn remove(
    engine: &Engine,
    record: &str,
    network: &NetworkName,
    volumes: &[String],
) -> Result<(), EngineError> {
    // Continues after a failed removal.
    let mut failed = None;
    let mut note = |removed: Result<(), EngineError>| failed = failed.take().or(removed.err());
    for container in engine.list().await? {
        if container.labels.get(label::RECORD).is_some_and(|owner| owner == record) {
            note(engine.remove_scratch(&container.id).await);
        }
    }
    for image in engine.images_of_record(record, &tag_prefix(record)).await? {
        note(engine.remove_image_entirely(&image).await);
    }
    // The engine keeps them if containers of another record use them.
    for program in [&holder::PROGRAM, &guard::PROGRAM] {
        let _ = engine.remove_image(&program.image()).await;
    }
    match engine.network(network, record).await {
        Ok(Some(seen)) if seen.is_ours => note(engine.remove_network(network).await),
        Ok(_) => {}
        Err(error) => note(Err(error)),
    }
    let made = engine.volumes_of_record(record).await?;
    for volume in volumes.iter().chain(&made) {
        note(engine.remove_volume(volume).await);
    }
    failed.map_or(Ok(()), Err)
}
