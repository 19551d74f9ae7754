//! Commands in running containers.

use bollard::container::LogOutput;
use bollard::exec::StartExecResults;
use bollard::models::ExecConfig;
use futures::TryStreamExt;

use super::{Engine, EngineError, QUICK, Result, SLOW, within};

/// The bytes that are kept of a command's output, from its end.
const LONGEST_OUTPUT: usize = 64 * 1024;

impl Engine {
    /// Prepares a command in a running container and returns the engine's id of it.
    pub(crate) async fn prepare_exec(&self, container: &str, command: &[&str]) -> Result<String> {
        let docker = self.docker().await?;
        let config = ExecConfig {
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            cmd: Some(command.iter().map(|word| (*word).to_owned()).collect()),
            ..ExecConfig::default()
        };
        let call = docker.create_exec(container, config);
        Ok(within("prepare a command in a container", QUICK, call).await?.id)
    }

    /// Runs a prepared command to its end. Returns the exit code and the end of its output, both streams.
    pub(crate) async fn run_exec(&self, exec: &str) -> Result<(i64, String)> {
        let docker = self.docker().await?;
        let started = within("run a command in a container", QUICK, docker.start_exec(exec, None)).await?;
        let StartExecResults::Attached { output, .. } = started else {
            return Err(EngineError::Refused("the command runs in the background".to_owned()));
        };
        let collect = output.try_fold(Vec::new(), |mut all: Vec<u8>, chunk: LogOutput| async move {
            all.extend_from_slice(&chunk.into_bytes());
            if all.len() > 2 * LONGEST_OUTPUT {
                all.drain(..all.len() - LONGEST_OUTPUT);
            }
            Ok(all)
        });
        let output = within("run a command in a container", SLOW, collect).await?;
        let ended = within("inspect a command in a container", QUICK, docker.inspect_exec(exec)).await?;
        Ok((ended.exit_code.unwrap_or(-1), String::from_utf8_lossy(&output).into_owned()))
    }

    /// Returns whether a command still runs. A command that the engine has forgotten does not run.
    pub(crate) async fn is_exec_running(&self, exec: &str) -> Result<bool> {
        let docker = self.docker().await?;
        match within("inspect a command in a container", QUICK, docker.inspect_exec(exec)).await {
            Ok(seen) => Ok(seen.running.unwrap_or(false)),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }
}
