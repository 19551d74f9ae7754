//! Errors of the record. Each names the failed step; the cause is its source.

use std::error::Error as StdError;
use std::path::PathBuf;

use crate::model::name::{EnvironmentName, Generation};

/// A cause whose type stays private to this module.
pub(super) type Cause = Box<dyn StdError + Send + Sync>;

/// The reason why the record could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error(
        "another abide holds this record ({}): stop it, or talk to it instead of opening its store",
        .0.display()
    )]
    Busy(PathBuf),
    /// A later version of abide wrote it.
    #[error(
        "{what} was written by a newer abide (format {found}, this one reads {supported}): \
         install that version again, or `export` with it and `import` here",
        supported = super::FORMAT
    )]
    TooNew {
        /// The file or folder.
        what: String,
        /// Its format version.
        found: u32,
    },
    /// The disk has too little space for the writes of an open.
    #[error("the record cannot be opened because the disk that holds it is full: free some space")]
    DiskFull,
    /// The user that runs abide may not use a file.
    #[error(
        "permission denied: `{}`. If the folder is this user's, another user's abide left the file behind; as root: \
         chown -R --reference={dir} {dir}. If it is not, run abide as its owner",
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
    #[error("opening the record's store failed")]
    Store(#[source] Cause),
    /// The store was opened but could not be checked or repaired.
    #[error("checking the record failed")]
    Check(#[source] RecordError),
}

/// The reason why a read or a write failed.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Nothing was written.
    #[error("nothing was recorded, because the disk that holds the record is full: free some space")]
    DiskFull,
    /// The store failed. It refuses everything until it is reopened, which is tried at once and then
    /// repeatedly.
    #[error("{doing} the record failed; it is opened again, and what can be repaired is")]
    Store {
        /// The step: `reading`, `writing`.
        doing: &'static str,
        /// The cause.
        source: Cause,
    },
    /// One document is unreadable; others are not affected.
    #[error("{what} cannot be read; a restart of abide sets it aside and restores what can be")]
    Unreadable {
        /// The document.
        what: String,
        /// The cause.
        source: Cause,
    },
    /// A generation has the highest possible number, which a record never reaches by itself.
    #[error(
        "nothing was recorded: `{0}` was seen at the highest generation that there is, so there is no next one; \
         `abide export`, and `abide import` into a new folder, leave that behind"
    )]
    NoGeneration(EnvironmentName),
    /// The write may or may not have been made.
    #[error("a write to the record was cut off")]
    CutOff(#[source] Cause),
}

/// The reason why a change was not recorded.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The record changed since it was read.
    #[error(
        "the record of `{environment}` is at generation {actual}, no longer at {expected}: \
         look at it again"
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
    #[error("this export is not taken, and nothing was changed: {0}")]
    Disagreeing(String),
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
    pub(super) fn unreadable(what: impl Into<String>, source: impl Into<Cause>) -> Self {
        Self::Unreadable { what: what.into(), source: source.into() }
    }
}
