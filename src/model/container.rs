//! A container as abide makes it: every option that it sets, and nothing else.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::name::{ContainerName, Digest, NetworkName};
use super::spec::{Mount, Publish};

/// Labels that abide sets on what it makes.
pub mod label {
    /// The environment's name, on containers.
    pub const ENVIRONMENT: &str = "abide.environment";
    /// The id of the record that the object belongs to: two daemons never mend each other's.
    pub const RECORD: &str = "abide.record";
    /// The generation for which a container was made. Never compared: the same image and options
    /// under a later generation are no difference.
    pub const GENERATION: &str = "abide.generation";
    /// The commit, on containers and images.
    pub const REVISION: &str = "abide.revision";
    /// The [`ContainerSpec::fingerprint`](super::ContainerSpec::fingerprint) of a container.
    pub const SPEC: &str = "abide.spec";
    /// The key of a build's inputs, on images and on the containers of build steps.
    pub const BUILD: &str = "abide.build";
}

/// A value that is never printed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Secret(String);

impl Secret {
    /// Wraps `value`.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself: for the engine, for an HMAC, and for nothing that is kept or shown.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Every option of a container that abide sets.
///
/// What is not in here, abide neither sets nor compares: what the image's metadata or the engine
/// adds is no difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerSpec {
    /// The name.
    pub name: ContainerName,
    /// The image ID, in the engine that runs it.
    pub image: Digest,
    /// Arguments after the entrypoint; `None`: the image's own.
    pub command: Option<Vec<String>>,
    /// Environment variables, all treated as secret: nothing prints their values.
    pub env: BTreeMap<String, Secret>,
    /// The container's port.
    pub port: u16,
    /// Where it is published.
    pub publish: Option<Publish>,
    /// Volumes and bind mounts.
    pub volumes: Vec<Mount>,
    /// `host:address` lines.
    pub extra_hosts: Vec<String>,
    /// Memory limit in bytes.
    pub memory: Option<u64>,
    /// CPU limit in billionths of a CPU.
    pub nano_cpus: Option<u64>,
    /// Limit of processes and threads.
    pub pids: Option<u32>,
    /// A tiny init as pid 1.
    pub init: bool,
    /// Seconds from SIGTERM to SIGKILL.
    pub stop_timeout_seconds: u64,
    /// The network it joins, under its name as alias.
    pub network: NetworkName,
    /// The labels that say whose it is; see [`label`].
    pub labels: BTreeMap<String, String>,
}

impl ContainerSpec {
    /// A hash of all that needs a new container when it changes, kept as the label
    /// [`label::SPEC`]. It catches what cannot be told from an inspect, such as a variable that is
    /// no longer declared but that the image might have set.
    ///
    /// Options at their default do not enter the hash, so that a later abide with more options
    /// computes the same for containers that do not use them.
    pub fn fingerprint(&self) -> String {
        #[derive(Serialize)]
        struct Fingerprint<'a> {
            image: &'a Digest,
            #[serde(skip_serializing_if = "Option::is_none")]
            command: &'a Option<Vec<String>>,
            #[serde(skip_serializing_if = "BTreeMap::is_empty")]
            env: BTreeMap<&'a str, &'a str>,
            port: u16,
            #[serde(skip_serializing_if = "Option::is_none")]
            publish: &'a Option<Publish>,
            #[serde(skip_serializing_if = "Vec::is_empty")]
            volumes: &'a Vec<Mount>,
            #[serde(skip_serializing_if = "Vec::is_empty")]
            extra_hosts: &'a Vec<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            memory: Option<u64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            nano_cpus: Option<u64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            pids: Option<u32>,
            init: bool,
            network: &'a NetworkName,
        }
        let of = Fingerprint {
            image: &self.image,
            command: &self.command,
            env: self.env.iter().map(|(name, value)| (name.as_str(), value.expose())).collect(),
            port: self.port,
            publish: &self.publish,
            volumes: &self.volumes,
            extra_hosts: &self.extra_hosts,
            memory: self.memory,
            nano_cpus: self.nano_cpus,
            pids: self.pids,
            init: self.init,
            network: &self.network,
        };
        let text = serde_json::to_vec(&of).unwrap_or_default();
        hex::encode(Sha256::digest(text))
    }
}

/// How a container's process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The exit code; 128 + n where signal n ended it.
    pub code: i64,
    /// Whether the kernel killed it for memory.
    pub out_of_memory: bool,
    /// When, by the engine's clock.
    pub at: super::time::Timestamp,
}
