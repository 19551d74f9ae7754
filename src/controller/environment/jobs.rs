//! Runs of jobs that people ask for and wait for. The reconcile loop starts and records them, like scheduled
//! ones; a session only asks, and passes the output and the result on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::attach::AttachedSession;
use crate::controller::Controller;
use crate::controller::clock::now;
use crate::model::attach::{AttachOutput, LONGEST_PAYLOAD};
use crate::model::backup::ArchiveName;
use crate::model::error::chain;
use crate::model::event::EventKind;
use crate::model::job::{JobRequest, JobResult, JobRun};
use crate::model::logs::LogOptions;
use crate::model::name::{EnvironmentName, JobName};
use crate::model::time::Timestamp;

/// How often a session looks for the progress of its run. A look only reads the record.
const LOOK: Duration = Duration::from_millis(200);
/// The number of messages that wait for a slow reader.
const WAITING: usize = 16;

type RequestsByJob = BTreeMap<(EnvironmentName, JobName), Vec<JobRequest>>;

/// The requests of this process that are not over.
#[derive(Clone, Default)]
pub(in crate::controller) struct JobRequests {
    open: Arc<Mutex<RequestsByJob>>,
}

impl JobRequests {
    fn open(&self) -> MutexGuard<'_, RequestsByJob> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The requests for the jobs of an environment.
    pub(in crate::controller) fn of(
        &self,
        environment: &EnvironmentName,
    ) -> BTreeMap<JobName, Vec<JobRequest>> {
        let open = self.open();
        let own = open.iter().filter(|((of, _), _)| of == environment);
        own.map(|((_, job), requests)| (job.clone(), requests.clone())).collect()
    }

    /// Adds a request, until the result is dropped. Its time distinguishes it from scheduled runs, which are at
    /// whole minutes, and from other requests.
    fn add(
        &self,
        environment: &EnvironmentName,
        job: &JobName,
        (by, restore): (&str, Option<ArchiveName>),
        now: Timestamp,
    ) -> OpenRequest {
        let key = (environment.clone(), job.clone());
        let mut open = self.open();
        let requests = open.entry(key.clone()).or_default();
        let mut at = now;
        while at.as_millis().is_multiple_of(60_000) || requests.iter().any(|request| request.at == at) {
            at = at.after(Duration::from_millis(1));
        }
        requests.push(JobRequest { at, by: by.to_owned(), restore });
        OpenRequest { requests: self.clone(), key, at }
    }
}

/// A request, while somebody waits for it or it is not recorded.
struct OpenRequest {
    requests: JobRequests,
    key: (EnvironmentName, JobName),
    at: Timestamp,
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        let mut open = self.requests.open();
        if let Some(requests) = open.get_mut(&self.key) {
            requests.retain(|request| request.at != self.at);
            if requests.is_empty() {
                open.remove(&self.key);
            }
        }
    }
}

impl Controller {
    /// Asks for a run of a job for `by`, and passes its output and result on. The run continues without the client.
    pub(super) async fn attach_job(
        &self,
        environment: &EnvironmentName,
        (job, restore): (&JobName, Option<&ArchiveName>),
        by: &str,
        permit: OwnedSemaphorePermit,
    ) -> Result<AttachedSession, String> {
        let manifest = Arc::clone(&self.reconciler.manifest.borrow());
        let spec = manifest.environments.get(environment).and_then(|spec| spec.jobs.get(job));
        let Some(spec) = spec else {
            return Err(format!("{environment} has no job {job}: `abide jobs` lists all jobs"));
        };
        if restore.is_some() && spec.backup.is_none() {
            return Err(format!("job {job} has no `backup`, so it cannot restore"));
        }
        let event = match restore {
            Some(archive) => format!("the restore of {} by job {job} was started by {by}", archive.as_str()),
            None => format!("job {job} was started by {by}"),
        };
        let noted = self.reconciler.writer.event(environment, EventKind::System, event, now()).await;
        // Nobody may run a command that no event mentions.
        noted.map_err(|error| format!("the event cannot be recorded: {}", chain(&error)))?;
        let request = self.reconciler.job_requests.add(environment, job, (by, restore.cloned()), now());
        self.wake.wake(environment);
        let (input, mut inputs) = mpsc::channel(WAITING);
        let (outputs, output) = mpsc::channel(WAITING);
        let session = JobSession { controller: self.clone(), request, outputs, _permit: permit };
        tokio::spawn(async move {
            // A job reads no input. The client is gone once it drops its end.
            let gone = async { while inputs.recv().await.is_some() {} };
            tokio::select! {
                () = session.run() => {}
                () = gone => {}
            }
        });
        Ok(AttachedSession { input, output })
    }
}

/// A person who waits for a run.
struct JobSession {
    controller: Controller,
    request: OpenRequest,
    outputs: mpsc::Sender<AttachOutput>,
    _permit: OwnedSemaphorePermit,
}

impl JobSession {
    async fn run(self) {
        let last = match self.result().await {
            Ok(run) => ended(&run, &self.request.key.1),
            Err(why) => AttachOutput::Failed(why),
        };
        // The client may be gone.
        let _ = self.outputs.send(last).await;
    }

    /// Waits for the result, and passes the output on meanwhile.
    async fn result(&self) -> Result<JobRun, String> {
        let mut shown = None;
        loop {
            if let Some(run) = self.look()? {
                // A backup has two of them if a command runs first.
                let container = run.container.as_ref().filter(|_| run.started.is_some());
                if let Some(container) = container.filter(|container| shown.as_ref() != Some(*container)) {
                    shown = Some(container.clone());
                    self.show(container).await;
                    continue;
                }
                if run.result.is_settled() {
                    return Ok(run);
                }
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = self.controller.stop.cancelled() => return Err("abide stops; the job goes on".to_owned()),
            }
        }
    }

    /// The run in the record; `None`: the loop has not handled the request yet.
    fn look(&self) -> Result<Option<JobRun>, String> {
        let (environment, job) = &self.request.key;
        let reconciler = &self.controller.reconciler;
        let manifest = Arc::clone(&reconciler.manifest.borrow());
        let memory = reconciler.status.memory(environment).map_err(|error| chain(&error))?;
        let state = memory.jobs.get(job);
        let run = state.and_then(|state| state.runs.iter().find(|run| run.at == self.request.at)).cloned();
        let is_declared =
            manifest.environments.get(environment).is_some_and(|spec| spec.jobs.contains_key(job));
        match run {
            None if !is_declared => Err(format!("job {job} is no longer in the manifest")),
            run => Ok(run),
        }
    }

    /// Passes the output of a container on until it ends. If the output cannot be read, the result still counts.
    async fn show(&self, container: &str) {
        let options = LogOptions { follow: true, ..LogOptions::default() };
        let Ok(pieces) = self.controller.reconciler.engine.logs(container, &options).await else { return };
        let mut pieces = std::pin::pin!(pieces);
        while let Some(Ok(piece)) = pieces.next().await {
            for part in piece.shown(false).chunks(LONGEST_PAYLOAD) {
                if self.outputs.send(AttachOutput::Out(part.to_vec())).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// The last message of a session.
fn ended(run: &JobRun, job: &JobName) -> AttachOutput {
    let why = || run.why.clone().unwrap_or_else(|| run.result.as_str().to_owned());
    match (run.result, run.exit_code) {
        (JobResult::Succeeded | JobResult::Failed, Some(code)) => AttachOutput::Ended(code),
        (JobResult::Skipped, _) => AttachOutput::Failed(format!("job {job} was not started: {}", why())),
        _ => AttachOutput::Failed(format!("job {job} failed: {}", why())),
    }
}
