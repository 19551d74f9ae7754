//! The controller: wakeups, reconciles, steps.
//!
//! [`spawn`] starts a reconcile loop for each environment, a poller for each repository, and the watch over
//! the engine. No code outside this module reaches Docker. [`Controller`] has the requests that others may
//! make; none of them changes anything.

mod cache;
pub mod cleanup;
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
mod supervise;
mod sweep;
mod wake;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch as channel};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::acme::Acme;
use crate::model::commits::{CommitLine, Comparison};
use crate::model::error::chain;
use crate::model::link::Leftovers;
use crate::model::look::PollStatus;
use crate::model::name::{AgentName, BranchName, CommitId, EnvironmentName};
use crate::model::spec::Manifest;
use crate::model::time::Timestamp;
use crate::model::view::{BuildProgress, PlanView};
use crate::record::{DesiredReader, Resolver, StatusReader, StatusWriter, Wakeups};
use crate::source::SourceError;
use cache::fleet::ContainerCache;
use cache::watch::EngineState;
use docker::Engine;
pub use docker::EngineFacts;
use environment::pass::Reconciler;
use environment::previous::PreviousOutput;
use environment::probe::Prober;
use environment::turns::Turns;
use front::FrontHandle;
use guard::Guard;
use jobs::Jobs;
use jobs::builder::{BuildAttempts, Builder, Overlays};
use jobs::push::Pusher;
use jobs::registries::Registries;
use polling::PollErrors;
use polling::looks::PollState;
use sweep::ImagePruner;
use wake::WakeQueue;

pub use clock::now;
pub use environment::authority::{Authority, Grant};
pub use environment::mount_policy::MountPolicy;
pub use jobs::builder::StateDirs;

/// How often every environment is reconciled even without a wakeup.
pub const RESYNC: Duration = Duration::from_secs(30);

/// The timeout for checking the guard as the loop ends.
const LAST_CHECK: Duration = Duration::from_secs(5);
/// How long a query about two commits may wait for a mirror that is being fetched.
const PATIENCE_WITH_MIRRORS: Duration = Duration::from_secs(10);

/// The input of the reconcile loop. It has no handle that could update the record as users do.
pub struct Settings {
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
    pub bells: Wakeups,
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
    /// The authority to act on the record.
    pub authority: channel::Receiver<Authority>,
}

/// The running reconcile loop, for clients that only read.
#[derive(Clone)]
pub struct Controller {
    pass: Arc<Reconciler>,
    wake: WakeQueue,
    errors: PollErrors,
    resynced: channel::Receiver<Option<Timestamp>>,
    resync: Duration,
    bells: Wakeups,
    stop: CancellationToken,
}

/// The running reconcile loop, for the code that ends it.
pub struct ShutdownHandle {
    stop: CancellationToken,
    supervisor: JoinHandle<()>,
    jobs: Jobs,
    engine: Arc<Engine>,
    guard: Guard,
    keeper: guard::GuardReconciler,
}

/// Starts the reconcile loop.
pub fn spawn(settings: Settings) -> (Controller, ShutdownHandle) {
    let wake = WakeQueue::default();
    let engine = Arc::new(Engine::new(settings.engine).pulling_from(settings.registry));
    let fleet = Arc::new(ContainerCache::new(settings.record.clone()));
    let jobs = Jobs::new(wake.clone());
    let (state, engine_state) = channel::channel(EngineState::Unasked);
    let (announced, resynced) = channel::channel(None);
    let deployed = Arc::new(Notify::new());
    let sweeper = ImagePruner {
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
    let keeper = guard::GuardReconciler {
        guard: guard.clone(),
        engine: Arc::clone(&engine),
        record: settings.record.clone(),
        manifest: settings.manifest.clone(),
        engine_state: engine_state.clone(),
        trouble: Arc::clone(&errors),
    };
    let acme = Acme::new(settings.dirs.certificates.clone());
    let previous = PreviousOutput::new(settings.dirs.previous.clone());
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
    });
    let (looks, questions) = PollState::new();
    let front =
        FrontHandle::new(&settings.record, settings.manifest.clone(), wake.clone(), guard.clone(), acme);
    let pass = Arc::new(Reconciler {
        front,
        guard: guard.clone(),
        prober: Prober::new(Arc::clone(&engine), wake.clone()),
        engine: Arc::clone(&engine),
        fleet,
        jobs: jobs.clone(),
        turns: Turns::new(wake.clone()),
        builder,
        registries,
        pusher,
        previous,
        manifest: settings.manifest.clone(),
        desired: settings.desired,
        resolver: settings.resolver,
        status: settings.status,
        writer: settings.writer,
        engine_state,
        deployed,
        looks,
        mount_policy: settings.mount_policy,
        authority: settings.authority.clone(),
        record: settings.record,
    });
    let stop = CancellationToken::new();
    let supervisor = supervise::Supervisor {
        pass: Arc::clone(&pass),
        wake: wake.clone(),
        bells: settings.bells.clone(),
        manifest: settings.manifest,
        errors: Arc::clone(&errors),
        pollers: polling::Pollers::default(),
        questions,
        engine_state: state,
        resynced: announced,
        resync: settings.resync,
        sweeper,
        guard_keeper: keeper.clone(),
        authority: settings.authority,
        stop: stop.clone(),
    };
    let (resync, bells) = (settings.resync, settings.bells);
    let controller = Controller { pass, wake, errors, resynced, resync, bells, stop: stop.clone() };
    let supervisor = tokio::spawn(supervisor.run());
    (controller, ShutdownHandle { stop, supervisor, jobs, engine, guard, keeper })
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
        let last = tokio::time::timeout(LAST_CHECK, self.keeper.keep_last()).await;
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
        self.pass.preview(environment).await.map_err(|error| chain(&error))
    }

    /// Starts to collect evidence for promotions, and to promote what the manifest declares so. For the daemon:
    /// agents do neither. `connected` reports whether an agent is connected.
    pub fn watch_promotions(&self, connected: impl Fn(&AgentName) -> bool + Send + Sync + 'static) {
        let (pass, bells, stop) = (Arc::clone(&self.pass), self.bells.clone(), self.stop.clone());
        let connected: promoter::Connected = Arc::new(connected);
        let stopped = stop.clone();
        let begin = move || {
            let (pass, connected) = (Arc::clone(&pass), Arc::clone(&connected));
            promoter::Promoter::new(pass, bells.subscribe(), connected, stopped.clone()).run()
        };
        tokio::spawn(supervise::supervised("evidence of promotions", stop, begin));
    }

    /// The time of the last complete resync; `None`: never, or not since the engine was lost.
    pub fn last_resync(&self) -> Option<Timestamp> {
        *self.resynced.borrow()
    }

    /// The known state of the branch or tag that an environment tracks.
    pub fn look(&self, environment: &EnvironmentName) -> PollStatus {
        self.pass.looks.of(environment)
    }

    /// Requests the tracked branch or tag of an environment from git or the registry at once.
    pub fn ask_source(&self, environment: &EnvironmentName) {
        self.pass.looks.ask(environment);
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
        patiently(self.pass.builder.contains(&url, &branch, commit, ancestor)).await
    }

    /// Whether `commit` is on a branch of the repository that an environment is built from.
    ///
    /// # Errors
    /// Returns a sentence if git cannot determine that now.
    pub async fn has_commit(&self, environment: &EnvironmentName, commit: &CommitId) -> Result<bool, String> {
        let (url, _) = self.built_from(environment)?;
        patiently(self.pass.builder.has_commit(&url, commit)).await
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
        patiently(self.pass.builder.commit_lines(&url, commits)).await
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
        patiently(self.pass.builder.compare(&url, old, new)).await
    }

    /// The repository and branch that the images of an environment are built from.
    fn built_from(&self, environment: &EnvironmentName) -> Result<(String, BranchName), String> {
        let manifest = self.pass.manifest.borrow();
        let source = manifest.built_from(environment).map(|(url, branch)| (url.to_owned(), branch.clone()));
        source.ok_or_else(|| format!("{environment} is not built from a repository"))
    }

    /// The interval of the resync.
    pub fn resync(&self) -> Duration {
        self.resync
    }

    /// Names of the containers of an environment that exist on this host, sandboxes included.
    pub fn containers(&self, environment: &EnvironmentName) -> Vec<String> {
        self.pass.fleet.all_of(environment).into_iter().map(|container| container.name).collect()
    }

    /// The names of containers on this host whose environments are not in `ours`, by environment; `None`:
    /// the containers of the host are unknown.
    pub fn left(&self, ours: &BTreeSet<EnvironmentName>) -> Option<Leftovers> {
        if *self.pass.engine_state.borrow() != EngineState::Known {
            return None;
        }
        let others = self.pass.fleet.environments().into_iter().filter(|name| !ours.contains(name));
        Some(others.map(|name| (name.clone(), self.containers(&name))).collect())
    }

    /// Returns the running build of an environment.
    pub fn building(&self, environment: &EnvironmentName) -> Option<BuildProgress> {
        self.pass.jobs.building(environment)
    }

    /// The problems of the whole host, in sentences.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings: Vec<String> = match &*self.pass.engine_state.borrow() {
            EngineState::Known | EngineState::Unasked => Vec::new(),
            EngineState::Lost(why) if why.is_unreachable() => vec![why.to_string()],
            EngineState::Lost(why) => vec![format!("cannot query the Docker Engine: {why}")],
        };
        warnings.extend(self.left_here());
        let trouble = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        warnings.extend(trouble.values().cloned());
        warnings.extend(self.pass.front.warnings());
        warnings
    }

    /// Containers of environments that an agent runs now: two hosts would serve the same environment.
    fn left_here(&self) -> Vec<String> {
        let manifest = self.pass.manifest.borrow();
        let mut found = Vec::new();
        for (environment, spec) in &manifest.environments {
            let Some(host) = &spec.host else { continue };
            for container in self.pass.fleet.containers(environment) {
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
    pub fn ring_all(&self) {
        self.wake.ring_all();
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
