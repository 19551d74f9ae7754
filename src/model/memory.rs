//! What the loop remembers of an environment from one pass to the next, across restarts of the
//! daemon. Only the loop writes it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::cause::EndedBy;
use super::container::Exit;
use super::declared::Declared;
use super::desired::Image;
use super::mount::{AbsolutePath, VolumeName};
use super::name::{CommitId, Generation};
use super::status::Reason;
use super::time::Timestamp;

/// The loop's own notes on one environment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// The last generation that became ready: what is enforced while a newer one is not there yet.
    pub good: Option<Good>,
    /// The good generation of another image before [`Self::good`]: what is gone back to where that
    /// one crashes soon after it became ready.
    pub before: Option<Good>,
    /// Exits and restarts.
    pub crashes: Crashes,
    /// The container options that could not be started, or never became ready.
    pub refused: Option<Refused>,
    /// The same difference, pass after pass.
    pub repeat: Option<Repeat>,
    /// Engine calls that fail, pass after pass.
    pub trouble: Option<Trouble>,
    /// A replacement that something other than itself ends before it is ready.
    pub interrupted: Option<Interrupted>,
    /// Containers that were replaced while they served, and until when their last requests may take.
    pub draining: BTreeMap<String, Timestamp>,
    /// Why containers get a network namespace of their own, where holders were tried in vain.
    pub no_holder: Option<NoHolder>,
    /// Volumes that existed for this environment once: one that is gone is never made anew, empty.
    pub volumes: BTreeSet<String>,
    /// The volume at each path that an image declares as `VOLUME` and the manifest does not mention:
    /// it outlives the containers, whatever happens to them.
    pub homes: BTreeMap<AbsolutePath, VolumeName>,
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
    /// When that container last became ready.
    pub at: Timestamp,
    /// When its image first became ready, in whatever container.
    #[serde(default)]
    pub first_ready: Timestamp,
    /// How the container was declared when it was made: a hold keeps it so, and makes it so again if
    /// it is lost. `None`: not known, as it became ready under an earlier abide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub declared: Option<Box<Declared>>,
}

/// Exits in a row and when the next restart is due.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Crashes {
    /// Exits since the last ten healthy minutes, and restarts that changed nothing.
    pub count: u32,
    /// The exits among them.
    pub exits: u32,
    /// Restarts that abide made since the container was created.
    pub restarts: u32,
    /// The last exit that was counted, and of which container.
    pub last: Option<CountedExit>,
    /// When the next restart is due; `None`: at once.
    pub next_restart: Option<Timestamp>,
    /// When abide tried to start it again after the last exit; `None`: not yet.
    pub tried: Option<Timestamp>,
    /// A container that abide stops to restart it, as it answers no more.
    pub stopped: Option<Stopped>,
}

/// A container that abide stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {
    /// Its id.
    pub container: String,
    /// What was wrong with it, as a clause without its subject.
    pub why: String,
}

/// An exit that was counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountedExit {
    /// The container's id.
    pub container: String,
    /// How it ended.
    pub exit: Exit,
    /// Why abide stopped it, as a clause without its subject; `None`: it did not.
    #[serde(default)]
    pub why: Option<String>,
    /// What ended it; `None`: its own program.
    #[serde(default)]
    pub by: Option<EndedBy>,
}

/// Container options that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The fingerprint of the options.
    pub fingerprint: String,
    /// Of which generation.
    pub generation: Generation,
    /// Why, in one word.
    pub reason: Reason,
    /// What happened, in a sentence, with the container's last output.
    pub message: String,
    /// Whether it was something else that failed, such as the host for lack of disk space: no verdict
    /// on the options, which are tried again after a while.
    #[serde(default)]
    pub of_the_host: bool,
    /// When they are tried again in that case; `None`: after the longest pause.
    #[serde(default)]
    pub retry_at: Option<Timestamp>,
    /// When.
    pub at: Timestamp,
}

/// A container on trial that something other than its version ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interrupted {
    /// The fingerprint of its options.
    pub fingerprint: String,
    /// How often in a row.
    pub count: u32,
    /// When it ended last.
    pub at: Timestamp,
}

/// The same difference again after it was acted upon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repeat {
    /// The difference, as a sentence.
    pub difference: String,
    /// How often it was acted upon.
    pub count: u32,
    /// When it was last acted upon.
    pub at: Timestamp,
    /// When it is tried again, once it was given up for now.
    pub next_retry: Option<Timestamp>,
}

/// Holders were tried in vain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoHolder {
    /// What the engine said.
    pub message: String,
    /// When.
    pub at: Timestamp,
}

/// Calls that fail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// Under which generation; a newer one is tried at once.
    pub generation: Generation,
    /// Why, in one word.
    pub reason: Reason,
    /// The last error, in a sentence.
    pub message: String,
    /// How often in a row.
    pub count: u32,
    /// When it last failed.
    pub at: Timestamp,
    /// When it is tried again.
    pub next_retry: Timestamp,
}
