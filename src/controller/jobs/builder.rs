//! One build, from a commit to an image.
//!
//! Each build works in its own directory, so that concurrent builds and the remains of a killed build never
//! collide. The order is that of the manifest: check out, remove, overlay, other checkouts, steps, final
//! image.

mod activity;
mod args;
mod attempts;
mod error;
mod image;
mod inputs;
mod limits;
mod log;
mod outputs;
mod overlays;
mod script;
mod spawned;
mod steps;
mod submodules;
mod tree;
mod work;

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::push::Pusher;
use super::registries::{RATE_LIMITED, Registries};
use super::remote::{login_at, remote};
use crate::context::ContextError;
use crate::controller::clock::now;
use crate::controller::docker::Engine;
use crate::controller::jobs::{BuildLimits, JobEnd, JobProgress};
use crate::failpoint::{self, Point};
use crate::metrics::{MeasuredResult, Metrics};
use crate::model::build::{BuildKey, BuildRecord, BuildResult, heading_of_log};
use crate::model::cause::{self, Cause};
use crate::model::commits::{CommitLine, Comparison};
use crate::model::desired::{Desired, Image};
use crate::model::name::{BranchName, CommitId, Digest, EnvironmentName};
use crate::model::reference::{ImageRepository, local_path};
use crate::model::spec::{BuildSpec, Manifest};
use crate::model::status::Reason;
use crate::record::{DesiredReader, RecordError, StatusReader, StatusWriter};
use crate::source::{GitMirror, Remote, SourceError};
pub(crate) use attempts::BuildAttempts;
use error::BuildError;
pub(crate) use inputs::Inputs;
use log::BuildLog;
use outputs::Outputs;
pub(crate) use overlays::Overlays;
pub(in crate::controller) use script::ASIDE;
use work::ActiveBuild;

/// The folders of the daemon for data outside the store.
#[derive(Clone, Debug)]
pub struct StateDirs {
    /// Bare copies of repositories.
    pub mirrors: PathBuf,
    /// A directory for each running build.
    pub work: PathBuf,
    /// `<number>.log` for each build.
    pub logs: PathBuf,
    /// The outputs of build steps, by the key of their inputs.
    pub outputs: PathBuf,
    /// The files for the guard.
    pub guard: PathBuf,
    /// The end of the output of each environment's last removed container.
    pub previous: PathBuf,
    /// Records of builds in progress, which survive a killed daemon.
    pub attempts: PathBuf,
    /// Certificates of the proxy, their keys, and the account at their authority.
    pub certificates: PathBuf,
    /// Paths that no build script may see, in addition to the secret files in the manifest.
    pub hidden: Vec<PathBuf>,
}

impl StateDirs {
    /// Returns the folders below that of the record. The paths are absolute, because git and scripts run in
    /// other directories.
    pub fn of(record: &Path) -> Self {
        let record = std::path::absolute(record).unwrap_or_else(|_| record.to_owned());
        let [mirrors, work, logs, outputs, guard, previous, attempts, certificates] =
            ["mirrors", "work", "logs", "outputs", "guard", "previous", "attempts", "certificates"]
                .map(|name| record.join(name));
        Self { mirrors, work, logs, outputs, guard, previous, attempts, certificates, hidden: vec![record] }
    }
}

/// The inputs of a build request.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) environment: EnvironmentName,
    pub(crate) url: String,
    pub(crate) branch: BranchName,
    pub(crate) revision: CommitId,
    pub(crate) spec: BuildSpec,
    /// The push destination. It is not an input of the image.
    pub(crate) push: Option<ImageRepository>,
}

/// Returns how long to pause requests to the registries of a build: the push destination and the registries
/// of the base images. For the latter, the engine does not report the pause that they request.
fn pause_after(task: &Task, message: &str, registries: &Registries) -> Duration {
    let of_push = task.push.as_ref().and_then(|repository| registries.quiet_for(repository.host()));
    let of_bases = (cause::of_build(message) == Cause::RateLimit).then_some(RATE_LIMITED);
    of_push.max(of_bases).unwrap_or_default()
}

/// Runs blocking file operations outside the async threads.
async fn blocking<T: Send + 'static>(
    step: &str,
    work: impl FnOnce() -> Result<T, ContextError> + Send + 'static,
) -> Result<T, BuildError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(BuildError::from(error).during(step)),
        Err(_) => Err(BuildError::not_tried(format!("{step}: the process ended early"))),
    }
}

/// Builds images for one record on one engine.
pub(crate) struct Builder {
    pub(crate) engine: Arc<Engine>,
    pub(in crate::controller) pusher: Pusher,
    pub(in crate::controller) manifest: watch::Receiver<Arc<Manifest>>,
    pub(crate) record: String,
    pub(crate) desired: DesiredReader,
    pub(crate) status: StatusReader,
    pub(crate) writer: StatusWriter,
    pub(crate) dirs: StateDirs,
    /// One mirror for each repository. A mirror allows one operation at a time, and its value enforces that.
    pub(crate) copies: Mutex<HashMap<String, Arc<GitMirror>>>,
    pub(crate) overlays: Overlays,
    /// The step in which the last attempt of a build exceeded its time limit.
    pub(crate) timeouts: Mutex<HashMap<BuildKey, &'static str>>,
    /// The attempts in progress, and those that may have killed a daemon.
    pub(crate) attempts: BuildAttempts,
    pub(crate) metrics: Metrics,
}

impl Builder {
    /// Builds, records the result, and returns it. Dropping the future cancels the build without recording
    /// anything.
    pub(crate) async fn run(self: Arc<Self>, task: Task, key: BuildKey, progress: JobProgress) -> JobEnd {
        match self.build_and_push(&task, &key, &progress).await {
            Ok(image) => JobEnd::Got(image),
            Err(BuildError::Verdict(reason, message)) => JobEnd::Failed { reason, message },
            Err(BuildError::TimedOut(_, message)) => {
                JobEnd::Unavailable { reason: Reason::SourceUnavailable, message, pause: Duration::ZERO }
            }
            Err(BuildError::Unavailable(reason, message)) => {
                let pause = pause_after(&task, &message, &self.pusher.registries);
                JobEnd::Unavailable { reason, message, pause }
            }
        }
    }

    pub(in crate::controller) fn remote(&self, url: &str) -> Result<Remote, SourceError> {
        let login = login_at(&self.manifest.borrow(), url);
        remote(url, login.as_ref())
    }

    /// Returns whether `ancestor` is `commit` or one of its ancestors, according to the mirror of the
    /// repository at `url`.
    ///
    /// # Errors
    /// [`SourceError`] if `commit` itself is not available now.
    pub(crate) async fn contains(
        &self,
        url: &str,
        branch: &BranchName,
        commit: &CommitId,
        ancestor: &CommitId,
    ) -> Result<bool, SourceError> {
        self.mirror(self.remote(url)?).contains(commit, branch, ancestor).await
    }

    /// Returns whether any branch contains `commit`, according to git at this moment.
    ///
    /// # Errors
    /// [`SourceError`] if git cannot answer.
    pub(crate) async fn has_commit(&self, url: &str, commit: &CommitId) -> Result<bool, SourceError> {
        match self.mirror(self.remote(url)?).ensure(commit, None).await {
            Ok(()) => Ok(true),
            Err(SourceError::NoSuchCommit { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Returns those of `commits` that the mirror has.
    ///
    /// # Errors
    /// [`SourceError`] if git cannot answer.
    pub(crate) async fn commit_lines(
        &self,
        url: &str,
        commits: &[CommitId],
    ) -> Result<Vec<CommitLine>, SourceError> {
        self.mirror(self.remote(url)?).commit_lines(commits).await
    }

    /// Compares two versions of a repository.
    ///
    /// # Errors
    /// [`SourceError`] if the mirror does not have both.
    pub(crate) async fn compare(
        &self,
        url: &str,
        old: &CommitId,
        new: &CommitId,
    ) -> Result<Comparison, SourceError> {
        self.mirror(self.remote(url)?).compare(old, new).await
    }

    pub(in crate::controller) fn mirror(&self, remote: Remote) -> Arc<GitMirror> {
        let name = remote.directory_name();
        let mut copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        let mirror = match copies.get(&name) {
            Some(known) => known.again(remote),
            None => GitMirror::open(self.dirs.mirrors.join(&name), remote),
        };
        let mirror = Arc::new(mirror);
        copies.insert(name, Arc::clone(&mirror));
        mirror
    }

    async fn build_and_push(
        &self,
        task: &Task,
        key: &BuildKey,
        progress: &JobProgress,
    ) -> Result<Image, BuildError> {
        let image = self.build_once(task, key, progress).await?;
        match (&task.push, image.id.clone()) {
            (Some(repository), Some(id)) => self.push(&id, repository, key, progress).await,
            _ => Ok(image),
        }
    }

    /// Pushes the image and records its new location with the build, so that the same inputs are pushed only
    /// once.
    async fn push(
        &self,
        id: &Digest,
        repository: &ImageRepository,
        key: &BuildKey,
        progress: &JobProgress,
    ) -> Result<Image, BuildError> {
        failpoint::before(Point::Push);
        let image = self.pusher.push(id, repository, progress).await?;
        failpoint::after(Point::Push);
        if let (Some(mut record), Some(digest)) = (self.status.build(key)?, &image.digest) {
            record.pushed.insert(repository.clone(), digest.clone());
            self.writer.build(&record).await?;
        }
        Ok(image)
    }

    async fn build_once(
        &self,
        task: &Task,
        key: &BuildKey,
        progress: &JobProgress,
    ) -> Result<Image, BuildError> {
        // Another environment may have built the same inputs while this build waited for its turn.
        if let Some((_, image)) = self.known(key).await? {
            return Ok(image);
        }
        let taken = self.taken_number(task).await?;
        let number = self.writer.next_build_number(taken).await?;
        let limits = BuildLimits { timeout: task.spec.timeout, idle_timeout: task.spec.idle_timeout };
        progress.is_build(number, limits);
        let needed = self.newest_builds()?;
        let mut log = BuildLog::create(&self.dirs.logs, number, &needed)
            .map_err(|error| BuildError::not_tried(format!("cannot create the build log: {error}")))?;
        let started = now();
        log.line(&heading_of_log(number, &task.revision, &task.environment));
        if self.attempts.is_suspect(key) {
            progress.report("waiting until it can run alone, because abide was killed while it built this");
        }
        let attempt = self.attempts.begin(key).await;
        let mut work = ActiveBuild::new(self, task, number, progress, &mut log);
        let activity = work.log.activity.clone();
        let ended = |why: &str, limit| {
            let limit = humantime::format_duration(limit);
            Err(BuildError::failed(format!(
                "the build {why} of {limit}; the outputs of its finished \
                steps are kept"
            )))
        };
        let made = match attempt {
            Err(ends) => Err(BuildError::failed(ends.to_string())),
            Ok(attempt) => {
                // The attempt is dropped with the work, after the result is recorded.
                work.attempt = Some(attempt);
                tokio::select! {
                    made = work.image() => made,
                    () = tokio::time::sleep(limits.timeout) => {
                        ended("exceeded its timeout", limits.timeout)
                    }
                    () = activity.silent_for(limits.idle_timeout) => {
                        ended("had no output for its idle_timeout", limits.idle_timeout)
                    }
                }
            }
        };
        let made = self.judge_timeout(key, made);
        let ActiveBuild { checkouts, content, known, warnings, .. } = work;
        let result = verdict(number, made, &mut log).inspect_err(|error| error.log_failure(task, number))?;
        let record = BuildRecord {
            key: key.clone(),
            content,
            reused: known.as_ref().map(|known| known.reused.unwrap_or(known.number)),
            number,
            environment: task.environment.clone(),
            revision: task.revision.clone(),
            checkouts,
            started,
            finished: now(),
            result,
            warnings,
            pushed: known.map(|known| known.pushed).unwrap_or_default(),
        };
        self.writer.build(&record).await?;
        self.measure(&record);
        match record.result {
            BuildResult::Built(image) => {
                let digest = image.shown_digest().map_or("", Digest::as_str);
                log.line(&match record.reused {
                    None => format!("built {digest}"),
                    Some(number) => {
                        format!("nothing to build: same inputs as build {number}, {digest}")
                    }
                });
                Ok(image)
            }
            BuildResult::Failed(message) => {
                let error = BuildError::failed(message);
                error.log_failure(task, number);
                Err(error)
            }
        }
    }

    /// Measures a build. One that found its inputs built already took no time.
    fn measure(&self, build: &BuildRecord) {
        let result = match (&build.result, build.reused) {
            (BuildResult::Built(_), Some(_)) => return,
            (BuildResult::Built(_), None) => MeasuredResult::Built,
            (BuildResult::Failed(_), _) => MeasuredResult::Failed,
        };
        self.metrics.build(&build.environment, result, build.finished.since(build.started));
    }

    /// Returns the number of each environment's newest build, whose log users read first.
    fn newest_builds(&self) -> Result<BTreeSet<u64>, RecordError> {
        let mut newest = BTreeSet::new();
        for Desired { environment, .. } in self.desired.all()? {
            newest.extend(self.status.builds(&environment, 1)?.first().map(|build| build.number));
        }
        Ok(newest)
    }

    /// Returns the build of these inputs and its image, if the image still exists.
    async fn known(&self, key: &BuildKey) -> Result<Option<(BuildRecord, Image)>, BuildError> {
        let Some(record) = self.status.build(key)? else { return Ok(None) };
        let BuildResult::Built(image) = &record.result else { return Ok(None) };
        let Some(id) = &image.id else { return Ok(None) };
        let is_here = self.engine.image_id(id.as_str()).await?.is_some();
        let image = image.clone();
        Ok(is_here.then_some((record, image)))
    }

    /// Turns a second timeout in the same step of git into a permanent failure, because the repository must
    /// be the cause.
    fn judge_timeout(&self, key: &BuildKey, made: Result<Image, BuildError>) -> Result<Image, BuildError> {
        let mut timeouts = self.timeouts.lock().unwrap_or_else(PoisonError::into_inner);
        let before = timeouts.remove(key);
        match made {
            Err(BuildError::TimedOut(step, message)) if before == Some(step) => {
                Err(BuildError::failed(format!("{message} (second timeout)")))
            }
            Err(BuildError::TimedOut(step, message)) => {
                timeouts.insert(key.clone(), step);
                Err(BuildError::TimedOut(step, message))
            }
            other => other,
        }
    }

    fn outputs(&self) -> Outputs {
        Outputs { dir: self.dirs.outputs.clone() }
    }
}

/// Returns the name that protects an image from a prune. The name contains the record and the environment,
/// because the image itself must not: its ID may depend only on its content.
pub(in crate::controller) fn name_of(record: &str, environment: &EnvironmentName, key: &BuildKey) -> String {
    format!("{}:{}{}", local_path(environment), tag_prefix(record), key.short())
}

/// Returns the prefix of the tags that a record gives to its build images.
pub(in crate::controller) fn tag_prefix(record: &str) -> String {
    format!("{}-", record.get(..8).unwrap_or(record))
}

/// Returns the result to record for a build, or the error of a build that could not be attempted.
fn verdict(
    number: u64,
    made: Result<Image, BuildError>,
    log: &mut BuildLog,
) -> Result<BuildResult, BuildError> {
    match made {
        Ok(image) => Ok(BuildResult::Built(image)),
        Err(BuildError::Verdict(Reason::BuildFailed, message)) => {
            let (message, tail) = (log.redacted(&message), log.tail());
            log.line(&format!("failed: {message}"));
            let output = if tail.is_empty() { tail } else { format!("; its last output: {tail}") };
            Ok(BuildResult::Failed(format!("build {number} failed: {message}{output}")))
        }
        Err(BuildError::Verdict(reason, message)) => {
            let message = log.redacted(&message);
            log.line(&format!("failed: {message}"));
            Err(BuildError::Verdict(reason, message))
        }
        Err(BuildError::Unavailable(reason, message)) => {
            let message = log.redacted(&message);
            log.line(&format!("cannot be attempted: {message}"));
            Err(BuildError::Unavailable(reason, message))
        }
        Err(BuildError::TimedOut(step, message)) => {
            let message = log.redacted(&message);
            log.line(&format!("cannot be attempted: {message}"));
            Err(BuildError::TimedOut(step, message))
        }
    }
}
