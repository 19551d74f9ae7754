//! Errors of git, classified by their meaning for a commit.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::model::name::{BranchName, CommitId};

/// An error of git, or a negative answer. Remotes are named without credentials.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The configured URL is invalid. The error does not repeat the URL, because an unexpected part of it may
    /// contain a password.
    #[error("invalid repository URL: {0}")]
    InvalidUrl(&'static str),
    /// No branch of the remote leads to the commit.
    #[error("commit {commit} is not on any fetched branch of {remote}")]
    NoSuchCommit {
        /// The commit.
        commit: CommitId,
        /// The remote.
        remote: String,
    },
    /// The remote does not have the branch.
    #[error("{remote} has no branch {branch}")]
    NoSuchBranch {
        /// The branch.
        branch: BranchName,
        /// The remote.
        remote: String,
    },
    /// The URL does not lead to a git repository.
    #[error("{remote} is not a git repository")]
    NotARepository {
        /// The remote.
        remote: String,
    },
    /// The tree of the commit is beyond a limit.
    #[error("the tree of commit {commit} is too large: more than {limit} {what}")]
    TooLarge {
        /// The commit.
        commit: CommitId,
        /// The limit that it exceeds.
        limit: u64,
        /// The unit of the limit.
        what: &'static str,
    },
    /// The tree of the commit cannot be written as files of this host.
    #[error("commit {commit} contains the path {path:?}, which {rule}")]
    Unusable {
        /// The commit.
        commit: CommitId,
        /// The path, shortened and without control characters.
        path: String,
        /// The problem with it.
        rule: &'static str,
    },
    /// Git's own checks found received data malformed or hostile.
    #[error("git rejects content of {remote}: {detail}")]
    Refused {
        /// The remote.
        remote: String,
        /// Git's message.
        detail: String,
    },
    /// The remote does not answer, or breaks off its answer.
    #[error("cannot reach {remote}: {detail}")]
    Unreachable {
        /// The remote.
        remote: String,
        /// Git's message.
        detail: String,
    },
    /// The remote requires other credentials, or hides the repository from these.
    #[error(
        "{remote} denies access: {detail}; set `username` and its secret in [repository.NAME], or give \
        the user that runs abide a credential helper or SSH key, and try `git ls-remote` as that user"
    )]
    Denied {
        /// The remote.
        remote: String,
        /// Git's message.
        detail: String,
    },
    /// The server does not have the repository, or hides it from these credentials.
    #[error(
        "{remote} does not exist or is private: {detail}; for a private repository, set `username` and \
        its secret in [repository.NAME], or give the user that runs abide a credential helper or SSH key"
    )]
    NotFound {
        /// The remote.
        remote: String,
        /// Git's message.
        detail: String,
    },
    /// The password for a remote cannot be read.
    #[error("cannot read the password for {remote}: {why}")]
    Password {
        /// The remote.
        remote: String,
        /// The cause.
        why: String,
    },
    /// A local repository that belongs to another user. Git does not trust its configuration.
    #[error(
        "{remote} belongs to another user, so git refuses to read it: run `git config --global --add \
        safe.directory PATH` as the user that runs abide"
    )]
    NotTrusted {
        /// The remote.
        remote: String,
    },
    /// Git exceeded its time limit and was ended.
    #[error("git did not {step} within {} s ({remote})", after.as_secs_f32())]
    TimedOut {
        /// The step.
        step: &'static str,
        /// The remote.
        remote: String,
        /// The time limit.
        after: Duration,
    },
    /// The disk is full.
    #[error("the disk is full: could not {step}")]
    DiskFull {
        /// The failed step.
        step: &'static str,
    },
    /// Git failed for another reason.
    #[error("git could not {step} ({remote}): {detail}")]
    Git {
        /// The step.
        step: &'static str,
        /// The remote.
        remote: String,
        /// Git's message.
        detail: String,
    },
    /// The git program cannot be started.
    #[error("cannot start the git program: is it installed?")]
    NoGit(#[source] io::Error),
    /// The program for files in Git LFS cannot be started.
    #[error(
        "files in Git LFS need the program git-lfs, which is not installed: install it (apt install \
        git-lfs)"
    )]
    NoLfs,
    /// The repository names a submodule that may not be fetched.
    #[error("submodule {path:?} {why}")]
    Submodule {
        /// Its path in the repository.
        path: String,
        /// The reason, and the remedy.
        why: String,
    },
    /// The target directory of a tree is not empty.
    #[error("{0} is not empty")]
    NotEmpty(PathBuf),
    /// A file operation of abide itself failed.
    #[error("could not {step}")]
    Io {
        /// The failed step.
        step: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl SourceError {
    /// Whether the failure is temporary: a later attempt may succeed without a change of the manifest or the
    /// repository. All other failures are permanent.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::InvalidUrl(_)
            | Self::NoSuchCommit { .. }
            | Self::NoSuchBranch { .. }
            | Self::NotARepository { .. }
            | Self::TooLarge { .. }
            | Self::Unusable { .. }
            | Self::Submodule { .. }
            | Self::Refused { .. } => false,
            Self::Unreachable { .. }
            | Self::Denied { .. }
            | Self::NotFound { .. }
            | Self::Password { .. }
            | Self::NotTrusted { .. }
            | Self::TimedOut { .. }
            | Self::DiskFull { .. }
            | Self::Git { .. }
            | Self::NoGit(_)
            | Self::NoLfs
            | Self::NotEmpty(_)
            | Self::Io { .. } => true,
        }
    }

    /// The git step that timed out, if it is a local one: the repository itself takes too long.
    pub fn timed_out_alone(&self) -> Option<&'static str> {
        match self {
            Self::TimedOut { step, .. } if !TALKING.contains(step) => Some(step),
            _ => None,
        }
    }

    /// Wraps a failed file operation; a full disk has a separate variant.
    pub(super) fn io(step: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { step },
            _ => Self::Io { step, source },
        }
    }

    /// Classifies a failure by git's standard error. Git uses one exit code for nearly everything, so the
    /// text (in the C locale) is the only evidence.
    pub(super) fn from_stderr(step: &'static str, remote: String, detail: String) -> Self {
        let mentions = |phrases: &[&str]| phrases.iter().any(|phrase| detail.contains(phrase));
        if mentions(DISK_FULL) {
            Self::DiskFull { step }
        } else if mentions(NOT_TRUSTED) {
            Self::NotTrusted { remote }
        } else if mentions(REFUSED) {
            Self::Refused { remote, detail }
        } else if mentions(NOT_A_REPOSITORY) {
            Self::NotARepository { remote }
        } else if mentions(DENIED) {
            Self::Denied { remote, detail }
        } else if mentions(NOT_FOUND) {
            Self::NotFound { remote, detail }
        } else if mentions(UNREACHABLE) {
            Self::Unreachable { remote, detail }
        } else {
            Self::Git { step, remote, detail }
        }
    }
}

/// The steps in which git talks to another program, which may be slow or hang. Writing a tree may fetch
/// files in Git LFS.
const TALKING: &[&str] = &["fetch", "fetch the tags", "list the branches", "write a tree"];

const DISK_FULL: &[&str] = &["No space left on device", "Disk quota exceeded"];

const NOT_TRUSTED: &[&str] = &["detected dubious ownership"];

/// Only `fsck` errors about an object. A corrupted transfer has a different error, and is tried again.
const REFUSED: &[&str] = &["fsck error in packed object", "fsck error in pack objects"];

const NOT_A_REPOSITORY: &[&str] =
    &["does not appear to be a git repository", "not valid: is this a git repository?"];

/// Hosting services answer "not found" for everything that these credentials may not see, so the repository
/// may exist nevertheless.
const NOT_FOUND: &[&str] = &["' not found", "epository not found"];

const DENIED: &[&str] = &[
    "could not read Username",
    "could not read Password",
    "terminal prompts disabled",
    "Authentication failed",
    "Permission denied (",
    "Host key verification failed",
    "returned error: 401",
    "returned error: 403",
];

const UNREACHABLE: &[&str] = &[
    "unable to access",
    "Could not resolve host",
    "Connection refused",
    "Connection timed out",
    "Connection reset",
    "Network is unreachable",
    "No route to host",
    "RPC failed",
    "early EOF",
    "unexpected disconnect",
    "hung up unexpectedly",
    "Could not read from remote repository",
    // A rewrite by `url.*.insteadOf` to a transport other than the configured one.
    "' not allowed",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn named(stderr: &str) -> SourceError {
        SourceError::from_stderr("look", "there".into(), stderr.into())
    }

    #[test]
    fn only_permanent_failures_are_not_transient() {
        let denied = named("fatal: could not read Username for 'https://host': terminal prompts disabled");
        assert!(matches!(denied, SourceError::Denied { .. }) && denied.is_transient());
        let down = named("fatal: unable to access 'http://h/': Failed to connect to h port 1");
        assert!(matches!(down, SourceError::Unreachable { .. }) && down.is_transient());
        let full = named("fatal: write error: No space left on device; fatal: early EOF");
        assert!(matches!(full, SourceError::DiskFull { .. }) && full.is_transient());
        let nothing = named("fatal: '/x' does not appear to be a git repository");
        assert!(matches!(nothing, SourceError::NotARepository { .. }) && !nothing.is_transient());
        let foreign = named("fatal: detected dubious ownership in repository at '/srv/x'");
        assert!(matches!(foreign, SourceError::NotTrusted { .. }) && foreign.is_transient());
        let hostile = named("error: object 1: hasDotgit; fatal: fsck error in packed object; early EOF");
        assert!(matches!(hostile, SourceError::Refused { .. }) && !hostile.is_transient());
        assert!(named("fatal: something new").is_transient());
    }

    #[test]
    fn a_failed_local_write_is_reported_as_a_full_disk() {
        let error = SourceError::io("write")(io::Error::from(io::ErrorKind::StorageFull));
        assert!(matches!(error, SourceError::DiskFull { step: "write" }));
    }
}
