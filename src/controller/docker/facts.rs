//! Properties of the engine.

use std::collections::{BTreeMap, BTreeSet};

use bollard::models::PortSummaryTypeEnum;

use super::{Engine, QUICK, Result, within};
use crate::model::container::label;
use crate::model::ports::TransportProtocol;

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
    /// The running containers of abide, by record.
    pub records: BTreeMap<String, RunningContainers>,
}

/// The running containers of one record, as far as they use the host's ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunningContainers {
    /// Whether its proxy runs, which uses the host's network, so its ports are in no list.
    pub has_front: bool,
    /// Environments with a running container, which may use the host's network too.
    pub environments: BTreeSet<String>,
    /// Published host ports, for TCP and UDP.
    pub published: BTreeSet<(TransportProtocol, u16)>,
}

impl Engine {
    /// Asks the engine for its facts.
    pub(crate) async fn facts(&self) -> Result<EngineFacts> {
        let docker = self.docker().await?;
        let version = within("report its version", QUICK, docker.version()).await?;
        let info = within("report its settings", QUICK, docker.info()).await?;
        let options = bollard::query_parameters::ListContainersOptionsBuilder::default().build();
        let containers = within("list containers", QUICK, docker.list_containers(Some(options))).await?;
        let mut records = BTreeMap::<String, RunningContainers>::new();
        for container in containers {
            let label = |name| container.labels.as_ref()?.get(name).cloned();
            let Some(record) = label(label::RECORD) else { continue };
            let running = records.entry(record).or_default();
            running.has_front |= label(label::ROLE).as_deref() == Some(label::FRONT);
            running.environments.extend(label(label::ENVIRONMENT));
            let published = container.ports.iter().flatten().filter_map(|port| {
                let protocol = match port.typ {
                    Some(PortSummaryTypeEnum::UDP) => TransportProtocol::Udp,
                    _ => TransportProtocol::Tcp,
                };
                Some((protocol, port.public_port?))
            });
            running.published.extend(published);
        }
        Ok(EngineFacts {
            version: version.version.unwrap_or_default(),
            api: version.api_version.unwrap_or_default(),
            root: info.docker_root_dir,
            limits_memory: info.memory_limit.unwrap_or_default(),
            limits_pids: info.pids_limit.unwrap_or_default(),
            records,
        })
    }
}
