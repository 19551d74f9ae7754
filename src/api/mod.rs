//! The HTTP API and the webhooks. This module holds the handles that update the record, and has no
//! access to Docker.
//!
//! [`router`] returns all routes, each behind a rule ([`access`]) for who may use it. Data that
//! only the controller has comes through [`ControllerApi`]; without a daemon, the same routes work on
//! the record itself.

pub mod access;
pub mod agent;
mod body;
mod environments;
mod error;
mod find;
mod gates;
pub mod inbox;
mod logs;
mod meta;
mod metrics;
mod outbox;
pub mod page;
mod routes;
pub mod serve;
mod tail;
mod tokens;
mod transfer;
mod verbs;
mod view;
mod wait;
mod watch;
pub mod webhook;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tokio::sync::watch::Receiver;

pub use routes::router;

use crate::model::credential::Pin;
use crate::model::logs::LogOptions;
use crate::model::look::PollStatus;
use crate::model::name::{ChannelName, CommitId, EnvironmentName};
use crate::model::spec::Manifest;
use crate::model::time::Timestamp;
use crate::model::view::{BuildProgress, PlanView};
use crate::record::{DesiredReader, DesiredWriter, Outbox, StatusReader, TokenReader, TokenWriter, Wakeups};

/// The shared state of the API. Cheap to clone.
#[derive(Clone)]
pub struct ApiState {
    /// The manifest in use, and the problem of a newer edit.
    pub manifest: Receiver<Arc<ManifestState>>,
    /// Updates the record.
    pub writer: DesiredWriter,
    /// Reads the desired state.
    pub desired: DesiredReader,
    /// Reads the actions and observations of the controller.
    pub status: StatusReader,
    /// Creates and revokes tokens.
    pub token_writer: TokenWriter,
    /// Reads tokens.
    pub tokens: TokenReader,
    /// Receives the reports of agents.
    pub desk: agent::AgentHub,
    /// The source of images for agents; `None` without a daemon.
    pub images: Option<Arc<dyn agent::Images>>,
    /// The server's key, if the server created its own; new tokens carry it as a pin.
    pub pin: Option<Pin>,
    /// The state of the web page.
    pub pages: Arc<page::Pages>,
    /// Wakeups for the event stream.
    pub bells: Wakeups,
    /// The folder of build logs, `<number>.log`.
    pub logs_dir: PathBuf,
    /// The controller; `None` without a daemon.
    pub controller: Option<Arc<dyn ControllerApi>>,
    /// The items for forges and channels.
    pub outbox: Outbox,
    /// Sends test messages to channels; `None` without a daemon.
    pub notifier: Option<Arc<dyn Notifier>>,
    /// More lines for `/metrics` in the Prometheus text format, such as the counters of webhooks.
    pub more_metrics: Option<Arc<dyn Fn() -> String + Send + Sync>>,
    /// Reads the manifest again if it was edited; `None` without a daemon.
    pub read_manifest: Option<ReadManifest>,
    /// The clock.
    pub clock: fn() -> Timestamp,
}

/// Resolves once every edit of the manifest made before the call is applied or rejected.
pub type ReadManifest = Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

/// The manifest in use.
#[derive(Clone, Debug, PartialEq)]
pub struct ManifestState {
    /// The last valid manifest.
    pub manifest: Manifest,
    /// Why a newer edit was rejected, as a sentence.
    pub problem: Option<String>,
}

/// Questions that only the controller can answer.
pub trait ControllerApi: Send + Sync {
    /// Returns the current plan of an environment without executing it.
    fn preview(&self, environment: EnvironmentName) -> BoxFuture<'static, Result<PlanView, ControllerError>>;

    /// Returns the output of an environment's container.
    fn logs(
        &self,
        environment: EnvironmentName,
        options: LogOptions,
    ) -> BoxFuture<'static, Result<LogStream, ControllerError>>;

    /// Returns whether the controller works.
    fn alive(&self) -> Liveness;

    /// Returns the global warnings, as sentences.
    fn warnings(&self) -> Vec<String>;

    /// Returns the known head of the branch or tag that an environment tracks.
    fn look(&self, environment: &EnvironmentName) -> PollStatus {
        let _ = environment;
        PollStatus { is_observed: true, ..PollStatus::default() }
    }

    /// Queries git or the registry immediately for the head that an environment tracks.
    fn ask_source(&self, environment: &EnvironmentName) {
        let _ = environment;
    }

    /// Returns whether `ancestor` is `commit` or one of its ancestors, in the repository that the
    /// images of an environment are built from. Returns an error if that cannot be determined now.
    fn contains(
        &self,
        environment: EnvironmentName,
        commit: CommitId,
        ancestor: CommitId,
    ) -> BoxFuture<'static, Result<bool, ControllerError>> {
        let _ = environment;
        Box::pin(std::future::ready(Ok(commit == ancestor)))
    }

    /// Reports whether any branch of an environment's repository leads to `commit`; an error if git cannot
    /// answer now.
    fn has_commit(
        &self,
        environment: EnvironmentName,
        commit: CommitId,
    ) -> BoxFuture<'static, Result<bool, ControllerError>> {
        let _ = (environment, commit);
        Box::pin(std::future::ready(Ok(true)))
    }

    /// Returns the names of the containers of an environment that exist on this host.
    fn containers(&self, environment: &EnvironmentName) -> Vec<String> {
        let _ = environment;
        Vec::new()
    }

    /// Returns the build that runs for an environment now.
    fn building(&self, environment: &EnvironmentName) -> Option<BuildProgress> {
        let _ = environment;
        None
    }
}

/// Sends test messages.
pub trait Notifier: Send + Sync {
    /// Sends a test message to a channel, or with `print` only returns it as text without secrets.
    fn test(&self, channel: ChannelName, print: bool) -> BoxFuture<'static, Result<String, ControllerError>>;
}

/// A stream of output.
pub type LogStream = BoxStream<'static, std::io::Result<Bytes>>;

/// Why the controller has no answer, as a sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ControllerError(pub String);

/// Whether the controller works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Liveness {
    /// Whether the Docker Engine answers.
    pub engine: bool,
    /// When everything was last checked; `None` before the first check.
    pub observed: Option<Timestamp>,
    /// The interval of full checks.
    pub resync: Duration,
}
