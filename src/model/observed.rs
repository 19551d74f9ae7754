//! The actual state of the engine, as one reconcile observes it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::build::{Acquisition, RecipeKey};
use super::cause::EndedBy;
use super::container::{ContainerOptions, Exit, Secret};
use super::front::FrontSeen;
use super::group::MemberState;
use super::job::JobRequest;
use super::mount::{AbsolutePath, Mount, VolumeName};
use super::name::{Digest, EnvironmentName, JobName};
use super::network::Attachments;
use super::options::Settings;
use super::platform::Platform;
use super::ports::PortMapping;
use super::reference::ImageRepository;
use super::time::Timestamp;
use super::workload::WorkloadSight;

/// The observed state of one environment's host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// The host's clock, which can be set. Schedules follow it; waiting never does.
    pub wall_clock: Timestamp,
    /// The managed containers of this environment.
    pub containers: Vec<ObservedContainer>,
    /// The sandboxes of this environment.
    pub holders: Vec<ObservedContainer>,
    /// The containers that run its commands once, or did.
    pub one_offs: Vec<ObservedContainer>,
    /// The names of the containers whose commands people run through this process now.
    pub attended: BTreeSet<String>,
    /// The runs of jobs that people asked this process for.
    pub job_requests: BTreeMap<JobName, Vec<JobRequest>>,
    /// The members of its group that it needs.
    pub members: BTreeMap<EnvironmentName, MemberState>,
    /// Whether the sandbox image is on the engine.
    pub holder_image: bool,
    /// The proxy's state for this environment; `None` if no proxy serves it or nothing is known yet.
    pub front: Option<FrontSeen>,
    /// A container with this environment's container name that does not belong to it.
    pub name_holder: Option<NameHolder>,
    /// Names of other containers that begin with this environment's container name.
    pub taken_names: BTreeSet<String>,
    /// The host ports that containers of other environments publish, as [`PortMapping`]s.
    pub ports_of_others: BTreeSet<String>,
    /// The other environments of this host, if one of them publishes a port that this one needs.
    pub neighbours: BTreeMap<EnvironmentName, Neighbour>,
    /// The relevant image IDs that the engine has.
    pub images: BTreeSet<Digest>,
    /// The platforms of those among them that are made for another platform than the declared one. They count as
    /// missing in [`Self::images`].
    pub other_platforms: BTreeMap<Digest, Platform>,
    /// The existing volumes among those that are declared or belong to an image's `VOLUME`.
    pub volumes: BTreeSet<String>,
    /// The paths of the `VOLUME` lines of the relevant images, by image ID.
    pub image_volumes: BTreeMap<Digest, BTreeSet<AbsolutePath>>,
    /// Declared host paths that the engine does not find.
    pub missing_sources: BTreeSet<AbsolutePath>,
    /// Declared host paths that the host's policy does not allow as mounts, and why.
    pub refused_sources: BTreeMap<AbsolutePath, String>,
    /// Whether the managed network exists.
    pub network: NetworkPresence,
    /// Whether the required registry has the recorded image.
    pub registry_presence: RegistryPresence,
    /// The manifest's current recipe; `None` if nothing is built on this host, or an overlay file cannot be
    /// read.
    pub recipe: Option<RecipeKey>,
    /// The progress of bringing the required image to the engine.
    pub acquisition: Acquisition,
    /// A build or pull is running for an image that the record no longer wants.
    pub superseded_job: bool,
    /// The time since which each job was superseded by the next and none ended by itself.
    pub burst_since: Option<Timestamp>,
    /// Readiness by container id, for running containers.
    pub probes: BTreeMap<String, Readiness>,
    /// The workload of an environment that an orchestrator runs; `None`: none runs it.
    pub workload: Option<WorkloadSight>,
    /// The causes of container ends, by container id, unless the program itself ended.
    pub ended_by: BTreeMap<String, EndedBy>,
}

/// The presence of the recorded image in registries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistryPresence {
    /// The registry that it should be pulled from no longer has it.
    pub is_lost: bool,
    /// The repository that it still has to be pushed to; `None` if there is nothing to push.
    pub push_to: Option<ImageRepository>,
}

/// The presence of the managed network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NetworkPresence {
    /// It exists, and abide created it.
    #[default]
    Ours,
    /// It exists, and someone else created it: used, never removed.
    Foreign,
    /// It does not exist.
    Missing,
}

/// A container whose name another environment needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameHolder {
    /// The engine's ID of the container.
    pub id: String,
    /// Its owner.
    pub owner: Owner,
}

/// The owner of a container that does not belong to the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Someone else, with a description. Such a container is never touched.
    Foreign(String),
    /// Another environment of this record. Its container may be renamed: names do not affect its traffic, and
    /// the environment's own reconcile corrects the name.
    Environment(EnvironmentName),
}

impl NameHolder {
    /// The description of a foreign owner; `None` for a container of this record.
    pub fn foreign(&self) -> Option<&str> {
        match &self.owner {
            Owner::Foreign(whose) => Some(whose),
            Owner::Environment(_) => None,
        }
    }
}

/// The host ports of another environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Neighbour {
    /// Those that its running containers publish.
    pub publishes: BTreeSet<String>,
    /// Those that it is declared to publish; `None`: it keeps those that it has, because it is held or no longer
    /// declared.
    pub wants: Option<Vec<PortMapping>>,
    /// Whether it lacks nothing but a port for its next container.
    pub is_waiting: bool,
}

/// A managed container, reduced to the options that abide sets.
#[derive(Clone, Debug, PartialEq)]
pub struct ObservedContainer {
    /// The engine's id.
    pub id: String,
    /// The name, without the leading slash.
    pub name: String,
    /// The image ID.
    pub image: Option<Digest>,
    /// Its state.
    pub state: ContainerState,
    /// The result of the image's own `HEALTHCHECK`.
    pub engine_health: EngineHealth,
    /// When it was created.
    pub created_at: Timestamp,
    /// When its process was last started.
    pub started_at: Option<Timestamp>,
    /// Arguments after the entrypoint.
    pub command: Vec<String>,
    /// All environment variables, including the image's.
    pub env: BTreeMap<String, Secret>,
    /// Published ports as [`PortMapping`]s, or as the engine describes them.
    pub published: BTreeSet<String>,
    /// Its mounts.
    pub mounts: ObservedMounts,
    /// Its names and addresses in its networks.
    pub attachments: Attachments,
    /// Its settings.
    pub settings: Settings,
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
    /// The engine's restart policy; abide leaves it empty or `no`.
    pub restart_policy: String,
    /// The networks that it is connected to, with its address in each while it runs.
    pub networks: BTreeMap<String, Option<IpAddr>>,
    /// The sandbox whose network namespace it joins; `None`: it has its own.
    pub joined: Option<Joined>,
    /// Its last lines of output, if it ended or does not become ready in time.
    pub last_output: Option<String>,
    /// The contents of its secret files, as far as they are known.
    pub secret_files: Vec<Secret>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

impl ObservedContainer {
    /// Whether its network namespace still exists, so that it can be started.
    pub fn has_namespace(&self) -> bool {
        self.joined.as_ref().is_none_or(|joined| joined.state != SandboxState::Gone)
    }

    /// Whether it has the values of all secrets of these options.
    pub fn has_secrets_of(&self, options: &ContainerOptions) -> bool {
        options.secrets.iter().all(|name| self.env.get(name) == options.env.get(name))
            && options.files.iter().all(|file| self.secret_files.contains(&file.content))
    }

    /// The same container with the network options of its sandbox, which is one of `holders`.
    #[must_use]
    pub fn with_holder(mut self, holders: &[Self]) -> Self {
        let Some(joined) = &mut self.joined else { return self };
        let holder = holders.iter().find(|holder| holder.id == joined.holder);
        let Some(holder) = holder.filter(|holder| holder.state != ContainerState::Dead) else {
            joined.state = SandboxState::Gone;
            return self;
        };
        joined.state = match holder.state {
            ContainerState::Running if holder.started_at > self.started_at => SandboxState::Restarted,
            ContainerState::Running => SandboxState::Holds,
            ContainerState::Paused => SandboxState::Paused,
            _ => SandboxState::Down,
        };
        self.published.clone_from(&holder.published);
        self.extra_hosts.clone_from(&holder.extra_hosts);
        self.networks.clone_from(&holder.networks);
        self.attachments.clone_from(&holder.attachments);
        self.settings = self.settings.beside(&holder.settings);
        self
    }
}

/// The mounts of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedMounts {
    /// The mounts that it was created with.
    pub asked: Vec<Mount>,
    /// Mounts among them that abide never creates, as the engine describes them.
    pub others: Vec<String>,
    /// Every volume that is mounted in it, by path, including those that the engine created for the image's
    /// `VOLUME` lines.
    pub volumes: BTreeMap<AbsolutePath, VolumeName>,
    /// The paths of the image's `VOLUME` lines.
    pub of_image: BTreeSet<AbsolutePath>,
}

impl ObservedMounts {
    /// All mounts: the requested ones, and the volumes that the engine added.
    pub fn all(&self) -> Vec<Mount> {
        let is_asked = |path: &AbsolutePath| self.asked.iter().any(|mount| mount.target() == path);
        let unasked = self.volumes.iter().filter(|(path, _)| !is_asked(path));
        let of_engine = unasked.map(|(path, volume)| Mount::of_volume(volume.clone(), path.clone()));
        self.asked.iter().cloned().chain(of_engine).collect()
    }

    /// The mounted host paths.
    pub fn host_paths(&self) -> impl Iterator<Item = &AbsolutePath> {
        self.asked.iter().filter_map(Mount::host_path)
    }
}

/// The sandbox that a container joins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Its id.
    pub holder: String,
    /// Its state.
    pub state: SandboxState,
}

/// The state of a sandbox, relative to the container that joined it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SandboxState {
    /// It has been running since before the container started: both share the namespace.
    Holds,
    /// It was restarted after the container started. The container is still in the old namespace.
    Restarted,
    /// It is paused, which does no harm until the container has to be restarted.
    Paused,
    /// It exists but does not run.
    Down,
    /// It does not exist: the container can never be started again.
    Gone,
}

/// The state of a container, in as much detail as decisions need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerState {
    /// Created, never started.
    Created,
    /// Its process runs.
    Running,
    /// Paused by `docker pause`.
    Paused,
    /// The engine is restarting or removing it: check again soon.
    InTransit,
    /// Its process ended.
    Exited(Exit),
    /// The engine failed to remove it. Removing it again is the only option.
    Dead,
}

impl ContainerState {
    /// Whether it has a process, which holds its ports.
    pub fn has_process(&self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }

    /// A clause about a container that abide leaves as it is; its name is the subject.
    pub fn clause(&self) -> &'static str {
        match self {
            Self::Created => "was never started",
            Self::Running => "keeps running",
            Self::Paused => "is paused",
            Self::InTransit => "is being restarted or removed by the engine",
            Self::Exited(_) => "does not run",
            Self::Dead => "is dead",
        }
    }
}

/// The probe results of one running container since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// The start of the current series of successful probes.
    pub answering_since: Option<Timestamp>,
    /// Consecutive failed probes since the last success.
    pub misses: u32,
    /// Whether any probe has succeeded since the container started.
    pub answered_once: bool,
    /// The time of probing without an answer since the last success, by a monotonic clock.
    pub unanswered: Duration,
    /// The reason why the last probe failed.
    pub last_miss: Option<String>,
    /// The reason why the last probe had no result. This does not count against the container.
    pub unknown: Option<String>,
    /// The time after a start that the image's own `HEALTHCHECK` may need for a decision; zero if another
    /// probe is used.
    pub needs: Duration,
}

/// The result of the image's own `HEALTHCHECK`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineHealth {
    /// The image has no check.
    #[default]
    NoCheck,
    /// Not decided yet.
    Starting,
    /// Good.
    Healthy,
    /// Bad.
    Unhealthy,
}
