//! The composition root of the controller process: opens the record, hands out its handles, starts
//! the controller and the listeners, and stops them in order.

mod channels;
mod files;
mod images;
mod manifest_follow;
mod manifest_watch;
mod network;
pub(crate) mod systemd;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::{Extension, Router};
use futures::StreamExt as _;
use futures::future::BoxFuture;
use tokio::net::UnixListener;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::api::access::Access;
use crate::api::access::gate::{Gate, authenticate};
use crate::api::access::socket::{self, name_caller};
use crate::api::agent::AgentHub;
use crate::api::inbox::RecordInbox;
use crate::api::page::{CommitHistory, Pages};
use crate::api::serve;
use crate::api::webhook::{self, WebhookLimits, WebhookState};
use crate::api::{self, ApiState, AttachChannels, ControllerError, Liveness, LogStream, ManifestState};
use crate::controller::{self, AttachedSession, Controller, ControllerInput, StateDirs};
use crate::feedback::{self, Feedback};
use crate::manifest_dir::{self, LoadError, Loaded};
use crate::metrics::Metrics;
use crate::model::attach::AttachRequest;
use crate::model::commits::{CommitLine, Comparison};
use crate::model::container::Secret;
use crate::model::listener::DaemonListener;
use crate::model::logs::LogOptions;
use crate::model::name::{CommitId, EnvironmentName};
use crate::model::poll::PollStatus;
use crate::model::time::Timestamp;
use crate::model::usage::ResourceUsage;
use crate::model::view::{BuildProgress, PlanView};
use crate::record::{self, Handles, StatusReader};
use crate::registry::RegistryClient;
use images::TunnelRegistries;
use manifest_follow::ManifestFollower;
use network::BoundListener;
pub use network::Encryption;
use systemd::StopSignals;

/// Options of a daemon.
#[derive(Clone, Debug)]
pub struct DaemonOptions {
    /// The folder of the manifest, the record and the socket.
    pub desired_state: PathBuf,
    /// The address of webhooks and the API.
    pub listen: SocketAddr,
    /// Whether this address uses TLS.
    pub encryption: Encryption,
    /// The interval of full checks without an event.
    pub resync: Duration,
}

/// The record's folder in a desired-state folder.
pub fn record_dir(desired_state: &Path) -> PathBuf {
    desired_state.join("record")
}

/// The socket for local users in a desired-state folder.
pub fn socket_path(desired_state: &Path) -> PathBuf {
    desired_state.join("abide.sock")
}

/// Reads the manifest of a folder. Each line of the error is one problem.
///
/// # Errors
/// The folder is unreadable, or the manifest is invalid.
pub fn load_manifest(desired_state: &Path) -> anyhow::Result<Loaded> {
    manifest_dir::load(desired_state).map_err(listed)
}

/// Lists every problem on its own line.
fn listed(error: LoadError) -> anyhow::Error {
    match error {
        LoadError::Invalid(problems) => anyhow::anyhow!("invalid manifest:\n{problems}"),
        other => anyhow::Error::new(other),
    }
}

/// Runs the controller until SIGTERM or Ctrl-C; a second signal stops it immediately.
///
/// # Errors
/// It cannot be started; the error is a sentence for users.
pub async fn run(options: DaemonOptions) -> anyhow::Result<()> {
    // First, so that a signal during the start still stops the daemon in order.
    let mut signals = StopSignals::listen().context("cannot listen for signals")?;
    let dir = record_dir(&options.desired_state);
    let started = signals.start_with_space(&dir, || Daemon::start(options.clone())).await?;
    let Some(daemon) = started else { return Ok(()) };
    signals.run_until_stopped(daemon.handles.desired.clone(), daemon.stop()).await
}

/// A running controller.
pub struct Daemon {
    /// The record's handles, for programs that embed a daemon.
    pub handles: Handles,
    /// The controller.
    pub controller: Controller,
    /// The address of webhooks and the API.
    pub address: SocketAddr,
    socket: PathBuf,
    stop: CancellationToken,
    listeners: Vec<JoinHandle<()>>,
    running: controller::ShutdownHandle,
    feedback: Feedback,
    hub: AgentHub,
    pages: Arc<Pages>,
}

impl Daemon {
    /// Opens, binds and starts everything. Every check that can refuse the start runs before that.
    ///
    /// # Errors
    /// An invalid manifest, a record that another daemon holds, an address in use.
    pub async fn start(options: DaemonOptions) -> anyhow::Result<Self> {
        let folder = options.desired_state;
        let mut follower = ManifestFollower::open(&folder)?;
        if let Some(follower) = &mut follower {
            follower.begin().await?;
        }
        let loaded = load_manifest(&folder)?;
        let handles = open_record(&folder)?;
        let network = BoundListener::open(options.listen, &options.encryption, &folder).await?;
        let socket = socket_path(&folder);
        let unix = serve::bind_unix(&socket)?;
        let (address, scheme) = (network.address()?, network.scheme());
        let listener = DaemonListener { address, is_tls: scheme == "https" };

        let stop = CancellationToken::new();
        let watched = manifest_watch::start(&folder, loaded, &stop);
        let manifest_pushed = Arc::new(Notify::new());
        if let Some(follower) = follower {
            tokio::spawn(follower.run(Arc::clone(&manifest_pushed), stop.clone()));
        }
        let mut dirs = state_dirs(&folder);
        dirs.hidden.extend(options.encryption.key_file());
        remove_remains(&dirs.work);
        let metrics = Metrics::default();
        // Before the loop, so that each of its reports is known to the outbox.
        let feedback = feedback::spawn(feedback::FeedbackInput {
            outbox: handles.outbox.clone(),
            manifest: watched.manifest.clone(),
            clock,
            metrics: metrics.clone(),
        })
        .await;
        let (controller, running) = controller::spawn(ControllerInput {
            authority: controller::Grant::given(),
            record: handles.id.clone(),
            desired: handles.desired.clone(),
            resolver: handles.resolver.clone(),
            status: handles.status.clone(),
            writer: handles.status_writer.clone(),
            wakeups: handles.wakeups.clone(),
            manifest: watched.manifest,
            dirs: dirs.clone(),
            engine: None,
            registry: None,
            resync: options.resync,
            mount_policy: controller::MountPolicy::default(),
            metrics: metrics.clone(),
            checks: Some(read_checks()),
            listener: Some(listener),
        });
        let notices = handles.notices.clone();
        let seen = Arc::new(Loop { controller: controller.clone(), notices, status: handles.status.clone() });
        let mut state = api_state(&handles, watched.states, dirs.logs, Some(seen));
        state.metrics = metrics;
        state.read_manifest = Some(watched.read);
        let hub = state.hub.clone();
        tokio::spawn(hub.clone().dispatch(handles.wakeups.clone()));
        let agents = hub.clone();
        controller.watch_promotions(move |agent| agents.presence(agent).connected);
        state.pin = network.pin();
        let history = Arc::new(MirrorHistory { controller: controller.clone() });
        let pages = Arc::new(Pages::new(listener, history));
        state.pages = Arc::clone(&pages);
        state.notifier = Some(Arc::new(channels::Channels { manifest: state.manifest.clone() }));
        let hooks = webhooks(&state, &controller, manifest_pushed);
        tokio::spawn(api::incidents::watch(state.clone(), stop.clone()));
        let listeners = listen(network, listener, unix, state, hooks, &stop)?;
        let version = env!("CARGO_PKG_VERSION");
        info!(version, %address, scheme, socket = %socket.display(), record = %handles.id, "abide started");
        Ok(Self { handles, controller, address, socket, stop, listeners, running, feedback, hub, pages })
    }

    /// Returns a link that signs its first opener in to the web page as `user`, with all permissions. It works once,
    /// within `lifetime`.
    pub fn login_link(&self, user: &str, lifetime: Duration) -> Option<Secret> {
        self.pages.link(None, user, lifetime).map(|(link, _)| link)
    }

    /// Stops listeners and controller, and cancels builds and pulls; touches no container.
    ///
    /// # Errors
    /// The record cannot be closed.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.hub.close();
        for listener in self.listeners {
            // A panic has already been logged.
            let _ = listener.await;
        }
        self.running.stop().await;
        self.feedback.stop().await;
        let _ = std::fs::remove_file(&self.socket);
        self.handles.close().await?;
        info!("stopped");
        Ok(())
    }
}

/// Returns the API on the record of a folder, for commands that need no daemon.
///
/// # Errors
/// As [`Daemon::start`].
pub fn offline_router(desired_state: &Path) -> anyhow::Result<Router> {
    offline(desired_state, open_record)
}

/// Returns the same on a copy of the record, for commands that only read.
///
/// # Errors
/// As [`Daemon::start`].
pub fn offline_reading_router(desired_state: &Path) -> anyhow::Result<Router> {
    offline(desired_state, |desired_state| {
        let dir = record_dir(desired_state);
        record::open_to_read(&dir).with_context(|| format!("cannot open the record in {}", dir.display()))
    })
}

fn offline(
    desired_state: &Path,
    open: impl FnOnce(&Path) -> anyhow::Result<Handles>,
) -> anyhow::Result<Router> {
    let manifest = manifest_dir::load_text(desired_state).map_err(listed)?;
    let handles = open(desired_state)?;
    let state = Arc::new(ManifestState::new(manifest, None));
    let (_, states) = watch::channel(state);
    let mut state = api_state(&handles, states, state_dirs(desired_state).logs, None);
    state.pin = network::pin(desired_state);
    // A user who may open the record may do everything with it anyway.
    Ok(api::router(state).layer(Extension(Access::local(socket::own_name()))))
}

fn open_record(desired_state: &Path) -> anyhow::Result<Handles> {
    let dir = record_dir(desired_state);
    let handles =
        record::open(&dir).with_context(|| format!("cannot open the record in {}", dir.display()))?;
    for notice in &handles.notices {
        warn!(notice, "repaired the record");
    }
    Ok(handles)
}

fn state_dirs(desired_state: &Path) -> StateDirs {
    let folder = std::path::absolute(desired_state).unwrap_or_else(|_| desired_state.to_owned());
    let mut dirs = StateDirs::of(&record_dir(&folder));
    dirs.hidden.extend([network::tls_dir(&folder), socket_path(&folder)]);
    dirs
}

/// Removes the leftovers of a killed daemon's builds. The record is locked by now, so no process
/// uses them.
fn remove_remains(work: &Path) {
    if let Err(error) = std::fs::remove_dir_all(work)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        warn!(dir = %work.display(), %error, "failed to remove the remains of earlier builds");
    }
}

/// The controller's clock, because requests of users are compared with its actions.
fn clock() -> Timestamp {
    controller::now()
}

fn images(manifest: &watch::Receiver<Arc<ManifestState>>) -> Arc<dyn api::agent::Images> {
    Arc::new(TunnelRegistries { client: RegistryClient::default(), manifest: manifest.clone() })
}

fn api_state(
    handles: &Handles,
    manifest: watch::Receiver<Arc<ManifestState>>,
    logs_dir: PathBuf,
    controller: Option<Arc<dyn api::ControllerApi>>,
) -> ApiState {
    ApiState {
        hub: AgentHub::new(handles.reports.clone(), manifest.clone(), clock),
        images: controller.is_some().then(|| images(&manifest)),
        manifest,
        writer: handles.writer.clone(),
        desired: handles.desired.clone(),
        status: handles.status.clone(),
        token_writer: handles.token_writer.clone(),
        tokens: handles.tokens.clone(),
        pages: Arc::default(),
        wakeups: handles.wakeups.clone(),
        pin: None,
        logs_dir,
        controller,
        outbox: handles.outbox.clone(),
        notifier: None,
        metrics: Metrics::default(),
        read_manifest: None,
        clock,
        wall_clock: controller::wall,
    }
}

/// Returns how the controller learns the checks of commits.
fn read_checks() -> controller::ReadChecks {
    let reader = feedback::CheckReader::new(clock);
    Arc::new(move |query| {
        let reader = reader.clone();
        Box::pin(async move { reader.read(&query).await })
    })
}

/// Returns the routes of all webhooks.
fn webhooks(state: &ApiState, controller: &Controller, manifest_pushed: Arc<Notify>) -> Router {
    let controller = controller.clone();
    let inbox = RecordInbox {
        manifest: state.manifest.clone(),
        writer: state.writer.clone(),
        manifest_pushed,
        ask_checks: Arc::new(move |environment| controller.ask_checks(environment)),
    };
    let of_registries = webhook::registry::routes(inbox.clone(), clock, WebhookLimits::default());
    let hooks = WebhookState::new(inbox, clock, WebhookLimits::default()).measured_by(state.metrics.clone());
    webhook::routes(hooks).merge(of_registries)
}

/// Serves everything: on the socket for local users, and on the network for tokens. Webhooks are
/// outside of that access control, because they authenticate themselves.
fn listen(
    network: BoundListener,
    listener: DaemonListener,
    unix: UnixListener,
    state: ApiState,
    hooks: Router,
    stop: &CancellationToken,
) -> anyhow::Result<Vec<JoinHandle<()>>> {
    let gate = Gate::new(&state);
    let routes = api::router(state);
    let public = routes.clone().layer(from_fn_with_state(gate, authenticate)).layer(Extension(listener));
    let public = public.merge(hooks.clone());
    let local = routes.layer(from_fn(name_caller)).merge(hooks);
    let limits = files::allow_connections();
    let unix = tokio::spawn(serve::serve_unix(unix, local, limits, stop.clone()));
    Ok(vec![network.serve(public, limits, stop)?, unix])
}

/// The history of repositories as the web page sees it.
struct MirrorHistory {
    controller: Controller,
}

impl CommitHistory for MirrorHistory {
    fn lines(
        &self,
        environment: EnvironmentName,
        commits: Vec<CommitId>,
    ) -> BoxFuture<'static, Result<Vec<CommitLine>, ControllerError>> {
        let controller = self.controller.clone();
        Box::pin(
            async move { controller.commit_lines(&environment, &commits).await.map_err(ControllerError) },
        )
    }

    fn compare(
        &self,
        environment: EnvironmentName,
        old: CommitId,
        new: CommitId,
    ) -> BoxFuture<'static, Result<Comparison, ControllerError>> {
        let controller = self.controller.clone();
        Box::pin(async move { controller.compare(&environment, &old, &new).await.map_err(ControllerError) })
    }
}

/// The controller as the API sees it.
struct Loop {
    controller: Controller,
    /// The repairs made when the record was opened.
    notices: Vec<String>,
    status: StatusReader,
}

impl api::ControllerApi for Loop {
    fn containers(&self, environment: &EnvironmentName) -> Vec<String> {
        self.controller.containers(environment)
    }

    fn in_maintenance(&self, environment: &EnvironmentName) -> Option<bool> {
        Some(self.controller.in_maintenance(environment))
    }

    fn preview(&self, environment: EnvironmentName) -> BoxFuture<'static, Result<PlanView, ControllerError>> {
        let controller = self.controller.clone();
        Box::pin(async move {
            let plan = controller.preview(&environment).await.map_err(ControllerError)?;
            plan.ok_or_else(|| ControllerError(format!("{environment} is not in the manifest")))
        })
    }

    fn usage(
        &self,
        environment: EnvironmentName,
    ) -> BoxFuture<'static, Result<Option<ResourceUsage>, ControllerError>> {
        let controller = self.controller.clone();
        Box::pin(async move { controller.usage(&environment).await.map_err(ControllerError) })
    }

    fn logs(
        &self,
        environment: EnvironmentName,
        options: LogOptions,
    ) -> BoxFuture<'static, Result<LogStream, ControllerError>> {
        let controller = self.controller.clone();
        Box::pin(async move {
            let output = controller.output(&environment, options).await;
            Ok(output.map_err(ControllerError)?.boxed())
        })
    }

    fn attach(
        &self,
        environment: EnvironmentName,
        request: AttachRequest,
        by: String,
    ) -> BoxFuture<'static, Result<AttachChannels, ControllerError>> {
        let controller = self.controller.clone();
        Box::pin(async move {
            let started = controller.attach(&environment, request, &by).await;
            let AttachedSession { input, output } = started.map_err(ControllerError)?;
            Ok(AttachChannels { input, output })
        })
    }

    fn alive(&self) -> Liveness {
        let observed = self.controller.last_resync();
        Liveness { engine: observed.is_some(), observed, resync: self.controller.resync() }
    }

    fn look(&self, environment: &EnvironmentName) -> PollStatus {
        self.controller.look(environment)
    }

    fn ask_source(&self, environment: &EnvironmentName) {
        self.controller.ask_source(environment);
    }

    fn contains(
        &self,
        environment: EnvironmentName,
        commit: CommitId,
        ancestor: CommitId,
    ) -> BoxFuture<'static, Result<bool, ControllerError>> {
        let controller = self.controller.clone();
        Box::pin(async move {
            controller.contains(&environment, &commit, &ancestor).await.map_err(ControllerError)
        })
    }

    fn has_commit(
        &self,
        environment: EnvironmentName,
        commit: CommitId,
    ) -> BoxFuture<'static, Result<bool, ControllerError>> {
        let controller = self.controller.clone();
        Box::pin(async move { controller.has_commit(&environment, &commit).await.map_err(ControllerError) })
    }

    fn engine_version(&self) -> BoxFuture<'static, Option<String>> {
        let controller = self.controller.clone();
        Box::pin(async move { controller.engine_version().await })
    }

    fn building(&self, environment: &EnvironmentName) -> Option<BuildProgress> {
        self.controller.building(environment)
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = self.notices.clone();
        warnings.extend(self.status.full_disk().map(|dir| {
            format!(
                "the disk of the record ({}) is full: abide keeps everything running as recorded, but records \
                 nothing new and rejects pushes and changes until there is space",
                dir.display()
            )
        }));
        warnings.extend(self.controller.warnings());
        warnings
    }
}
