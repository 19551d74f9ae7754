//! The state that the reconcile loop keeps of an environment between reconciles and across restarts of the
//! daemon. Only the loop writes it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::canary::Canary;
use super::cause::EndedBy;
use super::container::Exit;
use super::declared::Declared;
use super::desired::Image;
use super::job::JobMemory;
use super::mount::{AbsolutePath, VolumeName};
use super::name::{CommitId, Generation, JobName};
use super::one_off::HookRun;
use super::status::Reason;
use super::time::Timestamp;

/// The reconcile state of one environment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// The last generation that became ready. It is enforced until a newer one is ready.
    pub good: Option<Good>,
    /// The last good generation with another image than [`Self::good`]: the rollback target if the current
    /// one crashes soon after it became ready.
    pub before: Option<Good>,
    /// A container that became ready beside the one that serves, and to which the front was asked to
    /// pass traffic. It becomes [`Self::good`] once the front does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<Good>,
    /// Containers that abide stopped, and when: their end is not their own doing.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub stopped: BTreeMap<String, Timestamp>,
    /// Exits and restarts.
    pub crashes: Crashes,
    /// The container options that failed to start or never became ready.
    pub refused: Option<RefusedOptions>,
    /// A difference that remains after repeated reconciles.
    pub repeat: Option<Repeat>,
    /// Engine calls that fail repeatedly.
    pub trouble: Option<EngineBackoff>,
    /// Limits that the engine cannot set on a running container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stuck: Option<StuckLimits>,
    /// A replacement whose trial was ended by something other than itself.
    pub interrupted: Option<Interrupted>,
    /// Containers that were replaced while they served requests, and the deadline of their last requests.
    pub draining: BTreeMap<String, Timestamp>,
    /// The reason why containers get their own network namespaces, if sandboxes failed.
    pub no_holder: Option<NoHolder>,
    /// The commands that ran once for an image, the newest last.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<HookRun>,
    /// The jobs, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub jobs: BTreeMap<JobName, JobMemory>,
    /// The workload, if an orchestrator runs the environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<WorkloadMemory>,
    /// The last canary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
    /// Volumes that once existed for this environment. A volume that was lost is never recreated empty.
    pub volumes: BTreeSet<String>,
    /// The volume at each path that an image declares as `VOLUME` and the manifest does not mention. It
    /// outlives every container.
    pub homes: BTreeMap<AbsolutePath, VolumeName>,
}

/// The reconcile state of a workload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkloadMemory {
    /// The fingerprint that became ready last.
    pub ready: Option<String>,
    /// Changes by somebody else that abide has overwritten.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overwritten: Option<Overwritten>,
}

/// Changes of a workload that abide has overwritten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overwritten {
    /// How often in a row.
    pub count: u32,
    /// The time of the last one.
    pub at: Timestamp,
}

/// A generation that became ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Good {
    /// The generation.
    pub generation: Generation,
    /// Its image.
    pub image: Image,
    /// Its commit.
    pub revision: Option<CommitId>,
    /// The container that became ready.
    pub container: String,
    /// The last time that this container became ready.
    pub at: Timestamp,
    /// The first time that its image became ready, in any container.
    #[serde(default)]
    pub first_ready: Timestamp,
    /// The declaration of the container at its creation. A hold keeps the container so, and recreates it so
    /// if it is lost. `None`: unknown, because it became ready under an earlier abide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub declared: Option<Box<Declared>>,
}

/// Consecutive exits, and the time of the next restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Crashes {
    /// Exits since the last ten healthy minutes, plus restarts that changed nothing.
    pub count: u32,
    /// The exits among them.
    pub exits: u32,
    /// Restarts by abide since the container was created.
    pub restarts: u32,
    /// The last counted exit, with its container.
    pub last: Option<CountedExit>,
    /// The time of the next restart; `None`: at once.
    pub next_restart: Option<Timestamp>,
    /// The time of the restart attempt after the last exit; `None`: not yet attempted.
    pub tried: Option<Timestamp>,
    /// A container that abide is stopping in order to restart it, because it no longer answers.
    pub stopped: Option<Stopped>,
}

/// A container that abide stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {
    /// Its id.
    pub container: String,
    /// The problem, as a clause without its subject.
    pub why: String,
}

/// An exit that was counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountedExit {
    /// The container's id.
    pub container: String,
    /// The exit itself.
    pub exit: Exit,
    /// The reason why abide stopped it, as a clause without its subject; `None`: abide did not stop it.
    #[serde(default)]
    pub why: Option<String>,
    /// The cause; `None`: its own program.
    #[serde(default)]
    pub by: Option<EndedBy>,
}

/// Container options that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedOptions {
    /// The fingerprint of the options.
    pub fingerprint: String,
    /// The generation that they belong to.
    pub generation: Generation,
    /// The reason, as one word.
    pub reason: Reason,
    /// The failure as a sentence, with the container's last output.
    pub message: String,
    /// Whether something else failed, such as the host for lack of disk space. The options may be valid then,
    /// and are tried again after a while.
    #[serde(default)]
    pub of_the_host: bool,
    /// The time of the next attempt in that case; `None`: after the longest pause.
    #[serde(default)]
    pub retry_at: Option<Timestamp>,
    /// The time of the failure.
    pub at: Timestamp,
}

/// A container whose limits the engine refused to change in place. It is replaced instead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StuckLimits {
    /// The container.
    pub container: String,
    /// The refused limit of memory in bytes.
    pub memory: Option<u64>,
    /// The refused limit in billionths of a CPU.
    pub nano_cpus: Option<u64>,
    /// The refused limit of processes.
    pub pids: Option<u32>,
    /// The engine's error.
    pub message: String,
    /// The time of the failure.
    pub at: Timestamp,
}

/// A container whose trial was ended by something other than its version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interrupted {
    /// The fingerprint of its options.
    pub fingerprint: String,
    /// Consecutive interruptions.
    pub count: u32,
    /// The time of the last one.
    pub at: Timestamp,
}

/// A difference that reappeared after a step against it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repeat {
    /// The difference, as a sentence.
    pub difference: String,
    /// The number of attempts to remove it.
    pub count: u32,
    /// The time of the last attempt.
    pub at: Timestamp,
    /// The time of the next attempt, after abide paused its attempts.
    pub next_retry: Option<Timestamp>,
}

/// A failure of sandboxes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoHolder {
    /// The engine's error.
    pub message: String,
    /// The time of the failure.
    pub at: Timestamp,
}

/// Calls that fail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineBackoff {
    /// The generation of the calls. A newer one is tried at once.
    pub generation: Generation,
    /// The reason, as one word.
    pub reason: Reason,
    /// The last error, as a sentence.
    pub message: String,
    /// Consecutive failures.
    pub count: u32,
    /// The time of the last failure.
    pub at: Timestamp,
    /// The time of the next attempt.
    pub next_retry: Timestamp,
}
