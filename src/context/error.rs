//! What can go wrong with a build context.

use std::io;
use std::path::{Path, PathBuf};

/// A step of file work that failed. Paths are shown escaped: their names are a stranger's.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// A declared path is absolute, climbs out with `..`, or follows a link out.
    #[error("{path:?} leads out of the tree")]
    OutsideTree {
        /// The path as declared.
        path: PathBuf,
    },
    /// A path that is written to goes through a link.
    #[error("{path:?} goes through the link {link:?}")]
    ThroughLink {
        /// The path as declared.
        path: PathBuf,
        /// The part of it that is a link.
        link: PathBuf,
    },
    /// A declared path is the tree itself where a part of it is needed.
    #[error("{path:?} is the tree itself, not a part of it")]
    WholeTree {
        /// The path as declared.
        path: PathBuf,
    },
    /// Something else is where a directory is needed.
    #[error("{path:?} is no directory")]
    NotADirectory {
        /// What is none.
        path: PathBuf,
    },
    /// Something else is where a regular file is needed.
    #[error("{path:?} is no regular file")]
    NotAFile {
        /// What is none.
        path: PathBuf,
    },
    /// A file or directory cannot be read.
    #[error("cannot read {path:?}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file or directory cannot be written or removed.
    #[error("cannot write {path:?}")]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The archive's stream cannot be written.
    #[error("cannot write the archive")]
    Output {
        /// Why.
        source: io::Error,
    },
    /// A line of an ignore file is no pattern.
    #[error("line {line}, {pattern:?}: {rule}")]
    Pattern {
        /// The line, counted from one.
        line: usize,
        /// The line's text, shortened.
        pattern: String,
        /// What is wrong with it.
        rule: &'static str,
    },
    /// The ignore file of a context cannot be used.
    #[error("cannot use the ignore file {path:?}")]
    IgnoreFile {
        /// Which file, relative to the context.
        path: PathBuf,
        /// Why.
        source: Box<ContextError>,
    },
    /// The Dockerfile cannot be used.
    #[error("the Dockerfile {path:?} {rule}")]
    Dockerfile {
        /// Which file, relative to the context.
        path: PathBuf,
        /// What is wrong with it.
        rule: &'static str,
    },
    /// A FIFO or a device is in the context.
    #[error("{path:?} is a {kind}: only files, directories and links can be packed")]
    SpecialFile {
        /// Which, relative to the context.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// There is more than the limits allow.
    #[error("the build context is too large: {what}")]
    TooLarge {
        /// The limit that is broken, and the biggest offenders.
        what: String,
    },
    /// A file became shorter while it was read.
    #[error("{path:?} changed while it was packed")]
    Changed {
        /// Which file.
        path: PathBuf,
    },
    /// An archive's name does not say how it is packed.
    #[error("{path:?} does not end in .tar, .tar.gz or .tgz")]
    ArchiveName {
        /// The name.
        path: PathBuf,
    },
    /// A step's output has no bytes.
    #[error("{path:?} is empty")]
    Empty {
        /// Which file.
        path: PathBuf,
    },
    /// A step's output is an archive by its name, but cannot be read as one.
    #[error("{path:?} is no whole archive")]
    BrokenArchive {
        /// Which file.
        path: PathBuf,
        /// Where reading it ended.
        source: io::Error,
    },
    /// A step's output is an archive that holds nothing.
    #[error("the archive {path:?} holds no entry")]
    EmptyArchive {
        /// Which file.
        path: PathBuf,
    },
}

impl ContextError {
    /// Whether it says something of this machine's disk, and nothing of the tree.
    pub fn is_full_disk(&self) -> bool {
        match self {
            Self::Read { source, .. } | Self::Write { source, .. } | Self::Output { source } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            Self::IgnoreFile { source, .. } => source.is_full_disk(),
            _ => false,
        }
    }

    /// For `map_err` on whatever reads `path`.
    pub(super) fn read(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Read { path: path.to_path_buf(), source }
    }

    /// For `map_err` on whatever writes `path`.
    pub(crate) fn write(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Write { path: path.to_path_buf(), source }
    }
}
