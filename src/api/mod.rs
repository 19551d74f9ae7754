//! The door: webhooks and the HTTP API. Holds the handles that move the record, and nothing of Docker.
//!
//! [`router`] is for callers that may move the record; [`public_routes`] only say that the process
//! lives. What only the loop can tell comes through [`Controller`]; without one, as where no daemon
//! runs, the same routes work on the record itself.

mod body;
pub mod caller;
mod environments;
mod error;
mod find;
pub mod inbox;
mod logs;
mod meta;
mod metrics;
pub mod serve;
mod tail;
mod transfer;
mod verbs;
mod view;
mod watch;
pub mod webhook;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tokio::sync::watch::Receiver;

use crate::model::name::EnvironmentName;
use crate::model::spec::Manifest;
use crate::model::time::Timestamp;
use crate::model::view::PlanView;
use crate::record::{Bells, DesiredReader, DesiredWriter, StatusReader};

/// The longest body of a verb, in bytes.
const LONGEST_BODY: usize = 64 * 1024;
/// The longest export that is imported, in bytes.
const LONGEST_IMPORT: usize = 64 << 20;

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
    /// Rings for what the event stream tells.
    pub bells: Bells,
    /// The folder of build logs, `<number>.log`.
    pub logs_dir: PathBuf,
    /// The loop; `None` where no daemon runs.
    pub controller: Option<Arc<dyn Controller>>,
    /// More lines for `/metrics`, such as the webhooks' counters, in Prometheus' text format.
    pub more_metrics: Option<Arc<dyn Fn() -> String + Send + Sync>>,
    /// What time it is.
    pub clock: fn() -> Timestamp,
}

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

    /// The number of the build that runs for an environment now, where one does.
    fn building(&self, environment: &EnvironmentName) -> Option<u64> {
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

/// Which output of a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Whether to go on with what comes.
    pub follow: bool,
    /// Only the last lines; `None`: all.
    pub tail: Option<usize>,
    /// Only what is younger.
    pub since: Option<Timestamp>,
}

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

/// Who asks, for `by` in the record; set by the server that knows, as an extension of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller(pub String);

/// All routes, for callers that may move the record.
pub fn router(state: ApiState) -> Router {
    let one = Router::new()
        .route("/", get(environments::one))
        .route("/history", get(environments::history))
        .route("/events", get(environments::events))
        .route("/plan", get(environments::plan))
        .route("/logs", get(logs::logs))
        .route("/set", post(verbs::set))
        .route("/promote", post(verbs::promote))
        .route("/rollback", post(verbs::rollback))
        .route("/hold", post(verbs::hold))
        .route("/resume", post(verbs::resume))
        .route("/sync", post(verbs::sync));
    let api = Router::new()
        .route("/environments", get(environments::all))
        .nest("/environments/{environment}", one)
        .route("/events", get(environments::all_events))
        .route("/sync", post(verbs::sync_all))
        .route("/export", get(transfer::export))
        .route("/watch", get(watch::watch))
        .layer(DefaultBodyLimit::max(LONGEST_BODY))
        .route("/import", post(transfer::import).layer(DefaultBodyLimit::max(LONGEST_IMPORT)));
    Router::new()
        .route("/metrics", get(metrics::metrics))
        .nest("/api/v1", api)
        .with_state(state.clone())
        .merge(public_routes(state))
        .fallback(error::no_route)
        .method_not_allowed_fallback(error::no_method)
}

/// The routes that anyone may ask: whether the process lives, and whether it works.
pub fn public_routes(state: ApiState) -> Router {
    Router::new().route("/healthz", get(meta::healthz)).route("/readyz", get(meta::readyz)).with_state(state)
}
