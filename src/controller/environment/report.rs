//! The report of a pass: status, events and outcomes.

use std::collections::BTreeMap;

use tracing::{info, warn};

use super::act::FailedStep;
use super::reconciler::{PassError, Planned, Reconciler};
use crate::controller::clock::now;
use crate::model::event::EventKind;
use crate::model::job::{JobMemory, JobReport, JobReports, JobResult, JobRun};
use crate::model::memory::Memory;
use crate::model::name::{EnvironmentName, JobName};
use crate::model::observed::Observed;
use crate::model::status::{Condition, Reason, RunningContainer, Status};
use crate::model::time::Timestamp;
use crate::plan::{self, Intent};

impl Reconciler {
    pub(in crate::controller) async fn report(
        &self,
        planned: Planned,
        before: Option<Status>,
        failed: Option<FailedStep>,
    ) -> Result<(), PassError> {
        let environment = &planned.intent.environment;
        let at = now();
        let memory = match &failed {
            Some(failed) => {
                let message = failed.to_string();
                warn!(%environment, step = %plan::explain::words(&failed.step), error = %message, "step failed");
                self.writer.event(environment, EventKind::Failure, &message, at).await?;
                let failure = plan::StepFailure { cause: failed.cause(), message: &message };
                plan::after_failure(&planned.plan, &failed.step, failure, &planned.intent, at)
            }
            None => planned.plan.memory.clone(),
        };
        let status = status(&planned, before.as_ref(), at, &memory);
        self.log_change(before.as_ref(), &status, at).await?;
        self.log_warnings(before.as_ref(), &status, at).await?;
        self.writer.report(&status, &memory).await?;
        self.observed(environment);
        self.stopwatch.status_changed(planned.lost_at(), before.as_ref(), &status);
        if let Some((generation, outcome)) = &planned.plan.outcome
            && self.writer.outcome(environment, *generation, outcome.clone()).await?
        {
            self.stopwatch.generation_ended(&planned.desired, *generation, outcome, at);
        }
        let was_ready = before.is_some_and(|before| before.condition == Condition::Ready);
        if status.condition == Condition::Ready && !was_ready {
            self.deployed.notify_one();
        }
        Ok(())
    }

    /// Records the results of jobs as events. This comes before the results are stored: an event that appears twice
    /// is better than none.
    pub(in crate::controller) async fn record_job_events(&self, planned: &Planned) -> Result<(), PassError> {
        let environment = &planned.intent.environment;
        for (name, state) in &planned.plan.memory.jobs {
            for run in new_results(planned.memory.jobs.get(name), state) {
                let words = job_words(name, run);
                info!(%environment, job = %name, result = run.result.as_str(), message = %words, "job");
                let kind = if run.result.is_bad() { EventKind::Failure } else { EventKind::System };
                self.writer.event(environment, kind, words, now()).await?;
            }
        }
        Ok(())
    }

    async fn log_change(
        &self,
        before: Option<&Status>,
        status: &Status,
        at: Timestamp,
    ) -> Result<(), PassError> {
        let last_reported = before.map(|before| (before.condition, before.reason, before.message.as_str()));
        if last_reported == Some((status.condition, status.reason, status.message.as_str())) {
            return Ok(());
        }
        let (environment, condition, reason) = (&status.environment, status.condition, status.reason);
        info!(
            %environment, generation = %status.observed_generation, condition = condition.as_str(),
            reason = reason.as_str(), message = %status.message, "status"
        );
        if before.is_some_and(|before| before.reason == reason) && is_acquiring(reason) {
            return Ok(self.writer.event(environment, EventKind::Build, &status.message, at).await?);
        }
        let words = format!("{} ({}): {}", condition.as_str(), reason.as_str(), status.message);
        Ok(self.writer.event(environment, EventKind::Status, words, at).await?)
    }

    /// Reports that the engine does not answer, and changes nothing else: this does not show whether the
    /// containers run.
    pub(in crate::controller) async fn report_error(
        &self,
        environment: &EnvironmentName,
        error: &PassError,
    ) -> Result<(), PassError> {
        let PassError::Engine(error) = error else { return Ok(()) };
        let before = self.status.status(environment)?;
        let at = now();
        let same = before.as_ref().filter(|before| before.reason == Reason::EngineUnavailable);
        let status = Status {
            environment: environment.clone(),
            observed_generation: before.as_ref().map(|before| before.observed_generation).unwrap_or_default(),
            condition: Condition::Degraded,
            reason: Reason::EngineUnavailable,
            message: error.to_string(),
            since: same.map_or(at, |same| same.since),
            running: before.as_ref().and_then(|before| before.running.clone()),
            next_retry: None,
            plan: Vec::new(),
            observed_sync: before.as_ref().and_then(|before| before.observed_sync),
            certificate_until: before.as_ref().and_then(|before| before.certificate_until),
            volumes: before.as_ref().map(|before| before.volumes.clone()).unwrap_or_default(),
            warnings: before.as_ref().map(|before| before.warnings.clone()).unwrap_or_default(),
            observed_declaration: before.as_ref().and_then(|before| before.observed_declaration.clone()),
            canary: before.as_ref().and_then(|before| before.canary.clone()),
            jobs: before.as_ref().map(|before| before.jobs.clone()).unwrap_or_default(),
            nodes: Vec::new(),
        };
        self.log_change(before.as_ref(), &status, at).await?;
        let memory = self.status.memory(environment)?;
        self.writer.report(&status, &memory).await?;
        self.observed(environment);
        Ok(())
    }
}

/// Whether a change of the message only reports the progress of a build or pull.
fn is_acquiring(reason: Reason) -> bool {
    matches!(reason, Reason::Building | Reason::Pulling | Reason::Pushing)
}

/// The runs that have a result now, and had none in the stored state.
fn new_results<'a>(before: Option<&JobMemory>, now: &'a JobMemory) -> Vec<&'a JobRun> {
    let was_settled = |run: &JobRun| {
        let mut runs = before.iter().flat_map(|before| &before.runs);
        runs.any(|old| (old.at, old.attempt) == (run.at, run.attempt) && old.result.is_settled())
    };
    now.runs.iter().filter(|run| run.result.is_settled() && !was_settled(run)).collect()
}

fn job_words(name: &JobName, run: &JobRun) -> String {
    let attempt = if run.attempt > 1 { format!(", attempt {}", run.attempt) } else { String::new() };
    let asked = run.by.as_ref().map(|by| format!(", for {by}")).unwrap_or_default();
    let why = match (run.result, &run.why) {
        (JobResult::Succeeded, _) | (_, None) => String::new(),
        (_, Some(why)) => format!(": {why}"),
    };
    let output = run.output.as_ref().filter(|_| run.result.is_bad());
    let output = output.map(|output| format!("; its last output: {output}")).unwrap_or_default();
    format!("job {name} {} (run of {}{attempt}{asked}){why}{output}", run.result.as_str(), run.at)
}

/// The status for a plan, with `memory` beside it.
pub(in crate::controller) fn status(
    planned: &Planned,
    before: Option<&Status>,
    at: Timestamp,
    memory: &Memory,
) -> Status {
    let verdict = &planned.plan.verdict;
    let same = before
        .filter(|before| before.condition == verdict.condition && before.reason == verdict.reason)
        .filter(|before| before.observed_generation == planned.desired.entry.generation);
    Status {
        environment: planned.intent.environment.clone(),
        observed_generation: planned.desired.entry.generation,
        condition: verdict.condition,
        reason: verdict.reason,
        message: verdict.message.clone(),
        since: same.map_or(at, |same| same.since),
        running: running(&planned.intent, &planned.observed, memory),
        // A workload is only observed again then, every few seconds.
        next_retry: planned
            .plan
            .requeue_at
            .filter(|_| verdict.condition == Condition::Degraded && planned.intent.workload.is_none()),
        plan: plan::explain::explain(&planned.plan),
        observed_sync: planned.desired.sync,
        certificate_until: planned.certificate_until,
        volumes: planned.plan.volumes.clone(),
        warnings: planned.warnings.iter().chain(&planned.plan.warnings).cloned().collect(),
        observed_declaration: planned.mark.clone(),
        canary: memory.canary.clone(),
        jobs: reports(&planned.plan.next_jobs, memory),
        nodes: plan::workload_nodes(&planned.observed),
    }
}

fn reports(next_jobs: &BTreeMap<JobName, Option<Timestamp>>, memory: &Memory) -> JobReports {
    let declared = memory.jobs.iter().filter_map(|(name, state)| {
        let next = *next_jobs.get(name)?;
        Some((name.clone(), JobReport { state: state.clone(), next }))
    });
    declared.collect()
}

fn running(intent: &Intent, observed: &Observed, memory: &Memory) -> Option<RunningContainer> {
    if intent.workload.is_some() {
        return plan::running_workload(observed, memory);
    }
    let serving = plan::serving(intent, observed, memory)?;
    Some(RunningContainer {
        container_id: serving.id.clone(),
        image_id: serving.image.clone(),
        started_at: serving.started_at,
        restarts: memory.crashes.restarts,
    })
}
