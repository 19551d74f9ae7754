//! Commits for display: what a version contains, and what lies between two versions.

use super::name::CommitId;
use super::time::Timestamp;

/// The displayed part of a commit. Its texts come from strangers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitLine {
    /// The commit.
    pub id: CommitId,
    /// The author's name.
    pub author: String,
    /// The time of the change, as its author's machine knew it.
    pub at: Timestamp,
    /// The first line of its message.
    pub subject: String,
    /// Whether it merges branches.
    pub is_merge: bool,
}

/// The commits that only one of two versions contains, newest first. Each list is cut, each number is exact.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Those that only the new version contains.
    pub added: Vec<CommitLine>,
    /// Their number.
    pub added_count: usize,
    /// Those that only the old version contains.
    pub removed: Vec<CommitLine>,
    /// Their number.
    pub removed_count: usize,
}
