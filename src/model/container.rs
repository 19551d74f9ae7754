//! A container as abide creates it: every option that abide sets, and no others.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::mount::Mount;
use super::name::{CommitId, ContainerName, Digest, EnvironmentName, Generation, NetworkName};
use super::network::Attachments;
use super::secret_file::WrittenFile;
use super::spec::{PortMapping, Publish, RunOptions};

/// Labels that abide sets on the objects that it creates.
pub mod label {
    /// The environment's name, on containers.
    pub const ENVIRONMENT: &str = "abide.environment";
    /// The id of the record that owns the object. Daemons never repair each other's objects.
    pub const RECORD: &str = "abide.record";
    /// The role of a managed container that does not run an environment's image: [`HOLDER`] or [`FRONT`].
    pub const ROLE: &str = "abide.role";
    /// The role of a sandbox, which holds an environment's network namespace.
    pub const HOLDER: &str = "holder";
    /// The role of the guard, which acts while abide is down.
    pub const GUARD: &str = "guard";
    /// The role of the managed nginx proxy.
    pub const FRONT: &str = "front";
    /// The generation for which a container was created. Never compared: the same image and options in a
    /// later generation make no difference.
    pub const GENERATION: &str = "abide.generation";
    /// The commit, on containers and images.
    pub const REVISION: &str = "abide.revision";
    /// The [`ContainerSpec::fingerprint`](super::ContainerSpec::fingerprint) of a container.
    pub const SPEC: &str = "abide.spec";
    /// The version of a workload, and of its containers. These have no label of [`RECORD`]: the orchestrator makes and
    /// removes them.
    pub const VERSION: &str = "abide.version";
    /// The hashes of the fields of a workload that abide wrote, by which a change by somebody else is seen.
    pub const WRITTEN: &str = "abide.written";
    /// When abide wrote a workload.
    pub const WRITTEN_AT: &str = "abide.written-at";
    /// The key of a build's inputs, on the final images of builds.
    pub const BUILD: &str = "abide.build";
    /// The id of the record for which an image was built. It differs from [`RECORD`] because containers
    /// inherit the labels of their image: a container that a user creates from it must not look managed.
    pub const BUILT_BY: &str = "abide.built-by";
    /// The id of the record, on the images and containers of build steps.
    pub const STEP: &str = "abide.step";
    /// The mark of the command of a container that runs it once.
    pub const COMMAND: &str = "abide.command";
    /// The longest time that such a container may run, in seconds.
    pub const LIMIT: &str = "abide.limit";
    /// The role of the managed registry.
    pub const REGISTRY: &str = "registry";
}

/// A value that is never printed.
///
/// ```
/// use abide::model::container::Secret;
///
/// let secret = Secret::new("hunter2");
/// assert_eq!(format!("{secret:?}"), "[redacted]");
/// assert_eq!(secret.expose(), "hunter2");
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Secret(String);

impl Secret {
    /// Wraps `value`.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself: only for the engine and HMACs, never for storage or output.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Every option of a container that abide sets, except for its image.
///
/// abide neither sets nor compares other options, so additions by the image's metadata or the engine are not
/// differences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerOptions {
    /// Its environment.
    pub environment: EnvironmentName,
    /// The record that it belongs to.
    pub record: String,
    /// The name.
    pub name: ContainerName,
    /// Arguments after the entrypoint; `None`: the image's own.
    pub command: Option<Vec<String>>,
    /// Environment variables. Their values are never printed.
    pub env: BTreeMap<String, Secret>,
    /// The names of variables that are declared secret. Their values are removed from displayed program
    /// output.
    pub secrets: BTreeSet<String>,
    /// The container's port; `None` if the program does not listen.
    pub port: Option<u16>,
    /// The published address.
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
    pub stop_timeout_seconds: u32,
    /// The network that it joins, with its name as alias.
    pub network: NetworkName,
    /// Further options, by compose's names.
    pub run: RunOptions,
    /// The files of secrets.
    pub files: Vec<WrittenFile>,
}

impl ContainerOptions {
    /// The values that are never shown.
    pub fn secret_values(&self) -> impl Iterator<Item = &Secret> {
        let of_env = self.secrets.iter().filter_map(|name| self.env.get(name));
        of_env.chain(self.files.iter().map(|file| &file.content))
    }

    /// Its names and addresses in all networks.
    pub fn attachments(&self) -> Attachments {
        self.run.attachments(&self.network, &self.name)
    }

    /// All published ports: that of the program, and the further ones.
    pub fn ports(&self) -> impl Iterator<Item = PortMapping> {
        self.run.ports_with(self.port, self.publish)
    }

    /// The labels of an object with these options: owner, generation, commit, and the `fingerprint` of its
    /// specification.
    pub(super) fn labels(
        &self,
        generation: Generation,
        revision: Option<&CommitId>,
        fingerprint: String,
    ) -> BTreeMap<String, String> {
        let own = [
            (label::ENVIRONMENT, self.environment.to_string()),
            (label::RECORD, self.record.clone()),
            (label::GENERATION, generation.to_string()),
            (label::SPEC, fingerprint),
        ];
        let revision = revision.map(|revision| (label::REVISION, revision.to_string()));
        own.into_iter().chain(revision).map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// The engine's own network that it uses, `host` or `none`; `None`: it uses a network of abide.
    pub fn network_mode(&self) -> Option<&str> {
        self.run.settings.network_mode()
    }
}

/// A container as abide creates it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerSpec {
    /// The image ID, in the engine that runs it.
    pub image: Digest,
    /// Everything else.
    pub options: ContainerOptions,
    /// Volumes at the image's `VOLUME` paths that the manifest does not declare.
    pub undeclared: Vec<Mount>,
    /// The generation that it is created for.
    pub generation: Generation,
    /// The commit of its image, if known.
    pub revision: Option<CommitId>,
}

impl ContainerSpec {
    /// All mounts, declared or not.
    pub fn mounts(&self) -> impl Iterator<Item = &Mount> {
        self.options.volumes.iter().chain(&self.undeclared)
    }

    /// A hash of every option whose change needs a new container, stored in the label [`label::SPEC`]. It
    /// detects changes that an inspect cannot show, such as a removed variable that the image might have set
    /// too.
    ///
    /// Unused options do not enter the hash, so that a later abide with more options computes the same hash
    /// for containers that do not use them. Limits do not enter it either, because the engine can change them
    /// on a running container.
    pub fn fingerprint(&self) -> String {
        #[derive(Serialize)]
        struct ContainerFingerprint<'a> {
            image: &'a Digest,
            #[serde(skip_serializing_if = "Option::is_none")]
            command: &'a Option<Vec<String>>,
            #[serde(skip_serializing_if = "BTreeMap::is_empty")]
            env: BTreeMap<&'a str, &'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            port: Option<u16>,
            #[serde(skip_serializing_if = "Option::is_none")]
            publish: &'a Option<Publish>,
            #[serde(skip_serializing_if = "Vec::is_empty")]
            volumes: Vec<Mount>,
            #[serde(skip_serializing_if = "Vec::is_empty")]
            extra_hosts: &'a Vec<String>,
            init: bool,
            network: &'a NetworkName,
            #[serde(skip_serializing_if = "RunOptions::is_default")]
            run: &'a RunOptions,
            #[serde(skip_serializing_if = "Vec::is_empty")]
            files: Vec<&'a str>,
        }
        let options = &self.options;
        let of = ContainerFingerprint {
            image: &self.image,
            command: &options.command,
            env: options.env.iter().map(|(name, value)| (name.as_str(), value.expose())).collect(),
            port: options.port,
            publish: &options.publish,
            volumes: options.volumes.iter().map(Mount::as_mounted).collect(),
            extra_hosts: &options.extra_hosts,
            init: options.init,
            network: &options.network,
            run: &options.run,
            files: options.files.iter().map(|file| file.content.expose()).collect(),
        };
        let text = serde_json::to_vec(&of).unwrap_or_default();
        hex::encode(Sha256::digest(text))
    }

    /// The labels: owner, generation and options.
    pub fn labels(&self) -> BTreeMap<String, String> {
        self.options.labels(self.generation, self.revision.as_ref(), self.fingerprint())
    }
}

/// The end of a container's process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The exit code; 128 + n if signal n ended it.
    pub code: i64,
    /// Whether the kernel killed it because memory ran out.
    pub out_of_memory: bool,
    /// The time, by the engine's clock.
    pub at: super::time::Timestamp,
}
