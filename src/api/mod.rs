//! The HTTP API and the webhooks. This module holds the handles that update the record, and has no
//! access to Docker.
//!
//! `router` returns all routes, each behind a rule (`access`) for who may use it. Data that
//! only the controller has comes through [`ControllerApi`]; without a daemon, the same routes work on
//! the record itself.

pub(crate) mod access;
pub(crate) mod agent;
mod attach;
mod body;
mod environments;
mod error;
mod find;
mod gates;
pub mod inbox;
pub(crate) mod incidents;
mod jobs;
mod logs;
mod meta;
mod metrics;
mod outbox;
pub(crate) mod page;
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

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tokio::sync::mpsc;
use tokio::sync::watch::Receiver;

pub(crate) use routes::router;

use crate::metrics::Metrics;
use crate::model::attach::{AttachInput, AttachOutput, AttachRequest};
use crate::model::credential::Pin;
use crate::model::followed::UnreadBranch;
use crate::model::logs::LogOptions;
use crate::model::name::{ChannelName, CommitId, EnvironmentName};
use crate::model::poll::PollStatus;
use crate::model::spec::Manifest;
use crate::model::time::Timestamp;
use crate::model::usage::ResourceUsage;
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
    pub hub: agent::AgentHub,
    /// The source of images for agents; `None` without a daemon.
    pub images: Option<Arc<dyn agent::Images>>,
    /// The server's key, if the server created its own; new tokens carry it as a pin.
    pub pin: Option<Pin>,
    /// The state of the web page.
    pub pages: Arc<page::Pages>,
    /// Wakeups for the event stream.
    pub wakeups: Wakeups,
    /// The folder of build logs, `<number>.log`.
    pub logs_dir: PathBuf,
    /// The controller; `None` without a daemon.
    pub controller: Option<Arc<dyn ControllerApi>>,
    /// The items for forges and channels.
    pub outbox: Outbox,
    /// Sends test messages to channels; `None` without a daemon.
    pub notifier: Option<Arc<dyn Notifier>>,
    /// The measurements of this process.
    pub metrics: Metrics,
    /// Reads the manifest again if it was edited; `None` without a daemon.
    pub read_manifest: Option<ReadManifest>,
    /// The clock, which never goes back.
    pub clock: fn() -> Timestamp,
    /// The host's clock, which can be set: for dates and times of day.
    pub wall_clock: fn() -> Timestamp,
}

/// Resolves once every edit of the manifest made before the call is applied or rejected.
pub type ReadManifest = Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

/// The manifest in use.
#[derive(Debug)]
pub struct ManifestState {
    /// The last valid manifest.
    pub manifest: Manifest,
    /// Why a newer edit was rejected, as a sentence.
    pub problem: Option<String>,
    /// When the manifest was read; `None`: not known.
    pub read_at: Option<Timestamp>,
    /// The commit of the manifest, if it comes from a branch.
    pub in_force: Option<CommitId>,
    /// Why that branch cannot be read now.
    pub unread: Option<UnreadBranch>,
    /// The marks of all declarations. They are computed once, because a page may ask for hundreds.
    marks: OnceLock<BTreeMap<EnvironmentName, String>>,
}

impl ManifestState {
    /// A valid manifest, and the problem of a newer edit.
    pub fn new(manifest: Manifest, problem: Option<String>) -> Self {
        Self { manifest, problem, read_at: None, in_force: None, unread: None, marks: OnceLock::new() }
    }

    /// The same for a manifest that was read at this time.
    #[must_use]
    pub fn of(self, read_at: Option<Timestamp>) -> Self {
        Self { read_at, ..self }
    }

    /// The same for the manifest of a commit on a branch, and why that branch cannot be read now.
    #[must_use]
    pub fn on_branch(self, in_force: Option<CommitId>, unread: Option<UnreadBranch>) -> Self {
        Self { in_force, unread, ..self }
    }

    /// The warnings about a rejected edit and an unreadable branch: what is wrong, and which manifest is in use.
    fn warnings(&self) -> Vec<String> {
        let kept = match (&self.in_force, self.read_at) {
            (Some(commit), _) => format!("commit {}", commit.short()),
            (None, Some(at)) => format!("the one of {at}"),
            (None, None) => "the last valid one".to_owned(),
        };
        let of_edit = self.problem.iter();
        let of_edit = of_edit
            .map(|problem| format!("the edited manifest is not applied, and {kept} stays in use: {problem}"));
        of_edit.chain(self.unread_sentence()).collect()
    }

    /// The sentence about a branch that cannot be read.
    fn unread_sentence(&self) -> Option<String> {
        self.unread.as_ref().map(|unread| unread.sentence(self.in_force.as_ref()))
    }

    /// The mark of the declaration of an environment, as [`Manifest::mark`] returns it.
    fn mark(&self, environment: &EnvironmentName) -> Option<String> {
        let mark = |name: &EnvironmentName| Some((name.clone(), self.manifest.mark(name)?));
        let marks = self.marks.get_or_init(|| self.manifest.environments.keys().filter_map(mark).collect());
        marks.get(environment).cloned()
    }
}

impl Clone for ManifestState {
    /// Copies everything but the marks, because a copy is made to be changed.
    fn clone(&self) -> Self {
        let copy = Self::new(self.manifest.clone(), self.problem.clone()).of(self.read_at);
        copy.on_branch(self.in_force.clone(), self.unread.clone())
    }
}

/// Questions that only the controller can answer.
pub trait ControllerApi: Send + Sync {
    /// Returns the current plan of an environment without executing it.
    fn preview(&self, environment: EnvironmentName) -> BoxFuture<'static, Result<PlanView, ControllerError>>;

    /// Returns the resource usage of an environment's serving container; `None` if nothing runs.
    fn usage(
        &self,
        environment: EnvironmentName,
    ) -> BoxFuture<'static, Result<Option<ResourceUsage>, ControllerError>> {
        let _ = environment;
        Box::pin(std::future::ready(Ok(None)))
    }

    /// Returns the output of an environment's container.
    fn logs(
        &self,
        environment: EnvironmentName,
        options: LogOptions,
    ) -> BoxFuture<'static, Result<LogStream, ControllerError>>;

    /// Starts a command in a container of an environment, for the person `by`.
    fn attach(
        &self,
        environment: EnvironmentName,
        request: AttachRequest,
        by: String,
    ) -> BoxFuture<'static, Result<AttachChannels, ControllerError>> {
        let _ = (request, by);
        let why = format!("no command can be run in {environment}");
        Box::pin(std::future::ready(Err(ControllerError(why))))
    }

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

    /// Returns whether the proxy of this host answers for an environment, for maintenance; `None` if that is not known.
    fn in_maintenance(&self, environment: &EnvironmentName) -> Option<bool> {
        let _ = environment;
        None
    }

    /// Returns the version of the Docker Engine; `None` if it does not answer soon.
    fn engine_version(&self) -> BoxFuture<'static, Option<String>> {
        Box::pin(std::future::ready(None))
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

/// The two directions of a command that a person runs.
pub struct AttachChannels {
    /// Messages to the command. The session ends once this is dropped.
    pub input: mpsc::Sender<AttachInput>,
    /// Messages of the command; the last one has its result.
    pub output: mpsc::Receiver<AttachOutput>,
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
