//! The door: webhooks and the HTTP API. Holds the handles that move the record, and nothing of Docker.
//!
//! [`router`] is all of it, each route behind a rule ([`access`]) that says who may use it. What only
//! the loop can tell comes through [`Controller`]; without one, as where no daemon runs, the same
//! routes work on the record itself.

pub mod access;
pub mod agent;
mod body;
mod environments;
mod error;
mod find;
pub mod inbox;
mod logs;
mod meta;
mod metrics;
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
use crate::model::look::Look;
use crate::model::name::{CommitId, EnvironmentName};
use crate::model::spec::Manifest;
use crate::model::time::Timestamp;
use crate::model::view::{BuildProgress, PlanView};
use crate::record::{Bells, DesiredReader, DesiredWriter, StatusReader, TokenReader, TokenWriter};

/// Everything that the API works with. Cheap to clone.
#[derive(Clone)]
pub struct ApiState {
    /// The manifest as it is taken, and what is wrong with a newer edit of it.
    pub manifest: Receiver<Arc<ManifestState>>,
    /// Moves the record.
    pub writer: DesiredWriter,
    /// Reads what should run.
    pub desired: DesiredReader,
    /// Reads what the loop did and saw.
    pub status: StatusReader,
    /// Makes and revokes tokens.
    pub token_writer: TokenWriter,
    /// Reads what is known of them.
    pub tokens: TokenReader,
    /// Where agents report.
    pub desk: agent::Desk,
    /// Where agents pull from; `None` where no daemon runs.
    pub images: Option<Arc<dyn agent::Images>>,
    /// By what key the server is known, where it made its own: new tokens carry it.
    pub pin: Option<Pin>,
    /// Rings for what the event stream tells.
    pub bells: Bells,
    /// The folder of build logs, `<number>.log`.
    pub logs_dir: PathBuf,
    /// The loop; `None` where no daemon runs.
    pub controller: Option<Arc<dyn Controller>>,
    /// More lines for `/metrics`, such as the webhooks' counters, in Prometheus' text format.
    pub more_metrics: Option<Arc<dyn Fn() -> String + Send + Sync>>,
    /// Has the manifest read again if it was edited; `None` where no daemon runs.
    pub read_manifest: Option<ReadManifest>,
    /// What time it is.
    pub clock: fn() -> Timestamp,
}

/// Ends once an edit of the manifest from before the call is taken in.
pub type ReadManifest = Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

/// The manifest as it is taken.
#[derive(Clone, Debug, PartialEq)]
pub struct ManifestState {
    /// What is declared.
    pub manifest: Manifest,
    /// Why a newer edit is not taken, in a sentence.
    pub problem: Option<String>,
}

/// What only the loop can tell.
pub trait Controller: Send + Sync {
    /// The plan of an environment as it would be now. Nothing is done.
    fn preview(&self, environment: EnvironmentName) -> BoxFuture<'static, Result<PlanView, ControllerError>>;

    /// The output of an environment's container.
    fn logs(
        &self,
        environment: EnvironmentName,
        options: LogOptions,
    ) -> BoxFuture<'static, Result<LogStream, ControllerError>>;

    /// Whether it works.
    fn alive(&self) -> Liveness;

    /// What is wrong with the whole, in sentences.
    fn warnings(&self) -> Vec<String>;

    /// What is known of the branch or tag that an environment follows.
    fn look(&self, environment: &EnvironmentName) -> Look {
        let _ = environment;
        Look { is_observed: true, ..Look::default() }
    }

    /// Has git or the registry asked at once for what an environment follows.
    fn ask_source(&self, environment: &EnvironmentName) {
        let _ = environment;
    }

    /// Whether `ancestor` is `commit` or one of those that led to it, in the repository that the images
    /// of an environment are built from; an error if that cannot be told now.
    fn contains(
        &self,
        environment: EnvironmentName,
        commit: CommitId,
        ancestor: CommitId,
    ) -> BoxFuture<'static, Result<bool, ControllerError>> {
        let _ = environment;
        Box::pin(std::future::ready(Ok(commit == ancestor)))
    }

    /// Whether a branch of the repository that an environment is built from leads to `commit`; an error if
    /// git cannot tell now.
    fn has_commit(
        &self,
        environment: EnvironmentName,
        commit: CommitId,
    ) -> BoxFuture<'static, Result<bool, ControllerError>> {
        let _ = (environment, commit);
        Box::pin(std::future::ready(Ok(true)))
    }

    /// Names of the containers of an environment that exist on this host.
    fn containers(&self, environment: &EnvironmentName) -> Vec<String> {
        let _ = environment;
        Vec::new()
    }

    /// The build that runs for an environment now.
    fn building(&self, environment: &EnvironmentName) -> Option<BuildProgress> {
        let _ = environment;
        None
    }
}

/// Output as it comes.
pub type LogStream = BoxStream<'static, std::io::Result<Bytes>>;

/// Why the loop could not tell; a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ControllerError(pub String);

/// Whether the loop works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Liveness {
    /// Whether the Docker Engine answers.
    pub engine: bool,
    /// When everything was last observed; `None`: not yet.
    pub observed: Option<Timestamp>,
    /// How often everything is observed.
    pub resync: Duration,
}
