//! The reason why a build made no image.

use tracing::warn;

use super::Task;
use crate::context::ContextError;
use crate::controller::docker::EngineError;
use crate::controller::jobs::registries::TransferError;
use crate::model::cause::{self, Cause};
use crate::model::error::chain;
use crate::model::status::Reason;
use crate::record::RecordError;
use crate::source::SourceError;

/// The reason why a build made no image.
pub(super) enum BuildError {
    /// Permanent: these inputs cannot be built.
    Verdict(Reason, String),
    /// Temporary: the build could not be attempted.
    Unavailable(Reason, String),
    /// Git exceeded the time limit of this step, without waiting for any other party.
    TimedOut(&'static str, String),
}

impl BuildError {
    pub(super) fn failed(message: impl Into<String>) -> Self {
        Self::Verdict(Reason::BuildFailed, message.into())
    }

    /// A problem of this host, which does not depend on the inputs.
    pub(super) fn not_tried(message: impl Into<String>) -> Self {
        Self::Unavailable(Reason::BuildFailed, message.into())
    }

    /// Converts an error that ended the container of a step early.
    pub(super) fn of_run(error: EngineError) -> Self {
        match error.cause() {
            Cause::Hand | Cause::Host | Cause::Port => Self::not_tried(error.to_string()),
            _ => Self::from(error),
        }
    }

    /// Adds the step in which the error occurred.
    pub(super) fn during(self, step: &str) -> Self {
        let named = |message: String| format!("{step}: {message}");
        match self {
            Self::Verdict(reason, message) => Self::Verdict(reason, named(message)),
            Self::Unavailable(reason, message) => Self::Unavailable(reason, named(message)),
            Self::TimedOut(step, message) => Self::TimedOut(step, named(message)),
        }
    }

    pub(super) fn log_failure(&self, task: &Task, number: u64) {
        let environment = &task.environment;
        match self {
            Self::Verdict(_, message) => warn!(%environment, build = number, %message, "build failed"),
            Self::Unavailable(_, message) | Self::TimedOut(_, message) => {
                warn!(%environment, build = number, %message, "cannot attempt the build");
            }
        }
    }
}

impl From<SourceError> for BuildError {
    fn from(error: SourceError) -> Self {
        let message = chain(&error);
        if let Some(step) = error.timed_out_alone() {
            return Self::TimedOut(step, message);
        }
        match error {
            error if error.is_transient() => Self::Unavailable(Reason::SourceUnavailable, message),
            SourceError::NoSuchCommit { .. } => Self::Verdict(Reason::RevisionNotFound, message),
            // Both may return in a moment, and the commit is then the same.
            SourceError::NoSuchBranch { .. } | SourceError::NotARepository { .. } => {
                Self::Unavailable(Reason::SourceUnavailable, message)
            }
            _ => Self::failed(message),
        }
    }
}

impl From<ContextError> for BuildError {
    fn from(error: ContextError) -> Self {
        let message = chain(&error);
        if error.is_full_disk() { Self::not_tried(message) } else { Self::failed(message) }
    }
}

impl From<EngineError> for BuildError {
    fn from(error: EngineError) -> Self {
        let message = error.to_string();
        if error.is_no_answer() {
            return Self::Unavailable(Reason::EngineUnavailable, message);
        }
        let cause = cause::of_build(&message);
        let message = cause::build_words(&message);
        match cause {
            Cause::Host | Cause::Engine => Self::Unavailable(Reason::EngineUnavailable, message),
            Cause::Network | Cause::RateLimit => Self::Unavailable(Reason::RegistryUnavailable, message),
            Cause::Denied => Self::Unavailable(Reason::RegistryDenied, message),
            Cause::Hand => Self::not_tried(message),
            _ => Self::failed(message),
        }
    }
}

impl From<RecordError> for BuildError {
    fn from(error: RecordError) -> Self {
        Self::not_tried(chain(&error))
    }
}

impl From<TransferError> for BuildError {
    fn from(trouble: TransferError) -> Self {
        match trouble {
            TransferError::NotThere(message) | TransferError::NoPlatform(message) => {
                Self::Unavailable(Reason::RegistryUnavailable, message)
            }
            TransferError::Unavailable(reason, message) => Self::Unavailable(reason, message),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::name::BranchName;

    #[test]
    fn an_unreachable_registry_is_a_temporary_build_failure() {
        for message in [
            "failed to solve with frontend dockerfile.v0: failed to create LLB definition: failed to do request: \
             Head \"http://localhost:1/v2/x/manifests/latest\": dial tcp 127.0.0.1:1: connect: connection refused",
            "Get \"https://registry-1.docker.io/v2/\": dial tcp: lookup registry-1.docker.io: no such host",
            "toomanyrequests: You have reached your pull rate limit",
        ] {
            let error = BuildError::from(EngineError::Refused(message.to_owned()));
            assert!(matches!(error, BuildError::Unavailable(Reason::RegistryUnavailable, _)), "{message}");
        }
    }

    #[test]
    fn only_a_local_git_step_can_time_out_permanently() {
        let timed_out = |step| {
            let (remote, after) = ("/srv/site.git".to_owned(), Duration::from_secs(600));
            BuildError::from(SourceError::TimedOut { step, remote, after })
        };
        assert!(matches!(timed_out("list a tree"), BuildError::TimedOut("list a tree", _)));
        assert!(matches!(timed_out("fetch"), BuildError::Unavailable(Reason::SourceUnavailable, _)));
    }

    #[test]
    fn a_full_disk_or_a_missing_branch_is_a_temporary_build_failure() {
        let full = || std::io::Error::from_raw_os_error(28);
        let packing = ContextError::Output { source: full() };
        let step = EngineError::Refused(format!("cannot write the step's output: {}", full()));
        let (remote, branch) = ("/srv/site.git".to_owned(), BranchName::new("dev").unwrap());
        for error in [
            BuildError::from(packing),
            BuildError::from(step),
            BuildError::from(SourceError::NoSuchBranch { remote: remote.clone(), branch }),
            BuildError::from(SourceError::NotARepository { remote }),
        ] {
            assert!(matches!(error, BuildError::Unavailable(..)));
        }
        let refused = ContextError::NotAFile { path: "Dockerfile".into() };
        assert!(matches!(BuildError::from(refused), BuildError::Verdict(Reason::BuildFailed, _)));
    }

    #[test]
    fn a_registry_denial_is_a_temporary_build_failure() {
        for message in [
            "failed to load cache key: pulling from host x failed with status code [manifests latest]: 401 Unauthorized",
            "Head \"http://localhost:5000/v2/x/manifests/latest\": no basic auth credentials",
            "failed to load cache key: rpc error: code = FailedPrecondition desc = the password for the registry x",
            "failed to resolve source metadata: unexpected status: 403 Forbidden",
            "pull access denied for nowhere, repository does not exist or may require 'docker login'",
        ] {
            let error = BuildError::from(EngineError::Refused(message.to_owned()));
            assert!(matches!(error, BuildError::Unavailable(Reason::RegistryDenied, _)), "{message}");
        }
    }

    #[test]
    fn a_failing_build_command_is_a_permanent_failure() {
        for message in [
            "executor failed running [/bin/sh -c curl x || echo dial tcp]: exit code: 1",
            "The command '/bin/sh -c wget i/o timeout' returned a non-zero code: 1",
            "manifest for nowhere:1 not found: manifest unknown: manifest unknown",
            "COPY failed: file not found in build context or excluded by .dockerignore: stat absent",
        ] {
            let error = BuildError::from(EngineError::Refused(message.to_owned()));
            assert!(matches!(error, BuildError::Verdict(Reason::BuildFailed, _)), "{message}");
        }
    }
}
