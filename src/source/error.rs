//! What can go wrong with git, told apart by what it means for a commit.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::model::name::{BranchName, CommitId};

/// Why git gave no answer, or which answer it gave. Remotes are named without credentials.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The configured URL is none that is taken. The URL itself is not repeated: it may hold a
    /// password in a place where none is looked for.
    #[error("the repository's url is not taken: {0}")]
    InvalidUrl(&'static str),
    /// No branch of the remote leads to the commit.
    #[error("commit {commit} is on no branch of {remote} that is looked at")]
    NoSuchCommit {
        /// The commit.
        commit: CommitId,
        /// The remote.
        remote: String,
    },
    /// The remote has no such branch.
    #[error("{remote} has no branch {branch}")]
    NoSuchBranch {
        /// The branch.
        branch: BranchName,
        /// The remote.
        remote: String,
    },
    /// There is no git repository at that place.
    #[error("{remote} is no git repository")]
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
        /// What the limit counts.
        what: &'static str,
    },
    /// The tree of the commit cannot be files of this host.
    #[error("commit {commit} holds the path {path:?}, which {rule}")]
    Unusable {
        /// The commit.
        commit: CommitId,
        /// The path, shortened and without control characters.
        path: String,
        /// What is wrong with it.
        rule: &'static str,
    },
    /// Git's own checks of what it received found something malformed or hostile.
    #[error("git refuses what {remote} holds: {detail}")]
    Refused {
        /// The remote.
        remote: String,
        /// What git said.
        detail: String,
    },
    /// The remote does not answer, or breaks off.
    #[error("{remote} cannot be reached: {detail}")]
    Unreachable {
        /// The remote.
        remote: String,
        /// What git said.
        detail: String,
    },
    /// The remote wants other credentials, or hides the repository from these.
    #[error(
        "{remote} denies access: {detail}; give `username` and its secret in [repository.NAME], or a \
         credential helper or ssh key to the user that abide runs as, and try `git ls-remote` as that user"
    )]
    Denied {
        /// The remote.
        remote: String,
        /// What git said.
        detail: String,
    },
    /// The server has no such repository, or hides it from these credentials.
    #[error(
        "{remote} does not exist, or is hidden: {detail}; for a private repository give `username` and its secret in \
         [repository.NAME], or a credential helper or ssh key to the user that abide runs as"
    )]
    NotFound {
        /// The remote.
        remote: String,
        /// What git said.
        detail: String,
    },
    /// The password for a remote cannot be read.
    #[error("the password for {remote}: {why}")]
    Password {
        /// The remote.
        remote: String,
        /// Why not.
        why: String,
    },
    /// A repository by path that belongs to another user, whose configuration git does not trust.
    #[error(
        "{remote} belongs to another user, so git does not read it; \
         run `git config --global --add safe.directory PATH` as the user that abide runs as"
    )]
    NotTrusted {
        /// The remote.
        remote: String,
    },
    /// Git did not end in time, and was ended.
    #[error("git did not {step} within {} s ({remote})", after.as_secs_f32())]
    TimedOut {
        /// What it should have done.
        step: &'static str,
        /// The remote.
        remote: String,
        /// After how long.
        after: Duration,
    },
    /// The disk is full.
    #[error("the disk is full: could not {step}")]
    DiskFull {
        /// What could not be done.
        step: &'static str,
    },
    /// Git failed in a way that none of the above names.
    #[error("git could not {step} ({remote}): {detail}")]
    Git {
        /// What it should have done.
        step: &'static str,
        /// The remote.
        remote: String,
        /// What git said.
        detail: String,
    },
    /// The git program cannot be started.
    #[error("the git program cannot be started; is it installed?")]
    NoGit(#[source] io::Error),
    /// The program that files in Git LFS need cannot be started.
    #[error(
        "files in Git LFS need the program git-lfs, which is not installed on this host: install it (apt install git-lfs)"
    )]
    NoLfs,
    /// The repository names a submodule that may not be fetched.
    #[error("submodule {path:?} {why}")]
    Submodule {
        /// Its path in the repository.
        path: String,
        /// Why not, and what to do.
        why: String,
    },
    /// A tree is only laid out into an empty directory.
    #[error("{0} is not empty")]
    NotEmpty(PathBuf),
    /// A file operation of our own failed.
    #[error("could not {step}")]
    Io {
        /// What could not be done.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl SourceError {
    /// Whether the question stayed open: asking again later may answer it, without anyone changing
    /// the manifest or the repository. All else is a verdict.
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

    /// Wraps a failed file operation; a full disk gets its own name.
    pub(super) fn io(step: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { step },
            _ => Self::Io { step, source },
        }
    }

    /// Names the failure that git's standard error tells of. Git has one exit code for nearly
    /// everything, so the text (in the C locale) is all there is to go by.
    pub(super) fn from_stderr(step: &'static str, remote: String, detail: String) -> Self {
        let says = |phrases: &[&str]| phrases.iter().any(|phrase| detail.contains(phrase));
        if says(DISK_FULL) {
            Self::DiskFull { step }
        } else if says(NOT_TRUSTED) {
            Self::NotTrusted { remote }
        } else if says(REFUSED) {
            Self::Refused { remote, detail }
        } else if says(NOT_A_REPOSITORY) {
            Self::NotARepository { remote }
        } else if says(DENIED) {
            Self::Denied { remote, detail }
        } else if says(NOT_FOUND) {
            Self::NotFound { remote, detail }
        } else if says(UNREACHABLE) {
            Self::Unreachable { remote, detail }
        } else {
            Self::Git { step, remote, detail }
        }
    }
}

const DISK_FULL: &[&str] = &["No space left on device", "Disk quota exceeded"];

const NOT_TRUSTED: &[&str] = &["detected dubious ownership"];

/// Only `fsck` verdicts on an object: a garbled transfer says otherwise, and is tried again.
const REFUSED: &[&str] = &["fsck error in packed object", "fsck error in pack objects"];

const NOT_A_REPOSITORY: &[&str] =
    &["does not appear to be a git repository", "not valid: is this a git repository?"];

/// Hosting services answer "not found" for what these credentials may not see, so that is no
/// verdict on whether it exists.
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
    fn only_verdicts_are_final() {
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
    fn a_full_disk_is_named_also_where_our_own_write_meets_it() {
        let error = SourceError::io("write")(io::Error::from(io::ErrorKind::StorageFull));
        assert!(matches!(error, SourceError::DiskFull { step: "write" }));
    }
}
