//! A workload: replicas of one image that an orchestrator such as Docker Swarm places on several hosts.
//!
//! Two values stand between the plan and a target: [`Workload`], which is wanted, and [`SeenWorkload`], which is
//! seen. A target writes the one and reads the other, and decides nothing.

mod nodes;
mod tasks;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::container::{ContainerOptions, label};
use super::health::{HealthSpec, Probe};
use super::mount::Mount;
use super::name::{CommitId, ContainerName, Generation, InvalidName, NetworkName, name};
use super::secret_file::SecretFile;
use super::spec::{Publish, RunOptions, Update};
use super::time::Timestamp;

pub use nodes::{NodeState, NodeView, SwarmNode};
pub use tasks::{SeenTask, SeenUpdate, TaskPhase, UpdateProgress, summary};

name!(
    /// A rule that limits the nodes of a workload, such as `node.role == worker`.
    PlacementRule, "constraint",
    "such as \"node.role == worker\" or \"node.labels.zone != east\"",
    |t| t.len() <= 256 && t.bytes().all(|b| b.is_ascii_graphic() || b == b' ') && {
        let parts = t.split_once("==").or_else(|| t.split_once("!="));
        parts.is_some_and(|(key, value)| is_node_key(key.trim()) && !value.trim().is_empty())
    }
);

name!(
    /// The label of nodes over whose values replicas are spread, such as `node.labels.zone`.
    SpreadKey, "label to spread over",
    "such as \"node.labels.zone\"",
    |t| t.len() <= 256 && !t.contains(char::is_whitespace)
        && ["node.labels.", "engine.labels."].iter().any(|of| t.len() > of.len() && t.starts_with(of))
);

fn is_node_key(key: &str) -> bool {
    const KEYS: [&str; 6] =
        ["node.id", "node.hostname", "node.ip", "node.role", "node.platform.os", "node.platform.arch"];
    let is_label =
        ["node.labels.", "engine.labels."].iter().any(|of| key.len() > of.len() && key.starts_with(of));
    KEYS.contains(&key) || is_label && !key.contains(char::is_whitespace)
}

impl PlacementRule {
    /// Whether at most one node fulfils it.
    pub fn is_one_node(&self) -> bool {
        let key = self.as_str().split_once("==").map(|(key, _)| key.trim());
        key.is_some_and(|key| matches!(key, "node.id" | "node.hostname"))
    }
}

/// How an environment runs on Docker Swarm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwarmSpec {
    /// The number of replicas.
    pub replicas: u32,
    /// The rules for the nodes that they may run on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub constraints: Vec<PlacementRule>,
    /// The label over whose values they are spread; `None`: over nodes only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<SpreadKey>,
    /// The most replicas on one node; `None`: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_node: Option<u32>,
    /// The number of replicas that are replaced at once; zero: all.
    pub parallel: u32,
    /// How the port is published.
    pub ports: PortMode,
}

/// How the port of a workload is published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PortMode {
    /// Every node forwards the published port to the replicas.
    #[default]
    Ingress,
    /// Each node publishes the port of the replica that it runs.
    Host,
    /// Each replica gets a free port of its node.
    Dynamic,
}

impl PortMode {
    /// The word in the manifest.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Host => "host",
            Self::Dynamic => "dynamic",
        }
    }

    /// All modes.
    pub const ALL: [Self; 3] = [Self::Ingress, Self::Host, Self::Dynamic];
}

/// A workload as it is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// The image by digest, as every node pulls it: `repository@sha256:...`.
    pub image: String,
    /// The options of its containers.
    pub options: ContainerOptions,
    /// The health check.
    pub health: HealthSpec,
    /// Number and places of its replicas.
    pub placement: SwarmSpec,
    /// The network that it shares with the other members of its group; `None`: it belongs to no group.
    pub network: Option<NetworkName>,
    /// The order in which a replica is replaced.
    pub update: Update,
    /// The generation that it is made for.
    pub generation: Generation,
    /// The commit of its image, if known.
    pub revision: Option<CommitId>,
}

impl Workload {
    /// The name that it has on the target.
    pub fn name(&self) -> &ContainerName {
        &self.options.name
    }

    /// A hash of everything whose change replaces the replicas. Each replica carries it as the mark of its
    /// version.
    pub fn version(&self) -> String {
        #[derive(Serialize)]
        struct WorkloadVersion<'a> {
            image: &'a str,
            command: &'a Option<Vec<String>>,
            env: BTreeMap<&'a str, &'a str>,
            port: Option<u16>,
            publish: &'a Option<Publish>,
            ports: PortMode,
            volumes: Vec<Mount>,
            extra_hosts: &'a Vec<String>,
            memory: Option<u64>,
            nano_cpus: Option<u64>,
            pids: Option<u32>,
            init: bool,
            stop_timeout: u32,
            run: &'a RunOptions,
            health: &'a HealthSpec,
            #[serde(skip_serializing_if = "Vec::is_empty")]
            files: Vec<(&'a SecretFile, &'a str)>,
            #[serde(skip_serializing_if = "Option::is_none")]
            network: Option<&'a NetworkName>,
        }
        let options = &self.options;
        hash(&WorkloadVersion {
            image: &self.image,
            command: &options.command,
            env: options.env.iter().map(|(name, value)| (name.as_str(), value.expose())).collect(),
            port: options.port,
            publish: &options.publish,
            ports: self.placement.ports,
            volumes: options.volumes.iter().map(Mount::as_mounted).collect(),
            extra_hosts: &options.extra_hosts,
            memory: options.memory,
            nano_cpus: options.nano_cpus,
            pids: options.pids,
            init: options.init,
            stop_timeout: options.stop_timeout_seconds,
            run: &options.run,
            health: &self.health,
            files: options.files.iter().map(|written| (&written.file, written.content.expose())).collect(),
            network: self.network.as_ref(),
        })
    }

    /// A hash of everything that is declared, including number and places of the replicas.
    pub fn fingerprint(&self) -> String {
        hash(&(self.version(), &self.placement, self.update))
    }

    /// The labels of the object that the target keeps: owner, generation and fingerprint.
    pub fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.options.labels(self.generation, self.revision.as_ref(), self.fingerprint());
        labels.insert(label::VERSION.to_owned(), self.version());
        labels
    }

    /// The longest time in which all replicas should be ready after a write, without the time to pull the image.
    pub fn deadline(&self) -> Duration {
        /// For scheduling; the first task of a network takes 10 s.
        const SCHEDULING: Duration = Duration::from_secs(15);
        /// The time that the check of an image may take with Docker's defaults.
        const OF_IMAGE: Duration = Duration::from_secs(180);
        let batches = match self.placement.parallel {
            0 => 1,
            parallel => self.placement.replicas.div_ceil(parallel),
        };
        let start = match self.health.probe {
            Probe::Docker => self.health.start_deadline.max(OF_IMAGE),
            _ => self.health.start_deadline,
        };
        let stop = Duration::from_secs(u64::from(self.options.stop_timeout_seconds));
        (start + self.health.healthy_for + stop + SCHEDULING) * batches.max(1)
    }
}

/// How long a replica has to run before it counts as ready. abide's own probe, which answers for `http` and `tcp`,
/// waits for `healthy_for` itself.
pub fn settles_after(health: &HealthSpec) -> Duration {
    match health.probe {
        Probe::Http(_) | Probe::Tcp | Probe::None => Duration::ZERO,
        Probe::Command(_) | Probe::Docker | Probe::Running => health.healthy_for,
    }
}

fn hash(value: &impl Serialize) -> String {
    hex::encode(Sha256::digest(serde_json::to_vec(value).unwrap_or_default()))
}

/// The answer of a target about a workload.
#[derive(Clone, Debug, PartialEq)]
pub enum WorkloadSight {
    /// The target cannot answer now, with the reason as a sentence. Nothing may be decided.
    Unknown(String),
    /// It does not exist.
    Missing {
        /// The objects of the same environment with earlier names, by id.
        leftovers: Vec<String>,
    },
    /// Its name belongs to something else, with a description.
    Foreign(String),
    /// It exists.
    Seen(Box<SeenWorkload>),
}

/// A workload as the target shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct SeenWorkload {
    /// The target's id.
    pub id: String,
    /// The token that a write has to name, so that it replaces exactly the observed version.
    pub token: WriteToken,
    /// The [`Workload::fingerprint`] that was written.
    pub fingerprint: String,
    /// The [`Workload::version`] that was written.
    pub version: String,
    /// The fields that somebody else has changed since.
    pub changes: BTreeSet<String>,
    /// The declared number of replicas.
    pub replicas: u32,
    /// When abide wrote it.
    pub written_at: Timestamp,
    /// The replicas by version.
    pub counts: BTreeMap<String, VersionCount>,
    /// The state of the declared version.
    pub rollout: Rollout,
    /// The ends of replicas of the declared version, the newest last.
    pub failures: Vec<TaskFailure>,
    /// When the oldest ready replica was started.
    pub started_at: Option<Timestamp>,
    /// The nodes of ready replicas, with the ports that reach them.
    pub endpoints: Vec<Endpoint>,
    /// The addresses at which replicas of any version answer, if each has a port of its own. During an update, both
    /// versions serve.
    pub serving: Vec<SocketAddr>,
    /// The nodes.
    pub nodes: Vec<SwarmNode>,
    /// Other objects of the same environment, by id: what an earlier name left behind.
    pub leftovers: Vec<String>,
}

impl SeenWorkload {
    /// The ready replicas of the declared version.
    pub fn ready(&self) -> u32 {
        self.counts.get(&self.version).map_or(0, |count| count.ready)
    }

    /// The nodes with the ready replicas that each has, as a status shows them.
    pub fn node_views(&self) -> Vec<NodeView> {
        let replicas = |name: &str| self.endpoints.iter().filter(|endpoint| endpoint.node == name).count();
        let view = |node: &SwarmNode| NodeView {
            name: node.name.clone(),
            state: node.state,
            replicas: u32::try_from(replicas(&node.name)).unwrap_or(u32::MAX),
        };
        self.nodes.iter().map(view).collect()
    }
}

/// The token that a write has to name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteToken {
    /// The version of the object.
    pub index: u64,
    /// The number of restarts that people asked for, which a write keeps.
    pub forced: u64,
}

/// The replicas of one version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VersionCount {
    /// They run, are healthy, and their node is ready.
    pub ready: u32,
    /// They should run and are not ready.
    pub awaited: u32,
}

/// The state of the declared version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rollout {
    /// All replicas are ready, and no other version runs.
    Settled,
    /// Replicas are being started or replaced.
    Moving {
        /// Whether a node is preparing an image, which may take long.
        is_pulling: bool,
    },
    /// A replica finds no node, with the target's reason.
    Stuck(String),
    /// A replica failed.
    Failed(TaskFailure),
}

/// The end of a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskFailure {
    /// What happened, as a clause.
    pub why: String,
    /// The cause.
    pub kind: TaskFailureKind,
    /// When.
    pub at: Timestamp,
    /// Whether the target has stopped the update because of it.
    pub is_paused: bool,
}

/// The cause of the end of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskFailureKind {
    /// Its program ended.
    Exited,
    /// Its program could not be started.
    NotStarted,
    /// Its health check failed.
    Unhealthy,
    /// Its node could not pull the image. The target hides the cause, such as a registry that does not answer.
    NoImage,
    /// Something else: a node, the image, or a signal from outside.
    Outside,
}

impl TaskFailureKind {
    /// Whether the version is to blame.
    pub fn is_verdict(self) -> bool {
        !matches!(self, Self::NoImage | Self::Outside)
    }
}

/// The place of a replica.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// The host name of the node.
    pub node: String,
    /// The port that the node publishes for it; `None`: none for this replica.
    pub port: Option<u16>,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.node),
            None => f.write_str(&self.node),
        }
    }
}
