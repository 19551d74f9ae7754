//! The controller: wakeups, reconciles, steps.
//!
//! [`spawn`] starts a reconcile loop for each environment, a poller for each repository, and the watch over
//! the engine. No code outside this module reaches Docker. [`Controller`] has the requests that others may
//! make; none of them changes anything.

pub(crate) mod adoption;
mod backup;
mod cache;
pub(crate) mod cleanup;
mod clock;
mod docker;
mod environment;
mod front;
mod guard;
mod host_file;
mod jobs;
mod managed;
mod polling;
mod promoter;
mod prune;
mod supervise;
mod wake;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, watch as channel};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::acme::Acme;
use crate::controller::environment::stopwatch::Stopwatch;
use crate::metrics::Metrics;
use crate::model::commits::{CommitLine, Comparison};
use crate::model::error::chain;
use crate::model::link::Leftovers;
use crate::model::listener::DaemonListener;
use crate::model::name::{AgentName, BranchName, CommitId, EnvironmentName};
use crate::model::poll::PollStatus;
use crate::model::spec::Manifest;
use crate::model::time::Timestamp;
use crate::model::view::{BuildProgress, PlanView};
use crate::record::{DesiredReader, Resolver, StatusReader, StatusWriter, Wakeups};
use crate::source::SourceError;
use cache::containers::ContainerCache;
use cache::watch::EngineState;
use docker::Engine;
pub(crate) use docker::{EngineFacts, RunningContainers};
pub(crate) use environment::attach::AttachedSession;
use environment::attach::SESSIONS;
use environment::group_turns::GroupTurns;
use environment::jobs::JobRequests;
use environment::last_output::SecretFileCache;
use environment::previous::PreviousOutput;
use environment::probe::Prober;
use environment::reconciler::Reconciler;
use environment::turns::Turns;
use front::FrontHandle;
use guard::Guard;
use jobs::Jobs;
use jobs::builder::{BuildAttempts, Builder, Overlays};
use jobs::push::Pusher;
use jobs::registries::Registries;
use polling::PollErrors;
use polling::poll_state::PollState;
use prune::ImagePruner;
use wake::WakeQueue;

pub(crate) use clock::{now, wall};
pub(crate) use environment::authority::{Authority, Grant};
pub(crate) use environment::mount_policy::MountPolicy;
pub(crate) use jobs::builder::StateDirs;
pub(crate) use polling::checks::ReadChecks;

/// How often every environment is reconciled even without a wakeup.
pub const RESYNC: Duration = Duration::from_secs(30);

/// The timeout for checking the guard as the loop ends.
const LAST_CHECK: Duration = Duration::from_secs(5);
/// How long the engine may take to report its version, which is only shown.
const PATIENCE_WITH_VERSION: Duration = Duration::from_secs(2);
/// How long a query about two commits may wait for a mirror that is being fetched.
const PATIENCE_WITH_MIRRORS: Duration = Duration::from_secs(10);

/// The input of the reconcile loop. It has no handle that could update the record as users do.
pub struct ControllerInput {
    /// The ID of the record, which identifies managed containers.
    pub record: String,
    /// Reads the desired state.
    pub desired: DesiredReader,
    /// Adds heads and images to the desired state.
    pub resolver: Resolver,
    /// Reads the stored statuses.
    pub status: StatusReader,
    /// Writes statuses.
    pub writer: StatusWriter,
    /// Notifies about record changes.
    pub wakeups: Wakeups,
    /// The current manifest.
    pub manifest: channel::Receiver<Arc<Manifest>>,
    /// The folders for builds.
    pub dirs: StateDirs,
    /// The address of the engine, as in `DOCKER_HOST`; `None`: from the environment.
    pub engine: Option<String>,
    /// The address of every registry for this host's engine, as `host:port`: an agent's tunnel. `None`: the
    /// registry in the image name.
    pub registry: Option<String>,
    /// How often every environment is reconciled even without a wakeup; [`RESYNC`] except in tests.
    pub resync: Duration,
    /// Judges the paths of this host that are to be mounted.
    pub mount_policy: MountPolicy,
    /// Measures reconciles, deployments, repairs, builds and pulls.
    pub metrics: Metrics,
    /// The authority to act on the record.
    pub authority: channel::Receiver<Authority>,
    /// Reads the checks of commits; `None`: no environment needs any, as on agents.
    pub checks: Option<ReadChecks>,
    /// The listener with the web page, which the proxy may serve; `None`: there is none, as on agents.
    pub listener: Option<DaemonListener>,
}

/// The running reconcile loop, for clients that only read.
#[derive(Clone)]
pub struct Controller {
    reconciler: Arc<Reconciler>,
    wake: WakeQueue,
    errors: PollErrors,
    resynced: channel::Receiver<Option<Timestamp>>,
    resync: Duration,
    wakeups: Wakeups,
    stop: CancellationToken,
}

/// The running reconcile loop, for the code that ends it.
pub struct ShutdownHandle {
    stop: CancellationToken,
    supervisor: JoinHandle<()>,
    jobs: Jobs,
    engine: Arc<Engine>,
    guard: Guard,
    guard_reconciler: guard::GuardReconciler,
}

/// Starts the reconcile loop.
pub fn spawn(settings: ControllerInput) -> (Controller, ShutdownHandle) {
    let wake = WakeQueue::default();
    let engine = Arc::new(Engine::new(settings.engine).pulling_from(settings.registry));
    let cache = Arc::new(ContainerCache::new(settings.record.clone()));
    let jobs = Jobs::new(wake.clone());
    let (state, engine_state) = channel::channel(EngineState::Unasked);
    let (announced, resynced) = channel::channel(None);
    let deployed = Arc::new(Notify::new());
    let pruner = ImagePruner {
        engine: Arc::clone(&engine),
        record: settings.record.clone(),
        desired: settings.desired.clone(),
        status: settings.status.clone(),
        jobs: jobs.clone(),
        deployed: Arc::clone(&deployed),
        manifest: settings.manifest.clone(),
    };
    let registries = Arc::new(Registries::new(settings.manifest.clone()));
    let pusher = Pusher { engine: Arc::clone(&engine), registries: Arc::clone(&registries) };
    let guard = Guard::open(&settings.dirs.guard);
    let errors = PollErrors::default();
    let guard_reconciler = guard::GuardReconciler {
        guard: guard.clone(),
        engine: Arc::clone(&engine),
        record: settings.record.clone(),
        manifest: settings.manifest.clone(),
        engine_state: engine_state.clone(),
        trouble: Arc::clone(&errors),
    };
    let acme = Acme::new(settings.dirs.certificates.clone());
    let previous = PreviousOutput::new(settings.dirs.previous.clone());
    let secret_files = SecretFileCache::default();
    let builder = Arc::new(Builder {
        engine: Arc::clone(&engine),
        pusher: pusher.clone(),
        manifest: settings.manifest.clone(),
        record: settings.record.clone(),
        desired: settings.desired.clone(),
        status: settings.status.clone(),
        writer: settings.writer.clone(),
        attempts: BuildAttempts::open(settings.dirs.attempts.clone()),
        dirs: settings.dirs,
        copies: Mutex::default(),
        overlays: Overlays::default(),
        timeouts: Mutex::default(),
        metrics: settings.metrics.clone(),
    });
    let (poll_state, questions) = PollState::new();
    let front =
        FrontHandle::new(&settings.record, settings.manifest.clone(), wake.clone(), guard.clone(), acme)
            .with_page(settings.listener);
    let reconciler = Arc::new(Reconciler {
        front,
        guard: guard.clone(),
        prober: Prober::new(Arc::clone(&engine), wake.clone()),
        engine: Arc::clone(&engine),
        cache,
        jobs: jobs.clone(),
        turns: Turns::new(wake.clone()),
        group_turns: GroupTurns::new(wake.clone()),
        builder,
        registries,
        pusher,
        previous,
        secret_files,
        manifest: settings.manifest.clone(),
        desired: settings.desired,
        resolver: settings.resolver,
        status: settings.status,
        writer: settings.writer,
        engine_state,
        deployed,
        poll_state,
        mount_policy: settings.mount_policy,
        stopwatch: Stopwatch::new(settings.metrics),
        authority: settings.authority.clone(),
        record: settings.record,
        sessions: Arc::new(Semaphore::new(SESSIONS)),
        job_requests: JobRequests::default(),
        checks: polling::checks::Checks::new(settings.checks),
    });
    let stop = CancellationToken::new();
    let supervisor = supervise::LoopSupervisor {
        reconciler: Arc::clone(&reconciler),
        wake: wake.clone(),
        wakeups: settings.wakeups.clone(),
        manifest: settings.manifest,
        errors: Arc::clone(&errors),
        pollers: polling::Pollers::default(),
        git: polling::Tools::git_slots(),
        questions,
        engine_state: state,
        resynced: announced,
        resync: settings.resync,
        pruner,
        guard_reconciler: guard_reconciler.clone(),
        authority: settings.authority,
        stop: stop.clone(),
        in_hand: supervise::EnvironmentLocks::default(),
    };
    let (resync, wakeups) = (settings.resync, settings.wakeups);
    let controller = Controller { reconciler, wake, errors, resynced, resync, wakeups, stop: stop.clone() };
    let supervisor = tokio::spawn(supervisor.run());
    (controller, ShutdownHandle { stop, supervisor, jobs, engine, guard, guard_reconciler })
}

impl ShutdownHandle {
    /// Ends the reconcile loop: builds and pulls are cancelled, no container is touched, and from now on the
    /// engine restarts the containers that are meant to run.
    pub async fn stop(self) {
        self.stop.cancel();
        // A panicked worker has already logged its panic.
        let _ = self.supervisor.await;
        self.jobs.shut_down().await;
        self.engine.settle().await;
        let last = tokio::time::timeout(LAST_CHECK, self.guard_reconciler.keep_last()).await;
        if last.is_err() {
            tracing::warn!("the last check of the guard timed out");
        }
        self.guard.hand_over(&self.engine).await;
    }
}

impl Controller {
    /// Returns the plan of an environment as it would be now; `None` if the manifest has no such
    /// environment.
    ///
    /// # Errors
    /// Returns a sentence if the engine or the record does not answer.
    pub async fn preview(&self, environment: &EnvironmentName) -> Result<Option<PlanView>, String> {
        self.reconciler.preview(environment).await.map_err(|error| chain(&error))
    }

    /// Starts to collect evidence for promotions, and to promote what the manifest declares so. For the daemon:
    /// agents do neither. `connected` reports whether an agent is connected.
    pub fn watch_promotions(&self, connected: impl Fn(&AgentName) -> bool + Send + Sync + 'static) {
        let reconciler = &self.reconciler;
        let input = promoter::PromoterInput {
            engine: Arc::clone(&reconciler.engine),
            engine_state: reconciler.engine_state.clone(),
            cache: Arc::clone(&reconciler.cache),
            registries: Arc::clone(&reconciler.registries),
            checks: reconciler.checks.clone(),
            poll_state: reconciler.poll_state.clone(),
            manifest: reconciler.manifest.clone(),
            desired: reconciler.desired.clone(),
            resolver: reconciler.resolver.clone(),
            status: reconciler.status.clone(),
            writer: reconciler.writer.clone(),
            record: reconciler.record.clone(),
        };
        let (wakeups, stop) = (self.wakeups.clone(), self.stop.clone());
        let connected: promoter::Connected = Arc::new(connected);
        let (stopped, errors) = (stop.clone(), Arc::clone(&self.errors));
        let begin = move || {
            let (input, connected, errors) = (input.clone(), Arc::clone(&connected), Arc::clone(&errors));
            promoter::Promoter::new(input, wakeups.subscribe(), connected, errors, stopped.clone()).run()
        };
        tokio::spawn(supervise::supervised("evidence of promotions", stop, begin));
    }

    /// Whether the proxy of this host is known to answer for an environment, for maintenance.
    pub fn in_maintenance(&self, environment: &EnvironmentName) -> bool {
        self.reconciler.front.seen(environment).is_some_and(|seen| seen.in_maintenance)
    }

    /// The time of the last complete resync; `None`: never, or not since the engine was lost.
    pub fn last_resync(&self) -> Option<Timestamp> {
        *self.resynced.borrow()
    }

    /// The known state of the branch or tag that an environment tracks.
    pub fn look(&self, environment: &EnvironmentName) -> PollStatus {
        self.reconciler.poll_state.of(environment)
    }

    /// Requests the tracked branch or tag of an environment from git or the registry at once.
    pub fn ask_source(&self, environment: &EnvironmentName) {
        self.reconciler.poll_state.ask(environment);
    }

    /// Requests the checks of the commits of an environment from the forge at once.
    pub fn ask_checks(&self, environment: &EnvironmentName) {
        self.reconciler.poll_state.ask(environment);
        // Promotions that wait for checks look again.
        self.reconciler.writer.notify(environment);
    }

    /// Whether `ancestor` is `commit` or one of its ancestors, in the repository that the images of an
    /// environment are built from.
    ///
    /// # Errors
    /// Returns a sentence if that cannot be determined now.
    pub async fn contains(
        &self,
        environment: &EnvironmentName,
        commit: &CommitId,
        ancestor: &CommitId,
    ) -> Result<bool, String> {
        if commit == ancestor {
            return Ok(true);
        }
        let (url, branch) = self.built_from(environment)?;
        patiently(self.reconciler.builder.contains(&url, &branch, commit, ancestor)).await
    }

    /// Whether `commit` is on a branch of the repository that an environment is built from.
    ///
    /// # Errors
    /// Returns a sentence if git cannot determine that now.
    pub async fn has_commit(&self, environment: &EnvironmentName, commit: &CommitId) -> Result<bool, String> {
        let (url, _) = self.built_from(environment)?;
        patiently(self.reconciler.builder.has_commit(&url, commit)).await
    }

    /// Returns those of `commits` that the mirror of an environment's repository has.
    ///
    /// # Errors
    /// Returns a sentence if git cannot determine that now.
    pub async fn commit_lines(
        &self,
        environment: &EnvironmentName,
        commits: &[CommitId],
    ) -> Result<Vec<CommitLine>, String> {
        let (url, _) = self.built_from(environment)?;
        patiently(self.reconciler.builder.commit_lines(&url, commits)).await
    }

    /// Compares two versions of an environment's repository.
    ///
    /// # Errors
    /// Returns a sentence if the mirror does not have both.
    pub async fn compare(
        &self,
        environment: &EnvironmentName,
        old: &CommitId,
        new: &CommitId,
    ) -> Result<Comparison, String> {
        let (url, _) = self.built_from(environment)?;
        patiently(self.reconciler.builder.compare(&url, old, new)).await
    }

    /// The repository and branch that the images of an environment are built from.
    fn built_from(&self, environment: &EnvironmentName) -> Result<(String, BranchName), String> {
        let manifest = self.reconciler.manifest.borrow();
        let source = manifest.built_from(environment).map(|(url, branch)| (url.to_owned(), branch.clone()));
        source.ok_or_else(|| format!("{environment} is not built from a repository"))
    }

    /// The interval of the resync.
    pub fn resync(&self) -> Duration {
        self.resync
    }

    /// Names of the containers of an environment that exist on this host, sandboxes included.
    pub fn containers(&self, environment: &EnvironmentName) -> Vec<String> {
        self.reconciler.cache.all_of(environment).into_iter().map(|container| container.name).collect()
    }

    /// The names of containers on this host whose environments are not in `ours`, by environment; `None`:
    /// the containers of the host are unknown.
    pub fn left(&self, ours: &BTreeSet<EnvironmentName>) -> Option<Leftovers> {
        if *self.reconciler.engine_state.borrow() != EngineState::Known {
            return None;
        }
        let others = self.reconciler.cache.environments().into_iter().filter(|name| !ours.contains(name));
        Some(others.map(|name| (name.clone(), self.containers(&name))).collect())
    }

    /// Returns the running build of an environment.
    pub fn building(&self, environment: &EnvironmentName) -> Option<BuildProgress> {
        self.reconciler.jobs.building(environment)
    }

    /// The problems of the whole host, in sentences.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings: Vec<String> = match &*self.reconciler.engine_state.borrow() {
            EngineState::Known | EngineState::Unasked => Vec::new(),
            EngineState::Lost(why) if why.is_unreachable() => vec![why.to_string()],
            EngineState::Lost(why) => vec![format!("cannot query the Docker Engine: {why}")],
        };
        warnings.extend(self.left_here());
        let trouble = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        warnings.extend(trouble.values().cloned());
        warnings.extend(self.reconciler.front.warnings());
        warnings
    }

    /// Containers of environments that an agent runs now: two hosts would serve the same environment.
    fn left_here(&self) -> Vec<String> {
        let manifest = self.reconciler.manifest.borrow();
        let mut found = Vec::new();
        for (environment, spec) in &manifest.environments {
            let Some(host) = &spec.host else { continue };
            for container in self.reconciler.cache.containers(environment) {
                let name = &container.name;
                found.push(format!(
                    "{environment} now runs on the host of the agent {host}, but its container {name} still exists \
                     on this host. To remove it and keep its volumes: abide forget {environment} --stop"
                ));
            }
        }
        found
    }

    /// Requests a reconcile of every environment.
    pub fn wake_all(&self) {
        self.wake.wake_all();
    }

    /// Returns the version of the engine; `None` if it does not answer soon.
    pub async fn engine_version(&self) -> Option<String> {
        let asked = tokio::time::timeout(PATIENCE_WITH_VERSION, self.reconciler.engine.version()).await;
        asked.ok()?.ok()
    }
}

/// Returns git's answer, unless the mirror is busy for too long.
async fn patiently<T>(answer: impl Future<Output = Result<T, SourceError>>) -> Result<T, String> {
    match tokio::time::timeout(PATIENCE_WITH_MIRRORS, answer).await {
        Ok(answer) => answer.map_err(|error| chain(&error)),
        Err(_) => Err("the git mirror of the repository is busy".to_owned()),
    }
}

/// Returns the engine's report about this host.
///
/// # Errors
/// Returns a sentence if the engine does not answer.
pub async fn engine_facts() -> Result<EngineFacts, String> {
    Engine::new(None).facts().await.map_err(|error| error.to_string())
}
