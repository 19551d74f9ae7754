//! Long operations in the background: builds and pulls, one for each environment.
//!
//! A reconcile starts and cancels jobs and reads their progress; it never waits for one. A job sends a
//! wakeup when it progresses and when it ends.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::error;

use super::slots::Slots;
use crate::controller::clock;
use crate::controller::docker::Urgency;
use crate::controller::wake::WakeQueue;
use crate::failpoint;
use crate::model::build::{Acquisition, BuildKey};
use crate::model::desired::Image;
use crate::model::name::{Digest, EnvironmentName};
use crate::model::platform::Platform;
use crate::model::status::Reason;
use crate::model::time::Timestamp;
use crate::model::view::BuildProgress;
use crate::plan::backoff;

/// The maximum number of concurrent builds and pulls of one repository or registry on one host.
const OF_ONE_ORIGIN: usize = 2;
/// The maximum number of all of them together: a hung one leaves a slot to the others.
const AT_ONCE: usize = 3;

/// The identity of a job: two jobs with the same key have the same result.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum JobKey {
    /// A build of these inputs.
    Build(BuildKey),
    /// A pull of `reference@digest`.
    Pull(String),
    /// A push of an image ID to a repository.
    Push(String),
}

impl JobKey {
    /// The key of a pull.
    pub(crate) fn pull(reference: &str, digest: &Digest, rule: &PullRule) -> Self {
        let platform = rule.platform.iter().map(|platform| format!(" for {platform}"));
        let found = (!rule.may_pull).then(|| " on this host".to_owned());
        let rule: String = platform.chain(found).collect();
        Self::Pull(format!("{reference}@{digest}{rule}"))
    }
}

/// How an image is brought to the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PullRule {
    /// The platform that it must be made for; `None`: the engine's choice.
    pub(crate) platform: Option<Platform>,
    /// Whether it may come from a registry. Otherwise, it must be on the host already.
    pub(crate) may_pull: bool,
}

/// The end of a job, unless it was cancelled.
pub(crate) enum JobEnd {
    /// The image.
    Got(Image),
    /// It always fails with these inputs. For a build, this is in the record.
    Failed { reason: Reason, message: String },
    /// It could not be tried, and should not be retried before `pause` is over.
    Unavailable { reason: Reason, message: String, pause: Duration },
}

/// The time limits of a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BuildLimits {
    /// The total time.
    pub(crate) timeout: Duration,
    /// The time without any output.
    pub(crate) idle_timeout: Duration,
}

/// The progress of a running job.
#[derive(Clone)]
pub(crate) struct JobProgress {
    step: Arc<Mutex<String>>,
    /// The build, once it has a number.
    build: Arc<Mutex<Option<BuildProgress>>>,
    wake: WakeQueue,
    environment: EnvironmentName,
}

impl JobProgress {
    /// Reports the current step.
    pub(crate) fn report(&self, step: impl Into<String>) {
        let step = step.into();
        let mut slot = self.step.lock().unwrap_or_else(PoisonError::into_inner);
        if *slot != step {
            *slot = step;
            self.wake.wake(&self.environment);
        }
    }

    /// Identifies the build, so that its log can be followed, and sets its time limits from now on.
    pub(crate) fn is_build(&self, number: u64, limits: BuildLimits) {
        let BuildLimits { timeout, idle_timeout } = limits;
        let build = BuildProgress {
            number,
            started: clock::now(),
            timeout_seconds: timeout.as_secs(),
            idle_timeout_seconds: idle_timeout.as_secs(),
        };
        *self.build.lock().unwrap_or_else(PoisonError::into_inner) = Some(build);
    }

    fn step(&self) -> String {
        self.step.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// All jobs of this process.
#[derive(Clone)]
pub(crate) struct Jobs {
    of: Arc<Mutex<HashMap<EnvironmentName, OfEnvironment>>>,
    slots: Slots,
    /// Held while a job runs, so that an image that two environments want is built or pulled once.
    turns: Arc<Mutex<HashMap<JobKey, Arc<tokio::sync::Mutex<()>>>>>,
    wake: WakeQueue,
    tasks: TaskTracker,
}

#[derive(Default)]
struct OfEnvironment {
    running: Option<Running>,
    ended: Option<(JobKey, Acquisition)>,
    failures: u32,
    burst_since: Option<Timestamp>,
}

struct Running {
    key: JobKey,
    progress: JobProgress,
    cancel: CancellationToken,
}

/// The state of an environment's jobs, for one reconcile.
#[derive(Debug, Default)]
pub(crate) struct JobState {
    /// The state of the wanted job; `None`: it is unknown here.
    pub(crate) acquisition: Option<Acquisition>,
    /// A job other than the wanted one is running.
    pub(crate) is_superseded: bool,
    /// The start of a series of cancelled jobs.
    pub(crate) burst_since: Option<Timestamp>,
}

impl Jobs {
    pub(crate) fn new(wake: WakeQueue) -> Self {
        let slots = Slots::new(OF_ONE_ORIGIN, AT_ONCE);
        Self { of: Arc::default(), slots, turns: Arc::default(), wake, tasks: TaskTracker::new() }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<EnvironmentName, OfEnvironment>> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the state of the job `wanted`.
    pub(crate) fn state(&self, environment: &EnvironmentName, wanted: Option<&JobKey>) -> JobState {
        let all = self.all();
        let Some(slot) = all.get(environment) else { return JobState::default() };
        let running = slot.running.as_ref();
        let ours = running.filter(|running| Some(&running.key) == wanted);
        let ended = slot.ended.as_ref().filter(|(key, _)| Some(key) == wanted);
        JobState {
            acquisition: ours
                .map(|running| Acquisition::Running { step: running.progress.step() })
                .or_else(|| ended.map(|(_, ended)| ended.clone())),
            is_superseded: running.is_some() && ours.is_none(),
            burst_since: slot.burst_since,
        }
    }

    /// Starts a job, unless one is running for this environment. `origin` is the source of its image: a
    /// repository or a registry.
    pub(crate) fn begin<F, W>(&self, environment: &EnvironmentName, key: JobKey, origin: &str, work: W)
    where
        W: FnOnce(JobProgress) -> F,
        F: Future<Output = JobEnd> + Send + 'static,
    {
        let mut all = self.all();
        let slot = all.entry(environment.clone()).or_default();
        if slot.running.is_some() {
            return;
        }
        let progress = JobProgress {
            step: Arc::new(Mutex::new("waiting for a free slot".to_owned())),
            build: Arc::default(),
            wake: self.wake.clone(),
            environment: environment.clone(),
        };
        let cancel = CancellationToken::new();
        slot.ended = None;
        slot.running = Some(Running { key: key.clone(), progress: progress.clone(), cancel: cancel.clone() });
        let (work, slots, point) = (work(progress), self.slots.clone(), key.point());
        let origin = origin.to_owned();
        let of_panic = key.clone();
        let turn = self.turn(&key);
        let job = async move {
            // Before the slot: a job that waits for the same job of another environment must not take the
            // slot of a third one.
            let _turn = turn.lock_owned().await;
            let _slot = slots.acquire(&origin).await;
            failpoint::before(point);
            let ended = AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| panicked(&of_panic));
            failpoint::after(point);
            ended
        };
        let (jobs, environment) = (self.clone(), environment.clone());
        self.tasks.spawn(async move {
            let ended = cancel.run_until_cancelled_owned(Urgency::Rollout.scope(job)).await;
            jobs.end(&environment, key, ended);
        });
    }

    fn turn(&self, key: &JobKey) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        turns.entry(key.clone()).or_default().clone()
    }

    fn end(&self, environment: &EnvironmentName, key: JobKey, ended: Option<JobEnd>) {
        let now = clock::now();
        if let Some(slot) = self.all().get_mut(environment) {
            slot.running = None;
            match ended {
                // Cancelled: only the interruption is known of it.
                None => drop(slot.burst_since.get_or_insert(now)),
                Some(ended) => slot.note(environment, key, ended, now),
            }
        }
        self.wake.wake(environment);
    }

    /// Returns the running build of an environment.
    pub(crate) fn building(&self, environment: &EnvironmentName) -> Option<BuildProgress> {
        let all = self.all();
        let running = all.get(environment)?.running.as_ref()?;
        running.progress.build.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the running builds.
    pub(crate) fn builds(&self) -> HashSet<BuildKey> {
        let all = self.all();
        let running = all.values().filter_map(|slot| slot.running.as_ref());
        let builds = running.filter_map(|running| match &running.key {
            JobKey::Build(key) => Some(key.clone()),
            JobKey::Pull(_) | JobKey::Push(_) => None,
        });
        builds.collect()
    }

    /// Cancels the job of an environment, which sends a wakeup once it has ended.
    pub(crate) fn cancel(&self, environment: &EnvironmentName) {
        if let Some(running) = self.all().get(environment).and_then(|slot| slot.running.as_ref()) {
            running.cancel.cancel();
        }
    }

    /// Cancels all jobs and waits until each has cleaned up.
    pub(crate) async fn shut_down(&self) {
        for slot in self.all().values() {
            slot.running.iter().for_each(|running| running.cancel.cancel());
        }
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// A job that never reports its end would be running forever.
fn panicked(key: &JobKey) -> JobEnd {
    error!(?key, "a job panicked; retrying later");
    let reason = match key {
        JobKey::Build(_) => Reason::BuildFailed,
        JobKey::Pull(_) | JobKey::Push(_) => Reason::RegistryUnavailable,
    };
    let message = "the job panicked, which is a bug of abide; abide retries it later".to_owned();
    JobEnd::Unavailable { reason, message, pause: Duration::ZERO }
}

impl OfEnvironment {
    fn note(&mut self, environment: &EnvironmentName, key: JobKey, ended: JobEnd, now: Timestamp) {
        self.burst_since = None;
        let is_unavailable = matches!(ended, JobEnd::Unavailable { .. });
        self.failures = if is_unavailable { self.failures.saturating_add(1) } else { 0 };
        let acquisition = match ended {
            JobEnd::Got(image) => Acquisition::Got(image),
            JobEnd::Failed { reason, message } => Acquisition::Failed { reason, message, at: now },
            JobEnd::Unavailable { reason, message, pause } => {
                let retry_at = now.after(backoff(self.failures + 1, environment.as_str()).max(pause));
                Acquisition::Unavailable { reason, message, retry_at }
            }
        };
        self.ended = Some((key, acquisition));
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;

    fn environment(name: &str) -> EnvironmentName {
        EnvironmentName::new(name).unwrap()
    }

    /// Waits until the job of `environment` has ended, and returns its end.
    async fn end(jobs: &Jobs, environment: &EnvironmentName, key: &JobKey) -> Acquisition {
        let ended = async {
            loop {
                match jobs.state(environment, Some(key)).acquisition {
                    None | Some(Acquisition::Running { .. }) => tokio::task::yield_now().await,
                    Some(ended) => return ended,
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), ended).await.unwrap()
    }

    #[tokio::test]
    async fn a_panicking_job_ends_as_unavailable() {
        let (jobs, dev) = (Jobs::new(WakeQueue::default()), environment("dev"));
        let key = JobKey::Push("an image".to_owned());
        jobs.begin(&dev, key.clone(), "a registry", |_| async { panic!("a bug") });
        let ended = end(&jobs, &dev, &key).await;
        assert!(matches!(ended, Acquisition::Unavailable { .. }), "{ended:?}");
    }

    #[tokio::test]
    async fn waiting_for_a_shared_build_does_not_occupy_a_pull_slot() {
        let (jobs, build) = (Jobs::new(WakeQueue::default()), JobKey::Build(BuildKey("inputs".to_owned())));
        let failed = || JobEnd::Failed { reason: Reason::BuildFailed, message: String::new() };
        let environments = ["dev", "test"].map(environment);
        let built = Arc::new(Semaphore::new(0));
        for environment in &environments {
            let built = Arc::clone(&built);
            jobs.begin(environment, build.clone(), "a repository", |progress| async move {
                progress.report("building");
                let _ = built.acquire_owned().await;
                failed()
            });
        }
        let (prod, pull) = (environment("prod"), JobKey::Pull("an image".to_owned()));
        jobs.begin(&prod, pull.clone(), "a registry", |_| async move { failed() });
        end(&jobs, &prod, &pull).await;
        let steps = environments.each_ref().map(|name| match jobs.state(name, Some(&build)).acquisition {
            Some(Acquisition::Running { step }) => step,
            other => panic!("{other:?}"),
        });
        assert_eq!(steps, ["building", "waiting for a free slot"]);
        built.add_permits(1);
        for environment in &environments {
            end(&jobs, environment, &build).await;
        }
    }
}
