//! The Docker Engine. This is the only module that names bollard.
//!
//! Every call has its own deadline, because the engine has none: a frozen engine or registry would otherwise
//! block a pass forever. Every short call also waits for its turn in a [`budget`]. Calls that stream for
//! minutes, such as builds and transfers, are limited by their callers.

mod aside;
mod attach;
mod auxiliary;
pub(crate) mod backup;
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
mod output;
pub(crate) mod piece;
mod program;
mod reach;
mod service_ports;
mod service_probe;
mod service_secrets;
mod service_seen;
mod service_spec;
mod services;
mod session;
mod settings;
mod silence;
mod step;
#[cfg(test)]
mod tests;
mod transfer;
mod usage;
mod vitals;

use std::future::Future;
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error as BollardError;
use tokio::sync::RwLock;
use tokio_util::task::TaskTracker;

use crate::model::reference::ImageRepository;

use crate::model::cause::{self, Cause};
use crate::model::reading;

pub(crate) use aside::Aside;
pub(crate) use attach::AttachedProcess;
pub(crate) use auxiliary::{AuxiliaryImage, AuxiliaryNetwork, AuxiliarySpec, SeenAuxiliary};
pub(crate) use budget::Urgency;
use budget::{BudgetedConnection, CallBudget};
pub(crate) use build::{BuildRequest, BuilderKind};
pub(crate) use containers::{Listed, OneOffStreams};
pub(crate) use events::Happening;
pub use facts::{EngineFacts, RunningContainers};
pub(crate) use front::{PlacedFile, Process};
pub(crate) use images::{FoundImage, HeldImage};
pub(crate) use logins::{BuildLogin, Logins};
pub(crate) use reach::ContainerReach;
pub(crate) use services::FoundService;
pub(crate) use step::{NAME as STEP_NAME, StepEnd, StepRun};
pub(crate) use vitals::{HealthCheck, Vitals};

/// Deadline of calls that the engine answers from memory or disk.
const QUICK: Duration = Duration::from_secs(30);
/// Deadline of a ping, for which the engine has nothing to do. Even a busy engine answers it within
/// milliseconds.
const PING: Duration = Duration::from_secs(10);
/// Deadline of calls that set up namespaces, networks or mounts.
const SLOW: Duration = Duration::from_secs(120);

/// An error between abide and the engine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EngineError {
    /// The engine does not answer.
    #[error("the Docker Engine does not respond: {0}")]
    Unreachable(String),
    /// The engine took longer than the deadline of the call.
    #[error("the Docker Engine did not {call} within {}", humantime::format_duration(*.within))]
    Deadline {
        /// The call.
        call: &'static str,
        /// Its deadline.
        within: Duration,
    },
    /// The engine's answer cannot be parsed.
    #[error("cannot parse the response of the Docker Engine: {0}")]
    Unreadable(String),
    /// The engine waits for another party, and there is no progress.
    #[error("no progress for {} while {what}", humantime::format_duration(*.patience))]
    Stalled {
        /// The stalled operation.
        what: String,
        /// The timeout without progress.
        patience: Duration,
    },
    /// The object does not exist.
    #[error("not found: {0}")]
    NotFound(String),
    /// The name is already in use, or the state does not allow the call.
    #[error("{0}")]
    Conflict(String),
    /// The engine refused the call, with this message.
    #[error("{0}")]
    Refused(String),
}

impl EngineError {
    /// Returns whether the engine itself failed, not the request. One slow answer does not prove that; only a
    /// ping can.
    pub(crate) fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable(_))
    }

    /// Returns whether the engine took too long for this request.
    pub(crate) fn is_slow(&self) -> bool {
        matches!(self, Self::Deadline { .. })
    }

    /// Returns whether the state of the requested object remains unknown.
    pub(crate) fn is_no_answer(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Deadline { .. } | Self::Unreadable(_))
    }

    /// Returns who caused the failure to create or start a container.
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

    /// Returns whether the object does not exist.
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
            BollardError::JsonDataError { message, .. } => {
                Self::Unreadable(format!("it has an unexpected form near `{message}`"))
            }
            BollardError::JsonSerdeError { err } => Self::Unreadable(reading::words(&err)),
            other => Self::Unreachable(silence::reason(&other)),
        }
    }
}

fn first_line(text: &str) -> String {
    text.lines().find(|line| !line.trim().is_empty()).unwrap_or("no reason given").trim().to_owned()
}

type Result<T> = std::result::Result<T, EngineError>;

/// A connection to one Docker Engine. It is negotiated on first use, and again after it was lost.
pub(crate) struct Engine {
    /// The engine's address, as in `DOCKER_HOST`. If `None`, the environment's value applies, otherwise the
    /// default.
    host: Option<String>,
    /// The address, as `host:port`, at which the engine finds every registry. If `None`, the names of the
    /// images contain it.
    registry: Option<String>,
    docker: RwLock<Option<Docker>>,
    /// How the engine's containers can be reached, once that is known.
    reach: RwLock<Option<ContainerReach>>,
    /// The engine's version, once somebody asked for it.
    version: RwLock<Option<String>>,
    budget: CallBudget,
    network_turn: tokio::sync::Mutex<()>,
    steps: step::Steps,
    /// Cleanups that still run after their future was dropped.
    cleanups: TaskTracker,
}

impl Engine {
    /// Returns a handle that connects on first use.
    pub(crate) fn new(host: Option<String>) -> Self {
        Self {
            host,
            registry: None,
            docker: RwLock::new(None),
            reach: RwLock::new(None),
            version: RwLock::new(None),
            budget: CallBudget::default(),
            network_turn: tokio::sync::Mutex::default(),
            steps: step::Steps::default(),
            cleanups: TaskTracker::new(),
        }
    }

    /// Sets the address at which the engine finds every registry.
    pub(crate) fn pulling_from(self, registry: Option<String>) -> Self {
        Self { registry, ..self }
    }

    /// Returns the name by which this engine finds a repository, if it differs.
    pub(crate) fn found_at(&self, repository: &ImageRepository) -> Option<String> {
        self.registry.as_ref().map(|registry| format!("{registry}/{}", repository.path()))
    }

    /// Returns the connection for one short call, once it is that call's turn. A call that makes other calls
    /// must not use it.
    async fn docker(&self) -> Result<BudgetedConnection> {
        let docker = self.connection().await?;
        Ok(BudgetedConnection { docker, _turn: self.budget.turn().await })
    }

    /// Returns the connection. Connects and negotiates first if there is none.
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
        // Long calls have their own deadlines; this one is the last resort.
        let docker = docker.with_timeout(Duration::from_secs(3600));
        // bollard's default version is newer than that of many engines, which then refuse every call.
        let docker = within("negotiate its version", QUICK, docker.negotiate_version()).await?;
        *slot = Some(docker.clone());
        Ok(docker)
    }

    /// Forgets the connection, so that the next call negotiates again, because the engine may have another
    /// version now.
    pub(crate) async fn reconnect(&self) {
        *self.docker.write().await = None;
        *self.reach.write().await = None;
        *self.version.write().await = None;
    }

    /// Returns the engine's version, such as `28.2.2`. Asks once for each connection.
    pub(crate) async fn version(&self) -> Result<String> {
        if let Some(version) = &*self.version.read().await {
            return Ok(version.clone());
        }
        let docker = self.docker().await?;
        let version =
            within("report its version", QUICK, docker.version()).await?.version.unwrap_or_default();
        *self.version.write().await = Some(version.clone());
        Ok(version)
    }

    /// Waits until the cleanups of cancelled work have ended.
    pub(crate) async fn settle(&self) {
        self.cleanups.close();
        self.cleanups.wait().await;
    }

    /// Returns an error unless the engine answers.
    pub(crate) async fn ping(&self) -> Result<()> {
        // A ping does not wait for a turn, because its result must not depend on the load.
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
