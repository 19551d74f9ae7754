//! Build contexts: `.dockerignore` rules, archives, overlays. Plain file work, no Docker.
//!
//! Everything here blocks, so async callers use a blocking thread. The input comes from a repository that may
//! be hostile. No link is followed out of the tree, only regular files, directories and links are opened, and
//! sizes are bounded.

mod archive;
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
