//! Git: branch heads, mirrors, trees.
//!
//! The `git` program does the work, as an argument list and never through a shell: it brings the
//! transports, credential helpers, ssh agents and LFS that the daemon's user has set up. It needs
//! git 2.31 or later.
//!
//! A [`Remote`] answers what the head of a branch is. A [`Mirror`] keeps a bare copy of it on disk
//! and lays out the tree of one commit as plain files. [`SourceError::is_transient`] tells a
//! verdict ("there is no such commit") from a question that stayed open ("nobody answered").

mod changes;
mod commit;
mod error;
mod git;
mod history;
mod layout;
mod lfs;
mod listing;
mod mirror;
mod remote;
mod submodules;

#[cfg(test)]
mod tests;

pub use error::SourceError;
pub use layout::Tree;
pub use listing::Limits;
pub use mirror::Mirror;
pub use remote::{Remote, Timeouts};
pub use submodules::{Gitlink, Submodules};
