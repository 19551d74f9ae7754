//! The supervisor: it runs a worker for each environment and a poller for each repository in the manifest.

use std::collections::HashMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Mutex, Notify, mpsc, watch as channel};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::{error, info};

use super::clock::now;
use super::front;
use super::guard;
use super::jobs::slots::Slots;
use super::managed::registry::RegistryReconciler;
use super::polling::{PollErrors, PollResults, Pollers, Tools};
use super::prune::ImagePruner;
use super::wake::WakeQueue;
use crate::controller::cache::watch::{EngineState, EngineWatcher};
use crate::controller::environment::authority::Authority;
use crate::controller::environment::forget;
use crate::controller::environment::reconciler::{PassError, Reconciler};
use crate::metrics::MeasuredResult;
use crate::model::error::chain;
use crate::model::event::EventKind;
use crate::model::name::EnvironmentName;
use crate::model::spec::{EnvironmentSpec, Manifest};
use crate::model::time::Timestamp;
use crate::plan::backoff;
use crate::record::{Wakeup, Wakeups};

/// The maximum interval between reconciles, whatever the wakeups: secret files and overlays change without
/// one.
const SAFETY_NET: Duration = Duration::from_secs(60);

/// How long after a panic a task is restarted.
const AFTER_PANIC: Duration = Duration::from_secs(5);

/// Runs the future of `begin` until it ends or is stopped. If it panics, it is restarted after a pause;
/// otherwise nobody would notice its absence.
pub(super) async fn supervised<F>(name: &'static str, stop: CancellationToken, mut begin: impl FnMut() -> F)
where
    F: Future<Output = ()>,
{
    loop {
        let task = AssertUnwindSafe(begin()).catch_unwind();
        let Some(Err(_)) = stop.run_until_cancelled(task).await else { return };
        error!(task = name, "the task panicked, which is a bug of abide; restarting it soon");
        stop.run_until_cancelled(tokio::time::sleep(AFTER_PANIC)).await;
    }
}

pub(super) struct LoopSupervisor {
    pub(super) reconciler: Arc<Reconciler>,
    pub(super) wake: WakeQueue,
    pub(super) wakeups: Wakeups,
    pub(super) manifest: channel::Receiver<Arc<Manifest>>,
    pub(super) errors: PollErrors,
    pub(super) pollers: Pollers,
    /// Slots for requests to git.
    pub(super) git: Slots,
    /// Environments whose head or digest is to be requested at once.
    pub(super) questions: mpsc::Receiver<EnvironmentName>,
    pub(super) engine_state: channel::Sender<EngineState>,
    pub(super) resynced: channel::Sender<Option<Timestamp>>,
    pub(super) pruner: ImagePruner,
    pub(super) guard_reconciler: guard::GuardReconciler,
    pub(super) resync: Duration,
    pub(super) authority: channel::Receiver<Authority>,
    pub(super) stop: CancellationToken,
    /// Held by the task that acts on the containers of an environment: its worker, or the one that follows after the
    /// environment left.
    pub(super) in_hand: EnvironmentLocks,
}

/// One lock for each environment.
#[derive(Default)]
pub(super) struct EnvironmentLocks(HashMap<EnvironmentName, Arc<Mutex<()>>>);

impl EnvironmentLocks {
    fn of(&mut self, environment: &EnvironmentName) -> Arc<Mutex<()>> {
        Arc::clone(self.0.entry(environment.clone()).or_default())
    }
}

impl LoopSupervisor {
    /// Runs workers and pollers until stopped, then waits for each to end.
    pub(super) async fn run(mut self) {
        let tasks = TaskTracker::new();
        let watch = EngineWatcher {
            engine: Arc::clone(&self.reconciler.engine),
            cache: Arc::clone(&self.reconciler.cache),
            front: self.reconciler.front.clone(),
            manifest: self.manifest.clone(),
            record: self.reconciler.record.clone(),
            wake: self.wake.clone(),
            engine_state: self.engine_state.clone(),
            resynced: self.resynced.clone(),
            period: self.resync,
            stop: self.stop.clone(),
        };
        let stop = || self.stop.clone();
        tasks.spawn(supervised("engine watcher", stop(), move || watch.clone().run()));
        let front = self.front();
        tasks.spawn(supervised("front", stop(), move || front().run()));
        let front = self.reconciler.front.clone();
        tasks.spawn(supervised("certificates", stop(), move || front.clone().keep_certificates()));
        let pruner = self.pruner.clone();
        tasks.spawn(supervised("sweeper", stop(), move || pruner.clone().run()));
        let registry = self.registry();
        tasks.spawn(supervised("managed registry", stop(), move || registry().run()));
        let guard_reconciler = self.guard_reconciler.clone();
        tasks.spawn(supervised("guard", stop(), move || guard_reconciler.clone().run()));
        let mut wakeups = self.wakeups.subscribe();
        let mut workers: HashMap<EnvironmentName, DropGuard> = HashMap::new();
        self.sync_tasks(&tasks, &mut workers);
        let stop = self.stop.clone();
        let mut resynced = self.resynced.subscribe();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                wakeup = wakeups.recv() => self.handle_wakeup(wakeup, &tasks),
                changed = self.manifest.changed() => match changed {
                    Ok(()) => {
                        self.sync_tasks(&tasks, &mut workers);
                        // An environment may run again on a host that was to be cleared of it.
                        self.forget_all(&tasks);
                    }
                    Err(_) => stop.cancelled().await,
                },
                _ = resynced.changed() => {
                    let manifest = self.manifest.borrow().clone();
                    self.adopt(&manifest);
                    self.reconciler.report_orphans().await;
                    self.complete_departures(&tasks);
                    self.forget_all(&tasks);
                }
                Some(environment) = self.questions.recv() => self.ask_poller(&environment),
                Ok(()) = self.authority.changed() => self.wake.wake_all(),
            }
        }
        drop(workers);
        tasks.close();
        tasks.wait().await;
    }

    /// Returns a factory for workers of the proxy.
    fn front(&self) -> impl Fn() -> front::FrontReconciler + Send + use<> {
        let (reconciler, resync) = (Arc::clone(&self.reconciler), self.resync);
        move || {
            let (engine, cache) = (Arc::clone(&reconciler.engine), Arc::clone(&reconciler.cache));
            let engine_state = reconciler.engine_state.clone();
            front::FrontReconciler::new(
                reconciler.front.clone(),
                engine,
                Arc::clone(&reconciler.registries),
                cache,
                reconciler.record.clone(),
                engine_state,
                resync,
            )
            .with_events(reconciler.writer.clone())
            .measured_by(reconciler.stopwatch.metrics().clone())
        }
    }

    /// Lets renamed environments take over their containers.
    fn adopt(&self, manifest: &Manifest) {
        let here = manifest.environments.iter().filter(|(_, spec)| spec.host.is_none());
        let declared = here.map(|(name, spec)| (name.clone(), spec.container.clone())).collect();
        for (left, successor) in self.reconciler.cache.adopt(&declared) {
            info!(environment = %successor, %left, "taking over the containers of an environment that left \
                the manifest");
            self.wake.wake(&successor);
        }
    }

    /// Removes the environments that users asked to forget.
    fn forget_all(&mut self, tasks: &TaskTracker) {
        let all = self.reconciler.desired.all().unwrap_or_default();
        for desired in all.into_iter().filter(|desired| desired.forget.is_some()) {
            self.forget(desired.environment, tasks);
        }
    }

    /// Removes the leftovers of a declared environment on other hosts, if a user requested that.
    fn forget_requested(&mut self, environment: &EnvironmentName, tasks: &TaskTracker) {
        if self.reconciler.desired.get(environment).is_ok_and(|desired| desired.forget.is_some()) {
            self.forget(environment.clone(), tasks);
        }
    }

    fn forget(&mut self, environment: EnvironmentName, tasks: &TaskTracker) {
        let reconciler = Arc::clone(&self.reconciler);
        let manifest = self.manifest.borrow().clone();
        let runs_here = manifest.environments.get(&environment).is_some_and(|spec| spec.host.is_none());
        // The worker of an environment that runs here holds the lock as long as it lives.
        let in_hand = (!runs_here).then(|| self.in_hand.of(&environment));
        tasks.spawn(async move {
            let _in_hand = match &in_hand {
                Some(in_hand) => Some(in_hand.lock().await),
                None => None,
            };
            forget::forget(&reconciler, &environment).await;
        });
    }

    fn handle_wakeup(&mut self, wakeup: Result<Wakeup, RecvError>, tasks: &TaskTracker) {
        match wakeup {
            Ok(Wakeup::Desired(environment))
                if !self.manifest.borrow().environments.contains_key(&environment) =>
            {
                self.forget(environment, tasks);
            }
            Ok(Wakeup::Desired(environment)) => {
                self.wake.wake(&environment);
                self.wake_waiting(&environment);
                self.announce(&environment);
                self.forget_requested(&environment, tasks);
            }
            Ok(Wakeup::Status(environment)) => self.wake_waiting(&environment),
            Ok(Wakeup::Evidence(_) | Wakeup::Event(_)) => {}
            Err(_) => {
                self.wake.wake_all();
                self.pollers.announce_all();
            }
        }
    }

    /// Wakes the members of a group that wait for this one.
    fn wake_waiting(&self, environment: &EnvironmentName) {
        self.manifest.borrow().waiting_for(environment).for_each(|waiting| self.wake.wake(waiting));
    }

    /// Notifies the poller of an environment's repository or tag, if a push was announced or a user
    /// requested a sync.
    fn announce(&self, environment: &EnvironmentName) {
        let Ok(desired) = self.reconciler.desired.get(environment) else { return };
        if desired.hint.is_some() || desired.tag_hint.is_some() || desired.asked.is_some() {
            self.ask_poller(environment);
        }
    }

    /// Makes the poller of an environment's branch or tag ask at once.
    fn ask_poller(&self, environment: &EnvironmentName) {
        self.pollers.announce(&self.manifest.borrow(), environment);
    }

    /// Starts the missing tasks of the manifest, and ends those that it no longer has.
    fn sync_tasks(&mut self, tasks: &TaskTracker, workers: &mut HashMap<EnvironmentName, DropGuard>) {
        let manifest = self.manifest.borrow_and_update().clone();
        self.adopt(&manifest);
        // Environments of an agent are left to the agent.
        let here = |spec: &EnvironmentSpec| spec.host.is_none();
        let is_elsewhere =
            |name: &EnvironmentName| manifest.environments.get(name).is_some_and(|spec| !here(spec));
        self.reconciler.stopwatch.metrics().forget_elsewhere(is_elsewhere);
        workers.retain(|environment, _| manifest.environments.get(environment).is_some_and(here));
        for (environment, _) in manifest.environments.iter().filter(|(_, spec)| here(spec)) {
            if !workers.contains_key(environment) {
                workers.insert(environment.clone(), self.start_worker(tasks, environment));
            }
        }
        let here = manifest.environments.iter().filter(|(_, spec)| here(spec));
        self.reconciler.guard.retain(&here.map(|(environment, _)| environment.clone()).collect());
        let tools = self.poll_tools();
        self.pollers.sync_tasks(&manifest, &tools, &self.reconciler.builder, tasks, &self.stop);
        self.wake.wake_all();
    }

    /// Returns a factory for reconcilers of the managed registry.
    fn registry(&self) -> impl Fn() -> RegistryReconciler + Send + use<> {
        let (reconciler, manifest) = (Arc::clone(&self.reconciler), self.manifest.clone());
        let trouble = Arc::clone(&self.errors);
        move || {
            RegistryReconciler::new(
                Arc::clone(&reconciler.engine),
                Arc::clone(&reconciler.registries),
                reconciler.guard.clone(),
                reconciler.record.clone(),
                reconciler.desired.clone(),
                manifest.clone(),
                Arc::clone(&trouble),
            )
        }
    }

    fn poll_tools(&self) -> Tools {
        Tools {
            registries: Arc::clone(&self.reconciler.registries),
            desired: self.reconciler.desired.clone(),
            wake: self.wake.clone(),
            errors: Arc::clone(&self.errors),
            checks: self.reconciler.checks.clone(),
            findings: PollResults {
                poll_state: self.reconciler.poll_state.clone(),
                desired: self.reconciler.desired.clone(),
                resolver: self.reconciler.resolver.clone(),
                writer: self.reconciler.writer.clone(),
            },
            git: self.git.clone(),
        }
    }

    /// Ends updates of environments that left this host while no daemon ran, or that could not be ended then.
    fn complete_departures(&mut self, tasks: &TaskTracker) {
        for environment in self.reconciler.cache.environments() {
            if !self.reconciler.is_partly_left(&environment) {
                continue;
            }
            // A held lock means that it is being done.
            let Ok(lock) = self.in_hand.of(&environment).try_lock_owned() else { continue };
            let (reconciler, stop) = (Arc::clone(&self.reconciler), self.stop.clone());
            tasks.spawn(async move {
                stop.run_until_cancelled(reconciler.leave(&environment)).await;
                drop(lock);
            });
        }
    }

    fn start_worker(&mut self, tasks: &TaskTracker, environment: &EnvironmentName) -> DropGuard {
        let stop = self.stop.child_token();
        let worker = ReconcileLoop {
            reconciler: Arc::clone(&self.reconciler),
            wakeup: self.wake.notifier(environment),
            environment: environment.clone(),
        };
        let (stopped, daemon_stops) = (stop.clone(), self.stop.clone());
        let (reconciler, environment) = (Arc::clone(&self.reconciler), environment.clone());
        let in_hand = self.in_hand.of(&environment);
        tasks.spawn(async move {
            let _in_hand = in_hand.lock().await;
            stopped.run_until_cancelled(worker.run()).await;
            reconciler.jobs.cancel(&environment);
            reconciler.prober.forget(&environment);
            reconciler.turns.leave(&environment);
            reconciler.stopwatch.forget(&environment);
            // It left this host, perhaps in the middle of an update.
            daemon_stops.run_until_cancelled(reconciler.leave(&environment)).await;
            reconciler.prober.forget(&environment);
        });
        stop.drop_guard()
    }
}

/// Runs the reconciles of one environment, one after the other.
struct ReconcileLoop {
    reconciler: Arc<Reconciler>,
    wakeup: Arc<Notify>,
    environment: EnvironmentName,
}

impl ReconcileLoop {
    async fn run(self) {
        let mut failures = 0;
        loop {
            // A panic in one environment must not affect the others.
            let began = Instant::now();
            let ran = AssertUnwindSafe(self.reconciler.run(&self.environment)).catch_unwind().await;
            let result = if matches!(ran, Ok(Ok(_))) { MeasuredResult::Ok } else { MeasuredResult::Failed };
            self.reconciler.stopwatch.metrics().reconcile(result, began.elapsed());
            let requeue_at = match ran {
                Ok(Ok(requeue_at)) => {
                    failures = 0;
                    requeue_at
                }
                Ok(Err(error)) => {
                    failures += 1;
                    self.report(&error).await;
                    Some(now().after(backoff(failures + 1, self.environment.as_str())))
                }
                Err(_) => {
                    failures += 1;
                    self.report_panic().await;
                    Some(now().after(backoff(failures + 3, self.environment.as_str())))
                }
            };
            let pause = requeue_at.map_or(SAFETY_NET, |at| at.since(now()).min(SAFETY_NET));
            tokio::select! {
                () = self.wakeup.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn report(&self, error: &PassError) {
        if let Err(worse) = self.reconciler.report_error(&self.environment, error).await {
            error!(environment = %self.environment, error = %chain(&worse), "cannot record the error of \
                a reconcile");
        }
        if let PassError::Record(why) = error {
            self.reconciler.poll_state.unrecorded(&self.environment, chain(why));
            error!(environment = %self.environment, error = %chain(error), "a reconcile failed because \
                of the record");
        }
    }

    async fn report_panic(&self) {
        error!(environment = %self.environment, "a reconcile panicked; retrying later");
        let message = "the reconcile panicked, which is a bug of abide; abide retries it later";
        // If the event cannot be stored, the log line above has it.
        let _ = self.reconciler.writer.event(&self.environment, EventKind::System, message, now()).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_panicking_task_is_restarted_until_it_ends() {
        let begun = Arc::new(AtomicU32::new(0));
        let begin = || {
            let begun = Arc::clone(&begun);
            async move { assert!(begun.fetch_add(1, Ordering::Relaxed) == 1, "a bug") }
        };
        supervised("a task", CancellationToken::new(), begin).await;
        assert_eq!(begun.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn a_supervised_task_that_never_ends_can_be_stopped() {
        let stop = CancellationToken::new();
        stop.cancel();
        supervised("a task", stop, std::future::pending).await;
    }
}
