//! Properties of the engine.

use std::collections::BTreeSet;

use bollard::models::ContainerSummary;

use super::{Engine, QUICK, Result, within};
use crate::model::container::label;

/// The facts that an engine reports about itself and its host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineFacts {
    /// Its version, such as `28.2.2`.
    pub version: String,
    /// The newest version of its API.
    pub api: String,
    /// The folder of images and volumes, on the engine's host.
    pub root: Option<String>,
    /// Whether the engine can limit memory.
    pub limits_memory: bool,
    /// Whether the engine can limit processes.
    pub limits_pids: bool,
    /// Whether a proxy of abide runs. It uses the host's network, so its ports are in no list.
    pub has_front: bool,
    /// Host ports that are published by containers of any abide record.
    pub published_by_abide: BTreeSet<u16>,
}

impl Engine {
    /// Asks the engine for its facts.
    pub(crate) async fn facts(&self) -> Result<EngineFacts> {
        let docker = self.docker().await?;
        let version = within("report its version", QUICK, docker.version()).await?;
        let info = within("report its settings", QUICK, docker.info()).await?;
        let options = bollard::query_parameters::ListContainersOptionsBuilder::default().build();
        let containers = within("list containers", QUICK, docker.list_containers(Some(options))).await?;
        let label = |container: &ContainerSummary, name| container.labels.as_ref()?.get(name).cloned();
        let is_ours = |container: &ContainerSummary| label(container, label::RECORD).is_some();
        let ours: Vec<_> = containers.into_iter().filter(is_ours).collect();
        let is_front = |container| label(container, label::ROLE).as_deref() == Some(label::FRONT);
        let has_front = ours.iter().any(is_front);
        let ports = ours.into_iter().flat_map(|container| container.ports.unwrap_or_default());
        Ok(EngineFacts {
            version: version.version.unwrap_or_default(),
            api: version.api_version.unwrap_or_default(),
            root: info.docker_root_dir,
            limits_memory: info.memory_limit.unwrap_or_default(),
            limits_pids: info.pids_limit.unwrap_or_default(),
            has_front,
            published_by_abide: ports.filter_map(|port| port.public_port).collect(),
        })
    }
}
