//! Builds: what went in, what came out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::desired::Image;
use super::name::{CommitId, Digest, EnvironmentName};
use super::reference::ImageRepository;
use super::time::Timestamp;

/// The hash of a build's inputs. There are two kinds, and the record finds a build by either: the key
/// of a commit and of how the manifest says to build it, which is known before anything is fetched,
/// and the key of the content that this turns out to be. Equal content gives the recorded image, and
/// no second build.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BuildKey(pub String);

impl BuildKey {
    /// The first twelve digits, for tags and people.
    pub fn short(&self) -> &str {
        self.0.get(..12).unwrap_or(&self.0)
    }
}

/// The hash of how the manifest says to build, whatever the commit: the `[build]` table, the
/// repository and the content of overlay files.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RecipeKey(pub String);

/// What the record keeps of a build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildRecord {
    /// The commit and how the manifest says to build it.
    pub key: BuildKey,
    /// The content of the inputs; `None`: it could not be told, or an earlier version built it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<BuildKey>,
    /// The number of the build whose image was taken, because its inputs have the same content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reused: Option<u64>,
    /// A number that rises with every build of this record; also the name of its log.
    pub number: u64,
    /// For which environment it was first built.
    pub environment: EnvironmentName,
    /// Of which commit.
    pub revision: CommitId,
    /// The commits of extra checkouts, as `url@commit`.
    #[serde(default)]
    pub checkouts: Vec<String>,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub finished: Timestamp,
    /// How it ended.
    pub result: BuildResult,
    /// What its repository has that is not fetched, in sentences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Where its image was pushed to since, and the digest that it has there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pushed: BTreeMap<ImageRepository, Digest>,
}

/// How a build ended. Only verdicts are recorded: a build that was cancelled, or that could not
/// be carried out because git or the engine did not answer, leaves no record and is tried again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BuildResult {
    /// This image.
    Built(Image),
    /// The inputs cannot be built; the sentence says which step failed and how.
    Failed(String),
}

/// How far the image that a record wants is on its way to this engine, by build or by pull.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Acquisition {
    /// It is here, or nothing can bring it.
    #[default]
    NotNeeded,
    /// Not begun.
    Untried,
    /// Under way.
    Running {
        /// What it is doing.
        step: String,
    },
    /// Here, under this identity.
    Got(Image),
    /// A verdict: these inputs cannot be built, this digest is nowhere.
    Failed {
        /// Why, in one word.
        reason: super::status::Reason,
        /// Which step failed and how.
        message: String,
        /// When.
        at: Timestamp,
    },
    /// No verdict: it could not be tried, such as when git did not answer.
    Unavailable {
        /// Why, in one word.
        reason: super::status::Reason,
        /// What did not answer.
        message: String,
        /// When it is tried again.
        retry_at: Timestamp,
    },
}
