//! The answers of the API and the output of `-o json`: stable formats for scripts.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::access::Token;
use super::canary::{Canary, CanaryPercent, CanaryState, RequestCount};
use super::container::Secret;
use super::desired::{Hold, Image, Maintenance, Origin, Outcome};
use super::evidence::{Evidence, GateAnswer};
use super::group::MemberNeeds;
use super::name::{CommitId, EnvironmentName, Generation, GroupName};
use super::status::{Condition, Reason, RunningContainer, VolumeView};
use super::time::Timestamp;
use super::workload::NodeView;

/// One element of `status -o json`. Unknown values are `null`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvironmentView {
    /// The environment.
    pub environment: EnvironmentName,
    /// Its group; `null`: it belongs to none.
    #[serde(default)]
    pub group: Option<GroupName>,
    /// The members of the group that its new versions wait for.
    #[serde(default, skip_serializing_if = "MemberNeeds::is_empty")]
    pub needs: MemberNeeds,
    /// The container's name.
    pub container: Option<String>,
    /// The host port; the container's port if none is published.
    pub port: Option<u16>,
    /// The agent that runs it; `null`: this host.
    pub host: Option<String>,
    /// When that agent was last seen; `null`: never, or this host runs it.
    #[serde(default)]
    pub last_seen: Option<Timestamp>,
    /// The record's generation.
    pub generation: Generation,
    /// The generation that `status` describes.
    pub observed_generation: Option<Generation>,
    /// The state.
    pub status: Condition,
    /// The reason, as one word.
    pub reason: Reason,
    /// The reason, as a sentence.
    pub message: String,
    /// The time of the last change of the status.
    pub since: Option<Timestamp>,
    /// The origin of the last change of the record.
    pub origin: Option<Origin>,
    /// The recorded commit.
    pub revision: Option<CommitId>,
    /// The recorded image.
    pub image: Option<Image>,
    /// The serving container.
    pub running: Option<RunningContainer>,
    /// Set while an operator holds it.
    pub held: Option<Hold>,
    /// Set while the proxy answers for it.
    #[serde(default)]
    pub maintenance: Option<Maintenance>,
    /// The time of the next attempt.
    pub next_retry: Option<Timestamp>,
    /// The time of the last requested `sync`.
    pub sync: Option<Timestamp>,
    /// The last `sync` that was carried out.
    pub observed_sync: Option<Timestamp>,
    /// Mounted volumes and paths, and volumes that are kept for the environment.
    #[serde(default)]
    pub volumes: Vec<VolumeView>,
    /// The nodes of the swarm that runs it, as far as they are known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeView>,
    /// Warnings that change nothing else, in sentences.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// When the first of the proxy's certificates for it expires; `null`: it has none, or not for every name.
    #[serde(default)]
    pub certificate_expires: Option<Timestamp>,
    /// The running build.
    #[serde(default)]
    pub build: Option<BuildProgress>,
    /// The hosts that a `forget` still has to clear, as clauses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forgetting: Vec<String>,
    /// Its last canary; `null`: it had none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanaryView>,
    /// The missing conditions of a promotion to it, as a sentence; `null`: nothing waits for a gate.
    #[serde(default)]
    pub waiting: Option<String>,
}

/// The last canary of an environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryView {
    /// Its generation.
    pub generation: Generation,
    /// The share of the visitors.
    pub percent: CanaryPercent,
    /// How long it serves them before it takes over, in milliseconds.
    pub for_millis: u64,
    /// How long it was seen to serve them, in milliseconds.
    pub served_millis: u64,
    /// The requests that it got.
    #[serde(flatten)]
    pub count: RequestCount,
    /// Its state.
    #[serde(flatten)]
    pub state: CanaryState,
    /// All of that as a sentence without its subject.
    pub summary: String,
}

impl CanaryView {
    /// The view of a canary; `is_held`: a hold pauses it.
    pub fn of(canary: &Canary, is_held: bool) -> Self {
        let figures = canary.figures();
        let summary = match canary.result() {
            None if is_held => format!("paused by the hold; {figures}"),
            None => figures,
            Some(result) => format!("generation {} {result}; {figures}", canary.generation),
        };
        Self {
            generation: canary.generation,
            percent: canary.percent,
            for_millis: canary.planned_millis,
            served_millis: canary.served_millis,
            count: canary.count(),
            state: canary.state.clone(),
            summary,
        }
    }

    /// Whether a person can decide about it.
    pub fn is_under_way(&self) -> bool {
        self.state == CanaryState::UnderWay
    }
}

/// A running build and its time limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildProgress {
    /// Its number.
    pub number: u64,
    /// Its start time.
    pub started: Timestamp,
    /// Its maximum duration.
    pub timeout_seconds: u64,
    /// Its maximum time without output.
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
    /// The origin of the change.
    pub origin: Option<Origin>,
    /// The author of the change.
    pub by: Option<String>,
    /// One more clause.
    pub note: Option<String>,
    /// The time of the change.
    pub at: Timestamp,
    /// Its outcome; `null` while in progress.
    pub outcome: Option<Outcome>,
}

/// The state of a promotion from one environment to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromotionView {
    /// The source.
    pub from: EnvironmentName,
    /// The target.
    pub to: EnvironmentName,
    /// The generation of the source.
    pub generation: Generation,
    /// Its image.
    pub image: Option<Image>,
    /// Its commit.
    pub revision: Option<CommitId>,
    /// Why the source cannot be promoted now, whatever the gates; `null`: it runs healthy.
    pub problem: Option<String>,
    /// Whether the target names this image already.
    pub there: bool,
    /// Whether abide promotes on its own once every gate is open.
    pub auto: bool,
    /// Whether every gate is open.
    pub open: bool,
    /// The declared gates, and a rejection if there is one.
    pub gates: Vec<GateAnswer>,
    /// The state as a sentence.
    pub message: String,
    /// The time at which time alone changes a gate.
    pub next_change: Option<Timestamp>,
}

/// The answer of `GET /api/v1/environments/<env>/evidence`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidenceView {
    /// The environment.
    pub environment: EnvironmentName,
    /// Its generation.
    pub generation: Generation,
    /// Its image.
    pub image: Option<Image>,
    /// The evidence about its images, oldest first.
    pub evidence: Vec<Evidence>,
    /// The promotion to it; `null` if it takes none.
    pub into: Option<PromotionView>,
    /// The promotions from it.
    pub onward: Vec<PromotionView>,
}

/// The answer to a command that changes the record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordChange {
    /// The environment.
    pub environment: EnvironmentName,
    /// Its current generation.
    pub generation: Generation,
    /// Whether anything changed.
    pub changed: bool,
    /// A sentence for people.
    pub message: String,
    /// Whether part of the request failed; the message has the details.
    #[serde(default)]
    pub failed: bool,
    /// The answers for the members, if `environment` is a group.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<RecordChange>,
}

/// The generations that a client saw before it sent a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SeenGenerations {
    /// That of an environment.
    One(Generation),
    /// Those of the members of a group.
    Members(BTreeMap<EnvironmentName, Generation>),
}

impl FromStr for SeenGenerations {
    type Err = String;

    /// Parses `12`, or `shop-web=3,shop-db=4`.
    ///
    /// ```
    /// use abide::model::name::Generation;
    /// use abide::model::view::SeenGenerations;
    ///
    /// assert_eq!("12".parse(), Ok(SeenGenerations::One(Generation(12))));
    /// let members: SeenGenerations = "shop-web=3,shop-db=4".parse()?;
    /// assert_eq!(serde_json::to_string(&members).unwrap(), r#"{"shop-db":4,"shop-web":3}"#);
    /// # Ok::<(), String>(())
    /// ```
    fn from_str(text: &str) -> Result<Self, String> {
        let problem = || {
            format!(
                "invalid generation `{text}`: must be a number, or MEMBER=NUMBER for each member of a group, \
                 separated by commas"
            )
        };
        let number = |text: &str| text.parse().map(Generation).map_err(|_| problem());
        if !text.contains('=') {
            return number(text).map(Self::One);
        }
        let member = |pair: &str| {
            let (name, generation) = pair.split_once('=').ok_or_else(problem)?;
            Ok((EnvironmentName::new(name).map_err(|error| error.to_string())?, number(generation)?))
        };
        text.split(',').map(member).collect::<Result<_, String>>().map(Self::Members)
    }
}

/// The progress of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitState {
    /// The target was observed serving.
    Reached,
    /// The target may still come.
    Waiting,
    /// The target failed, was replaced, or can no longer come.
    Ended,
}

/// The answer of `GET /api/v1/environments/<env>/wait`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitView {
    /// The progress.
    pub state: WaitState,
    /// The reason, as a sentence.
    pub message: String,
    /// The start of the wait, by the server's clock. The client must send it with the next request of the
    /// same wait.
    pub asked: Timestamp,
    /// The environment.
    pub environment: EnvironmentView,
}

/// The answer to `diff`: the current plan of one environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanView {
    /// The environment.
    pub environment: EnvironmentName,
    /// The differences, in sentences.
    pub differences: Vec<String>,
    /// The planned steps, in sentences; empty if there are none.
    pub steps: Vec<String>,
    /// Steps that only remove what the serving container replaced, or that run a scheduled job.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub upkeep: Vec<String>,
    /// The reason for waiting, or why nothing can be done.
    pub message: String,
    /// Whether the running containers differ from the record and the manifest.
    #[serde(default)]
    pub differs: bool,
}

/// The answer of `GET /api/v1/environments`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overview {
    /// Every environment, ordered by name.
    pub environments: Vec<EnvironmentView>,
    /// Warnings about the whole daemon: a rejected manifest edit, an unreachable engine.
    pub warnings: Vec<String>,
    /// Whether a reconcile loop is running.
    pub daemon: bool,
    /// The groups of these environments, ordered by name.
    #[serde(default)]
    pub groups: Vec<GroupView>,
}

/// A group, judged as one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupView {
    /// The group.
    pub group: GroupName,
    /// The state: that of the member that is furthest from `Ready`.
    pub status: Condition,
    /// The state as a sentence.
    pub message: String,
    /// The member with that state.
    pub decisive: EnvironmentName,
    /// The members.
    pub members: Vec<EnvironmentName>,
}

impl GroupView {
    /// The groups of these environments, each of which must be there with all its members.
    pub fn all(views: &[EnvironmentView]) -> Vec<Self> {
        let mut groups: BTreeMap<&GroupName, Vec<&EnvironmentView>> = BTreeMap::new();
        for view in views {
            if let Some(group) = &view.group {
                groups.entry(group).or_default().push(view);
            }
        }
        groups.into_iter().filter_map(|(group, members)| Self::of(group, &members)).collect()
    }

    fn of(group: &GroupName, members: &[&EnvironmentView]) -> Option<Self> {
        let decisive = members.iter().max_by_key(|view| distance(view.status))?;
        let ready = members.iter().filter(|view| view.status == Condition::Ready).count();
        let (count, short) = (members.len(), group.short(&decisive.environment));
        let message = if ready == count {
            format!("all members ({count}) are Ready")
        } else {
            format!(
                "{ready} of {count} members are Ready; {short} is {}: {}",
                decisive.status.as_str(),
                decisive.message
            )
        };
        Some(Self {
            group: group.clone(),
            status: decisive.status,
            message,
            decisive: decisive.environment.clone(),
            members: members.iter().map(|view| view.environment.clone()).collect(),
        })
    }
}

/// How far a state is from `Ready`. What still changes comes before what stays as it is.
fn distance(condition: Condition) -> u8 {
    match condition {
        Condition::Ready => 0,
        Condition::Held => 1,
        Condition::RolledBack => 2,
        Condition::Progressing => 3,
        Condition::Degraded => 4,
        Condition::Blocked => 5,
    }
}

/// The answer to the creation of a token: the only time that its text is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuedToken {
    /// The token, with the server's pin if it has one.
    #[serde(serialize_with = "serialize_exposed", deserialize_with = "deserialize_secret")]
    pub token: Secret,
    /// Its public properties.
    #[serde(flatten)]
    pub about: Token,
}

fn serialize_exposed<S: Serializer>(token: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(token.expose())
}

fn deserialize_secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
    String::deserialize(deserializer).map(Secret::new)
}

/// The answer of `POST /api/v1/login`: the only time that the code is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginLink {
    /// The link to the web page that signs in the first who opens it.
    #[serde(serialize_with = "serialize_exposed", deserialize_with = "deserialize_secret")]
    pub url: Secret,
    /// The same at the loopback address, for a browser on the daemon's host or behind an SSH tunnel.
    #[serde(serialize_with = "serialize_exposed", deserialize_with = "deserialize_secret")]
    pub local_url: Secret,
    /// How long the link is valid, in seconds.
    pub valid_seconds: u64,
}

/// An error answer of the API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorView {
    /// A word for scripts to compare.
    pub error: String,
    /// A sentence that names the problem and its remedy.
    pub message: String,
}

/// The result of `outbox retry`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxRetried {
    /// The number of items that are sent again.
    pub items: usize,
    /// The result as a sentence.
    pub message: String,
}

/// The result of `notify test`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestSent {
    /// The channel's response as a sentence, or the message.
    pub text: String,
}
