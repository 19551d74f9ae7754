//! Exit codes: the one place that maps outcomes and errors to them.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use super::client::ClientError;
use crate::manifest_dir::LoadError;

/// The exit codes that scripts rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CliExit {
    /// The command succeeded.
    Done,
    /// The command failed, or its result is negative.
    No,
    /// Bad usage or input.
    Usage,
    /// The daemon is unreachable.
    Unreachable,
    /// The exit code of a command that ran in a container.
    Command(u8),
}

impl CliExit {
    /// The numeric exit code.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::No => 1,
            Self::Usage => 2,
            Self::Unreachable => 3,
            Self::Command(code) => code,
        }
    }
}

impl From<CliExit> for ExitCode {
    fn from(exit: CliExit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The daemon refused the request, or the request failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The arguments make no sense.
    #[error("{0}")]
    Usage(String),
    /// The result is negative; the sentence states it.
    #[error("{0}")]
    No(String),
    /// A named file cannot be read.
    #[error("cannot read {path}")]
    Input {
        /// The file.
        path: String,
        /// The cause.
        source: io::Error,
    },
    /// Standard output rejected a write.
    #[error("cannot write to standard output")]
    Output(#[from] io::Error),
    /// No daemon runs, and the record cannot be opened.
    #[error("cannot use the record in {}", folder.display())]
    Record {
        /// The desired-state folder.
        folder: PathBuf,
        /// The cause.
        #[source]
        source: anyhow::Error,
    },
    /// The daemon, the agent or the demo ended with an error.
    #[error(transparent)]
    Service(anyhow::Error),
}

impl CliError {
    /// The exit code for this failure.
    pub(crate) fn exit(&self) -> CliExit {
        match self {
            Self::Client(error) => error.exit(),
            Self::Usage(_) | Self::Input { .. } => CliExit::Usage,
            // The reader closed the output because it has read enough, as `head` does.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => CliExit::Done,
            // An unusable folder or manifest is wrong input; a record that cannot be opened is not.
            Self::Record { source, .. } if source.chain().any(<dyn Error>::is::<LoadError>) => CliExit::Usage,
            Self::No(_) | Self::Output(_) | Self::Record { .. } | Self::Service(_) => CliExit::No,
        }
    }

    /// The lines to print: the error, then its causes.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("error: {self}")];
        let mut cause = self.source();
        while let Some(error) = cause {
            lines.push(format!("caused by: {error}"));
            cause = error.source();
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::view::ErrorView;

    fn refused(status: u16, error: &str) -> CliExit {
        let view = ErrorView { error: error.into(), message: "no".into() };
        CliError::from(ClientError::Refused { status, view }).exit()
    }

    #[test]
    fn each_api_error_maps_to_its_exit_code() {
        for status in [400, 404, 422] {
            assert_eq!(refused(status, "x"), CliExit::Usage, "{status}");
        }
        assert_eq!(refused(409, "conflict"), CliExit::No);
        assert_eq!(refused(401, "unauthorized"), CliExit::No);
        assert_eq!(refused(500, "internal"), CliExit::No);
        assert_eq!(refused(503, "store"), CliExit::No);
        assert_eq!(refused(503, "no-daemon"), CliExit::Unreachable);
    }

    #[test]
    fn a_closed_output_pipe_is_not_an_error() {
        assert_eq!(CliError::from(io::Error::from(io::ErrorKind::BrokenPipe)).exit(), CliExit::Done);
        assert_eq!(CliError::from(io::Error::from(io::ErrorKind::StorageFull)).exit(), CliExit::No);
    }

    #[test]
    fn the_causes_of_an_error_are_printed_once_and_in_order() {
        let cause = anyhow::anyhow!("the disk is full").context("the store does not open");
        let failure = CliError::Record { folder: "state".into(), source: cause };
        let expected = [
            "error: cannot use the record in state",
            "caused by: the store does not open",
            "caused by: the disk is full",
        ];
        assert_eq!(failure.lines(), expected);
    }

    #[test]
    fn a_missing_manifest_folder_is_a_usage_error() {
        let source = anyhow::Error::from(LoadError::NoFolder { folder: "x".into() });
        assert_eq!(CliError::Record { folder: "x".into(), source }.exit(), CliExit::Usage);
        let source = anyhow::anyhow!("the store does not open");
        assert_eq!(CliError::Record { folder: "x".into(), source }.exit(), CliExit::No);
    }

    #[test]
    fn exit_codes_are_stable() {
        let codes = [CliExit::Done, CliExit::No, CliExit::Usage, CliExit::Unreachable].map(CliExit::code);
        assert_eq!(codes, [0, 1, 2, 3]);
    }
}
