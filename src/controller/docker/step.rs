//! Containers of build steps: each runs once, and its standard output is the result.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::models::{ContainerCreateBody, HostConfig, HostConfigLogConfig};
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, CreateContainerOptionsBuilder, InspectContainerOptions,
    ListContainersOptionsBuilder, RemoveContainerOptionsBuilder, WaitContainerOptions,
};
use futures::StreamExt;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::containers::signed;
use super::{Engine, EngineError, QUICK, Result, SLOW, within};
use crate::model::cause;
use crate::model::container::label;

/// The names of this process's step containers.
pub(super) type Steps = Arc<Mutex<BTreeSet<String>>>;

/// The prefix of the names of all step containers.
pub(crate) const NAME: &str = "abide-step-";

/// How long the creation of a container may still take in the engine after the call was cut off.
const ON_ITS_WAY: Duration = Duration::from_secs(1);

/// How long the engine may take to record why it killed a container.
const NOTED: Duration = Duration::from_secs(1);

/// A container of a build step, which runs once for its standard output.
pub(crate) struct StepRun<'a> {
    /// The image ID.
    pub(crate) image: &'a str,
    /// The container's name.
    pub(crate) name: &'a str,
    /// Labels, by which leftovers are found.
    pub(crate) labels: BTreeMap<String, String>,
    /// The memory limit in bytes.
    pub(crate) memory: u64,
    /// The limit of processes and threads.
    pub(crate) pids: u32,
    /// The longest accepted output, in bytes.
    pub(crate) max_output: u64,
    /// The network of another container that it joins (`container:ID`), and the program and its arguments in
    /// place of the image's own; `None`: its own network and the image's program.
    pub(crate) joins: Option<(String, Vec<String>)>,
}

/// How a step's container ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StepEnd {
    /// With this exit code.
    Exited(i64),
    /// With this exit code, after it exceeded its memory limit.
    OutOfMemory(i64),
    /// abide ended it because its output exceeded the limit.
    TooMuchOutput,
}

impl Engine {
    /// Runs a container once and writes its standard output to `out` and its standard error to `log`. The
    /// container is removed, also if the future is dropped.
    pub(crate) async fn run_for_output(
        &self,
        step: StepRun<'_>,
        out: &mut (impl AsyncWrite + Unpin),
        log: &mut (impl FnMut(&[u8]) + Send),
    ) -> Result<StepEnd> {
        let docker = self.connection().await?;
        let _removed = self.removed_at_last(&docker, step.name);
        let options = CreateContainerOptionsBuilder::default().name(step.name).build();
        let create = docker.create_container(Some(options), body(&step));
        let id = within("create a step's container", SLOW, create).await?.id;
        let attach = AttachContainerOptionsBuilder::default().stdout(true).stderr(true).stream(true).build();
        let mut attached =
            within("attach to a step's container", QUICK, docker.attach_container(&id, Some(attach))).await?;
        within("start a step's container", SLOW, docker.start_container(&id, None)).await?;
        let mut left = step.max_output;
        while let Some(chunk) = attached.output.next().await {
            match chunk? {
                LogOutput::StdErr { message } => log(&message),
                output => {
                    let bytes = output.into_bytes();
                    let Some(rest) = left.checked_sub(bytes.len() as u64) else {
                        return Ok(StepEnd::TooMuchOutput);
                    };
                    left = rest;
                    out.write_all(&bytes).await.map_err(|error| write_failed(&error))?;
                }
            }
        }
        out.flush().await.map_err(|error| write_failed(&error))?;
        let code = exit_code(&docker, &id).await?;
        match code != 0 && ran_out_of_memory(&docker, &id, code).await? {
            true => Ok(StepEnd::OutOfMemory(code)),
            false => Ok(StepEnd::Exited(code)),
        }
    }

    /// Removes the step containers of a record that a killed process left. A container that cannot be removed
    /// stays, and abide logs it.
    pub(crate) async fn remove_left_steps(&self, record: &str) -> Result<()> {
        let docker = self.connection().await?;
        let filter = HashMap::from([("label".to_owned(), vec![format!("{}={record}", label::STEP)])]);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filter).build();
        for left in within("list containers", QUICK, docker.list_containers(Some(options))).await? {
            let names = left.names.unwrap_or_default();
            let mut names = names.iter().map(|name| name.trim_start_matches('/'));
            // A container that a user runs from a step's image inherits the label, but not the name.
            let is_left = names.any(|name| name.starts_with(NAME) && !self.steps().contains(name));
            if let Some(id) = left.id.filter(|_| is_left) {
                info!(container = %id, "removing the remains of an interrupted build step");
                match self.remove_scratch(&id).await {
                    Err(error) if !error.is_unreachable() => {
                        warn!(container = %id, %error, "failed to remove the remains of an interrupted \
                            build step");
                    }
                    removed => removed?,
                }
            }
        }
        Ok(())
    }

    /// Returns the names of the containers that this process runs for one command, and removes after it.
    pub(crate) fn attended(&self) -> BTreeSet<String> {
        self.steps().clone()
    }

    fn steps(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a guard that removes the container of this name when it is dropped.
    pub(super) fn removed_at_last(&self, docker: &Docker, name: &str) -> Removed {
        self.steps().insert(name.to_owned());
        Removed {
            docker: docker.clone(),
            name: name.to_owned(),
            steps: Arc::clone(&self.steps),
            cleanups: self.cleanups.clone(),
        }
    }
}

/// Removes a step's container when it is dropped, whether the step ended or was cut off.
pub(crate) struct Removed {
    docker: Docker,
    name: String,
    steps: Steps,
    cleanups: TaskTracker,
}

impl Drop for Removed {
    fn drop(&mut self) {
        let (docker, name, steps) = (self.docker.clone(), std::mem::take(&mut self.name), self.steps.clone());
        self.cleanups.spawn(async move {
            if let Err(error) = remove_for_sure(&docker, &name).await {
                warn!(container = %name, %error, "failed to remove the container of a build step");
            }
            steps.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
        });
    }
}

/// Removes a container. If it does not exist, it tries once more, because the engine continues to create a
/// container after the caller has gone.
async fn remove_for_sure(docker: &Docker, name: &str) -> Result<()> {
    let remove = || {
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        within("remove a step's container", SLOW, docker.remove_container(name, Some(options)))
    };
    match remove().await {
        Err(EngineError::NotFound(_)) => {
            tokio::time::sleep(ON_ITS_WAY).await;
            remove().await.or_else(|error| if error.is_not_found() { Ok(()) } else { Err(error) })
        }
        other => other,
    }
}

fn write_failed(error: &std::io::Error) -> EngineError {
    EngineError::Refused(format!("cannot write the step's output: {error}"))
}

/// Returns the exit code. bollard reports any code other than zero as an error.
pub(super) async fn exit_code(docker: &Docker, id: &str) -> Result<i64> {
    let mut waits = docker.wait_container(id, None::<WaitContainerOptions>);
    match waits.next().await {
        Some(Ok(answer)) => Ok(answer.status_code),
        Some(Err(bollard::errors::Error::DockerContainerWaitError { code, .. })) => Ok(code),
        Some(Err(error)) => Err(error.into()),
        None => Err(EngineError::Unreachable(
            "it did not report the exit code of the step's container".to_owned(),
        )),
    }
}

/// Returns whether the engine killed a process of the container for lack of memory. The engine records that
/// separately from the exit, perhaps a moment later.
async fn ran_out_of_memory(docker: &Docker, id: &str, code: i64) -> Result<bool> {
    let deadline = Instant::now() + if cause::is_killed(code) { NOTED } else { Duration::ZERO };
    loop {
        let call = docker.inspect_container(id, None::<InspectContainerOptions>);
        let state = within("inspect a step's container", QUICK, call).await?.state;
        let is_noted = state.and_then(|state| state.oom_killed).unwrap_or_default();
        if is_noted || Instant::now() >= deadline {
            return Ok(is_noted);
        }
        tokio::time::sleep(NOTED / 10).await;
    }
}

/// Describes the container. It has no log driver, because the engine would keep a second copy of a tarball in
/// its log.
fn body(step: &StepRun<'_>) -> ContainerCreateBody {
    let (network, command) = step.joins.clone().unzip();
    let (program, arguments) =
        command.map(|mut words| (words.drain(..1.min(words.len())).collect(), words)).unzip();
    ContainerCreateBody {
        entrypoint: program,
        cmd: arguments,
        image: Some(step.image.to_owned()),
        labels: Some(step.labels.clone().into_iter().collect()),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        host_config: Some(HostConfig {
            log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: None }),
            init: Some(true),
            network_mode: network,
            memory: Some(signed(step.memory)),
            // No additional swap.
            memory_swap: Some(signed(step.memory)),
            pids_limit: Some(i64::from(step.pids)),
            ..Default::default()
        }),
        ..Default::default()
    }
}
