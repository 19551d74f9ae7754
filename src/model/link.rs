//! What a controller and an agent say to each other.
//!
//! The agent dials; everything travels in HTTP/2 streams of that one connection. Both directions
//! tell states, not changes: the controller sends all that an agent is to run whenever something of
//! it changed, the agent reports all that it knows of an environment. So what is repeated, late or
//! lost changes nothing in the end.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::desired::{Desired, Entry, GoBack, Image, Outcome};
use super::event::Event;
use super::name::{EnvironmentName, Generation, InvalidName, NetworkName};
use super::spec::EnvironmentSpec;
use super::status::Status;
use super::time::Timestamp;

/// The version of what is said here. Fields are added without a new one; another number means
/// that the two do not understand each other.
pub const VERSION: u32 = 1;

/// The header of an answer that says why there is none.
pub const FAILED: &str = "x-abide-failed";

/// The first word of an agent: the body of `POST /api/v1/agent/session`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`] of the agent.
    pub version: u32,
    /// The id of the agent's own record: two agents with one token differ in it.
    pub instance: String,
    /// Higher in every session than in the one before. Of two sessions the higher one stays.
    pub epoch: u64,
    /// Which abide the agent is, for people.
    pub software: String,
}

/// One line of what the controller says in a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToAgent {
    /// All that the agent is to run. Environments that are not in it are not its business any more.
    Assignment(Box<Assignment>),
    /// Answer this, by `POST /api/v1/agent/answers/<id>`.
    Ask(Ask),
    /// Another session with this token took over: this one ends.
    Superseded,
}

/// All that one agent is to run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "RawAssignment")]
pub struct Assignment {
    /// The managed network of the manifest.
    pub network: NetworkName,
    /// Its environments.
    pub environments: Vec<Assigned>,
    /// Environments of which something is not understood.
    #[serde(skip)]
    pub misread: Vec<Misread>,
}

/// An environment of an agent that breaks the grammar, or that a newer controller declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misread {
    /// Its name.
    pub environment: EnvironmentName,
    /// Its generation, if that can be read.
    pub generation: Generation,
    /// The mark of its declaration, if that can be read.
    pub mark: Option<String>,
    /// What is wrong with it.
    pub why: String,
}

/// An assignment as it comes: one environment that breaks the grammar must not keep the others.
#[derive(Deserialize)]
struct RawAssignment {
    network: NetworkName,
    environments: Vec<serde_json::Value>,
}

impl From<RawAssignment> for Assignment {
    fn from(raw: RawAssignment) -> Self {
        let mut assignment = Self { network: raw.network, environments: Vec::new(), misread: Vec::new() };
        for value in raw.environments {
            match Assigned::deserialize(&value) {
                Ok(assigned) => assignment.environments.push(assigned),
                Err(error) => assignment.misread.extend(misread(&value, &error)),
            }
        }
        assignment
    }
}

/// What is known of an environment that breaks the grammar; `None`: not even its name.
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
    /// What the manifest declares.
    pub spec: EnvironmentSpec,
    /// What the record wants.
    pub desired: Desired,
    /// The generation that a hold keeps, where that is an earlier one.
    #[serde(default)]
    pub held: Option<Entry>,
    /// What the controller has heard of it so far.
    #[serde(default)]
    pub heard: Option<Heard>,
}

/// One environment of an agent as it comes.
#[derive(Deserialize)]
struct RawAssigned {
    spec: EnvironmentSpec,
    desired: Desired,
    #[serde(default)]
    held: Option<Entry>,
    #[serde(default)]
    heard: Option<Heard>,
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
    /// Names the answer.
    pub id: String,
    /// About which environment.
    pub environment: EnvironmentName,
    /// What.
    pub question: Question,
}

/// What can be asked. None of it changes anything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// The plan as it would be now.
    Plan,
    /// The output of the container.
    Logs {
        /// Whether to go on as output comes.
        follow: bool,
        /// The last lines only.
        tail: Option<usize>,
        /// Since this moment only.
        since: Option<Timestamp>,
    },
}

/// What an agent knows of its environments: the body of `POST /api/v1/agent/report`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// As in [`Hello`].
    pub instance: String,
    /// As in [`Hello`].
    pub epoch: u64,
    /// Higher with every report of a session.
    pub sequence: u64,
    /// Of these environments, all that is known.
    pub environments: Vec<Reported>,
}

/// All that an agent knows of one environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reported {
    /// Its state.
    pub status: Status,
    /// What became of its latest generations.
    #[serde(default)]
    pub outcomes: Vec<(Generation, Outcome)>,
    /// What happened since the controller heard last, oldest first, by the agent's own sequence.
    #[serde(default)]
    pub events: Vec<Event>,
    /// An automatic rollback: done on the host, and for the controller to record.
    #[serde(default)]
    pub rollback: Option<GoBack>,
}

/// How much the controller has heard of one environment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// From which agent's record.
    pub instance: String,
    /// In which session.
    pub epoch: u64,
    /// In which of its reports.
    pub sequence: u64,
    /// The agent's sequence of the last event.
    pub event: u64,
    /// How often that one had happened.
    pub count: u32,
    /// When.
    pub at: Timestamp,
}

impl Heard {
    /// Whether a report says nothing that was not heard before.
    pub fn covers(&self, report: &Report) -> bool {
        self.instance == report.instance && (self.epoch, self.sequence) >= (report.epoch, report.sequence)
    }

    /// How many times `event` happened that were not heard of.
    pub fn news_of(&self, event: &Event) -> u32 {
        match event.sequence.cmp(&self.event) {
            std::cmp::Ordering::Less => 0,
            std::cmp::Ordering::Equal => event.count.saturating_sub(self.count),
            std::cmp::Ordering::Greater => event.count,
        }
    }
}

/// The answer to a report: how much was heard, by environment. Those that are not the agent's are
/// not in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// By environment.
    pub heard: BTreeMap<EnvironmentName, Heard>,
}

#[cfg(test)]
mod tests;
