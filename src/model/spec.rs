//! The checked values of a manifest.

mod build;
mod front;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::canary::CanarySpec;
pub use super::channel::{Channel, ChannelSpec};
pub use super::checks::NeededChecks;
pub use super::followed::FollowedManifest;
pub use super::forge::ForgeSpec;
use super::gates::{Gates, VerifySpec};
use super::group::MemberNeeds;
pub use super::health::{HealthSpec, Probe};
use super::job::JobSpec;
use super::mount::Mount;
use super::name::{
    AgentName, BranchName, ChannelName, ContainerName, EnvironmentName, GroupName, JobName, NetworkName,
    RepositoryName, SiteName,
};
use super::one_off::HookSpec;
pub use super::options::RunOptions;
use super::outbox::{ForgeRule, OutboxRules};
pub use super::ports::{PortMapping, Publish};
use super::public_url::PublicUrl;
use super::pull::PullPolicy;
use super::reference::{ImageRepository, RegistryHost, TaggedImage};
pub use super::registries::{ManagedRegistry, RegistryAccess};
use super::replicas::ReplicaSlot;
use super::site::SiteSettings;
use super::wire;
use super::workload::SwarmSpec;
pub use build::{
    BUILD_NUMBER, Bounds, BuildOptions, BuildSpec, BuildStep, ExtraCheckout, Overlay, Recipe,
    default_build_timeout, default_idle_timeout,
};
pub use front::{AcmeSpec, CertificateFiles, DnsSpec, FrontSpec, HttpsMode, HttpsSpec, NamedCertificate};

/// The declarations of all files of a desired-state folder.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Manifest {
    /// Repositories by name.
    pub repositories: BTreeMap<RepositoryName, RepositorySpec>,
    /// Environments by name.
    pub environments: BTreeMap<EnvironmentName, EnvironmentSpec>,
    /// The Docker network that managed containers join (default `abide`).
    pub network: NetworkName,
    /// The sandbox image: its containers keep the network namespaces that others join.
    pub holder: HolderImage,
    /// The limit of the engine's build cache after builds, in bytes; `None`: abide leaves the cache alone.
    pub build_cache: Option<u64>,
    /// Whether a guard repairs containers while abide is down.
    pub guard: GuardMode,
    /// The maximum number of environments of a host that are updated at once; `None`: depends on its
    /// processors.
    pub parallel_updates: Option<usize>,
    /// The managed nginx proxy, if declared.
    pub front: Option<FrontSpec>,
    /// The public URL of the web page, if declared.
    pub page: Option<PageSpec>,
    /// The managed registry, if declared.
    pub registry: Option<ManagedRegistry>,
    /// Access to registries, by host. Registries without an entry use Docker's own configuration.
    pub registries: BTreeMap<RegistryHost, RegistryAccess>,
    /// Notification channels by name.
    pub channels: BTreeMap<ChannelName, ChannelSpec>,
    /// The branch that all of this comes from; `None`: it is only in the folder.
    pub followed: Option<FollowedManifest>,
}

/// Whether a guard repairs containers while abide is down. The guard is a container of abide with access to
/// the engine's socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum GuardMode {
    /// The guard runs.
    #[default]
    On,
    /// No guard runs: after an engine restart, containers in a shared network namespace wait for abide.
    Off,
}

impl Manifest {
    /// A mark of everything declared about how an environment runs. It changes with every edit. Marks are
    /// only compared by the process that made them or a later one. A mark from a controller is kept, because
    /// another version of abide would compute a different mark for the same declaration.
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
    /// The receivers of the record's outbox.
    pub fn outbox_rules(&self) -> OutboxRules {
        let channels = self.channels.iter().map(|(name, spec)| (name.clone(), spec.rule()));
        let forges = self.environments.keys().filter_map(|name| {
            let (repository, forge) = self.forge_of(name)?;
            let awaits_checks = self.environments.get(name).is_some_and(|spec| spec.checks.is_some());
            let repository = repository.clone();
            let rule = ForgeRule { repository, deployments: forge.deployments, awaits_checks };
            Some((name.clone(), rule))
        });
        OutboxRules { channels: channels.collect(), forges: forges.collect() }
    }

    /// The repository whose forge shows the commits of an environment, and that forge.
    pub fn forge_of(&self, environment: &EnvironmentName) -> Option<(&RepositoryName, &ForgeSpec)> {
        let (repository, _) = self.built_in(environment)?;
        Some((repository, self.repositories.get(repository)?.forge.as_ref()?))
    }

    /// The public URL of the pages, if declared.
    pub fn page_url(&self) -> Option<String> {
        self.page.as_ref().map(|page| page.url.to_string())
    }

    /// The public URL of the page, if the proxy of this host serves it.
    pub fn page_on_front(&self) -> Option<&PublicUrl> {
        self.front.as_ref()?;
        self.page.as_ref().filter(|page| page.on_front).map(|page| &page.url)
    }

    /// The environments that the images of `environment` come through: itself, the source of its promotions,
    /// and so on.
    pub fn came_through(&self, environment: &EnvironmentName) -> Vec<EnvironmentName> {
        let mut way = vec![environment.clone()];
        while let Some(from) = way.last().and_then(|last| self.promoted_from(last)) {
            // The declared promotions could form a cycle.
            if way.contains(from) {
                break;
            }
            way.push(from.clone());
        }
        way
    }

    /// The environment that `environment` is promoted from.
    pub fn promoted_from(&self, environment: &EnvironmentName) -> Option<&EnvironmentName> {
        match &self.environments.get(environment)?.supply {
            Supply::Promotion { from } => Some(from),
            Supply::Branch { .. } | Supply::Tag { .. } | Supply::Manual => None,
        }
    }

    /// The environments that are promoted from `environment`, with their declarations.
    pub fn promoted_to<'a>(
        &'a self,
        environment: &'a EnvironmentName,
    ) -> impl Iterator<Item = (&'a EnvironmentName, &'a EnvironmentSpec)> {
        self.environments.iter().filter(move |(name, _)| self.promoted_from(name) == Some(environment))
    }

    /// The repository and branch that the images of an environment are built from, directly or in the
    /// environment that it is promoted from. Returns `None` if they are not built.
    pub fn built_from(&self, environment: &EnvironmentName) -> Option<(&str, &BranchName)> {
        let (repository, branch) = self.built_in(environment)?;
        Some((&self.repositories.get(repository)?.url, branch))
    }

    /// The same with the repository's name.
    pub fn built_in(&self, environment: &EnvironmentName) -> Option<(&RepositoryName, &BranchName)> {
        let mut environment = environment;
        // The declared promotions could form a cycle.
        for _ in 0..self.environments.len() {
            match &self.environments.get(environment)?.supply {
                Supply::Promotion { from } => environment = from,
                Supply::Branch { repository, branch } => {
                    return Some((repository, branch));
                }
                Supply::Tag { .. } | Supply::Manual => return None,
            }
        }
        None
    }
}

/// The web page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageSpec {
    /// The URL at which browsers reach it.
    pub url: PublicUrl,
    /// Whether the proxy serves this URL (default false).
    pub on_front: bool,
}

/// A name and the reference to its password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The name.
    pub username: String,
    /// The password.
    pub password: SecretRef,
}

/// The image of sandboxes, which keep the network namespaces that containers join.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HolderImage {
    /// The program that is part of abide.
    #[default]
    Own,
    /// The name of an image that does nothing and ends at SIGKILL.
    Named(String),
    /// No sandbox: each container has its own namespace.
    Off,
}

/// One repository and its webhook.
#[derive(Clone, Debug, PartialEq)]
pub struct RepositorySpec {
    /// Any URL that git accepts: https, ssh, a path. Never taken from a webhook.
    pub url: String,
    /// The credentials over HTTP; `None`: those of git's own configuration.
    pub login: Option<Login>,
    /// The webhook that announces pushes; `None`: the branches are only polled.
    pub webhook: Option<WebhookSpec>,
    /// The interval of polling branch heads; zero: never. Default 60 s.
    pub poll: Duration,
    /// The forge to which abide reports the state of commits; `None`: none.
    pub forge: Option<ForgeSpec>,
}

/// A webhook. Its URL determines the provider, which is never guessed from headers.
#[derive(Clone, Debug, PartialEq)]
pub struct WebhookSpec {
    /// The sender.
    pub provider: Provider,
    /// The shared secret.
    pub secret: SecretRef,
}

/// A git hosting service with supported webhooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// GitHub and GitHub Enterprise Server.
    Github,
    /// GitLab, with a token or signed.
    Gitlab,
    /// Gitea, Forgejo and Gogs.
    Gitea,
    /// Bitbucket Cloud and Data Center.
    Bitbucket,
}

/// A reference to a secret; never the secret itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretRef {
    /// The name of an environment variable of the daemon.
    SecretEnv(#[serde(deserialize_with = "wire::secret_variable")] String),
    /// The path of a file; one trailing line break is not part of the secret.
    SecretFile(#[serde(deserialize_with = "wire::host_path")] PathBuf),
}

/// One environment: its containers and the source of its image.
///
/// It is sent to agents as JSON. Unknown fields of a newer controller are ignored, and missing fields of an
/// older one count as not declared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvironmentSpec {
    /// The container's name.
    pub container: ContainerName,
    /// The port of the program in the container; `None`: it does not listen, like a worker that only connects
    /// to others.
    #[serde(default, deserialize_with = "wire::optional_port")]
    pub port: Option<u16>,
    /// Its group; `None`: it belongs to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
    /// Its place among the replicas of a declaration; `None`: it has no replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica: Option<ReplicaSlot>,
    /// The members of its group that its new containers wait for.
    #[serde(default, skip_serializing_if = "MemberNeeds::is_empty")]
    pub needs: MemberNeeds,
    /// The published address of that port; `None`: not published.
    pub publish: Option<Publish>,
    /// The names that the proxy serves.
    #[serde(default, alias = "hostname", deserialize_with = "wire::site_names")]
    pub hostnames: Vec<SiteName>,
    /// Whether clients must use HTTPS for these names; `None`: once there is a certificate of the name's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub https: Option<HttpsMode>,
    /// How the proxy treats its requests.
    #[serde(default, skip_serializing_if = "SiteSettings::is_default")]
    pub site: SiteSettings,
    /// Further options of its containers, by compose's names.
    #[serde(default, skip_serializing_if = "RunOptions::is_default")]
    pub run: RunOptions,
    /// The source of its image.
    pub supply: Supply,
    /// When its image is pulled.
    #[serde(default, skip_serializing_if = "PullPolicy::is_default")]
    pub pull_policy: PullPolicy,
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
    /// The maximum time from stop to kill (default 10 s).
    #[serde(deserialize_with = "wire::stop_timeout")]
    pub stop_timeout: Duration,
    /// The order of replacing containers; `None`: not declared, so start-first with a proxy and without
    /// volumes, and stop-first otherwise.
    #[serde(default)]
    pub update: Option<Update>,
    /// When its container is started again after it ended.
    #[serde(default, skip_serializing_if = "RestartMode::is_default")]
    pub restart: RestartMode,
    /// The readiness probe.
    #[serde(deserialize_with = "wire::health")]
    pub health: HealthSpec,
    /// The build of its image, if it is built on this host. It is never sent to agents.
    #[serde(skip)]
    pub build: Option<BuildSpec>,
    /// The repository to push a built image to.
    #[serde(skip)]
    pub push: Option<ImageRepository>,
    /// How its new versions begin; `None`: they take over once they are ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanarySpec>,
    /// The gates of promotions to it. They are judged on the controller, so never sent to agents.
    #[serde(skip)]
    pub gates: Gates,
    /// The check of each new version. Agents run none.
    #[serde(skip)]
    pub verify: Option<VerifySpec>,
    /// The command that runs once for each new image, before its first container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<HookSpec>,
    /// The command that runs once for each new image, after it became ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<HookSpec>,
    /// The commands that run at scheduled times.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub jobs: BTreeMap<JobName, JobSpec>,
    /// The checks that a commit of the branch needs before it is deployed; `None`: none. Agents build nothing.
    #[serde(skip)]
    pub checks: Option<NeededChecks>,
    /// Number and places of its replicas on Docker Swarm; `None`: it is one container on one host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swarm: Option<SwarmSpec>,
    /// The agent that runs it; `None`: the daemon on this host.
    #[serde(default)]
    pub host: Option<AgentName>,
    /// The mark of this declaration from the controller that sent it to an agent; `None`: it was read from a
    /// manifest on this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<String>,
}

impl EnvironmentSpec {
    /// The host ports that its container publishes, unless a proxy publishes the first one.
    pub fn ports(&self) -> impl Iterator<Item = PortMapping> {
        self.run.ports_with(self.port, self.publish)
    }

    /// Its first exact host name.
    pub fn first_host_name(&self) -> Option<&SiteName> {
        self.hostnames.iter().find(|name| name.wildcard_base().is_none())
    }

    /// Every name that the proxy answers for it, including those that it redirects.
    pub fn site_names(&self) -> impl Iterator<Item = &SiteName> {
        self.hostnames.iter().chain(&self.site.redirect_from)
    }

    /// The values of its containers and health checks, including secret ones.
    pub fn values(&self) -> impl Iterator<Item = &EnvValue> {
        self.env.values().chain(self.health.headers.values())
    }
}

/// The order in which a new container replaces the old one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Update {
    /// The new container is ready before the old one stops: no gap, but both run for a while.
    StartFirst,
    /// The old container stops before the new one starts: a gap, but never two at once.
    StopFirst,
}

/// When a container is started again after it ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartMode {
    /// Always: its program is meant to keep running.
    #[default]
    Always,
    /// Unless it ended by itself with exit code 0: it is complete then.
    OnFailure,
}

impl RestartMode {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The source of an environment's image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Supply {
    /// The head of a branch, built on this host.
    Branch {
        /// The repository's name in the manifest.
        repository: RepositoryName,
        /// The polled branch.
        branch: BranchName,
    },
    /// The image that another environment runs healthy, by promotion.
    Promotion {
        /// The environment that is promoted from.
        from: EnvironmentName,
    },
    /// The image of a tag in a registry.
    Tag {
        /// The tracked tag.
        image: TaggedImage,
    },
    /// Only `abide set` changes it.
    Manual,
}

/// The value of an environment variable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EnvValue {
    /// Written in the manifest.
    Plain(#[serde(deserialize_with = "wire::text")] String),
    /// A reference to a secret.
    Secret(SecretRef),
}
