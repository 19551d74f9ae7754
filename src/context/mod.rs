//! Build contexts: `.dockerignore` rules, archives, overlays. Plain file work, no Docker.
//!
//! Everything here blocks; callers in async code put it on a blocking thread. What is read comes
//! from a repository that may be hostile: no link is followed out of the tree, nothing but
//! regular files, directories and links is ever opened, and sizes are bounded.

mod check;
pub mod dockerfile;
mod error;
mod glob;
pub mod ignore;
pub mod pack;
pub mod tree;
mod walk;
mod write;

pub use error::ContextError;

#[cfg(test)]
mod docker_cli_tests;
