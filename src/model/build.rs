//! Builds: inputs and results.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::desired::Image;
use super::name::{CommitId, Digest, EnvironmentName};
use super::reference::ImageRepository;
use super::time::Timestamp;

/// The hash of a build's inputs. The record finds a build by two kinds of keys. The first hashes the commit
/// and the manifest's recipe, and is known before anything is fetched. The second hashes the fetched content.
/// Equal content reuses the recorded image instead of building it again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BuildKey(pub String);

impl BuildKey {
    /// The first twelve digits, for tags and display.
    pub fn short(&self) -> &str {
        self.0.get(..12).unwrap_or(&self.0)
    }
}

/// The heading of a step in a build's log: the time and the step.
pub fn heading_of_step(at: Timestamp, step: &str) -> String {
    format!("--- {at} {step}")
}

/// The time and the step of a line that [`heading_of_step`] made; `None` for any other line.
pub fn step_heading(line: &str) -> Option<(Timestamp, &str)> {
    let (at, step) = line.strip_prefix("--- ")?.split_once(' ')?;
    Some((Timestamp::parse(at).ok()?, step))
}

/// The first line of a build's log.
pub fn heading_of_log(number: u64, revision: &CommitId, environment: &EnvironmentName) -> String {
    format!("build {number}: commit {revision} for {environment}")
}

/// The build of a line that [`heading_of_log`] made; `None` for any other line.
pub fn log_heading(line: &str) -> Option<(u64, CommitId, EnvironmentName)> {
    let (number, rest) = line.strip_prefix("build ")?.split_once(": commit ")?;
    let (revision, environment) = rest.split_once(" for ")?;
    Some((number.parse().ok()?, CommitId::new(revision).ok()?, EnvironmentName::new(environment).ok()?))
}

/// The hash of a recipe, independent of the commit: the `[build]` table, the repository, and the content of
/// overlay files.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RecipeKey(pub String);

/// The record of a build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildRecord {
    /// The key of the commit and the recipe.
    pub key: BuildKey,
    /// The key of the content; `None` if it could not be determined, or an earlier version built it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<BuildKey>,
    /// The number of the build whose image was reused, because its inputs have the same content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reused: Option<u64>,
    /// The build number, which rises with every build of this record; also the name of its log.
    pub number: u64,
    /// The environment that it was first built for.
    pub environment: EnvironmentName,
    /// The commit.
    pub revision: CommitId,
    /// The commits of extra checkouts, as `url@commit`.
    #[serde(default)]
    pub checkouts: Vec<String>,
    /// The start time.
    pub started: Timestamp,
    /// The end time.
    pub finished: Timestamp,
    /// The result.
    pub result: BuildResult,
    /// Parts of the repository that were not fetched, in sentences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The repositories that its image was pushed to, and its digest there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pushed: BTreeMap<ImageRepository, Digest>,
}

/// The result of a build. Only permanent results are recorded. A build that was cancelled, or that failed
/// because git or the engine did not answer, leaves no record and is tried again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BuildResult {
    /// The built image.
    Built(Image),
    /// The inputs cannot be built. The sentence names the failed step and its error.
    Failed(String),
}

/// The progress of bringing the recorded image to this engine, by build or by pull.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Acquisition {
    /// The image is on the engine, or nothing can bring it.
    #[default]
    NotNeeded,
    /// Not started.
    Untried,
    /// In progress.
    Running {
        /// The current step.
        step: String,
    },
    /// Finished, with this image.
    Got(Image),
    /// Failed permanently: these inputs cannot be built, or this digest exists nowhere.
    Failed {
        /// The reason, as one word.
        reason: super::status::Reason,
        /// The failed step and its error.
        message: String,
        /// The time of the failure.
        at: Timestamp,
    },
    /// Failed temporarily: it could not be attempted, such as when git did not answer.
    Unavailable {
        /// The reason, as one word.
        reason: super::status::Reason,
        /// The service that did not answer.
        message: String,
        /// The time of the next attempt.
        retry_at: Timestamp,
    },
}
