//! Secrets that a container gets as files.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::container::Secret;
use super::mount::AbsolutePath;
use super::spec::SecretRef;

/// The folder of secrets, as in compose.
pub const FOLDER: &str = "/run/secrets";

/// A secret, and the file in the container that holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretFile {
    /// The secret.
    pub secret: SecretRef,
    /// The file's path.
    pub target: AbsolutePath,
    /// The mode of the file (default 0444).
    #[serde(default = "everyone_reads")]
    pub mode: u32,
    /// The owner's number (default 0).
    #[serde(default)]
    pub uid: u32,
    /// The group's number (default 0).
    #[serde(default)]
    pub gid: u32,
}

fn everyone_reads() -> u32 {
    READABLE
}

/// The default mode.
pub const READABLE: u32 = 0o444;

/// A file as abide writes it into a container that was not started yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenFile {
    /// The declaration.
    pub file: SecretFile,
    /// The content, which is never printed.
    pub content: Secret,
}

impl SecretFile {
    /// The path below the container's root, as an archive names it.
    pub fn in_archive(&self) -> PathBuf {
        PathBuf::from(self.target.as_str().trim_start_matches('/'))
    }
}
