//! The output of an environment: that of its container, followed by that of the next one.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use tracing::debug;

use super::position::LogPosition;
use crate::controller::Controller;
use crate::controller::clock::{now, wall};
use crate::controller::docker::EngineError;
use crate::controller::docker::piece::LogPiece;
use crate::model::container::label;
use crate::model::job::{JOB, JobRunKey};
use crate::model::logs::LogOptions;
use crate::model::name::{EnvironmentName, JobName};
use crate::model::observed::{ContainerState, ObservedContainer};
use crate::model::time::Timestamp;
use crate::model::usage::ResourceUsage;

/// How often a log stream checks for the next container. The check only reads memory.
const LOOK: Duration = Duration::from_millis(200);

/// If a container still runs this long after its stream ended, only the stream broke: the engine was
/// restarted, or the connection was cut.
const BROKEN: Duration = Duration::from_secs(2);

/// The output of one container.
type OutputStream = BoxStream<'static, Result<LogPiece, EngineError>>;

/// Output as users read it.
pub(super) type ShownStream = BoxStream<'static, io::Result<Bytes>>;

pub(super) fn shown(
    pieces: impl Stream<Item = Result<LogPiece, EngineError>> + Send + 'static,
    options: &LogOptions,
) -> ShownStream {
    let with_stamp = options.timestamps;
    pieces.map(move |piece| piece.map(|piece| piece.shown(with_stamp)).map_err(io::Error::other)).boxed()
}

/// One run of a container: a restart makes another one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Run {
    id: String,
    started: Option<Timestamp>,
}

impl Run {
    fn of(container: &ObservedContainer) -> Self {
        Self { id: container.id.clone(), started: container.started_at }
    }
}

impl Controller {
    /// The output of the serving container. A followed stream continues with the output of every later
    /// container, until the environment leaves the manifest; without a container, it begins with the first one.
    ///
    /// # Errors
    /// A sentence, if there is no such container to read or the engine does not answer.
    pub async fn output(
        &self,
        environment: &EnvironmentName,
        options: LogOptions,
    ) -> Result<impl Stream<Item = io::Result<Bytes>> + Send + use<>, String> {
        if options.previous {
            let kept = self.reconciler.previous.read(environment, options.tail).await;
            let kept = kept.map_err(|error| format!("cannot read the previous output: {error}"))?;
            let kept = kept.ok_or_else(|| format!("no container of {environment} has been replaced yet"))?;
            return Ok(stream::iter([Ok(kept)]).boxed());
        }
        if let Some(hook) = options.hook {
            let ran = self.last_one_off(environment, hook.as_str());
            let ran = ran.ok_or_else(|| format!("no {} of {environment} has run yet", hook.words()))?;
            return self.output_of(&ran.id, &options).await;
        }
        if let Some(job) = &options.job {
            let ran = self.last_run(environment, job);
            let ran = ran.ok_or_else(|| format!("no container of job {job} exists on its host yet"))?;
            return self.output_of(&ran.id, &options).await;
        }
        if self.is_workload(environment) {
            return self.workload_output(environment, &options).await;
        }
        let serving = self.serving(environment);
        if options.follow {
            let follower = OutputFollower::open(self, environment, serving.as_ref(), &options).await;
            let follower = follower.map_err(|error| error.to_string())?;
            return Ok(shown(follower.pieces(), &options));
        }
        let serving = serving.ok_or_else(|| format!("{environment} has no container"))?;
        self.output_of(&serving.id, &options).await
    }

    /// The resource usage of an environment's serving container; `None`: nothing runs.
    ///
    /// # Errors
    /// Returns a sentence if the engine does not answer.
    pub async fn usage(&self, environment: &EnvironmentName) -> Result<Option<ResourceUsage>, String> {
        let serving = self.serving(environment).filter(|seen| seen.state == ContainerState::Running);
        let Some(serving) = serving else { return Ok(None) };
        self.reconciler.engine.usage(&serving.id).await.map_err(|error| error.to_string())
    }

    /// The newest container of this role that ran a command once.
    fn last_one_off(&self, environment: &EnvironmentName, role: &str) -> Option<ObservedContainer> {
        let one_offs = self.reconciler.cache.one_offs(environment).into_iter();
        let of_role = one_offs.filter(|seen| seen.labels.get(label::ROLE).is_some_and(|of| of == role));
        of_role.max_by_key(|seen| seen.created_at)
    }

    /// The newest container of a job.
    fn last_run(&self, environment: &EnvironmentName, job: &JobName) -> Option<ObservedContainer> {
        let one_offs = self.reconciler.cache.one_offs(environment).into_iter();
        let of_job = one_offs.filter(|seen| {
            let mark = seen.labels.get(label::COMMAND);
            seen.labels.get(label::ROLE).is_some_and(|role| role == JOB)
                && mark.and_then(|mark| JobRunKey::of_mark(mark)).is_some_and(|key| key.job == *job)
        });
        of_job.max_by_key(|seen| seen.created_at)
    }

    /// The output of one container.
    async fn output_of(&self, id: &str, options: &LogOptions) -> Result<ShownStream, String> {
        let pieces = self.reconciler.engine.logs(id, options).await.map_err(|error| error.to_string())?;
        Ok(shown(pieces, options))
    }

    pub(in crate::controller) fn serving(&self, environment: &EnvironmentName) -> Option<ObservedContainer> {
        // Other code reports an unreadable status.
        let status = self.reconciler.status.status(environment).ok().flatten();
        let running = status.and_then(|status| status.running).map(|running| running.container_id);
        self.reconciler.cache.containers(environment).into_iter().min_by_key(|container| {
            let serves = running.as_ref() == Some(&container.id);
            let is_beside = container.name.contains(".next") || container.name.contains(".old-");
            (!serves, is_beside, std::cmp::Reverse(container.started_at))
        })
    }
}

/// Follows an environment over restarts and updates, and delivers each piece once.
struct OutputFollower {
    controller: Controller,
    environment: EnvironmentName,
    /// The run that is followed, or was last; `None`: there has been none.
    run: Option<Run>,
    /// `None`: it ended at `ended`, or there has been none.
    stream: Option<OutputStream>,
    ended: Timestamp,
    /// The containers that were followed: the engine keeps the output of all runs of a container.
    positions: BTreeMap<String, LogPosition>,
    /// Whether an error of the stream is the answer: until anything is delivered, and not if the container was missing
    /// from the start.
    may_fail: bool,
}

impl OutputFollower {
    async fn open(
        controller: &Controller,
        environment: &EnvironmentName,
        serving: Option<&ObservedContainer>,
        options: &LogOptions,
    ) -> Result<Self, EngineError> {
        let mut follower = Self {
            controller: controller.clone(),
            environment: environment.clone(),
            run: None,
            stream: None,
            ended: now(),
            positions: BTreeMap::new(),
            may_fail: false,
        };
        let Some(serving) = serving else { return Ok(follower) };
        match follower.begin(Run::of(serving), options).await {
            // It was removed meanwhile. All that the next container prints is new.
            Err(error) if error.is_not_found() => Ok(follower),
            Err(error) => Err(error),
            Ok(()) => Ok(follower),
        }
    }

    /// Begins with the output of a container that was there before.
    async fn begin(&mut self, run: Run, options: &LogOptions) -> Result<(), EngineError> {
        let engine = &self.controller.reconciler.engine;
        // With `tail` or `since`, the first stream may deliver nothing that marks the place.
        let position = LogPosition::after(engine.last_piece(&run.id).await?.as_ref());
        self.stream = Some(engine.logs(&run.id, options).await?.boxed());
        self.positions.insert(run.id.clone(), position);
        (self.run, self.may_fail) = (Some(run), true);
        Ok(())
    }

    fn pieces(self) -> OutputStream {
        stream::unfold(Some(self), |follower| async move {
            let mut follower = follower?;
            let piece = follower.next().await?;
            let goes_on = piece.is_ok();
            Some((piece, goes_on.then_some(follower)))
        })
        .boxed()
    }

    /// Returns the next piece; `None` once the environment has left the manifest. Nothing follows an error.
    async fn next(&mut self) -> Option<Result<LogPiece, EngineError>> {
        loop {
            let (Some(stream), Some(run)) = (&mut self.stream, &self.run) else {
                self.stream = Some(self.next_stream().await?);
                continue;
            };
            match stream.next().await {
                Some(Ok(piece)) => {
                    self.may_fail = false;
                    if self.positions.entry(run.id.clone()).or_default().admits(&piece) {
                        return Some(Ok(piece));
                    }
                }
                Some(Err(error)) if self.may_fail && !error.is_not_found() => return Some(Err(error)),
                end => {
                    if let Some(Err(error)) = end {
                        debug!(environment = %self.environment, %error, "a stream of output ended");
                    }
                    self.ended = now();
                    self.stream = None;
                }
            }
        }
    }

    /// The output of the next run, once there is one; the rest of the last run if only its stream ended. `None`: the
    /// environment is no longer declared.
    async fn next_stream(&mut self) -> Option<OutputStream> {
        loop {
            if !self.controller.reconciler.manifest.borrow().environments.contains_key(&self.environment) {
                return None;
            }
            let serving = self.controller.serving(&self.environment);
            let is_broken = now() >= self.ended.after(BROKEN);
            if let Some(container) = serving.filter(|container| self.is_next(container, is_broken))
                && let Ok(stream) = self.resume(Run::of(&container)).await
            {
                return Some(stream);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Whether to read this container now. A run that has ended already counts too: its output may contain the reason.
    fn is_next(&self, container: &ObservedContainer, is_broken: bool) -> bool {
        let is_running = container.state == ContainerState::Running;
        match &self.run {
            Some(run) if Run::of(container) == *run => is_running && is_broken,
            _ => is_running || container.started_at.is_some(),
        }
    }

    /// Continues with a run. One whose container has been removed by now was not the next one.
    async fn resume(&mut self, run: Run) -> Result<OutputStream, EngineError> {
        let Controller { reconciler, .. } = &self.controller;
        let present = reconciler.cache.containers(&self.environment);
        self.positions.retain(|id, _| present.iter().any(|container| container.id == *id));
        let id = run.id.clone();
        self.run = Some(run);
        let position = self.positions.entry(id.clone()).or_default();
        let (resumed, since) = position.resume(wall());
        *position = resumed;
        let options = LogOptions { follow: true, since, ..LogOptions::default() };
        Ok(reconciler.engine.logs(&id, &options).await?.boxed())
    }
}
