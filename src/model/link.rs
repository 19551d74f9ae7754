//! The protocol between a controller and an agent.
//!
//! The agent dials, and everything travels in HTTP/2 streams of that one connection. Both sides send states,
//! not changes: after each change, the controller sends the agent's complete assignment, and the agent
//! reports everything that it knows of an environment. So repeated, late or lost messages change nothing in
//! the end.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::attach::AttachRequest;
use super::desired::{Desired, Entry, Image, Outcome, RollbackRequest};
use super::event::Event;
use super::logs::LogOptions;
use super::name::{EnvironmentName, Generation, InvalidName, NetworkName};
use super::site::SitePath;
use super::spec::{EnvironmentSpec, FrontSpec};
use super::status::Status;
use super::time::Timestamp;

/// The version of the protocol. Added fields do not change it. A different number means that the two sides do
/// not understand each other.
pub const VERSION: u32 = 1;

/// The header of an answer that contains the error.
pub const FAILED: &str = "x-abide-failed";

/// The first message of an agent: the body of `POST /api/v1/agent/session`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`] of the agent.
    pub version: u32,
    /// The id of the agent's own record. It distinguishes two agents with the same token.
    pub instance: String,
    /// The session number, which is higher than in the session before. Of two sessions, the higher one stays.
    pub epoch: u64,
    /// The abide version of the agent, for people.
    pub software: String,
    /// The version of its Docker Engine, for people; `None`: the engine did not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// The proxy of its host; `None`: an earlier abide does not report it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ReportedProxy>,
}

/// The proxy of an agent's host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedProxy {
    /// Its port for host names; `None`: the host has no proxy.
    #[serde(default)]
    pub http: Option<u16>,
    /// Its port for HTTPS.
    #[serde(default)]
    pub https: Option<u16>,
}

impl ReportedProxy {
    /// What to assume of a host whose agent does not report it.
    pub const UNKNOWN: Self = Self { http: Some(80), https: None };

    /// The declarations of a host.
    pub fn of(front: Option<&FrontSpec>) -> Self {
        let https = front.and_then(|front| front.https.as_ref()).map(|https| https.port);
        Self { http: front.map(|front| front.http), https }
    }

    /// The URL at which it serves an environment, if that has a host name.
    pub fn url(self, spec: &EnvironmentSpec) -> Option<String> {
        let name = spec.first_host_name()?;
        let path = spec.site.path.as_ref().map_or("/", SitePath::as_str);
        let (scheme, port, default) = match self.https {
            Some(port) => ("https", port, 443),
            None => ("http", self.http?, 80),
        };
        let port = if port == default { String::new() } else { format!(":{port}") };
        Some(format!("{scheme}://{name}{port}{path}"))
    }
}

/// One line from the controller in a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToAgent {
    /// The complete assignment of the agent. The agent no longer manages environments outside it.
    Assignment(Box<Assignment>),
    /// A question, which the agent answers with `POST /api/v1/agent/answers/<id>`.
    Ask(Ask),
    /// Another session with this token took over, so this one ends.
    Superseded,
}

/// The complete assignment of one agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "RawAssignment")]
pub struct Assignment {
    /// The managed network of the manifest.
    pub network: NetworkName,
    /// Its environments.
    pub environments: Vec<Assigned>,
    /// Environments that the agent does not run any more, and whose remains users asked to remove.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forget: Vec<ForgetThere>,
    /// Environments that could not be read completely.
    #[serde(skip)]
    pub misread: Vec<Misread>,
}

/// A request to remove an environment's leftovers on an agent's host. Volumes are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForgetThere {
    /// The environment.
    pub environment: EnvironmentName,
    /// Whether to stop and remove its containers first.
    pub stop: bool,
    /// The requester.
    pub by: String,
    /// Time of the request.
    pub at: Timestamp,
}

/// An agent's environment that breaks the grammar, or that a newer controller declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misread {
    /// Its name.
    pub environment: EnvironmentName,
    /// Its generation, if that can be read.
    pub generation: Generation,
    /// The mark of its declaration, if that can be read.
    pub mark: Option<String>,
    /// The error.
    pub why: String,
}

/// The raw assignment. One environment that breaks the grammar must not affect the others.
#[derive(Deserialize)]
struct RawAssignment {
    network: NetworkName,
    environments: Vec<serde_json::Value>,
    #[serde(default)]
    forget: Vec<serde_json::Value>,
}

impl From<RawAssignment> for Assignment {
    fn from(raw: RawAssignment) -> Self {
        let forget = raw.forget.into_iter().filter_map(|value| serde_json::from_value(value).ok()).collect();
        let (environments, misread_ones) = (Vec::new(), Vec::new());
        let mut assignment = Self { network: raw.network, environments, forget, misread: misread_ones };
        for value in raw.environments {
            match Assigned::deserialize(&value) {
                Ok(assigned) => assignment.environments.push(assigned),
                Err(error) => assignment.misread.extend(misread(&value, &error)),
            }
        }
        assignment
    }
}

/// The readable parts of an environment that breaks the grammar; `None` if not even its name is readable.
fn misread(value: &serde_json::Value, error: &serde_json::Error) -> Option<Misread> {
    let desired = value.get("desired")?;
    let environment = EnvironmentName::deserialize(desired.get("environment")?).ok()?;
    let generation = desired.get("generation").and_then(serde_json::Value::as_u64).unwrap_or_default();
    let mark = value.pointer("/spec/mark").and_then(serde_json::Value::as_str).map(str::to_owned);
    Some(Misread { environment, generation: Generation(generation), mark, why: error.to_string() })
}

/// One environment of an agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RawAssigned")]
pub struct Assigned {
    /// The declaration from the manifest.
    pub spec: EnvironmentSpec,
    /// The desired state from the record.
    pub desired: Desired,
    /// The generation of a hold, if it is not the current one.
    #[serde(default)]
    pub held: Option<Entry>,
    /// How much of it the controller has received so far.
    #[serde(default)]
    pub heard: Option<ReportCursor>,
}

/// The raw form of an agent's environment.
#[derive(Deserialize)]
struct RawAssigned {
    spec: EnvironmentSpec,
    desired: Desired,
    #[serde(default)]
    held: Option<Entry>,
    #[serde(default)]
    heard: Option<ReportCursor>,
}

impl TryFrom<RawAssigned> for Assigned {
    type Error = InvalidName;

    fn try_from(raw: RawAssigned) -> Result<Self, InvalidName> {
        let RawAssigned { spec, desired, held, heard } = raw;
        desired.images(held.as_ref()).try_for_each(Image::check_name)?;
        Ok(Self { spec, desired, held, heard })
    }
}

/// A question to an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// The id of the answer.
    pub id: String,
    /// The environment.
    pub environment: EnvironmentName,
    /// The question.
    pub question: Question,
}

/// The kinds of questions. None of them changes what the agent should run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// The current plan.
    Plan,
    /// The resource usage of the container.
    Usage,
    /// The output of the container.
    Logs(LogOptions),
    /// A command that a person runs. Its input is at `GET /api/v1/agent/inputs/<input>`.
    Attach {
        /// The id of the input.
        input: String,
        /// The command.
        request: AttachRequest,
        /// The person.
        by: String,
    },
}

/// The knowledge of an agent about its environments: the body of `POST /api/v1/agent/report`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentReport {
    /// As in [`Hello`].
    pub instance: String,
    /// As in [`Hello`].
    pub epoch: u64,
    /// The report number, which rises with every report of a session.
    pub sequence: u64,
    /// The complete knowledge about these environments.
    pub environments: Vec<Reported>,
    /// The names of containers on the agent's host of environments that it is not given any more, by
    /// environment; `None`: not known, or as in the report before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<Leftovers>,
    /// The volumes of those environments, which outlive their containers; sent with [`Self::left`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_volumes: Option<Leftovers>,
    /// The requests that the host's proxy served since the last report. A lost report loses them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requests: Vec<SimilarRequests>,
}

/// The number of similar requests to one environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SimilarRequests {
    /// The environment.
    pub environment: EnvironmentName,
    /// The method.
    pub method: String,
    /// The status of the answer.
    pub status: u16,
    /// They took at most this many milliseconds, and more than 60 % of it.
    pub millis: u64,
    /// Their number.
    pub count: u64,
}

/// The names of containers on a host that does not run their environments, by environment.
pub type Leftovers = BTreeMap<EnvironmentName, Vec<String>>;

/// The leftovers on an agent's host of environments that it does not run, according to its reports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftThere {
    /// The containers.
    pub containers: Leftovers,
    /// Their volumes.
    #[serde(default)]
    pub volumes: Leftovers,
    /// The environments that the agent reported to run. One that moves while the agent is disconnected is
    /// still there.
    #[serde(default)]
    pub runs: BTreeSet<EnvironmentName>,
}

impl LeftThere {
    /// Whether something of an environment is on the host.
    pub fn has(&self, environment: &EnvironmentName) -> bool {
        self.containers.contains_key(environment) || self.runs.contains(environment)
    }
}

/// The complete knowledge of an agent about one environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reported {
    /// Its state.
    pub status: Status,
    /// The outcomes of its latest generations.
    #[serde(default)]
    pub outcomes: Vec<(Generation, Outcome)>,
    /// The events since the last report that the controller received, oldest first, in the agent's own
    /// sequence.
    #[serde(default)]
    pub events: Vec<Event>,
    /// An automatic rollback, already done on the host, for the controller to record.
    #[serde(default)]
    pub rollback: Option<RollbackRequest>,
}

/// How much of one environment the controller has received.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportCursor {
    /// The instance of the agent's record.
    pub instance: String,
    /// The epoch of the session.
    pub epoch: u64,
    /// The sequence of the report.
    pub sequence: u64,
    /// The agent's sequence of the last event.
    pub event: u64,
    /// The count of that event.
    pub count: u32,
    /// The time of that event, by the agent's clock; `None`: an earlier abide did not note it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_at: Option<Timestamp>,
    /// The time of receipt.
    pub at: Timestamp,
}

impl ReportCursor {
    /// Whether a report contains nothing new.
    pub fn covers(&self, report: &AgentReport) -> bool {
        self.instance == report.instance && (self.epoch, self.sequence) >= (report.epoch, report.sequence)
    }

    /// Whether `event` of the same instance happened after everything that was received, although its number is
    /// smaller: its record was replaced by an older copy of itself.
    pub fn precedes(&self, event: &Event) -> bool {
        let is_numbered_before =
            event.sequence < self.event || event.sequence == self.event && event.count <= self.count;
        is_numbered_before && self.event_at.is_some_and(|at| event.at > at)
    }

    /// The number of new repetitions of `event`.
    pub fn new_repetitions(&self, event: &Event) -> u32 {
        match event.sequence.cmp(&self.event) {
            std::cmp::Ordering::Less => 0,
            std::cmp::Ordering::Equal => event.count.saturating_sub(self.count),
            std::cmp::Ordering::Greater => event.count,
        }
    }
}

/// The answer to a report: how much was received, by environment. Environments of other agents are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// By environment.
    pub heard: BTreeMap<EnvironmentName, ReportCursor>,
}

#[cfg(test)]
mod tests;
