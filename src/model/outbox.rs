//! Outgoing items: states of commits for forges, messages for people, and how far their delivery is.
//!
//! A [`Projection`] is the state of one commit in one environment; only its newest state matters. A [`Message`]
//! reports something that happened; each is delivered at least once, or is dead and visible. [`announce`] and
//! [`commit`] derive both from the record, so a lost wakeup loses nothing.

pub mod announce;
mod attempts;
pub mod commit;
pub mod group;
mod rules;

use std::fmt;

use serde::{Deserialize, Serialize};

use super::desired::{Image, Origin};
use super::name::{
    AgentName, ChannelName, CommitId, EnvironmentName, Generation, InvalidName, JobName, RepositoryName,
    text_form,
};
use super::status::Reason;
use super::time::Timestamp;
pub use attempts::{DeliveryAttempts, MESSAGE_PATIENCE, PROJECTION_PATIENCE, backoff};
use commit::CommitState;
pub use rules::{ChannelRule, ForgeRule, OutboxRules};

/// The receiver of an item, by its place in the manifest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum OutboxTarget {
    /// A channel: `notify.NAME`.
    Channel(ChannelName),
    /// The forge of a repository: `repository.NAME`.
    Forge(RepositoryName),
}

impl fmt::Display for OutboxTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Channel(name) => write!(f, "notify.{name}"),
            Self::Forge(name) => write!(f, "repository.{name}"),
        }
    }
}

text_form!(OutboxTarget);

impl std::str::FromStr for OutboxTarget {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        match text.split_once('.') {
            Some(("notify", name)) => ChannelName::new(name).map(Self::Channel),
            Some(("repository", name)) => RepositoryName::new(name).map(Self::Forge),
            _ => Err(InvalidName::new(
                "target",
                text,
                "`notify.NAME` or `repository.NAME`, as in the manifest",
            )),
        }
    }
}

/// The kinds of news that a channel can select with `on`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum News {
    /// A version failed, or the environment is not served as recorded.
    Failed,
    /// abide rolled back to the last good image.
    RolledBack,
    /// An environment that failed is Ready again.
    Recovered,
    /// A new generation is Ready.
    Ready,
    /// A promotion waits for an approval.
    WaitingForApproval,
    /// A promotion was rejected.
    Rejected,
    /// An operator holds an environment, or ended the hold.
    Held,
    /// An agent is disconnected, or is back.
    AgentAway,
    /// A certificate cannot be renewed or ends soon, or is fine again.
    Certificate,
    /// A scheduled job failed, or succeeds again.
    JobFailed,
}

impl News {
    /// All kinds.
    pub const ALL: [Self; 10] = [
        Self::Failed,
        Self::RolledBack,
        Self::Recovered,
        Self::Ready,
        Self::WaitingForApproval,
        Self::Rejected,
        Self::Held,
        Self::AgentAway,
        Self::Certificate,
        Self::JobFailed,
    ];

    /// The default of `on`: everything that a person has to act on, and its end. A `ready` for each push would
    /// drown the rest.
    pub const DEFAULT: [Self; 9] = [
        Self::Failed,
        Self::RolledBack,
        Self::Recovered,
        Self::WaitingForApproval,
        Self::Rejected,
        Self::Held,
        Self::AgentAway,
        Self::Certificate,
        Self::JobFailed,
    ];

    /// The word in the manifest.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::RolledBack => "rolled_back",
            Self::Recovered => "recovered",
            Self::Ready => "ready",
            Self::WaitingForApproval => "waiting_for_approval",
            Self::Rejected => "rejected",
            Self::Held => "held",
            Self::AgentAway => "agent_away",
            Self::Certificate => "certificate",
            Self::JobFailed => "job_failed",
        }
    }
}

/// The thing that a message is about. Messages about one subject are delivered in order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// An environment.
    Environment(EnvironmentName),
    /// An agent.
    Agent(AgentName),
    /// The certificate of a host name.
    Certificate(String),
    /// A scheduled job.
    Job {
        /// Its environment.
        environment: EnvironmentName,
        /// Its name.
        job: JobName,
    },
    /// Several subjects in one message.
    Several,
    /// A test by an operator.
    Test,
}

impl Subject {
    /// The environment that it is or belongs to.
    pub fn environment(&self) -> Option<&EnvironmentName> {
        match self {
            Self::Environment(name) | Self::Job { environment: name, .. } => Some(name),
            Self::Agent(_) | Self::Certificate(_) | Self::Several | Self::Test => None,
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment(name) => name.fmt(f),
            Self::Agent(name) => write!(f, "agent {name}"),
            Self::Certificate(host) => write!(f, "certificate of {host}"),
            Self::Job { environment, job } => write!(f, "job {job} of {environment}"),
            Self::Several => f.write_str("several"),
            Self::Test => f.write_str("test"),
        }
    }
}

/// A version: a commit, an image, or both.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedVersion {
    /// The generation of the record.
    #[serde(default)]
    pub generation: Generation,
    /// The commit, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<CommitId>,
    /// The image, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Image>,
}

/// Something that happened, as facts. Each channel writes its own text from them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// The kind of news.
    pub news: News,
    /// A second kind that this is too: a recovery by a new version is also `ready`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub also: Option<News>,
    /// Whether it reports the end of the state that `news` names, such as the end of a hold.
    #[serde(default)]
    pub is_end: bool,
    /// The subject.
    pub subject: Subject,
    /// The time of the event.
    pub at: Timestamp,
    /// The incident that it belongs to. All messages of an incident share it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incident: Option<String>,
    /// The version in effect.
    #[serde(default)]
    pub to: ReportedVersion,
    /// The version that failed, of a rollback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<ReportedVersion>,
    /// The origin of the version in effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// The author of the change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The reason of the state, as one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The reason as a sentence. It may contain text of strangers, such as the output of a program.
    pub message: String,
}

/// A problem that lasts, and is not a failure of an environment's version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenProblem {
    /// The kind of news.
    pub news: News,
    /// The subject.
    pub subject: Subject,
    /// What distinguishes it from other problems of the subject; empty: nothing.
    pub about: String,
    /// The reason as a sentence.
    pub message: String,
    /// The person who caused it.
    pub by: Option<String>,
    /// Whether it began too long ago to be announced.
    pub is_old: bool,
}

impl OpenProblem {
    /// A problem that a subject can have once.
    pub fn new(news: News, subject: Subject, message: impl Into<String>) -> Self {
        Self { news, subject, about: String::new(), message: message.into(), by: None, is_old: false }
    }

    /// The same, distinguished from others of its subject.
    #[must_use]
    pub fn about(self, about: impl Into<String>) -> Self {
        Self { about: about.into(), ..self }
    }
}

impl Announcement {
    /// An announcement without a version.
    pub fn new(news: News, subject: Subject, message: impl Into<String>, at: Timestamp) -> Self {
        Self {
            news,
            also: None,
            is_end: false,
            subject,
            at,
            incident: None,
            to: ReportedVersion::default(),
            from: None,
            origin: None,
            by: None,
            reason: None,
            message: message.into(),
        }
    }

    /// The dotted name of the event in webhooks.
    pub fn kind(&self) -> &'static str {
        match (&self.subject, self.news, self.is_end) {
            (Subject::Test, ..) => "test",
            (Subject::Several, ..) => "several",
            (_, News::Failed, _) => "environment.failed",
            (_, News::RolledBack, _) => "environment.rolled_back",
            (_, News::Recovered, _) => "environment.recovered",
            (_, News::Ready, _) => "environment.ready",
            (_, News::WaitingForApproval, _) => "environment.waiting_for_approval",
            (_, News::Rejected, false) => "environment.rejected",
            (_, News::Rejected, true) => "environment.rejection_withdrawn",
            (_, News::Held, false) => "environment.held",
            (_, News::Held, true) => "environment.resumed",
            (_, News::AgentAway, false) => "agent.away",
            (_, News::AgentAway, true) => "agent.back",
            (_, News::Certificate, false) => "certificate.failing",
            (_, News::Certificate, true) => "certificate.recovered",
            (_, News::JobFailed, false) => "job.failed",
            (_, News::JobFailed, true) => "job.recovered",
        }
    }

    /// One line without the reason: `prod was rolled back`.
    pub fn title(&self) -> String {
        let subject = &self.subject;
        match (subject, self.news, self.is_end) {
            (Subject::Test, ..) => "abide test message".to_owned(),
            (Subject::Several, ..) => "several messages".to_owned(),
            (_, News::Failed, _) | (_, News::JobFailed, false) => format!("{subject} failed"),
            (_, News::RolledBack, _) => format!("{subject} was rolled back"),
            (_, News::Recovered, _) | (_, News::JobFailed, true) => format!("{subject} recovered"),
            (_, News::Ready, _) => format!("{subject} is ready"),
            (_, News::WaitingForApproval, _) => format!("{subject} waits for an approval"),
            (_, News::Rejected, false) => format!("{subject}: its image was rejected"),
            (_, News::Rejected, true) => format!("{subject}: the rejection of its image ended"),
            (_, News::Held, false) => format!("{subject} is held"),
            (_, News::Held, true) => format!("{subject} is resumed"),
            (_, News::AgentAway, false) => format!("{subject} is disconnected"),
            (_, News::AgentAway, true) => format!("{subject} is connected again"),
            (_, News::Certificate, false) => format!("{subject}: needs attention"),
            (_, News::Certificate, true) => format!("{subject}: is fine again"),
        }
    }

    /// Whether something is wrong, is fine again, or neither.
    pub fn mood(&self) -> Mood {
        match (self.news, self.is_end) {
            (News::Recovered | News::Ready, _)
            | (News::AgentAway | News::Certificate | News::JobFailed | News::Rejected, true) => Mood::Good,
            (News::Failed | News::RolledBack, _)
            | (News::AgentAway | News::Certificate | News::JobFailed | News::Rejected, false) => Mood::Bad,
            (News::WaitingForApproval | News::Held, _) => Mood::Neutral,
        }
    }
}

/// The weight of a message: a colour, a priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// Fine again.
    Good,
    /// Wrong.
    Bad,
    /// Neither.
    Neutral,
}

/// A message for one channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Its id, which stays the same over all attempts. Receivers recognize a repetition by it.
    pub id: String,
    /// Its place in the order of its channel.
    pub sequence: u64,
    /// The channel.
    pub target: OutboxTarget,
    /// The facts.
    pub announcement: Announcement,
    /// The messages that this one replaces: stale ones, or a flood.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grouped: Vec<Grouped>,
    /// Messages in it that are not listed in `grouped`.
    #[serde(default)]
    pub more: u32,
    /// How far its delivery is.
    pub attempts: DeliveryAttempts,
}

/// A message that another one replaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grouped {
    /// Its id.
    pub id: String,
    /// The time of its event.
    pub at: Timestamp,
    /// Its title and the beginning of its reason, in one line.
    pub line: String,
}

/// The state of one commit in one environment, for one forge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Projection {
    /// The repository whose forge shows it.
    pub target: OutboxTarget,
    /// The environment, which names the context: `abide/prod`.
    pub environment: EnvironmentName,
    /// The commit.
    pub revision: CommitId,
    /// The last generation of that commit.
    pub generation: Generation,
    /// The true state.
    pub wanted: CommitState,
    /// The state that the forge is known to show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shown: Option<CommitState>,
    /// The deployment on the forge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<Deployment>,
    /// How far its delivery is.
    pub attempts: DeliveryAttempts,
}

/// A deployment on a forge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// The generation that it shows: each generation of a commit is a separate deployment.
    pub generation: Generation,
    /// Its id on the forge; `None` while it is being created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The state that the forge is known to show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shown: Option<CommitState>,
}

impl Projection {
    /// Whether the forge shows the true state everywhere.
    pub fn is_shown(&self) -> bool {
        let deployment = self.deployment.as_ref();
        let is_deployed = deployment.is_none_or(|deployment| {
            deployment.generation == self.generation && deployment.shown.as_ref() == Some(&self.wanted)
        });
        is_deployed && self.shown.as_ref() == Some(&self.wanted)
    }
}

/// An item as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxItem {
    /// The receiver: `notify.NAME` or `repository.NAME`.
    pub target: OutboxTarget,
    /// The message's id, or `ENVIRONMENT/COMMIT` of a state.
    pub id: String,
    /// One line for people.
    pub title: String,
    /// The time of the event, of a message.
    pub at: Option<Timestamp>,
    /// Failed attempts.
    pub attempts: u32,
    /// The time of the next attempt; `None`: abide gave up.
    pub next: Option<Timestamp>,
    /// The last failure.
    pub error: Option<String>,
    /// Since when abide has given up.
    pub dead: Option<Timestamp>,
}

impl From<&Message> for OutboxItem {
    fn from(message: &Message) -> Self {
        let Message { id, target, announcement, attempts, .. } = message;
        Self {
            target: target.clone(),
            id: id.clone(),
            title: message.title(),
            at: Some(announcement.at),
            attempts: attempts.count,
            next: attempts.dead.is_none().then_some(attempts.next),
            error: attempts.error.clone(),
            dead: attempts.dead,
        }
    }
}

impl From<&Projection> for OutboxItem {
    fn from(projection: &Projection) -> Self {
        let Projection { target, environment, revision, wanted, attempts, .. } = projection;
        Self {
            target: target.clone(),
            id: format!("{environment}/{}", revision.short()),
            title: format!("abide/{environment} is {}: {}", wanted.phase.as_str(), wanted.description),
            at: None,
            attempts: attempts.count,
            next: attempts.dead.is_none().then_some(attempts.next),
            error: attempts.error.clone(),
            dead: attempts.dead,
        }
    }
}

impl Message {
    /// One line: the title of the announcement, or the number of grouped messages.
    pub fn title(&self) -> String {
        match self.grouped.len() + usize::try_from(self.more).unwrap_or_default() {
            0 => self.announcement.title(),
            count => format!("{count} messages"),
        }
    }
}

#[cfg(test)]
mod tests;
