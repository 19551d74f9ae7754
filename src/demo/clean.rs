//! Before and after the demo: checks for names in use, and removes everything that the demo
//! created.

use anyhow::bail;

use super::container_names;
use crate::controller::cleanup;
use crate::model::spec::Manifest;

/// Refuses to start if a container has a name that the demo would use.
pub(super) async fn refuse_taken_names(manifest: &Manifest) -> anyhow::Result<()> {
    let taken = cleanup::names_in_use().await.map_err(anyhow::Error::msg)?;
    let Some(name) = container_names(manifest).find(|name| taken.iter().any(|taken| taken == name)) else {
        return Ok(());
    };
    bail!("a container named {name} already exists: rename or remove it, then start the demo")
}

/// Removes every container, image, network and volume that the demo's record owns.
pub(super) async fn remove_all(record: &str, manifest: &Manifest) -> anyhow::Result<()> {
    let volumes = manifest.environments.values().flat_map(|spec| &spec.volumes);
    let volumes: Vec<String> = volumes.filter_map(|mount| mount.volume()).map(ToString::to_string).collect();
    let removed = cleanup::remove_record(record, &manifest.network, &volumes).await;
    removed.map_err(anyhow::Error::msg)
}
