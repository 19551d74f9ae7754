//! What the API answers and `-o json` prints: the shapes that scripts rely on.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::access::Token;
use super::container::Secret;
use super::desired::{Hold, Image, Origin, Outcome};
use super::name::{CommitId, EnvironmentName, Generation};
use super::status::{Condition, Reason, RunningContainer, VolumeView};
use super::time::Timestamp;

/// One element of `status -o json`. A value that is not known is `null`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvironmentView {
    /// The environment.
    pub environment: EnvironmentName,
    /// The container's name.
    pub container: Option<String>,
    /// The host port; where none is published, the container's.
    pub port: Option<u16>,
    /// The agent that runs it; `null`: this machine.
    pub host: Option<String>,
    /// When that agent was last heard; `null`: never, or this machine runs it.
    #[serde(default)]
    pub last_seen: Option<Timestamp>,
    /// The record's generation.
    pub generation: Generation,
    /// The generation that `status` speaks of.
    pub observed_generation: Option<Generation>,
    /// The state.
    pub status: Condition,
    /// Why, in a word.
    pub reason: Reason,
    /// Why, in a sentence.
    pub message: String,
    /// Since when.
    pub since: Option<Timestamp>,
    /// Why the record moved last.
    pub origin: Option<Origin>,
    /// The recorded commit.
    pub revision: Option<CommitId>,
    /// The recorded image.
    pub image: Option<Image>,
    /// What runs.
    pub running: Option<RunningContainer>,
    /// Set while a person holds it.
    pub held: Option<Hold>,
    /// When the next attempt is due.
    pub next_retry: Option<Timestamp>,
    /// When `sync` was last asked for.
    pub sync: Option<Timestamp>,
    /// The last `sync` that was acted upon.
    pub observed_sync: Option<Timestamp>,
    /// What is mounted, and volumes that are kept for it.
    #[serde(default)]
    pub volumes: Vec<VolumeView>,
    /// What people should know although it changes nothing, in sentences.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// The build that is under way.
    #[serde(default)]
    pub build: Option<BuildProgress>,
}

/// A build that is under way, and how long it may take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildProgress {
    /// Its number.
    pub number: u64,
    /// When it began.
    pub started: Timestamp,
    /// The longest it may take.
    pub timeout_seconds: u64,
    /// The longest it may go without any output.
    pub idle_timeout_seconds: u64,
}

/// One element of `history -o json`, newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryView {
    /// The generation.
    pub generation: Generation,
    /// Its image.
    pub image: Option<Image>,
    /// Its commit.
    pub revision: Option<CommitId>,
    /// Why the record moved.
    pub origin: Option<Origin>,
    /// Who moved it.
    pub by: Option<String>,
    /// One clause more.
    pub note: Option<String>,
    /// When.
    pub at: Timestamp,
    /// What became of it; `null` while under way.
    pub outcome: Option<Outcome>,
}

/// The answer to a verb that moves the record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// The environment.
    pub environment: EnvironmentName,
    /// Its generation now.
    pub generation: Generation,
    /// Whether anything changed.
    pub changed: bool,
    /// A sentence for people.
    pub message: String,
    /// Whether something that was asked for could not be done, as the message says.
    #[serde(default)]
    pub failed: bool,
}

/// How far something that is waited for has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitState {
    /// It was seen serving.
    Reached,
    /// It may still come.
    Waiting,
    /// It failed, was replaced by something without it, or can no longer come.
    Ended,
}

/// The answer of `GET /api/v1/environments/<env>/wait`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitView {
    /// How far it has come.
    pub state: WaitState,
    /// Why, in a sentence.
    pub message: String,
    /// When the wait began, by the server's clock: to be shown with the next question of the same wait.
    pub asked: Timestamp,
    /// The environment.
    pub environment: EnvironmentView,
}

/// The answer to `diff`: the plan of one environment as it would be now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanView {
    /// The environment.
    pub environment: EnvironmentName,
    /// What differs, in sentences.
    pub differences: Vec<String>,
    /// What would be done, in sentences; empty: nothing.
    pub steps: Vec<String>,
    /// What is waited for, or why nothing can be done.
    pub message: String,
    /// Whether what runs is not what is recorded and declared.
    #[serde(default)]
    pub differs: bool,
}

/// The answer of `GET /api/v1/environments`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overview {
    /// Every environment, in the manifest's order of names.
    pub environments: Vec<EnvironmentView>,
    /// What is wrong with the whole: a manifest edit that is not taken, an engine that does not answer.
    pub warnings: Vec<String>,
    /// Whether a loop is running that acts on the record.
    pub daemon: bool,
}

/// The answer to making a token: the one time that its text is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuedToken {
    /// The token, with the server's pin where it has one.
    #[serde(serialize_with = "told", deserialize_with = "heard")]
    pub token: Secret,
    /// What is known of it.
    #[serde(flatten)]
    pub about: Token,
}

fn told<S: Serializer>(token: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(token.expose())
}

fn heard<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
    String::deserialize(deserializer).map(Secret::new)
}

/// An error as the API answers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorView {
    /// A word that scripts may compare.
    pub error: String,
    /// A sentence that names the thing and what to do.
    pub message: String,
}
