//! The status of an environment.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::canary::Canary;
use super::job::JobReports;
use super::name::{Digest, EnvironmentName, Generation};
use super::time::Timestamp;
use super::workload::NodeView;

/// The state of an environment after the last reconcile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The environment.
    pub environment: EnvironmentName,
    /// The generation that this status describes.
    pub observed_generation: Generation,
    /// One of a closed set of words.
    pub condition: Condition,
    /// The reason, as one word for scripts to compare.
    pub reason: Reason,
    /// The reason, as a sentence.
    pub message: String,
    /// The time of the last change of `condition` or `reason`.
    pub since: Timestamp,
    /// The serving container.
    pub running: Option<RunningContainer>,
    /// The time of the next attempt, if one is pending.
    pub next_retry: Option<Timestamp>,
    /// The last plan, as sentences.
    pub plan: Vec<String>,
    /// The last `sync` that was carried out.
    #[serde(default)]
    pub observed_sync: Option<Timestamp>,
    /// Mounted volumes and paths, and volumes that are kept for this environment.
    #[serde(default)]
    pub volumes: Vec<VolumeView>,
    /// Warnings that change nothing else, in sentences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// When the first of its certificates expires; `None`: it has none, or not for every name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_until: Option<Timestamp>,
    /// The mark of the declaration that this status describes, from
    /// [`Manifest::mark`](super::spec::Manifest::mark); `None`: not known.
    #[serde(default)]
    pub observed_declaration: Option<String>,
    /// The last canary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
    /// Its jobs, with their latest runs and next times.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub jobs: JobReports,
    /// The nodes of the swarm that runs it; none: one container runs it, or they are unknown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeView>,
}

impl Status {
    /// A status about which only its reason is known.
    pub fn new(
        environment: EnvironmentName,
        observed_generation: Generation,
        (condition, reason): (Condition, Reason),
        message: impl Into<String>,
        since: Timestamp,
    ) -> Self {
        Self {
            environment,
            observed_generation,
            condition,
            reason,
            message: message.into(),
            since,
            running: None,
            next_retry: None,
            plan: Vec::new(),
            observed_sync: None,
            volumes: Vec::new(),
            warnings: Vec::new(),
            certificate_until: None,
            observed_declaration: None,
            canary: None,
            jobs: JobReports::new(),
            nodes: Vec::new(),
        }
    }
}

/// The start of the warning about a `VOLUME` of the image that the manifest does not declare. Tables count these
/// warnings instead of showing them: each has a line to copy, and nothing is wrong while abide keeps the data.
pub const UNDECLARED_VOLUME: &str = "the image declares VOLUME ";

/// A volume or host path of an environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeView {
    /// The volume's name, or the path of the host.
    pub source: String,
    /// The path in the container.
    pub target: String,
    /// Whether the mount is read-only.
    #[serde(default)]
    pub read_only: bool,
    /// Whether the manifest declares it. Otherwise, a `VOLUME` line of the image does.
    pub declared: bool,
    /// Whether the container mounts it. Otherwise, it is kept with its data.
    pub mounted: bool,
}

/// The closed set of states. `wait` succeeds only on `Ready`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// The recorded image runs and is ready.
    Ready,
    /// In progress towards `Ready`.
    Progressing,
    /// The container is missing or unhealthy. abide keeps trying.
    Degraded,
    /// The loop rolled back to the last good image.
    RolledBack,
    /// An operator holds it.
    Held,
    /// abide can do nothing until an operator acts.
    Blocked,
}

impl Condition {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Progressing => "Progressing",
            Self::Degraded => "Degraded",
            Self::RolledBack => "RolledBack",
            Self::Held => "Held",
            Self::Blocked => "Blocked",
        }
    }
}

/// The reason, as one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// Everything is as recorded.
    AsRecorded,
    /// The container ended by itself with exit code 0, as it is meant to.
    Completed,
    /// Nothing was ever recorded.
    NothingRecorded,
    /// An image is being built.
    Building,
    /// An image is being pulled.
    Pulling,
    /// A container is being created, started or replaced.
    Updating,
    /// The new container waits for another member of its group.
    AwaitingNeeds,
    /// A host port of the new container is still published by another environment.
    AwaitingPort,
    /// A container runs, and its health check is pending.
    AwaitingHealth,
    /// A new version serves a part of the visitors.
    Canary,
    /// The build failed.
    BuildFailed,
    /// The commit is not in the repository.
    RevisionNotFound,
    /// The repository does not answer.
    SourceUnavailable,
    /// The answer of git or the registry is pending after an announced push or a request.
    HeadUnknown,
    /// The repository of the polled branch does not answer.
    SourceUnreachable,
    /// The repository of the polled branch denies access.
    SourceDenied,
    /// The repository does not exist.
    SourceMissing,
    /// The repository does not have the branch.
    BranchMissing,
    /// The checks of a commit are pending.
    WaitingForChecks,
    /// The checks of the head did not pass.
    ChecksFailed,
    /// The forge that reports checks does not answer.
    ForgeUnavailable,
    /// The forge that reports checks denies access.
    ForgeDenied,
    /// The image is missing on the engine and cannot be obtained.
    ImageNotFound,
    /// An image is being pushed again.
    Pushing,
    /// The registry does not answer, or breaks off its answer.
    RegistryUnavailable,
    /// The registry denies access.
    RegistryDenied,
    /// The tag of the pushed image now names another image in the registry.
    TagMoved,
    /// The container could not be started.
    StartFailed,
    /// The container never became ready.
    NeverReady,
    /// A canary failed too many requests, crashed, or was aborted.
    CanaryFailed,
    /// A user, the engine or the host ended a new container before it was ready; abide tries again.
    Interrupted,
    /// A container runs, and its readiness cannot be determined.
    HealthUnknown,
    /// The container is running but its probes fail.
    Unhealthy,
    /// The container exits repeatedly.
    CrashLoop,
    /// A command runs before or after a release.
    Releasing,
    /// The command before or after a release failed.
    ReleaseFailed,
    /// No node of the cluster can run a replica.
    NoPlace,
    /// The same difference remains after repeated steps.
    NotConverging,
    /// An operator holds it.
    HeldByPerson,
    /// An unmanaged container has the name.
    NameConflict,
    /// A volume that held data is missing.
    VolumeMissing,
    /// A host path to mount is missing.
    BindSourceMissing,
    /// The engine or the host does not accept an option that the manifest declares.
    OptionRefused,
    /// A secret cannot be read.
    SecretMissing,
    /// The Docker Engine does not answer, or an engine call failed.
    EngineUnavailable,
    /// The manifest no longer declares it. abide leaves its containers as they are.
    NotInManifest,
    /// The proxy cannot forward requests to it.
    FrontUnavailable,
    /// The loop rolled back to the last good image.
    RolledBack,
    /// The agent that runs it is not connected: the status is the last report.
    AgentAway,
    /// The host's own policy does not allow the declaration or the record.
    PolicyRefused,
    /// The agent has observed a later generation than the recorded one: the record was restored from an older
    /// copy.
    RecordBehind,
    /// Nothing is known: not reconciled yet.
    Unknown,
}

impl Reason {
    /// The word, as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AsRecorded => "AsRecorded",
            Self::Completed => "Completed",
            Self::NothingRecorded => "NothingRecorded",
            Self::Building => "Building",
            Self::Pulling => "Pulling",
            Self::Updating => "Updating",
            Self::AwaitingNeeds => "AwaitingNeeds",
            Self::AwaitingPort => "AwaitingPort",
            Self::AwaitingHealth => "AwaitingHealth",
            Self::Canary => "Canary",
            Self::BuildFailed => "BuildFailed",
            Self::RevisionNotFound => "RevisionNotFound",
            Self::SourceUnavailable => "SourceUnavailable",
            Self::HeadUnknown => "HeadUnknown",
            Self::SourceUnreachable => "SourceUnreachable",
            Self::SourceDenied => "SourceDenied",
            Self::SourceMissing => "SourceMissing",
            Self::BranchMissing => "BranchMissing",
            Self::WaitingForChecks => "WaitingForChecks",
            Self::ChecksFailed => "ChecksFailed",
            Self::ForgeUnavailable => "ForgeUnavailable",
            Self::ForgeDenied => "ForgeDenied",
            Self::ImageNotFound => "ImageNotFound",
            Self::Pushing => "Pushing",
            Self::RegistryUnavailable => "RegistryUnavailable",
            Self::RegistryDenied => "RegistryDenied",
            Self::TagMoved => "TagMoved",
            Self::StartFailed => "StartFailed",
            Self::NeverReady => "NeverReady",
            Self::CanaryFailed => "CanaryFailed",
            Self::Interrupted => "Interrupted",
            Self::HealthUnknown => "HealthUnknown",
            Self::Unhealthy => "Unhealthy",
            Self::CrashLoop => "CrashLoop",
            Self::Releasing => "Releasing",
            Self::ReleaseFailed => "ReleaseFailed",
            Self::NoPlace => "NoPlace",
            Self::NotConverging => "NotConverging",
            Self::HeldByPerson => "HeldByPerson",
            Self::NameConflict => "NameConflict",
            Self::VolumeMissing => "VolumeMissing",
            Self::BindSourceMissing => "BindSourceMissing",
            Self::OptionRefused => "OptionRefused",
            Self::SecretMissing => "SecretMissing",
            Self::EngineUnavailable => "EngineUnavailable",
            Self::NotInManifest => "NotInManifest",
            Self::FrontUnavailable => "FrontUnavailable",
            Self::RolledBack => "RolledBack",
            Self::AgentAway => "AgentAway",
            Self::PolicyRefused => "PolicyRefused",
            Self::RecordBehind => "RecordBehind",
            Self::Unknown => "Unknown",
        }
    }
}

/// The way out of a state that is not Ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResolvedBy {
    /// abide tries or checks again by itself.
    ByItself,
    /// An operator has to push, promote, set, sync, resume or declare something.
    BySomeone,
}

impl Reason {
    /// Every reason.
    pub const ALL: &[Self] = &[
        Self::AsRecorded,
        Self::Completed,
        Self::NothingRecorded,
        Self::HeadUnknown,
        Self::Building,
        Self::Pulling,
        Self::Pushing,
        Self::Updating,
        Self::AwaitingNeeds,
        Self::AwaitingPort,
        Self::AwaitingHealth,
        Self::Canary,
        Self::BuildFailed,
        Self::RevisionNotFound,
        Self::SourceUnavailable,
        Self::SourceUnreachable,
        Self::SourceDenied,
        Self::SourceMissing,
        Self::BranchMissing,
        Self::WaitingForChecks,
        Self::ChecksFailed,
        Self::ForgeUnavailable,
        Self::ForgeDenied,
        Self::ImageNotFound,
        Self::RegistryUnavailable,
        Self::RegistryDenied,
        Self::TagMoved,
        Self::Releasing,
        Self::ReleaseFailed,
        Self::StartFailed,
        Self::NeverReady,
        Self::CanaryFailed,
        Self::HealthUnknown,
        Self::Interrupted,
        Self::Unhealthy,
        Self::CrashLoop,
        Self::NoPlace,
        Self::NotConverging,
        Self::HeldByPerson,
        Self::NameConflict,
        Self::VolumeMissing,
        Self::BindSourceMissing,
        Self::OptionRefused,
        Self::SecretMissing,
        Self::EngineUnavailable,
        Self::NotInManifest,
        Self::FrontUnavailable,
        Self::RolledBack,
        Self::AgentAway,
        Self::PolicyRefused,
        Self::RecordBehind,
        Self::Unknown,
    ];

    /// The way out of this reason.
    pub fn ends(self) -> ResolvedBy {
        match self {
            // Permanent failures of the recorded state, which only a change of the record or the manifest can
            // end.
            Self::BuildFailed
            | Self::RevisionNotFound
            | Self::ChecksFailed
            | Self::NothingRecorded
            | Self::ReleaseFailed
            | Self::TagMoved
            | Self::HeldByPerson
            | Self::NotInManifest
            | Self::RolledBack
            | Self::PolicyRefused
            | Self::RecordBehind => ResolvedBy::BySomeone,
            Self::AsRecorded
            | Self::Completed
            | Self::HeadUnknown
            | Self::Building
            | Self::Pulling
            | Self::Pushing
            | Self::Updating
            | Self::Releasing
            | Self::AwaitingNeeds
            | Self::AwaitingPort
            | Self::AwaitingHealth
            | Self::Canary
            | Self::SourceUnavailable
            | Self::SourceUnreachable
            | Self::SourceDenied
            | Self::SourceMissing
            | Self::BranchMissing
            | Self::WaitingForChecks
            | Self::ForgeUnavailable
            | Self::ForgeDenied
            | Self::ImageNotFound
            | Self::RegistryUnavailable
            | Self::RegistryDenied
            | Self::StartFailed
            | Self::NeverReady
            | Self::CanaryFailed
            | Self::HealthUnknown
            | Self::Interrupted
            | Self::Unhealthy
            | Self::CrashLoop
            | Self::NoPlace
            | Self::NotConverging
            | Self::NameConflict
            | Self::VolumeMissing
            | Self::BindSourceMissing
            | Self::OptionRefused
            | Self::SecretMissing
            | Self::EngineUnavailable
            | Self::FrontUnavailable
            | Self::AgentAway
            | Self::Unknown => ResolvedBy::ByItself,
        }
    }
}

/// The container that serves an environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningContainer {
    /// Its id.
    pub container_id: String,
    /// Its image ID.
    pub image_id: Option<Digest>,
    /// When it was started.
    pub started_at: Option<Timestamp>,
    /// The number of restarts by abide.
    pub restarts: u32,
}
