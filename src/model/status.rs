//! What is said of an environment.

use serde::{Deserialize, Serialize};

use super::name::{Digest, EnvironmentName, Generation};
use super::time::Timestamp;

/// The state of an environment, as the last pass left it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The environment.
    pub environment: EnvironmentName,
    /// The generation that this speaks of.
    pub observed_generation: Generation,
    /// One of a closed set of words.
    pub condition: Condition,
    /// Why, in one word that scripts may compare.
    pub reason: Reason,
    /// Why, in a sentence.
    pub message: String,
    /// Since when `condition` and `reason` are what they are.
    pub since: Timestamp,
    /// What runs.
    pub running: Option<RunningContainer>,
    /// When the next attempt is due, where one is waited for.
    pub next_retry: Option<Timestamp>,
    /// The last plan, as sentences.
    pub plan: Vec<String>,
    /// The last `sync` that was acted upon.
    #[serde(default)]
    pub observed_sync: Option<Timestamp>,
    /// What is mounted, and volumes that are kept for this environment.
    #[serde(default)]
    pub volumes: Vec<VolumeView>,
    /// What people should know although it changes nothing, in sentences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The mark of the declaration that this speaks of, as
    /// [`Manifest::mark`](super::spec::Manifest::mark) gives it; `None`: not known.
    #[serde(default)]
    pub observed_declaration: Option<String>,
}

/// A volume or path of the host, as far as an environment has to do with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeView {
    /// The volume's name, or the path of the host.
    pub source: String,
    /// The path in the container.
    pub target: String,
    /// Whether the container may not write there.
    #[serde(default)]
    pub read_only: bool,
    /// Whether the manifest declares it; otherwise the image does, by a `VOLUME` line.
    pub declared: bool,
    /// Whether the container mounts it; otherwise it is kept, with what it holds.
    pub mounted: bool,
}

/// The closed set of states. `wait` succeeds on `Ready` alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// The recorded image runs and is ready.
    Ready,
    /// On its way there.
    Progressing,
    /// What should run does not, or not well; it is tried again.
    Degraded,
    /// The loop went back to the last good image.
    RolledBack,
    /// Kept as it is by a person.
    Held,
    /// Nothing can be done until someone does something.
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

/// Why, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// All as recorded.
    AsRecorded,
    /// Nothing was ever recorded.
    NothingRecorded,
    /// An image is being built.
    Building,
    /// An image is being pulled.
    Pulling,
    /// A container is being made, started or replaced.
    Updating,
    /// A container runs and its health is awaited.
    AwaitingHealth,
    /// The build failed.
    BuildFailed,
    /// The commit is not in the repository.
    RevisionNotFound,
    /// The repository does not answer.
    SourceUnavailable,
    /// A push was announced or someone asked for the head, and git or the registry has not answered.
    HeadUnknown,
    /// The repository of the followed branch does not answer.
    SourceUnreachable,
    /// The repository of the followed branch denies access.
    SourceDenied,
    /// There is no such repository.
    SourceMissing,
    /// The repository has no such branch.
    BranchMissing,
    /// The image is neither here nor to be had.
    ImageNotFound,
    /// An image is being pushed again.
    Pushing,
    /// The registry does not answer, or not to the end.
    RegistryUnavailable,
    /// The registry lets us in to nothing.
    RegistryDenied,
    /// The registry has another image than the one that was pushed, under the name that it was given.
    TagMoved,
    /// The container could not be started.
    StartFailed,
    /// The container never became ready.
    NeverReady,
    /// A person, the engine or the host ended a new container before it was ready; it is tried again.
    Interrupted,
    /// A container runs, and nothing tells whether it is ready.
    HealthUnknown,
    /// The container is running but its probes miss.
    Unhealthy,
    /// The container ends again and again.
    CrashLoop,
    /// The same difference stays after it was acted upon.
    NotConverging,
    /// A person holds it.
    HeldByPerson,
    /// A container that is not ours has the name.
    NameConflict,
    /// A volume that held data is gone.
    VolumeMissing,
    /// A path of the host that is to be mounted is not there.
    BindSourceMissing,
    /// A secret cannot be read.
    SecretMissing,
    /// The Docker Engine does not answer, or an engine call failed.
    EngineUnavailable,
    /// It runs, but the manifest no longer declares it.
    NotInManifest,
    /// The front cannot be brought to pass traffic to it.
    FrontUnavailable,
    /// The loop went back to the last good image.
    RolledBack,
    /// The agent that runs it is not connected: what is said of it was so when it was last heard.
    AgentAway,
    /// The host's own policy does not allow what is declared or recorded.
    PolicyRefused,
    /// The agent has seen a later generation than is recorded: the record was restored from an
    /// older copy.
    RecordBehind,
    /// Nothing is known: no pass has run yet.
    Unknown,
}

impl Reason {
    /// The word, the same as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AsRecorded => "AsRecorded",
            Self::NothingRecorded => "NothingRecorded",
            Self::Building => "Building",
            Self::Pulling => "Pulling",
            Self::Updating => "Updating",
            Self::AwaitingHealth => "AwaitingHealth",
            Self::BuildFailed => "BuildFailed",
            Self::RevisionNotFound => "RevisionNotFound",
            Self::SourceUnavailable => "SourceUnavailable",
            Self::HeadUnknown => "HeadUnknown",
            Self::SourceUnreachable => "SourceUnreachable",
            Self::SourceDenied => "SourceDenied",
            Self::SourceMissing => "SourceMissing",
            Self::BranchMissing => "BranchMissing",
            Self::ImageNotFound => "ImageNotFound",
            Self::Pushing => "Pushing",
            Self::RegistryUnavailable => "RegistryUnavailable",
            Self::RegistryDenied => "RegistryDenied",
            Self::TagMoved => "TagMoved",
            Self::StartFailed => "StartFailed",
            Self::NeverReady => "NeverReady",
            Self::Interrupted => "Interrupted",
            Self::HealthUnknown => "HealthUnknown",
            Self::Unhealthy => "Unhealthy",
            Self::CrashLoop => "CrashLoop",
            Self::NotConverging => "NotConverging",
            Self::HeldByPerson => "HeldByPerson",
            Self::NameConflict => "NameConflict",
            Self::VolumeMissing => "VolumeMissing",
            Self::BindSourceMissing => "BindSourceMissing",
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

/// How a state that is not Ready comes to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// abide tries or looks again by itself, without anyone saying so.
    ByItself,
    /// Someone has to push, promote, set, sync, resume or declare something.
    BySomeone,
}

impl Reason {
    /// Every reason.
    pub const ALL: &[Self] = &[
        Self::AsRecorded,
        Self::NothingRecorded,
        Self::HeadUnknown,
        Self::Building,
        Self::Pulling,
        Self::Pushing,
        Self::Updating,
        Self::AwaitingHealth,
        Self::BuildFailed,
        Self::RevisionNotFound,
        Self::SourceUnavailable,
        Self::SourceUnreachable,
        Self::SourceDenied,
        Self::SourceMissing,
        Self::BranchMissing,
        Self::ImageNotFound,
        Self::RegistryUnavailable,
        Self::RegistryDenied,
        Self::TagMoved,
        Self::StartFailed,
        Self::NeverReady,
        Self::HealthUnknown,
        Self::Interrupted,
        Self::Unhealthy,
        Self::CrashLoop,
        Self::NotConverging,
        Self::HeldByPerson,
        Self::NameConflict,
        Self::VolumeMissing,
        Self::BindSourceMissing,
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

    /// What ends it.
    pub fn ends(self) -> Ends {
        match self {
            // Verdicts on what is recorded, and what only the record or the manifest can change.
            Self::BuildFailed
            | Self::RevisionNotFound
            | Self::NothingRecorded
            | Self::TagMoved
            | Self::HeldByPerson
            | Self::NotInManifest
            | Self::RolledBack
            | Self::PolicyRefused
            | Self::RecordBehind => Ends::BySomeone,
            Self::AsRecorded
            | Self::HeadUnknown
            | Self::Building
            | Self::Pulling
            | Self::Pushing
            | Self::Updating
            | Self::AwaitingHealth
            | Self::SourceUnavailable
            | Self::SourceUnreachable
            | Self::SourceDenied
            | Self::SourceMissing
            | Self::BranchMissing
            | Self::ImageNotFound
            | Self::RegistryUnavailable
            | Self::RegistryDenied
            | Self::StartFailed
            | Self::NeverReady
            | Self::HealthUnknown
            | Self::Interrupted
            | Self::Unhealthy
            | Self::CrashLoop
            | Self::NotConverging
            | Self::NameConflict
            | Self::VolumeMissing
            | Self::BindSourceMissing
            | Self::SecretMissing
            | Self::EngineUnavailable
            | Self::FrontUnavailable
            | Self::AgentAway
            | Self::Unknown => Ends::ByItself,
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
    /// How often abide restarted it.
    pub restarts: u32,
}
