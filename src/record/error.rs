//! Errors of the record. Each names the failed step; the cause is its source.

use std::error::Error as StdError;
use std::path::PathBuf;

use crate::model::name::{EnvironmentName, Generation};
use crate::model::reading;

/// A cause whose type stays private to this module.
pub(super) type BoxedCause = Box<dyn StdError + Send + Sync>;

/// The reason why the record could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error(
        "the record {} is in use by another abide process: stop it, or connect to it instead of opening \
        the store",
        .0.display()
    )]
    Busy(PathBuf),
    /// A later version of abide wrote it.
    #[error(
        "{what} was written by a newer abide (format {found}; this version reads {supported}): install \
        that version again, or `export` with it and `import` here",
        supported = super::FORMAT
    )]
    TooNew {
        /// The file or folder.
        what: String,
        /// Its format version.
        found: u32,
    },
    /// The disk has too little space for the writes of an open.
    #[error("the disk of the record is full: free some space")]
    DiskFull,
    /// The user that runs abide may not use a file.
    #[error(
        "permission denied: `{}`. If this user owns the folder, the file was left by another user's \
        abide; as root: chown -R --reference={dir} {dir}. Otherwise run abide as the owner of the folder",
        .path.display(),
        dir = .dir.display()
    )]
    Denied {
        /// The file without access.
        path: PathBuf,
        /// The record's folder.
        dir: PathBuf,
    },
    /// A file or folder could not be created, read or moved.
    #[error("{doing} `{}` failed", .path.display())]
    Io {
        /// The failed step.
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The store could not be opened, and damage is not the cause.
    #[error(
        "failed to open the record's store; check the disk and the owner of its files, then start abide again"
    )]
    Store(#[source] BoxedCause),
    /// The store was opened but could not be checked or repaired.
    #[error("failed to check the record")]
    Check(#[source] RecordError),
}

/// The reason why a read or a write failed.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Nothing was written.
    #[error("nothing was recorded because the disk of the record is full: free some space")]
    DiskFull,
    /// The store failed. It refuses everything until it is reopened, which is tried at once and then
    /// repeatedly.
    #[error("{doing} the record failed; abide reopens and repairs it")]
    Store {
        /// The step: `reading`, `writing`.
        doing: &'static str,
        /// The cause.
        source: BoxedCause,
    },
    /// One document is unreadable; others are not affected.
    #[error("cannot read {what}; a restart of abide sets it aside and restores what it can")]
    Unreadable {
        /// The document.
        what: String,
        /// The cause.
        source: BoxedCause,
    },
    /// A generation has the highest possible number, which a record never reaches by itself.
    #[error(
        "nothing was recorded: `{0}` has already reached the highest possible generation; `abide \
        export`, then `abide import` into a new folder, resets it"
    )]
    NoGeneration(EnvironmentName),
    /// The write may or may not have been made.
    #[error("a write to the record was interrupted; check the result with `abide status`, and try again")]
    CutOff(#[source] BoxedCause),
}

/// The reason why a change was not recorded.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The record changed since it was read.
    #[error(
        "the record of `{environment}` is at generation {actual}, no longer at {expected}: check it and \
        try again"
    )]
    Stale {
        /// The environment of the record.
        environment: EnvironmentName,
        /// The observed generation.
        expected: Generation,
        /// The actual generation.
        actual: Generation,
    },
    /// Documents of an import contradict each other.
    #[error("the export was rejected and nothing was changed: {0}")]
    Disagreeing(String),
    /// An import is not an export.
    #[error("invalid export: {0}")]
    NoExport(String),
    /// The store failed.
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl From<RecordError> for OpenError {
    fn from(error: RecordError) -> Self {
        Self::Check(error)
    }
}

impl RecordError {
    /// An import could not be received.
    pub(crate) fn receiving(error: std::io::Error) -> Self {
        if super::store::is_disk_full(&error) {
            return Self::DiskFull;
        }
        Self::Store { doing: "importing into", source: error.into() }
    }

    pub(super) fn unreadable(what: impl Into<String>, source: impl Into<BoxedCause>) -> Self {
        let source = match source.into().downcast::<serde_json::Error>() {
            Ok(error) => reading::words(&error).into(),
            Err(source) => source,
        };
        Self::Unreadable { what: what.into(), source }
    }
}
