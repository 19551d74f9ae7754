//! Events for operators: bounded in number, with repetitions counted.

use serde::{Deserialize, Serialize};

use super::name::EnvironmentName;
use super::time::Timestamp;

/// One event of an environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The sequence number, which rises with every event of the whole record.
    pub sequence: u64,
    /// Its environment.
    pub environment: EnvironmentName,
    /// The time of the last repetition.
    pub at: Timestamp,
    /// Its kind.
    pub kind: EventKind,
    /// The message, as a sentence.
    pub message: String,
    /// The number of repetitions in a row, at least one.
    pub count: u32,
}

/// The closed set of kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// The record changed, or was held or resumed.
    Record,
    /// The running containers differ from the desired state.
    Difference,
    /// A step of a plan was carried out.
    Step,
    /// A step failed.
    Failure,
    /// A line about a build.
    Build,
    /// The status changed.
    Status,
    /// Something about the store, the manifest or the engine.
    System,
}

impl EventKind {
    /// The word, as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Record => "record",
            Self::Difference => "difference",
            Self::Step => "step",
            Self::Failure => "failure",
            Self::Build => "build",
            Self::Status => "status",
            Self::System => "system",
        }
    }
}
