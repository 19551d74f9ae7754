//! The Docker Engine: the only room that names bollard.
//!
//! Every call has a deadline of its own, for the engine has none: a frozen engine or registry
//! would otherwise hang a pass for ever. And every call that is short waits for its turn in a
//! [`budget`]; what streams for minutes, such as builds and transfers, is bounded by those who begin it.

mod aside;
mod attendant;
mod budget;
mod build;
mod cache;
mod containers;
mod convert;
mod events;
mod exec;
mod facts;
mod front;
pub(crate) mod guard;
pub(crate) mod holder;
mod images;
mod logins;
mod mounts;
mod networks;
mod program;
mod reach;
mod session;
mod step;
mod transfer;
mod vitals;

use std::future::Future;
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error as BollardError;
use tokio::sync::RwLock;
use tokio_util::task::TaskTracker;

use crate::model::reference::ImageRepository;

use crate::model::cause::{self, Cause};
use crate::model::error::chain;

pub(crate) use aside::Aside;
pub(crate) use attendant::AttendantOptions;
pub(crate) use budget::Urgency;
use budget::{Budget, Call};
pub(crate) use build::{BuildRequest, Builder};
pub(crate) use containers::Listed;
pub(crate) use events::Happening;
pub use facts::EngineFacts;
pub(crate) use front::{FrontOptions, PlacedFile, Process, SeenFront};
pub(crate) use images::{FoundImage, HeldImage};
pub(crate) use logins::{Login, Logins};
pub(crate) use reach::Reach;
pub(crate) use step::{NAME as STEP_NAME, StepEnd, StepRun};
pub(crate) use vitals::{HealthCheck, Vitals};

/// Deadline of calls that answer from the engine's memory or disk.
const QUICK: Duration = Duration::from_secs(30);
/// Deadline of a ping, which asks the engine for nothing but to be there. An engine that is only busy answers
/// within milliseconds.
const PING: Duration = Duration::from_secs(10);
/// Deadline of calls that set up namespaces, networks or mounts.
const SLOW: Duration = Duration::from_secs(120);

/// What went wrong between abide and the engine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EngineError {
    /// The engine does not answer.
    #[error("the Docker Engine does not answer: {0}")]
    Unreachable(String),
    /// The engine took longer than any such call may take.
    #[error("the Docker Engine did not finish to {call} within {}", humantime::format_duration(*.within))]
    Deadline {
        /// What was asked.
        call: &'static str,
        /// How long it was given.
        within: Duration,
    },
    /// It answered, in a way that cannot be read.
    #[error("an answer of the Docker Engine cannot be read: {0}")]
    Unreadable(String),
    /// The engine waits for someone else, and nothing moves.
    #[error("nothing has moved for {} while {what}", humantime::format_duration(*.patience))]
    Stalled {
        /// What it is doing.
        what: String,
        /// How long it was given.
        patience: Duration,
    },
    /// The thing is not there.
    #[error("not found: {0}")]
    NotFound(String),
    /// The name is taken, or the state does not allow it.
    #[error("{0}")]
    Conflict(String),
    /// The engine refused, in its own words.
    #[error("{0}")]
    Refused(String),
}

impl EngineError {
    /// Whether the engine itself, not the request, is in trouble. One slow answer is no such thing:
    /// only a ping tells.
    pub(crate) fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable(_))
    }

    /// Whether the engine took too long for this request.
    pub(crate) fn is_slow(&self) -> bool {
        matches!(self, Self::Deadline { .. })
    }

    /// Whether nothing is known of the thing that was asked for.
    pub(crate) fn is_no_answer(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Deadline { .. } | Self::Unreadable(_))
    }

    /// Whose doing it is that a container could not be made or started.
    pub(crate) fn cause(&self) -> Cause {
        match self {
            Self::Unreachable(_) | Self::Deadline { .. } | Self::Unreadable(_) | Self::Stalled { .. } => {
                Cause::Engine
            }
            Self::Conflict(words) | Self::Refused(words) => cause::of_start(words),
            Self::NotFound(words) => match cause::of_start(words) {
                Cause::Unknown => Cause::Hand,
                known => known,
            },
        }
    }

    /// Whether the thing is simply not there.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound(_))
    }
}

impl From<BollardError> for EngineError {
    fn from(error: BollardError) -> Self {
        match error {
            BollardError::DockerResponseServerError { status_code, message } => {
                let message = first_line(&message);
                match status_code {
                    404 => Self::NotFound(message),
                    409 => Self::Conflict(message),
                    _ => Self::Refused(message),
                }
            }
            BollardError::DockerStreamError { error } => Self::Refused(first_line(&error)),
            BollardError::RequestTimeoutError => Self::Deadline { call: "answer", within: SLOW },
            unread @ (BollardError::JsonDataError { .. } | BollardError::JsonSerdeError { .. }) => {
                Self::Unreadable(chain(&unread))
            }
            other => Self::Unreachable(chain(&other)),
        }
    }
}

fn first_line(text: &str) -> String {
    text.lines().find(|line| !line.trim().is_empty()).unwrap_or("no reason given").trim().to_owned()
}

type Result<T> = std::result::Result<T, EngineError>;

/// A connection to one Docker Engine, negotiated on first need and again after it was lost.
pub(crate) struct Engine {
    /// Where the engine listens, as in `DOCKER_HOST`; `None`: the environment's, else the default.
    host: Option<String>,
    /// Where it finds every registry, as `host:port`; `None`: where the names of images say.
    registry: Option<String>,
    docker: RwLock<Option<Docker>>,
    /// How its containers can be reached, once it was asked.
    reach: RwLock<Option<Reach>>,
    budget: Budget,
    network_turn: tokio::sync::Mutex<()>,
    steps: step::Steps,
    /// What is still being taken away after its future was dropped.
    cleanups: TaskTracker,
}

impl Engine {
    /// A handle that connects when it is first used.
    pub(crate) fn new(host: Option<String>) -> Self {
        Self {
            host,
            registry: None,
            docker: RwLock::new(None),
            reach: RwLock::new(None),
            budget: Budget::default(),
            network_turn: tokio::sync::Mutex::default(),
            steps: step::Steps::default(),
            cleanups: TaskTracker::new(),
        }
    }

    /// The same, which finds every registry at `registry`.
    pub(crate) fn pulling_from(self, registry: Option<String>) -> Self {
        Self { registry, ..self }
    }

    /// The name by which this engine finds a repository, where that is another one.
    pub(crate) fn found_at(&self, repository: &ImageRepository) -> Option<String> {
        self.registry.as_ref().map(|registry| format!("{registry}/{}", repository.path()))
    }

    /// The connection for one short call, once it is that call's turn. Not for calls that make others.
    async fn docker(&self) -> Result<Call> {
        let docker = self.connection().await?;
        Ok(Call { docker, _turn: self.budget.turn().await })
    }

    /// The connection, made and negotiated where there is none.
    async fn connection(&self) -> Result<Docker> {
        if let Some(docker) = &*self.docker.read().await {
            return Ok(docker.clone());
        }
        let mut slot = self.docker.write().await;
        if let Some(docker) = &*slot {
            return Ok(docker.clone());
        }
        let docker = match &self.host {
            Some(host) => Docker::connect_with_host(host)?,
            None => Docker::connect_with_defaults()?,
        };
        // Long calls have deadlines of their own; this is only the last net.
        let docker = docker.with_timeout(Duration::from_secs(3600));
        // bollard's own version is newer than many engines, which then refuse every call.
        let docker = within("negotiate its version", QUICK, docker.negotiate_version()).await?;
        *slot = Some(docker.clone());
        Ok(docker)
    }

    /// Forgets the connection, so that the next call negotiates again: another engine version may
    /// be listening now.
    pub(crate) async fn reconnect(&self) {
        *self.docker.write().await = None;
        *self.reach.write().await = None;
    }

    /// Waits until what cancelled work left is taken away.
    pub(crate) async fn settle(&self) {
        self.cleanups.close();
        self.cleanups.wait().await;
    }

    /// Whether the engine answers.
    pub(crate) async fn ping(&self) -> Result<()> {
        // Whether the engine answers must not depend on how much it is asked.
        let docker = self.connection().await?;
        within("answer a ping", PING, docker.ping()).await.map(drop)
    }
}

async fn within<T>(
    call: &'static str,
    within: Duration,
    future: impl Future<Output = std::result::Result<T, BollardError>>,
) -> Result<T> {
    match tokio::time::timeout(within, future).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(EngineError::Deadline { call, within }),
    }
}
