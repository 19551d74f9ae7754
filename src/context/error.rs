//! Errors of build contexts.

use std::io;
use std::path::{Path, PathBuf};

/// A failed step of file work. Paths are displayed escaped, because their names come from a repository.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// A declared path is absolute, leaves the tree with `..`, or follows a link out of it.
    #[error("{path:?} leads out of the tree")]
    OutsideTree {
        /// The path as declared.
        path: PathBuf,
    },
    /// A path to write goes through a link.
    #[error("{path:?} goes through the link {link:?}")]
    ThroughLink {
        /// The path as declared.
        path: PathBuf,
        /// The part of it that is a link.
        link: PathBuf,
    },
    /// A declared path is the tree itself, although a part of it is required.
    #[error("{path:?} is the tree itself, not a part of it")]
    WholeTree {
        /// The path as declared.
        path: PathBuf,
    },
    /// A directory is required, but the path is something else.
    #[error("{path:?} is not a directory")]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// A regular file is required, but the path is something else.
    #[error("{path:?} is not a regular file")]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// A file or directory cannot be read.
    #[error("cannot read {path:?}")]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file or directory cannot be written or removed.
    #[error("cannot write {path:?}")]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The archive's stream cannot be written.
    #[error("cannot write the archive")]
    Output {
        /// The cause.
        source: io::Error,
    },
    /// A line of an ignore file is not a valid pattern.
    #[error("line {line}, {pattern:?}: {rule}")]
    Pattern {
        /// The line, counted from one.
        line: usize,
        /// The line's text, shortened.
        pattern: String,
        /// The broken rule.
        rule: &'static str,
    },
    /// The ignore file of a context is invalid.
    #[error("cannot use the ignore file {path:?}")]
    IgnoreFile {
        /// The file, relative to the context.
        path: PathBuf,
        /// The cause.
        source: Box<ContextError>,
    },
    /// The Dockerfile is invalid.
    #[error("the Dockerfile {path:?} {rule}")]
    Dockerfile {
        /// The file, relative to the context.
        path: PathBuf,
        /// The problem.
        rule: &'static str,
    },
    /// A FIFO or a device is in the context.
    #[error("{path:?} is a {kind}: only files, directories and links can be packed")]
    SpecialFile {
        /// The file, relative to the context.
        path: PathBuf,
        /// The kind of file.
        kind: &'static str,
    },
    /// The content exceeds the limits.
    #[error("the build context is too large: {what}")]
    TooLarge {
        /// The exceeded limit, and the largest entries.
        what: String,
    },
    /// A file shrank while it was read.
    #[error("{path:?} changed while it was being packed")]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// An archive's name does not determine its format.
    #[error("{path:?} must end in .tar, .tar.gz or .tgz")]
    ArchiveName {
        /// The name.
        path: PathBuf,
    },
    /// A step's output is empty.
    #[error("{path:?} is empty")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A step's output is an archive by its name, but cannot be read as one.
    #[error("{path:?} is not a complete archive")]
    BrokenArchive {
        /// The file.
        path: PathBuf,
        /// The error of reading it.
        source: io::Error,
    },
    /// A step's output is an archive without entries.
    #[error("the archive {path:?} is empty")]
    EmptyArchive {
        /// The file.
        path: PathBuf,
    },
}

impl ContextError {
    /// Whether the error is caused by a full disk of this host and not by the tree.
    pub fn is_full_disk(&self) -> bool {
        match self {
            Self::Read { source, .. } | Self::Write { source, .. } | Self::Output { source } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            Self::IgnoreFile { source, .. } => source.is_full_disk(),
            _ => false,
        }
    }

    /// For `map_err` of operations that read `path`.
    pub(super) fn read(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Read { path: path.to_path_buf(), source }
    }

    /// For `map_err` of operations that write `path`.
    pub(crate) fn write(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Write { path: path.to_path_buf(), source }
    }
}
