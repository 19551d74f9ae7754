//! Containers that abide runs for itself: the proxy and the managed registry.
//!
//! Both are created, repaired, pulled and restarted here, by the same rules. Their owners only decide what the
//! container looks like, and prepare it before it starts.

mod pauses;
pub(super) mod registry;
mod repair;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::clock::{now, wall};
use super::docker::{AuxiliarySpec, Engine, EngineError, HeldImage, SeenAuxiliary};
use crate::controller::jobs::pull::pull_declared;
use crate::controller::jobs::registries::Registries;
use crate::model::cause::is_killed;
use crate::model::container::Exit;
use crate::model::logs::LogOptions;
use crate::model::name::ContainerName;
use crate::model::observed::{ContainerState, ObservedContainer};
use crate::model::redact::is_deceptive;
use crate::model::time::Timestamp;
use pauses::{Ends, FailedAttempts};
use repair::{Repair, repair};

/// More than the repairs of one container in any state.
const ROUNDS: usize = 8;
/// A container that ends within this time after its start never worked.
const SOON: Duration = Duration::from_secs(10);
/// Lines of output in which to find the last one with text.
const LAST_LINES: usize = 20;
/// The characters of that line that are shown.
const LONGEST_LINE: usize = 300;

/// A container that abide runs for itself.
pub(super) struct Managed {
    engine: Arc<Engine>,
    registries: Arc<Registries>,
    record: String,
    /// Its role, which finds it again.
    role: &'static str,
    /// Notified when a pull of its image ends.
    pulled: Arc<Notify>,
    /// Its id, as far as known.
    id: Option<String>,
    /// When abide last started it, by the clock of its output; `None`: an earlier daemon did.
    begun: Option<Timestamp>,
    pull: Option<Pull>,
    pulls: FailedAttempts,
    starts: FailedAttempts,
    ends: Ends,
}

/// A pull of its image.
struct Pull {
    image: String,
    task: JoinHandle<Result<(), EngineError>>,
}

impl Drop for Pull {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The next thing for the owner to do.
pub(super) enum NextAction {
    /// Nothing: the container with this id runs as specified.
    None(String),
    /// The container with this id runs, but it can be replaced only later, for this reason.
    Keep(String, String),
    /// Create it with [`Managed::create`].
    Create,
    /// Prepare it, and start it with [`Managed::start`].
    Start(Box<SeenAuxiliary>),
}

/// The reason why a container does not run as specified, as a clause about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Obstacle {
    /// A call to the engine failed, which does not prove that the container does not run.
    #[error("cannot manage it: {0}")]
    Engine(#[from] EngineError),
    /// The engine is busy with it.
    #[error("the engine is restarting or removing it")]
    Busy,
    /// It ended several times in a row, and is started again after this time.
    #[error("it exited {count} times in a row ({why}); abide restarts it after a pause. {remedy}")]
    Pause {
        /// The number of ends.
        count: u32,
        /// The reason of the last end.
        why: String,
        /// How to find the cause.
        remedy: String,
        /// The rest of the pause.
        left: Duration,
    },
    /// It cannot be created or started.
    #[error("{0}")]
    Down(String),
}

impl Managed {
    pub(super) fn new(
        engine: Arc<Engine>,
        registries: Arc<Registries>,
        record: String,
        role: &'static str,
        pulled: Arc<Notify>,
    ) -> Self {
        let (pulls, starts) = (FailedAttempts::new(role), FailedAttempts::new(role));
        let ends = Ends::new(role);
        let (id, begun, pull) = (None, None, None);
        Self { engine, registries, record, role, pulled, id, begun, pull, pulls, starts, ends }
    }

    /// Its id, as far as known.
    pub(super) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Retries at once what failed, because the manifest was edited.
    pub(super) fn retry(&mut self) {
        (self.pulls, self.starts) = (FailedAttempts::new(self.role), FailedAttempts::new(self.role));
        self.ends.forgive();
    }

    /// Forgets everything about the container, because it is not wanted any more.
    pub(super) fn reset(&mut self) {
        self.retry();
        (self.id, self.pull, self.ends) = (None, None, Ends::new(self.role));
    }

    /// Repairs the container until it runs as specified or its owner has something to do. `image` is the
    /// declared name of its image.
    pub(super) async fn next(&mut self, spec: &AuxiliarySpec, image: &str) -> Result<NextAction, Obstacle> {
        for _ in 0..ROUNDS {
            let Some(seen) = self.find(&spec.name).await? else { return Ok(NextAction::Create) };
            let id = seen.seen.id.clone();
            match repair(spec, &seen) {
                Repair::None => {
                    self.starts = FailedAttempts::new(self.role);
                    return Ok(NextAction::None(id));
                }
                Repair::Wait => return Err(Obstacle::Busy),
                Repair::Start => return Ok(NextAction::Start(Box::new(seen))),
                Repair::Rename => {
                    self.rename(&id, &spec.name).await;
                    return Ok(NextAction::None(id));
                }
                Repair::OwnRestarts => self.engine.set_restarts(&id, false).await?,
                Repair::Unpause => {
                    info!(container = %spec.name, "unpausing");
                    self.engine.unpause(&id).await?;
                }
                Repair::Recreate(why) => match self.image(image).await {
                    Ok(_) => self.remove(&id, spec.is_stateless, &why).await?,
                    // The old container keeps running until there is an image to replace it.
                    Err(obstacle) if seen.seen.state == ContainerState::Running => {
                        return Ok(NextAction::Keep(id, obstacle.to_string()));
                    }
                    Err(obstacle) => return Err(obstacle),
                },
            }
        }
        Err(Obstacle::Down(format!("its container {} keeps changing", spec.name)))
    }

    /// Finds the container. Of several, the one with the right name counts, and then the oldest.
    pub(super) async fn find(&mut self, name: &ContainerName) -> Result<Option<SeenAuxiliary>, EngineError> {
        if let Some(id) = &self.id
            && let Some(seen) = self.engine.inspect_auxiliary(id).await?
        {
            return Ok(Some(seen));
        }
        let found = self.engine.auxiliaries(&self.record, self.role).await?;
        let found = found.into_iter().min_by_key(|one| (one.seen.name != name.as_str(), one.seen.created_at));
        self.id = found.as_ref().map(|found| found.seen.id.clone());
        Ok(found)
    }

    /// All containers of this record in this role.
    pub(super) async fn all(&self) -> Result<Vec<SeenAuxiliary>, EngineError> {
        self.engine.auxiliaries(&self.record, self.role).await
    }

    /// Creates the container.
    pub(super) async fn create(&mut self, spec: &AuxiliarySpec, image: &str) -> Result<(), Obstacle> {
        self.image(image).await?;
        let id = match self.engine.create_auxiliary(&self.record, spec).await {
            Ok(id) => id,
            Err(EngineError::Conflict(_)) => {
                let name = &spec.name;
                return Err(Obstacle::Down(format!(
                    "an unmanaged container has its name: docker rename {name} OTHER"
                )));
            }
            Err(error) => return Err(Obstacle::Down(format!("cannot create its container: {error}"))),
        };
        info!(container = %spec.name, image, "created an auxiliary container");
        self.id = Some(id);
        Ok(())
    }

    /// Returns an error during the pause after several ends in a row. Counts an end once. `is_new_cause`: it has a
    /// cause that is new, which restarts the count.
    pub(super) fn may_start(
        &mut self,
        seen: &SeenAuxiliary,
        why: &str,
        is_new_cause: bool,
    ) -> Result<(), Obstacle> {
        let ContainerState::Exited(exit) = &seen.seen.state else { return Ok(()) };
        let due = self.ends.next_start(seen.seen.started_at, exit.at, now(), is_new_cause);
        let left = due.since(now());
        if left.is_zero() {
            return Ok(());
        }
        let remedy = remedy(&seen.seen.name, exit);
        Err(Obstacle::Pause { count: self.ends.count(), why: why.to_owned(), remedy, left })
    }

    /// Describes the end of the container, with its last output if it ended soon after its start. The later output
    /// of a container that ran may be about the requests of clients.
    pub(super) async fn why_ended(&self, seen: &ObservedContainer, exit: &Exit) -> String {
        let code = format!("exit code {}", exit.code);
        if seen.started_at.is_none_or(|started| exit.at > started.after(SOON)) {
            return code;
        }
        match self.last_line(&seen.id).await {
            Some(line) => format!("{code}; its last output: {line}"),
            None => code,
        }
    }

    /// Returns the last lines of output since abide last started the container.
    pub(super) async fn last_output(&self, id: &str, lines: usize) -> Result<String, EngineError> {
        let options = LogOptions { tail: Some(lines), since: self.begun, ..LogOptions::default() };
        self.engine.output(id, &options).await
    }

    /// Returns the last line of output since the start; `None` if there is none, or it cannot be read.
    pub(super) async fn last_line(&self, id: &str) -> Option<String> {
        let log = self.last_output(id, LAST_LINES).await.ok()?;
        let line = log.lines().map(str::trim).rfind(|line| !line.is_empty())?;
        Some(line.chars().map(|c| if is_deceptive(c) { '\u{fffd}' } else { c }).take(LONGEST_LINE).collect())
    }

    /// Whether this end was counted already.
    pub(super) fn is_counted(&self, ended: Timestamp) -> bool {
        self.ends.is_counted(ended)
    }

    /// Starts the container, unless an earlier start failed and the next attempt is not due.
    pub(super) async fn start(&mut self, id: &str, last: &str) -> Result<(), Obstacle> {
        self.starts.check_due(now()).map_err(Obstacle::Down)?;
        info!(role = self.role, last, "starting an auxiliary container");
        self.begun = Some(wall());
        let started = self.engine.start(id).await;
        let started = started.map_err(|error| format!("cannot start it: {error}"));
        self.starts.note(started, now()).map_err(Obstacle::Down)
    }

    async fn rename(&self, id: &str, name: &ContainerName) {
        match self.engine.rename(id, name).await {
            Ok(()) => info!(container = %name, "restored the name of an auxiliary container"),
            Err(error) => {
                warn!(container = %name, %error, "cannot restore the name of an auxiliary container");
            }
        }
    }

    /// Removes the container. If it is stateless, the volumes that the engine created for it are removed too.
    pub(super) async fn remove(
        &mut self,
        id: &str,
        is_stateless: bool,
        why: &str,
    ) -> Result<(), EngineError> {
        info!(role = self.role, why, "removing an auxiliary container");
        if is_stateless {
            self.engine.remove_scratch(id).await?;
        } else {
            self.engine.remove(id).await?;
        }
        self.id = None;
        Ok(())
    }

    /// Returns the image, if the engine has it. If it is missing, a pull starts, and the error describes its
    /// progress.
    pub(super) async fn image(&mut self, name: &str) -> Result<HeldImage, Obstacle> {
        if let Some(image) = self.engine.image(name).await? {
            (self.pull, self.pulls) = (None, FailedAttempts::new(self.role));
            return Ok(image);
        }
        if self.pull.as_ref().is_some_and(|pull| pull.image != name) {
            (self.pull, self.pulls) = (None, FailedAttempts::new(self.role));
        }
        if let Some(pull) = self.pull.as_mut().filter(|pull| pull.task.is_finished()) {
            let why = match (&mut pull.task).await {
                Ok(Err(error)) => format!(
                    "its image {name} is not on this host and cannot be pulled: {error}. Get it with \
                     `docker pull` or `docker load`, or set another image in the manifest"
                ),
                Ok(Ok(())) => format!("its image {name} was pulled and then removed"),
                Err(_) => format!("the pull of its image {name} panicked, which is a bug of abide"),
            };
            self.pull = None;
            // The error is reported until the next attempt ends.
            let _ = self.pulls.note(Err(why), now());
        }
        if self.pull.is_none() {
            self.pulls.check_due(now()).map_err(Obstacle::Down)?;
            self.begin_pull(name);
        }
        let pulling = || format!("pulling its image {name}");
        Err(Obstacle::Down(self.pulls.last().map_or_else(pulling, str::to_owned)))
    }

    fn begin_pull(&mut self, name: &str) {
        info!(role = self.role, image = name, "pulling the image of an auxiliary container");
        let (engine, registries) = (Arc::clone(&self.engine), Arc::clone(&self.registries));
        let (image, pulled) = (name.to_owned(), Arc::clone(&self.pulled));
        let task = tokio::spawn(async move {
            let result = pull_declared(&engine, &registries, &image).await;
            pulled.notify_one();
            result
        });
        self.pull = Some(Pull { image: name.to_owned(), task });
    }
}

/// How to find the cause of an end.
fn remedy(name: &str, exit: &Exit) -> String {
    if exit.out_of_memory {
        return "The host ran out of memory: `journalctl -k` shows the largest processes".to_owned();
    }
    if is_killed(exit.code) {
        return format!(
            "It is killed from outside: `docker events --since 10m --filter container={name}` and `journalctl -k` \
             show by what"
        );
    }
    format!("`docker logs {name}` shows its output")
}
