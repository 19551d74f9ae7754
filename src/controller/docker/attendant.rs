//! Containers that abide runs for itself, in addition to those of the environments.

use std::collections::{BTreeMap, HashMap};

use bollard::models::{ContainerCreateBody, HostConfig, PortBinding};
use bollard::query_parameters::{CreateContainerOptionsBuilder, ListContainersOptionsBuilder};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::containers::no_restarts;
use super::mounts::to_engine;
use super::{Engine, QUICK, Result, SLOW, within};
use crate::model::container::label;
use crate::model::mount::Mount;
use crate::model::name::{ContainerName, Digest};
use crate::model::observed::SeenContainer;
use crate::model::spec::Publish;

/// The options of such a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct AttendantOptions {
    /// Its role for abide, which is also in its label.
    pub(crate) role: &'static str,
    /// Its name.
    #[serde(skip)]
    pub(crate) name: ContainerName,
    /// The image ID.
    pub(crate) image: Digest,
    /// Environment variables, none of them secret.
    pub(crate) env: BTreeMap<String, String>,
    /// The port that it listens on.
    pub(crate) port: u16,
    /// The host port and address at which that port is published.
    pub(crate) publish: Publish,
    /// Its volume, and the files of this host.
    pub(crate) mounts: Vec<Mount>,
    /// Volumes at the image's `VOLUME` lines, in addition to `mounts`.
    #[serde(skip)]
    pub(crate) undeclared: Vec<Mount>,
    /// A hash of the content of those files, which the container reads when it starts. `None` if it has no
    /// files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content: Option<String>,
}

impl AttendantOptions {
    /// A hash of everything that requires a new container when it changes.
    pub(crate) fn fingerprint(&self) -> String {
        hex::encode(Sha256::digest(serde_json::to_vec(self).unwrap_or_default()))
    }

    fn body(&self, record: &str) -> ContainerCreateBody {
        let port = format!("{}/tcp", self.port);
        let labels = [
            (label::RECORD, record.to_owned()),
            (label::ROLE, self.role.to_owned()),
            (label::SPEC, self.fingerprint()),
        ];
        let host_ip = self.publish.address.map(|address| address.to_string());
        let binding = PortBinding { host_ip, host_port: Some(self.publish.port.to_string()) };
        ContainerCreateBody {
            image: Some(self.image.to_string()),
            env: Some(self.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
            labels: Some(labels.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
            exposed_ports: Some(vec![port.clone()]),
            host_config: Some(HostConfig {
                mounts: Some(self.mounts.iter().chain(&self.undeclared).map(to_engine).collect()),
                port_bindings: Some(HashMap::from([(port, Some(vec![binding]))])),
                restart_policy: Some(no_restarts()),
                init: Some(true),
                ..Default::default()
            }),
            ..Default::default()
        }
    }
}

impl Engine {
    /// Creates such a container and returns its id.
    pub(crate) async fn create_attendant(&self, record: &str, options: &AttendantOptions) -> Result<String> {
        let docker = self.docker().await?;
        let query = CreateContainerOptionsBuilder::default().name(options.name.as_str()).build();
        let call = docker.create_container(Some(query), options.body(record));
        Ok(within("create a container", SLOW, call).await?.id)
    }

    /// Returns the containers of a record that have this role.
    pub(crate) async fn attendants(&self, record: &str, role: &str) -> Result<Vec<SeenContainer>> {
        let docker = self.connection().await?;
        let labels = vec![format!("{}={record}", label::RECORD), format!("{}={role}", label::ROLE)];
        let filters = HashMap::from([("label".to_owned(), labels)]);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let mut found = Vec::new();
        for listed in within("list containers", QUICK, docker.list_containers(Some(options))).await? {
            // A container that was removed meanwhile is skipped.
            found.extend(self.inspect(&listed.id.unwrap_or_default()).await?);
        }
        Ok(found)
    }
}
