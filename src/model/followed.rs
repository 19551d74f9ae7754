//! A manifest that comes from a branch.

use super::name::BranchName;
use super::spec::RepositorySpec;

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
