//! Commands that people run in containers, with their input and output.

use std::pin::Pin;

use bollard::container::LogOutput;
use bollard::exec::{StartExecOptions, StartExecResults};
use bollard::models::ExecConfig;
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, ResizeContainerTTYOptionsBuilder, ResizeExecOptionsBuilder,
};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::io::AsyncWrite;

use super::containers::OneOffStreams;
use super::step::{Removed, exit_code};
use super::{Engine, EngineError, QUICK, Result, SLOW, within};
use crate::model::attach::{AttachOutput, LONGEST_PAYLOAD, TerminalSize};
use crate::model::one_off::OneOffSpec;
use crate::model::secret_file::WrittenFile;

/// A running command.
pub(crate) struct AttachedProcess {
    /// The engine's id of the command, or of its container.
    pub(crate) id: String,
    /// Its output.
    pub(crate) output: BoxStream<'static, Result<Vec<AttachOutput>>>,
    /// Its input.
    pub(crate) input: Pin<Box<dyn AsyncWrite + Send>>,
    /// Removes the container of the command when it is dropped; `None`: the container is not the command's.
    pub(crate) removed: Option<Removed>,
}

impl Engine {
    /// Starts a command in a running container.
    pub(crate) async fn exec_attached(
        &self,
        container: &str,
        command: &[String],
        terminal: Option<TerminalSize>,
    ) -> Result<AttachedProcess> {
        let docker = self.connection().await?;
        let tty = terminal.is_some();
        let config = ExecConfig {
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            tty: Some(tty),
            cmd: Some(command.to_vec()),
            ..ExecConfig::default()
        };
        let call = docker.create_exec(container, config);
        let id = within("prepare a command in a container", QUICK, call).await?.id;
        let options = StartExecOptions { detach: false, tty, output_capacity: Some(LONGEST_PAYLOAD) };
        let started =
            within("run a command in a container", SLOW, docker.start_exec(&id, Some(options))).await?;
        let StartExecResults::Attached { output, input } = started else {
            return Err(EngineError::Refused("the command runs in the background".to_owned()));
        };
        let output = output.map(|piece| piece.map(messages).map_err(EngineError::from)).boxed();
        Ok(AttachedProcess { id, output, input, removed: None })
    }

    /// Starts a container that runs a command once. The container is removed when the process is dropped.
    pub(crate) async fn run_attached(
        &self,
        spec: &OneOffSpec,
        files: &[WrittenFile],
        terminal: Option<TerminalSize>,
    ) -> Result<AttachedProcess> {
        let docker = self.connection().await?;
        let removed = self.removed_at_last(&docker, spec.container.options.name.as_str());
        let streams = terminal.map_or(OneOffStreams::Attached, |_| OneOffStreams::Terminal);
        let id = self.create_one_off(spec, streams).await?;
        self.write_files(&id, files).await?;
        let options =
            AttachContainerOptionsBuilder::default().stdin(true).stdout(true).stderr(true).stream(true);
        let call = docker.attach_container(&id, Some(options.build()));
        let attached = within("attach to a container", QUICK, call).await?;
        within("start a container", SLOW, docker.start_container(&id, None)).await?;
        let output = attached.output.map(|piece| piece.map(messages).map_err(EngineError::from)).boxed();
        Ok(AttachedProcess { id, output, input: attached.input, removed: Some(removed) })
    }

    /// Gives the terminal of a process another size.
    pub(crate) async fn resize_attached(&self, id: &str, is_exec: bool, size: TerminalSize) -> Result<()> {
        let docker = self.docker().await?;
        let (rows, columns) = (i32::from(size.rows), i32::from(size.columns));
        if is_exec {
            let options = ResizeExecOptionsBuilder::default().h(rows).w(columns).build();
            return within("resize a terminal", QUICK, docker.resize_exec(id, options)).await;
        }
        let options = ResizeContainerTTYOptionsBuilder::default().h(rows).w(columns).build();
        within("resize a terminal", QUICK, docker.resize_container_tty(id, options)).await
    }

    /// Returns the exit code of a process that has ended.
    pub(crate) async fn attached_exit(&self, id: &str, is_exec: bool) -> Result<i64> {
        let docker = self.connection().await?;
        if is_exec {
            let ended = within("inspect a command in a container", QUICK, docker.inspect_exec(id)).await?;
            return ended
                .exit_code
                .ok_or_else(|| EngineError::Refused("the command has not ended".to_owned()));
        }
        let code = tokio::time::timeout(QUICK, exit_code(&docker, id)).await;
        code.map_err(|_| EngineError::Deadline { call: "report an exit code", within: QUICK })?
    }
}

/// Cuts output into messages.
fn messages(output: LogOutput) -> Vec<AttachOutput> {
    let is_error = matches!(output, LogOutput::StdErr { .. });
    let bytes = output.into_bytes();
    let message = |piece: &[u8]| match is_error {
        true => AttachOutput::Error(piece.to_vec()),
        false => AttachOutput::Out(piece.to_vec()),
    };
    bytes.chunks(LONGEST_PAYLOAD).map(message).collect()
}
