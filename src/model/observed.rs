//! What the engine really runs and holds, as one pass sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::build::{Acquisition, RecipeKey};
use super::cause::EndedBy;
use super::container::{Exit, Secret};
use super::front::FrontSeen;
use super::mount::{AbsolutePath, Mount, VolumeName};
use super::name::{Digest, EnvironmentName};
use super::reference::ImageRepository;
use super::spec::Publish;
use super::time::Timestamp;

/// All that one pass knows of one environment's host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// Our containers of this environment.
    pub containers: Vec<SeenContainer>,
    /// Our holders of this environment.
    pub holders: Vec<SeenContainer>,
    /// Whether the image of holders is here.
    pub holder_image: bool,
    /// What the front does for this environment; `None`: it has none, or nothing is known yet.
    pub front: Option<FrontSeen>,
    /// The container that has this environment's name without being one of its own.
    pub name_holder: Option<NameHolder>,
    /// Names of other containers that begin with this environment's container name.
    pub taken_names: BTreeSet<String>,
    /// The image IDs, of those that matter, that the engine holds.
    pub images: BTreeSet<Digest>,
    /// Volumes that the engine holds, of those that are declared or that hold an image's `VOLUME`.
    pub volumes: BTreeSet<String>,
    /// The paths of the `VOLUME` lines of the images that matter, by image ID.
    pub image_volumes: BTreeMap<Digest, BTreeSet<AbsolutePath>>,
    /// Declared paths of the host that the engine does not find.
    pub missing_sources: BTreeSet<AbsolutePath>,
    /// Declared paths of the host that its policy does not let containers mount, and why.
    pub refused_sources: BTreeMap<AbsolutePath, String>,
    /// Whether the managed network is there.
    pub network: NetworkPresence,
    /// Whether the recorded image is in the registry where it has to be.
    pub shelf: Shelf,
    /// How the manifest says to build, as far as it can be told: `None` if nothing is built here, or
    /// an overlay file cannot be read.
    pub recipe: Option<RecipeKey>,
    /// How far the image that is needed is on its way.
    pub acquisition: Acquisition,
    /// A build or pull is running for something that the record no longer wants.
    pub superseded_job: bool,
    /// Since when jobs were superseded one after the other with none that ended by itself.
    pub burst_since: Option<Timestamp>,
    /// Readiness by container id, for running containers.
    pub probes: BTreeMap<String, Readiness>,
    /// What ended containers, by their ids, where that was not their own program.
    pub ended_by: BTreeMap<String, EndedBy>,
}

/// Where the recorded image is beside this engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shelf {
    /// The registry that it is to be pulled from was found not to have it any more.
    pub is_lost: bool,
    /// It has to be pushed there, for the first time or again; `None`: nowhere.
    pub owed_to: Option<ImageRepository>,
}

/// Whether the managed network is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NetworkPresence {
    /// There, and ours.
    #[default]
    Ours,
    /// There, made by someone else: used, never removed.
    Foreign,
    /// Not there.
    Missing,
}

/// A container that has a name which another environment needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameHolder {
    /// The engine's ID of the container.
    pub id: String,
    /// Its owner.
    pub owner: Owner,
}

/// The owner of a container that is not one of an environment's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Somebody else, described in words. Such a container is never touched.
    Foreign(String),
    /// Another environment of this record. Its container may be renamed: names do not affect what it
    /// serves, and its own pass gives it the name that it should have.
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

/// One of our containers, projected onto what abide sets.
#[derive(Clone, Debug, PartialEq)]
pub struct SeenContainer {
    /// The engine's id.
    pub id: String,
    /// The name, without the leading slash.
    pub name: String,
    /// The image ID.
    pub image: Option<Digest>,
    /// Its state.
    pub state: ContainerState,
    /// What the image's own `HEALTHCHECK` says.
    pub engine_health: EngineHealth,
    /// When it was created.
    pub created_at: Timestamp,
    /// When its process was last started.
    pub started_at: Option<Timestamp>,
    /// Arguments after the entrypoint.
    pub command: Vec<String>,
    /// All environment variables, the image's too.
    pub env: BTreeMap<String, Secret>,
    /// Published ports by container port (`8900/tcp`).
    pub published: BTreeMap<String, Vec<Publish>>,
    /// What is mounted in it.
    pub mounts: SeenMounts,
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
    /// The engine's restart policy; empty or `no` as abide sets it.
    pub restart_policy: String,
    /// The networks that it is connected to, with its address there while it runs.
    pub networks: BTreeMap<String, Option<IpAddr>>,
    /// The holder whose network namespace it joins; `None`: it has its own.
    pub joined: Option<Joined>,
    /// Its last lines of output, where it ended or does not become ready in time.
    pub last_output: Option<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

impl SeenContainer {
    /// Whether there is a network namespace that it can be started in.
    pub fn has_namespace(&self) -> bool {
        self.joined.as_ref().is_none_or(|joined| joined.state != HolderState::Gone)
    }

    /// The same with what its holder, which is one of `holders`, has of the network in its place.
    #[must_use]
    pub fn with_holder(mut self, holders: &[Self]) -> Self {
        let Some(joined) = &mut self.joined else { return self };
        let holder = holders.iter().find(|holder| holder.id == joined.holder);
        let Some(holder) = holder.filter(|holder| holder.state != ContainerState::Dead) else {
            joined.state = HolderState::Gone;
            return self;
        };
        joined.state = match holder.state {
            ContainerState::Running if holder.started_at > self.started_at => HolderState::Anew,
            ContainerState::Running => HolderState::Holds,
            ContainerState::Paused => HolderState::Paused,
            _ => HolderState::Down,
        };
        self.published.clone_from(&holder.published);
        self.extra_hosts.clone_from(&holder.extra_hosts);
        self.networks.clone_from(&holder.networks);
        self
    }
}

/// What is mounted in a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeenMounts {
    /// The mounts that it was made with.
    pub asked: Vec<Mount>,
    /// Those among them that no abide makes, as the engine tells them.
    pub others: Vec<String>,
    /// Every volume that is mounted in it, by its path: also those that the engine made because the
    /// image declares a `VOLUME`.
    pub volumes: BTreeMap<AbsolutePath, VolumeName>,
    /// The paths of the image's `VOLUME` lines.
    pub of_image: BTreeSet<AbsolutePath>,
}

impl SeenMounts {
    /// All that is mounted: what was asked for, and the volumes that the engine made beside that.
    pub fn all(&self) -> Vec<Mount> {
        let is_asked = |path: &AbsolutePath| self.asked.iter().any(|mount| mount.target() == path);
        let unasked = self.volumes.iter().filter(|(path, _)| !is_asked(path));
        let of_engine = unasked.map(|(path, volume)| Mount::of_volume(volume.clone(), path.clone()));
        self.asked.iter().cloned().chain(of_engine).collect()
    }

    /// The paths of the host that are mounted.
    pub fn host_paths(&self) -> impl Iterator<Item = &AbsolutePath> {
        self.asked.iter().filter_map(Mount::host_path)
    }
}

/// The holder that a container joins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Its id.
    pub holder: String,
    /// What became of it.
    pub state: HolderState,
}

/// The state of a holder, as the container that joined it has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HolderState {
    /// It runs since before the container was started: both share the namespace.
    Holds,
    /// It was started again after the container was, which is still in the namespace before.
    Anew,
    /// It is frozen, which harms nobody until it has to be started again.
    Paused,
    /// It is there and does not run.
    Down,
    /// It is not there: the container can never be started again.
    Gone,
}

/// A container's state, as far as it changes what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerState {
    /// Created, never started.
    Created,
    /// Its process runs.
    Running,
    /// Frozen by `docker pause`.
    Paused,
    /// The engine is restarting or removing it: look again soon.
    InTransit,
    /// Its process ended.
    Exited(Exit),
    /// The engine failed to remove it; it can only be removed again.
    Dead,
}

/// What the prober saw of one running container since it was started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Since when every probe succeeded.
    pub answering_since: Option<Timestamp>,
    /// Probes missed in a row since the last good one.
    pub misses: u32,
    /// Whether it answered at all since it was started.
    pub answered_once: bool,
    /// How long it has been asked without an answer since the last good one, by a clock that nobody sets.
    pub unanswered: Duration,
    /// Why the last probe missed.
    pub last_miss: Option<String>,
    /// Why the last probe could not tell, which is no verdict on what runs.
    pub unknown: Option<String>,
    /// The time from a start that the image's own `HEALTHCHECK` may take until it has decided; zero
    /// if it is not what is asked.
    pub needs: Duration,
}

/// What the image's own `HEALTHCHECK` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineHealth {
    /// The image has none.
    #[default]
    NoCheck,
    /// Not decided yet.
    Starting,
    /// Good.
    Healthy,
    /// Bad.
    Unhealthy,
}
