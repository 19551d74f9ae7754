//! What happened, for people: bounded, and repeated ones counted.

use serde::{Deserialize, Serialize};

use super::name::EnvironmentName;
use super::time::Timestamp;

/// One thing that happened to an environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Rises with every event of the whole record.
    pub sequence: u64,
    /// To which environment.
    pub environment: EnvironmentName,
    /// When it last happened.
    pub at: Timestamp,
    /// What kind.
    pub kind: EventKind,
    /// A sentence.
    pub message: String,
    /// How often in a row, one and more.
    pub count: u32,
}

/// The closed set of kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// The record moved, or was held or resumed.
    Record,
    /// A difference was found, between what should run and what does.
    Difference,
    /// A step of a plan was taken.
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
    /// The word, the same as in JSON.
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
