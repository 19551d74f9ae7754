//! A manifest that comes from a branch.

use serde::{Deserialize, Serialize};

use super::name::{BranchName, CommitId};
use super::spec::RepositorySpec;
use super::time::Timestamp;

/// A branch with the manifest.
#[derive(Clone, Debug, PartialEq)]
pub struct FollowedManifest {
    /// Its repository.
    pub repository: RepositorySpec,
    /// The branch.
    pub branch: BranchName,
    /// The folder of the manifest in the repository, relative to its root.
    pub path: String,
}

impl FollowedManifest {
    /// The last part of the URL of its webhook.
    pub const HOOK: &str = "manifest";
}

/// Why the branch with the manifest cannot be read now: its repository is unreachable, it was deleted, or a login was
/// rejected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnreadBranch {
    /// The first failed check since the last successful one.
    pub since: Timestamp,
    /// The cause of the last failure.
    pub problem: String,
}

impl UnreadBranch {
    /// The sentence about it. `in_force`: the commit whose manifest is in use.
    pub fn sentence(&self, in_force: Option<&CommitId>) -> String {
        let Self { since, problem } = self;
        let kept = in_force
            .map_or_else(|| "the last good one".to_owned(), |commit| format!("commit {}", commit.short()));
        format!(
            "abide cannot read the branch of the manifest since {since}, and {kept} stays in use: {problem}"
        )
    }
}
