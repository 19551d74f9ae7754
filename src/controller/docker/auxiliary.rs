//! Containers that abide runs for itself, in addition to those of the environments.

use std::collections::{BTreeMap, HashMap};

use bollard::models::{ContainerCreateBody, HostConfig, HostConfigLogConfig, PortBinding};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, InspectContainerOptions, ListContainersOptionsBuilder,
};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::containers::no_restarts;
use super::mounts::to_engine;
use super::{Engine, QUICK, Result, SLOW, convert, within};
use crate::model::container::label;
use crate::model::mount::Mount;
use crate::model::name::{ContainerName, Digest};
use crate::model::observed::ObservedContainer;
use crate::model::spec::Publish;

/// How much of its log a container keeps: 30 MB.
const LOG: [(&str, &str); 2] = [("max-size", "10m"), ("max-file", "3")];

/// The specification of such a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct AuxiliarySpec {
    /// Its role for abide, which is also in its label.
    pub(crate) role: &'static str,
    /// Its name.
    #[serde(skip)]
    pub(crate) name: ContainerName,
    /// Its image.
    pub(crate) image: AuxiliaryImage,
    /// Environment variables, none of them secret.
    pub(crate) env: BTreeMap<String, String>,
    /// Its network.
    #[serde(flatten)]
    pub(crate) network: AuxiliaryNetwork,
    /// Its volume, and the files of this host.
    pub(crate) mounts: Vec<Mount>,
    /// Volumes at the image's `VOLUME` lines, in addition to `mounts`.
    #[serde(skip)]
    pub(crate) undeclared: Vec<Mount>,
    /// A hash of the content of those files, which the container reads when it starts. `None` if it has no
    /// files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content: Option<String>,
    /// Program and arguments, which replace those of the image; empty: those of the image.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) command: Vec<String>,
    /// The signal that ends it gracefully; `None`: SIGTERM.
    #[serde(skip)]
    pub(crate) stop_signal: Option<&'static str>,
    /// The capabilities of a container that runs as root, whatever user the image names; `None`: the engine's
    /// default, for the image's user.
    #[serde(skip)]
    pub(crate) root_with: Option<&'static [&'static str]>,
    /// Whether the volumes that the engine creates for it are removed with it, because they hold no data.
    #[serde(skip)]
    pub(crate) is_stateless: bool,
}

/// The image of such a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(crate) enum AuxiliaryImage {
    /// By its name, because a moved tag must not recreate the container.
    Named(String),
    /// By its ID.
    Exact(Digest),
}

/// The network of such a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(crate) enum AuxiliaryNetwork {
    /// A separate network, with one published port.
    Published {
        /// The port that it listens on.
        port: u16,
        /// The host port and address at which that port is published.
        publish: Publish,
    },
    /// The host's network.
    Host {},
}

/// The properties of such a container that abide checks.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SeenAuxiliary {
    /// The properties that are checked in every container.
    pub(crate) seen: ObservedContainer,
    /// The name of the image when the container was created.
    pub(crate) image: String,
    /// Program and arguments.
    pub(crate) command: Vec<String>,
    /// `host`, or the name of a network.
    pub(crate) network_mode: String,
}

impl AuxiliarySpec {
    /// A hash of everything that requires a new container when it changes.
    pub(crate) fn fingerprint(&self) -> String {
        hex::encode(Sha256::digest(serde_json::to_vec(self).unwrap_or_default()))
    }

    /// Returns the first difference among the properties that are fixed when a container is created.
    pub(crate) fn difference(&self, seen: &SeenAuxiliary) -> Option<String> {
        let is_image = match &self.image {
            AuxiliaryImage::Named(name) => seen.image == *name,
            AuxiliaryImage::Exact(id) => seen.seen.image.as_ref() == Some(id),
        };
        if !is_image {
            let expected = self.image.as_str();
            return Some(format!("its image is {}, not {expected}", seen.image));
        }
        if !self.command.is_empty() && seen.command != self.command {
            return Some("it runs a different command".to_owned());
        }
        if matches!(self.network, AuxiliaryNetwork::Host {}) && seen.network_mode != "host" {
            return Some(format!("it uses the network {} instead of the host's", seen.network_mode));
        }
        // Proxies from earlier versions of abide have no such label.
        let made = seen.seen.labels.get(label::SPEC);
        made.is_some_and(|made| *made != self.fingerprint())
            .then(|| "it differs from the manifest".to_owned())
    }

    fn body(&self, record: &str) -> ContainerCreateBody {
        let labels = [
            (label::RECORD, record.to_owned()),
            (label::ROLE, self.role.to_owned()),
            (label::SPEC, self.fingerprint()),
        ];
        let mut host = HostConfig {
            mounts: Some(self.mounts.iter().chain(&self.undeclared).map(to_engine).collect()),
            restart_policy: Some(no_restarts()),
            // Clients decide how much it logs.
            log_config: Some(HostConfigLogConfig {
                typ: Some("json-file".to_owned()),
                config: Some(LOG.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            }),
            ..HostConfig::default()
        };
        let mut body = ContainerCreateBody {
            image: Some(self.image.as_str().to_owned()),
            env: Some(self.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
            labels: Some(labels.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
            entrypoint: Some(self.command.clone()).filter(|command| !command.is_empty()),
            stop_signal: self.stop_signal.map(str::to_owned),
            ..ContainerCreateBody::default()
        };
        if let Some(capabilities) = self.root_with {
            body.user = Some("0:0".to_owned());
            host.cap_drop = Some(vec!["ALL".to_owned()]);
            host.cap_add = Some(capabilities.iter().map(|&name| name.to_owned()).collect());
            host.security_opt = Some(vec!["no-new-privileges".to_owned()]);
        }
        match &self.network {
            AuxiliaryNetwork::Host {} => host.network_mode = Some("host".to_owned()),
            AuxiliaryNetwork::Published { port, publish } => {
                let port = format!("{port}/tcp");
                let host_ip = publish.address.map(|address| address.to_string());
                let binding = PortBinding { host_ip, host_port: Some(publish.port.to_string()) };
                body.exposed_ports = Some(vec![port.clone()]);
                host.port_bindings = Some(HashMap::from([(port, Some(vec![binding]))]));
                host.init = Some(true);
            }
        }
        ContainerCreateBody { host_config: Some(host), ..body }
    }
}

impl AuxiliaryImage {
    fn as_str(&self) -> &str {
        match self {
            Self::Named(name) => name,
            Self::Exact(id) => id.as_str(),
        }
    }
}

impl Engine {
    /// Creates such a container and returns its id.
    pub(crate) async fn create_auxiliary(&self, record: &str, spec: &AuxiliarySpec) -> Result<String> {
        let docker = self.docker().await?;
        let query = CreateContainerOptionsBuilder::default().name(spec.name.as_str()).build();
        let call = docker.create_container(Some(query), spec.body(record));
        Ok(within("create a container", SLOW, call).await?.id)
    }

    /// Inspects such a container; `None` if it does not exist.
    pub(crate) async fn inspect_auxiliary(&self, id: &str) -> Result<Option<SeenAuxiliary>> {
        let docker = self.docker().await?;
        let call = docker.inspect_container(id, None::<InspectContainerOptions>);
        let inspected = match within("inspect a container", QUICK, call).await {
            Ok(inspected) => inspected,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        let config = inspected.config.clone().unwrap_or_default();
        let host = inspected.host_config.clone().unwrap_or_default();
        Ok(Some(SeenAuxiliary {
            image: config.image.unwrap_or_default(),
            command: config.entrypoint.into_iter().chain(config.cmd).flatten().collect(),
            network_mode: host.network_mode.unwrap_or_default(),
            seen: convert::seen(inspected),
        }))
    }

    /// Returns the containers of a record that have this role.
    pub(crate) async fn auxiliaries(&self, record: &str, role: &str) -> Result<Vec<SeenAuxiliary>> {
        let docker = self.connection().await?;
        let labels = vec![format!("{}={record}", label::RECORD), format!("{}={role}", label::ROLE)];
        let filters = HashMap::from([("label".to_owned(), labels)]);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let mut found = Vec::new();
        for listed in within("list containers", QUICK, docker.list_containers(Some(options))).await? {
            // A container that was removed meanwhile is skipped.
            found.extend(self.inspect_auxiliary(&listed.id.unwrap_or_default()).await?);
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry() -> AuxiliarySpec {
        AuxiliarySpec {
            role: label::REGISTRY,
            name: ContainerName::new("registry").unwrap(),
            image: AuxiliaryImage::Exact(Digest::of_sha256(&[1; 32])),
            env: BTreeMap::from([("A".to_owned(), "b".to_owned())]),
            network: AuxiliaryNetwork::Published {
                port: 5000,
                publish: Publish { address: None, port: 5001 },
            },
            mounts: Vec::new(),
            undeclared: Vec::new(),
            content: None,
            command: Vec::new(),
            stop_signal: None,
            root_with: None,
            is_stateless: false,
        }
    }

    #[test]
    fn a_registry_fingerprint_matches_earlier_versions() {
        let json = serde_json::to_string(&registry()).unwrap();
        let image = Digest::of_sha256(&[1; 32]);
        let publish = serde_json::to_string(&Publish { address: None, port: 5001 }).unwrap();
        let expected = format!(
            "{{\"role\":\"registry\",\"image\":\"{image}\",\"env\":{{\"A\":\"b\"}},\"port\":5000,\
             \"publish\":{publish},\"mounts\":[]}}"
        );
        assert_eq!(json, expected);
    }
}
