//! Commands that people run: in the running container, or in a new one.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc};
use tracing::{info, warn};

use super::reconciler::{Planned, Reconciler};
use crate::controller::Controller;
use crate::controller::clock::now;
use crate::controller::docker::{AttachedProcess, Engine, EngineError};
use crate::model::attach::{AttachInput, AttachOutput, AttachRequest, AttachedCommand, TerminalSize};
use crate::model::error::chain;
use crate::model::event::EventKind;
use crate::model::mount::Mount;
use crate::model::name::{ContainerName, EnvironmentName};
use crate::model::one_off::{CommandWords, OneOffSpec, RUN};
use crate::plan;

/// The most commands of people at once on a host.
pub(in crate::controller) const SESSIONS: usize = 32;
/// How long a command may neither read nor write before its session ends.
const IDLE: Duration = Duration::from_secs(30 * 60);
/// The longest time that a container for a command may run.
const LIMIT: Duration = Duration::from_secs(24 * 60 * 60);
/// The number of messages that wait for a slow reader.
const WAITING: usize = 16;
/// The most characters of a command in an event.
const SHOWN: usize = 200;

/// The two directions of a session.
pub struct AttachedSession {
    /// Messages to the command. The session ends once this is dropped.
    pub input: mpsc::Sender<AttachInput>,
    /// Messages of the command; the last one has its result.
    pub output: mpsc::Receiver<AttachOutput>,
}

/// A session, while it lasts.
struct RunningSession {
    reconciler: Arc<Reconciler>,
    environment: EnvironmentName,
    /// The command and the person who started it, for events.
    what: String,
    process: AttachedProcess,
    is_exec: bool,
    /// `None` without a terminal.
    terminal: Option<TerminalSize>,
    _permit: OwnedSemaphorePermit,
}

impl Controller {
    /// Starts a command for `by`, which is a person's name for events.
    ///
    /// # Errors
    /// A sentence, if it cannot be started.
    pub async fn attach(
        &self,
        environment: &EnvironmentName,
        request: AttachRequest,
        by: &str,
    ) -> Result<AttachedSession, String> {
        let permits = Arc::clone(&self.reconciler.sessions);
        let permit = permits.try_acquire_owned().map_err(|_| {
            format!("{SESSIONS} commands run on this host already, which is the limit: end one of them first")
        })?;
        if let AttachedCommand::Job { job, restore } = &request.command {
            return self.attach_job(environment, (job, restore.as_ref()), by, permit).await;
        }
        let planned = self.reconciler.plan(environment).await.map_err(|error| String::from(&error))?;
        let planned = planned.ok_or_else(|| format!("{environment} is not in the manifest"))?;
        if planned.intent.workload.is_some() {
            return Err(format!(
                "{environment} is a service of a swarm: run `docker exec` on the node of a replica; `docker service ps \
                 {}` names the nodes",
                planned.spec.container
            ));
        }
        let words: Vec<&str> = request.command.words().map(String::as_str).collect();
        let options = planned.intent.options.as_ref().ok();
        let shown = plan::without_secrets(options, &planned.observed.containers, &words.join(" "));
        let shown: String = shown.chars().take(SHOWN).collect();
        let is_exec = matches!(request.command, AttachedCommand::Exec { .. });
        let place = if is_exec { "in the container" } else { "in a new container" };
        let what = format!("`{shown}` {place}, for {by}");
        let event = format!("runs {what}");
        let noted = self.reconciler.writer.event(environment, EventKind::System, event, now()).await;
        // Nobody may run a command that no event mentions.
        noted.map_err(|error| format!("the event cannot be recorded: {}", chain(&error)))?;
        info!(%environment, by, command = %shown, is_exec, "runs a command");
        let process = match &request.command {
            AttachedCommand::Exec { command } => self.exec(environment, command, request.terminal).await?,
            AttachedCommand::Run { entrypoint, arguments } => {
                let words = words_of(entrypoint.as_ref(), arguments);
                self.reconciler.run_one_off(&planned, &words, request.terminal).await?
            }
            AttachedCommand::Job { job, restore } => {
                return self.attach_job(environment, (job, restore.as_ref()), by, permit).await;
            }
        };
        let session = RunningSession {
            reconciler: Arc::clone(&self.reconciler),
            environment: environment.clone(),
            what,
            process,
            is_exec,
            terminal: request.terminal,
            _permit: permit,
        };
        let ((input, inputs), (outputs, output)) = (mpsc::channel(WAITING), mpsc::channel(WAITING));
        tokio::spawn(session.run(inputs, outputs, self.stop.clone()));
        Ok(AttachedSession { input, output })
    }

    async fn exec(
        &self,
        environment: &EnvironmentName,
        command: &[String],
        terminal: Option<TerminalSize>,
    ) -> Result<AttachedProcess, String> {
        if command.is_empty() {
            return Err("name a command, such as `abide exec dev -- sh`".to_owned());
        }
        let serving = self.serving(environment).ok_or_else(|| format!("{environment} has no container"))?;
        let started = self.reconciler.engine.exec_attached(&serving.id, command, terminal).await;
        started.map_err(|error| error.to_string())
    }
}

/// As with `docker run`: arguments follow the entrypoint, and a given entrypoint gets no other arguments.
fn words_of(entrypoint: Option<&String>, arguments: &[String]) -> CommandWords {
    let command = Some(arguments.to_vec()).filter(|words| !words.is_empty());
    CommandWords { command, entrypoint: entrypoint.map(|program| vec![program.clone()]) }
}

impl Reconciler {
    /// Starts a container that runs a command once, with the recorded image and the options of the environment.
    async fn run_one_off(
        &self,
        planned: &Planned,
        words: &CommandWords,
        terminal: Option<TerminalSize>,
    ) -> Result<AttachedProcess, String> {
        let environment = &planned.intent.environment;
        let wanted = match &planned.intent.options {
            Ok(_) => plan::recorded(&planned.intent, &planned.observed, &planned.memory),
            Err(why) => return Err(why.clone()),
        };
        let wanted = wanted.filter(|wanted| planned.observed.images.contains(&wanted.image));
        let wanted =
            wanted.ok_or_else(|| format!("the recorded image of {environment} is not on its host"))?;
        let mut volumes = wanted.mounts().filter_map(Mount::volume);
        if let Some(missing) = volumes.find(|name| !planned.observed.volumes.contains(name.as_str())) {
            return Err(format!("volume {missing} does not exist: wait until {environment} is ready"));
        }
        self.judge(wanted.mounts().filter_map(Mount::host_path)).await.map_err(|error| error.to_string())?;
        let id = uuid::Uuid::new_v4().simple().to_string();
        let name = format!("{}.run-{}", wanted.options.name, id.get(..8).unwrap_or(&id));
        let name = ContainerName::new(name).map_err(|error| error.to_string())?;
        let spec = OneOffSpec::new(&wanted, name, RUN, words, (id, LIMIT));
        let files = &spec.container.options.files;
        let started = self.engine.run_attached(&spec, files, terminal).await;
        started.map_err(|error| error.to_string())
    }
}

impl RunningSession {
    async fn run(
        self,
        inputs: mpsc::Receiver<AttachInput>,
        outputs: mpsc::Sender<AttachOutput>,
        stop: tokio_util::sync::CancellationToken,
    ) {
        let Self { reconciler, environment, what, process, is_exec, terminal, _permit } = self;
        let AttachedProcess { id, output, input, removed } = process;
        if let Some(size) = terminal {
            resize(&reconciler.engine, &id, is_exec, size).await;
        }
        let moved = Arc::new(Notify::new());
        let size = |size| resize(&reconciler.engine, &id, is_exec, size);
        let ended = tokio::select! {
            ended = send_output(output, &outputs, &moved) => ended,
            () = send_input(inputs, input, size, &moved) => Err("the client is gone".to_owned()),
            () = idle(&moved) => Err(format!("nothing was read or written for {}", humantime::format_duration(IDLE))),
            () = tokio::time::sleep(LIMIT) => Err(format!("it ran for {}", humantime::format_duration(LIMIT))),
            () = stop.cancelled() => Err("abide stops".to_owned()),
        };
        let code = match ended {
            Ok(()) => reconciler.engine.attached_exit(&id, is_exec).await.map_err(|error| error.to_string()),
            Err(why) => Err(why),
        };
        drop(removed);
        let (result, last) = match code {
            Ok(code) => (format!("ended with exit code {code}"), AttachOutput::Ended(code)),
            Err(why) => {
                (format!("was cut off: {why}"), AttachOutput::Failed(format!("the session was ended: {why}")))
            }
        };
        // The client may be gone.
        let _ = outputs.send(last).await;
        let event =
            reconciler.writer.event(&environment, EventKind::System, format!("{what} {result}"), now()).await;
        if let Err(error) = event {
            warn!(%environment, error = chain(&error), "the end of a command cannot be recorded");
        }
    }
}

async fn resize(engine: &Engine, id: &str, is_exec: bool, size: TerminalSize) {
    // A command that has ended has no terminal any more.
    let _ = engine.resize_attached(id, is_exec, size).await;
}

/// Sends output until the command closes it.
async fn send_output(
    mut output: futures::stream::BoxStream<'static, Result<Vec<AttachOutput>, EngineError>>,
    outputs: &mpsc::Sender<AttachOutput>,
    moved: &Notify,
) -> Result<(), String> {
    while let Some(messages) = output.next().await {
        moved.notify_one();
        for message in messages.map_err(|error| error.to_string())? {
            outputs.send(message).await.map_err(|_| "the client is gone".to_owned())?;
        }
    }
    Ok(())
}

/// Passes input on, until the client is gone.
async fn send_input<F: Future<Output = ()>>(
    mut inputs: mpsc::Receiver<AttachInput>,
    mut input: std::pin::Pin<Box<dyn tokio::io::AsyncWrite + Send>>,
    resize: impl Fn(TerminalSize) -> F,
    moved: &Notify,
) {
    while let Some(message) = inputs.recv().await {
        moved.notify_one();
        // A command that reads no input may still write output.
        let _ = match message {
            AttachInput::Data(data) => input.write_all(&data).await,
            AttachInput::End => input.shutdown().await,
            AttachInput::Resize(size) => {
                resize(size).await;
                Ok(())
            }
        };
    }
}

/// Returns once nothing has moved for too long.
async fn idle(moved: &Notify) {
    while tokio::time::timeout(IDLE, moved.notified()).await.is_ok() {}
}
