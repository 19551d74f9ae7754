//! What people declare: the manifest as values, checked.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub use super::health::{HealthSpec, Probe};
use super::mount::{Mount, VolumeName};
use super::name::{
    AgentName, BranchName, ContainerName, EnvironmentName, HostName, NetworkName, RepositoryName,
};
use super::reference::{ImageRepository, RegistryHost, TaggedImage};
use super::wire;

/// Everything that the files of a desired-state folder declare.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Manifest {
    /// Repositories by name.
    pub repositories: BTreeMap<RepositoryName, RepositorySpec>,
    /// Environments by name.
    pub environments: BTreeMap<EnvironmentName, EnvironmentSpec>,
    /// The Docker network that managed containers join (default `abide`).
    pub network: NetworkName,
    /// What keeps the network namespaces that containers join.
    pub holder: HolderImage,
    /// Bytes of the engine's build cache that builds may leave behind; `None`: it is left alone.
    pub build_cache: Option<u64>,
    /// Whether a guard looks after the containers while abide is gone.
    pub guard: GuardMode,
    /// How many environments of a host are updated at once; `None`: as many as suit its processors.
    pub parallel_updates: Option<usize>,
    /// The managed nginx in front of the environments, where one is declared.
    pub front: Option<FrontSpec>,
    /// The managed registry, where one is declared.
    pub registry: Option<ManagedRegistry>,
    /// How registries are spoken to, by host. One that is not named is spoken to as Docker's own
    /// configuration says.
    pub registries: BTreeMap<RegistryHost, RegistryAccess>,
}

/// Whether a container of abide's own, which has the engine's socket, looks after the other containers
/// while abide is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum GuardMode {
    /// It does.
    #[default]
    On,
    /// It does not: after an engine restart, containers in a shared network namespace wait for abide.
    Off,
}

impl Manifest {
    /// A mark of all that is declared of how an environment runs: it differs after an edit. It is
    /// only compared, by the process that made it or a later one; a mark that a controller sent stays
    /// as it is, because another version of abide would make another of the same declaration.
    pub fn mark(&self, environment: &EnvironmentName) -> Option<String> {
        let spec = self.environments.get(environment)?;
        if spec.mark.is_some() {
            return spec.mark.clone();
        }
        let text = format!("{spec:?} {:?} {:?} {:?}", self.network, self.holder, self.front);
        Some(hex::encode(Sha256::digest(text)))
    }
}

impl Manifest {
    /// The repository and branch that the images of an environment are built from, here or in the
    /// environment that they are promoted from; `None`: they are not built.
    pub fn built_from(&self, environment: &EnvironmentName) -> Option<(&str, &BranchName)> {
        let mut environment = environment;
        // Promotions could be declared in a circle.
        for _ in 0..self.environments.len() {
            match &self.environments.get(environment)?.supply {
                Supply::Promotion { from } => environment = from,
                Supply::Branch { repository, branch } => {
                    return Some((&self.repositories.get(repository)?.url, branch));
                }
                Supply::Tag { .. } | Supply::Manual => return None,
            }
        }
        None
    }
}

/// A registry that abide runs on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManagedRegistry {
    /// The image that it runs, by name.
    pub image: String,
    /// Where it is published; on the loopback address unless another one is named.
    pub publish: Publish,
    /// The container's name (default `abide-registry`).
    pub container: ContainerName,
    /// The volume that holds what was pushed (default `abide-registry`).
    pub volume: VolumeName,
    /// A file of names and hashed passwords, an absolute path of this host; `None`: everyone may.
    pub htpasswd: Option<PathBuf>,
    /// Its certificate; `None`: no TLS.
    pub tls: Option<CertificateFiles>,
}

/// A certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate chain, PEM, an absolute path of this host.
    pub certificate: PathBuf,
    /// Its key, PEM, an absolute path of this host.
    pub key: PathBuf,
}

/// How one registry is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryAccess {
    /// Who abide is there; `None`: as Docker's own configuration says.
    pub login: Option<Login>,
    /// Whether it is spoken to without TLS (default false). Loopback addresses always may be.
    pub plain_http: bool,
    /// How often the tags that environments follow are asked for, and whether what was pushed is
    /// still there; zero: never. Default 60 s.
    pub poll: Duration,
    /// How long a push or pull may go without any progress before it counts as frozen. Default 90 s:
    /// an engine that lost its connection tries again for up to 75 s, and says then what is wrong.
    pub patience: Duration,
    /// The token with which the registry's notifications prove who sent them; `None`: none are taken.
    pub webhook: Option<SecretRef>,
}

impl Default for RegistryAccess {
    fn default() -> Self {
        let minute = Duration::from_secs(60);
        Self { login: None, plain_http: false, poll: minute, patience: minute * 3 / 2, webhook: None }
    }
}

/// A name and where its password is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The name.
    pub username: String,
    /// The password.
    pub password: SecretRef,
}

/// What keeps the network namespaces that containers join.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HolderImage {
    /// The program that abide carries with it.
    #[default]
    Own,
    /// An image that does nothing and ends at SIGKILL, by name.
    Named(String),
    /// Nothing: each container has a namespace of its own.
    Off,
}

/// The managed nginx that serves host names and published ports, and passes traffic to what is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontSpec {
    /// The image that it runs, by name.
    pub image: String,
    /// Where host names are served over HTTP.
    pub http: u16,
    /// Where host names are served over TLS; `None`: nowhere.
    pub https: Option<HttpsSpec>,
    /// How long requests to a container that was replaced may take to end (default 30 s).
    pub drain: Duration,
}

/// TLS at the front.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpsSpec {
    /// The port.
    pub port: u16,
    /// The certificate chain, PEM, an absolute path of this host.
    pub certificate: PathBuf,
    /// Its key, PEM, an absolute path of this host.
    pub key: PathBuf,
}

/// One repository: where it is and who announces its pushes.
#[derive(Clone, Debug, PartialEq)]
pub struct RepositorySpec {
    /// Whatever git takes: https, ssh, a path. Never taken from a webhook.
    pub url: String,
    /// Who abide is there, over HTTP; `None`: whom git's own configuration says.
    pub login: Option<Login>,
    /// Who may announce a push; `None`: nobody, the branches are only polled.
    pub webhook: Option<WebhookSpec>,
    /// How often the branch heads are asked for; zero: never. Default 60 s.
    pub poll: Duration,
}

/// A webhook: its provider is bound to the URL, never guessed from headers.
#[derive(Clone, Debug, PartialEq)]
pub struct WebhookSpec {
    /// Who sends it.
    pub provider: Provider,
    /// The shared secret.
    pub secret: SecretRef,
}

/// A git hosting service whose webhooks are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// GitHub and GitHub Enterprise Server.
    Github,
    /// GitLab, token or signed.
    Gitlab,
    /// Gitea, Forgejo and Gogs.
    Gitea,
    /// Bitbucket Cloud and Data Center.
    Bitbucket,
}

/// Where a secret is; never the secret itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretRef {
    /// The name of an environment variable of the daemon.
    SecretEnv(#[serde(deserialize_with = "wire::secret_variable")] String),
    /// The path of a file; one trailing line break is not part of the secret.
    SecretFile(#[serde(deserialize_with = "wire::host_path")] PathBuf),
}

/// One environment: what runs there and from where it comes.
///
/// It travels to agents as JSON. What a newer controller says in addition is passed over, and what
/// an older one does not say is as if it was not declared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvironmentSpec {
    /// The container's name.
    pub container: ContainerName,
    /// Where the program in it listens; `None`: nowhere, as a worker that only calls others.
    #[serde(default, deserialize_with = "wire::optional_port")]
    pub port: Option<u16>,
    /// Where that port is published on the host; `None`: nowhere.
    pub publish: Option<Publish>,
    /// The host name that the front serves it by.
    pub hostname: Option<HostName>,
    /// From where its image comes.
    pub supply: Supply,
    /// Arguments after the image's entrypoint; `None`: the image's own.
    #[serde(default, deserialize_with = "wire::command")]
    pub command: Option<Vec<String>>,
    /// Environment variables.
    #[serde(default, deserialize_with = "wire::env")]
    pub env: BTreeMap<String, EnvValue>,
    /// Data volumes and bind mounts.
    #[serde(default)]
    pub volumes: Vec<Mount>,
    /// Additional `host:address` lines of `/etc/hosts`.
    #[serde(default, deserialize_with = "wire::extra_hosts")]
    pub extra_hosts: Vec<String>,
    /// Memory limit in bytes.
    #[serde(default, deserialize_with = "wire::memory")]
    pub memory: Option<u64>,
    /// CPU limit in billionths of a CPU, as the Docker API counts.
    #[serde(default, deserialize_with = "wire::nano_cpus")]
    pub nano_cpus: Option<u64>,
    /// Limit of processes and threads.
    #[serde(default, deserialize_with = "wire::pids")]
    pub pids: Option<u32>,
    /// Whether a tiny init runs as pid 1 (default true).
    pub init: bool,
    /// How long a container may take to stop before it is killed (default 10 s).
    #[serde(deserialize_with = "wire::stop_timeout")]
    pub stop_timeout: Duration,
    /// In which order containers change places; `None`: not declared, so start-first where there is
    /// a front and no volume, else stop-first.
    #[serde(default)]
    pub update: Option<Update>,
    /// How readiness is probed.
    #[serde(deserialize_with = "wire::health")]
    pub health: HealthSpec,
    /// How its image is built, where it is built here. It travels nowhere.
    #[serde(skip)]
    pub build: Option<BuildSpec>,
    /// Where its image is pushed once it is built.
    #[serde(skip)]
    pub push: Option<ImageRepository>,
    /// The agent that runs it; `None`: the daemon on this machine.
    #[serde(default)]
    pub host: Option<AgentName>,
    /// The mark that a controller gave this declaration when it sent it to an agent; `None`: this
    /// manifest was read here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<String>,
}

impl EnvironmentSpec {
    /// The values that its containers and health checks are given, secret ones among them.
    pub fn values(&self) -> impl Iterator<Item = &EnvValue> {
        self.env.values().chain(self.health.headers.values())
    }
}

/// In which order a new container takes over from the old one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Update {
    /// The new one is ready before the old one goes: no gap, but both run for a while.
    StartFirst,
    /// The old one goes before the new one starts: a gap, but never two.
    StopFirst,
}

/// Where the image of an environment comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Supply {
    /// The head of a branch, built here.
    Branch {
        /// The repository's name in the manifest.
        repository: RepositoryName,
        /// The branch that is followed.
        branch: BranchName,
    },
    /// What another environment runs healthy, by promotion.
    Promotion {
        /// The environment that is promoted from.
        from: EnvironmentName,
    },
    /// What a tag in a registry names.
    Tag {
        /// The tag that is followed.
        image: TaggedImage,
    },
    /// Only `abide set` moves it.
    Manual,
}

/// A host port, on all addresses or on one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawPublish")]
pub struct Publish {
    /// The host address; `None`: all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// The host port.
    pub port: u16,
}

/// A host port as JSON has it.
#[derive(Deserialize)]
pub(super) struct RawPublish {
    #[serde(default)]
    pub(super) address: Option<IpAddr>,
    pub(super) port: u16,
}

/// The value of an environment variable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EnvValue {
    /// Written in the manifest.
    Plain(#[serde(deserialize_with = "wire::text")] String),
    /// Kept elsewhere.
    Secret(SecretRef),
}

/// How an image is made of a checkout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildSpec {
    /// What is run.
    pub recipe: Recipe,
    /// Paths taken out of the checkout first, relative to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
    /// Files of this host laid into the checkout.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overlay: Vec<Overlay>,
    /// Other repositories laid into the checkout.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checkout: Vec<ExtraCheckout>,
    /// Whether the checkout gets a `.git`, for what reads its history.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub git: bool,
    /// Whether submodules are checked out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub submodules: bool,
    /// Whether files in Git LFS are fetched.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lfs: bool,
    /// Patterns of the paths that concern the environment; empty: all do. No part of a build's inputs.
    #[serde(skip)]
    pub paths: Vec<String>,
    /// The longest a build may take. No part of a build's inputs.
    #[serde(skip, default = "default_build_timeout")]
    pub timeout: Duration,
    /// The longest a build may go without any output. No part of a build's inputs.
    #[serde(skip, default = "default_idle_timeout")]
    pub idle_timeout: Duration,
}

/// The default of `build.timeout`.
pub fn default_build_timeout() -> Duration {
    Duration::from_secs(2 * 60 * 60)
}

/// The default of `build.idle_timeout`.
pub fn default_idle_timeout() -> Duration {
    Duration::from_secs(30 * 60)
}

/// The two ways to make an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recipe {
    /// Steps, then a final Dockerfile.
    Dockerfile {
        /// The final image's context, relative to the checkout.
        context: String,
        /// The final Dockerfile, relative to the context.
        dockerfile: String,
        /// The stage that is built; `None`: the last one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        target: Option<String>,
        /// Build arguments.
        args: BTreeMap<String, String>,
        /// What runs before, in order; each adds one file to the final context.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        steps: Vec<BuildStep>,
        /// BuildKit secrets by id (`RUN --mount=type=secret,id=...`).
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        secrets: BTreeMap<String, SecretRef>,
    },
    /// A team's own script, run in the checkout.
    Script {
        /// Program and arguments.
        command: Vec<String>,
        /// The image that it makes; `{build_number}` stands for the number.
        image: String,
        /// Environment variables of the script.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        env: BTreeMap<String, EnvValue>,
    },
}

/// A step before the final image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BuildStep {
    /// The checkout itself, packed (`.tar.gz`/`.tgz`: compressed, `.tar`: plain).
    Archive {
        /// The file, relative to the final context.
        output: String,
    },
    /// An image that is built and run once; its standard output becomes the file.
    Dockerfile {
        /// The step's context, relative to the checkout.
        context: String,
        /// Its Dockerfile, relative to that context.
        dockerfile: String,
        /// The stage that is built and run; `None`: the last one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        target: Option<String>,
        /// Build arguments.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        args: BTreeMap<String, String>,
        /// The file, relative to the final context.
        output: String,
    },
}

/// A file of this host that is laid into the checkout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlay {
    /// An absolute path of this host.
    pub from: PathBuf,
    /// A path relative to the checkout.
    pub to: String,
}

/// Another repository that is laid into the checkout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtraCheckout {
    /// Where it is.
    pub url: String,
    /// A branch or a full commit id.
    pub revision: String,
    /// A path relative to the checkout.
    pub to: String,
}
