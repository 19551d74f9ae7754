//! Git: branch heads, mirrors, trees.
//!
//! The `git` program does the work. abide calls it with an argument list and never through a shell. It brings
//! the transports, credential helpers, ssh agents and LFS that the daemon's user has configured. abide needs
//! git 2.31 or later.
//!
//! A [`Remote`] returns the heads of branches. A [`GitMirror`] keeps a bare copy of it on disk and checks out
//! the tree of one commit as plain files. [`SourceError::is_transient`] distinguishes a permanent failure
//! ("the commit does not exist") from a temporary one ("nobody answered").

mod changes;
mod commit;
mod error;
mod git;
mod history;
mod layout;
mod lfs;
mod listing;
mod log;
mod mirror;
mod remote;
mod submodules;

#[cfg(test)]
mod tests;

pub use error::SourceError;
pub use layout::Tree;
pub use listing::TreeLimits;
pub use mirror::GitMirror;
pub use remote::Remote;
#[cfg(test)]
pub(crate) use remote::Timeouts;
pub use submodules::Gitlink;
