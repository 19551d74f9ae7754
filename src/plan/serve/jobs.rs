//! Jobs: commands that run at scheduled times.
//!
//! Each scheduled time is decided once: the decision is stored before anything is done for it. Then the
//! container is created, the start is noted, and the container is started, each in a separate reconcile. A
//! container carries the run that it is for, so a daemon that was killed anywhere continues with that run: it
//! never starts a second container for it. The result is read from the container.
//!
//! Scheduled times are times of day, so they are compared with the wall clock, which can be set. Everything that
//! is waited for follows the other clock, which never goes back. After the wall clock was set back, the times that
//! were decided are not decided again.

use std::collections::BTreeMap;
use std::time::Duration;

use super::RolloutContext;
use super::backups::{AWAKE, is_awake};
use super::hooks::{deadline, is_active};
use super::output::last_output_alone;
use super::parts::remove_stopped;
use crate::model::backup::ArchiveName;
use crate::model::container::{ContainerSpec, label};
use crate::model::job::{
    JOB, JobMemory, JobPart, JobRequest, JobResult, JobRun, JobRunKey, JobSpec, Overlap,
};
use crate::model::memory::Memory;
use crate::model::name::{ContainerName, Generation, JobName};
use crate::model::observed::{ContainerState, Observed, ObservedContainer};
use crate::model::one_off::{OneOffKey, OneOffSpec};
use crate::model::schedule::Schedule;
use crate::model::time::Timestamp;
use crate::plan::restart::{self, backoff};
use crate::plan::target::{self, Choice};
use crate::plan::{Intent, PartialPlan, Plan, Step, StepFailure, TRANSIT};

/// A run that begins so much later than scheduled is never late.
const LEAST_CATCH_UP: Duration = Duration::from_secs(60);
/// A decision that is further in the future was made while the clock was wrong.
const CLOCK_ERROR: Duration = Duration::from_secs(24 * 60 * 60);
/// The most runs of one job at once.
const MOST_AT_ONCE: usize = 10;
/// The most attempts to create or start a container.
const MOST_STARTS: u32 = 5;

/// The decision about a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::plan) enum ScheduleDecision {
    /// Nothing is due.
    Wait,
    /// The run of this time is due. Earlier undecided times are not caught up.
    Run(Timestamp),
    /// The last undecided times, of which this is the first, were too long ago.
    Missed(Timestamp),
}

/// Decides the times of a schedule in (`decided`, `wall_clock`].
pub(in crate::plan) fn decide(
    schedule: &Schedule,
    decided: Timestamp,
    wall_clock: Timestamp,
    catch_up: Duration,
) -> ScheduleDecision {
    let is_past = |at: &Timestamp| *at <= wall_clock;
    let Some(first) = schedule.next_after(decided).filter(is_past) else { return ScheduleDecision::Wait };
    let oldest = wall_clock.as_millis().saturating_sub(millis(latest_start(catch_up)) + 1);
    let mut last = Some(first).filter(|first| first.as_millis() > oldest);
    let mut from = last.unwrap_or(Timestamp::from_millis(oldest.max(first.as_millis())));
    while let Some(next) = schedule.next_after(from).filter(is_past) {
        (last, from) = (Some(next), next);
    }
    last.map_or(ScheduleDecision::Missed(first), ScheduleDecision::Run)
}

fn latest_start(catch_up: Duration) -> Duration {
    catch_up.max(LEAST_CATCH_UP)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 2)
}

/// The run of a container, from its labels.
pub(super) fn key_of(container: &ObservedContainer) -> Option<JobRunKey> {
    let is_of_job = container.labels.get(label::ROLE).is_some_and(|role| role == JOB);
    JobRunKey::of_mark(container.labels.get(label::COMMAND)?).filter(|_| is_of_job)
}

pub(super) fn place_of(state: &JobMemory, key: &JobRunKey) -> Option<usize> {
    state.runs.iter().position(|run| (run.at, run.attempt) == (key.at, key.attempt))
}

/// Notes declared jobs, and what became of their containers.
pub(in crate::plan) fn recall(
    mut memory: Memory,
    intent: &Intent,
    observed: &Observed,
    now: Timestamp,
) -> Memory {
    memory.jobs.retain(|name, state| {
        intent.jobs.contains_key(name) || state.runs.iter().any(|run| !run.result.is_settled())
    });
    for (name, spec) in &intent.jobs {
        let wall_clock = observed.wall_clock;
        let new = || JobMemory::new(&spec.schedule, wall_clock);
        let state = memory.jobs.entry(name.clone()).or_insert_with(new);
        let schedule = spec.schedule.to_string();
        if state.schedule != schedule || state.decided > wall_clock.after(CLOCK_ERROR) {
            (state.schedule, state.decided) = (schedule, wall_clock);
        }
    }
    for container in &observed.one_offs {
        if let Some(key) = key_of(container)
            && let Some(state) = memory.jobs.get_mut(&key.job)
        {
            note_container(state, &key, (intent, observed), container, now);
        }
    }
    for (name, state) in &mut memory.jobs {
        let has_container = |run: &JobRun| {
            let mut keys = observed.one_offs.iter().filter_map(key_of);
            keys.any(|key| key.job == *name && (key.at, key.attempt) == (run.at, run.attempt))
        };
        let lost = |run: &JobRun| run.result == JobResult::Running && !has_container(run);
        let lost: Vec<_> =
            state.runs.iter().enumerate().filter(|(_, run)| lost(run)).map(|(at, _)| at).collect();
        for place in lost {
            let why = "its container was removed before its result was known".to_owned();
            state.settle(place, JobResult::Failed, now, Some(why));
        }
    }
    memory
}

/// Notes the progress or the result of one container.
fn note_container(
    state: &mut JobMemory,
    key: &JobRunKey,
    (intent, observed): (&Intent, &Observed),
    container: &ObservedContainer,
    now: Timestamp,
) {
    let place = place_of(state, key).unwrap_or_else(|| {
        // The notes are older than the container, such as in a folder that was restored from a copy.
        state.decided = state.decided.max(key.at.min(observed.wall_clock));
        state.runs.push(JobRun::due(key.at, key.attempt, None));
        state.runs.len() - 1
    });
    let Some(run) = state.runs.get_mut(place).filter(|run| !run.result.is_settled()) else { return };
    if key.part == JobPart::Command && run.dumped {
        // The archive is the next part.
        return;
    }
    run.container = Some(container.id.clone());
    run.image.clone_from(&container.image);
    run.generation =
        container.labels.get(label::GENERATION).and_then(|text| text.parse().ok()).map(Generation);
    run.started = container.started_at;
    let output = || {
        let options = intent.options.as_ref().ok()?;
        let shown = last_output_alone(Some(options), container);
        Some(shown).filter(|shown| !shown.is_empty())
    };
    match &container.state {
        ContainerState::Created => {}
        ContainerState::Exited(exit) => {
            let by = observed.ended_by.get(&container.id).copied();
            (run.exit_code, run.output) = (Some(exit.code), output());
            let is_backup = intent.jobs.get(&key.job).is_some_and(|spec| spec.backup.is_some());
            if exit.code == 0 && key.part == JobPart::Command && is_backup {
                (run.dumped, run.result) = (true, JobResult::Due);
                return;
            }
            let is_awake = is_awake(key, observed);
            if exit.code == 0 && matches!(key.part, JobPart::Archive | JobPart::PausedArchive) && !is_awake {
                run.archive = Some(ArchiveName::of_run(&intent.environment, &key.job, key.at));
            }
            let (result, why) = match exit.code {
                0 if is_awake => (JobResult::Failed, Some(AWAKE.to_owned())),
                0 => (JobResult::Succeeded, None),
                _ => (JobResult::Failed, Some(restart::how(exit, by))),
            };
            state.settle(place, result, exit.at, why);
        }
        ContainerState::Dead => {
            let why = Some("the engine could not remove its container".to_owned());
            state.settle(place, JobResult::Failed, now, why);
        }
        ContainerState::Running | ContainerState::Paused | ContainerState::InTransit => {
            run.result = JobResult::Running;
            if is_awake(key, observed) {
                state.settle(place, JobResult::Failed, now, Some(AWAKE.to_owned()));
            } else if deadline(container).is_some_and(|deadline| deadline <= now) {
                run.output = output();
                let limit = container.labels.get(label::LIMIT).and_then(|text| text.parse().ok());
                let limit = humantime::format_duration(Duration::from_secs(limit.unwrap_or_default()));
                state.settle(place, JobResult::Failed, now, Some(format!("did not end within {limit}")));
            }
        }
    }
}

/// Adds the steps of the jobs to a plan. They come last and have their own backoff, so that they delay no
/// repair and no deployment.
pub(in crate::plan) fn add(
    mut plan: Plan,
    intent: &Intent,
    observed: &Observed,
    choice: &Choice,
    now: Timestamp,
) -> Plan {
    let mut memory = std::mem::take(&mut plan.memory);
    for (name, spec) in &intent.jobs {
        if let Some(state) = memory.jobs.get_mut(name) {
            let asked = observed.job_requests.get(name).map_or(&[][..], Vec::as_slice);
            note_scheduled(state, spec, observed.wall_clock, now);
            note_asked(state, (name, spec), asked, now);
            state.trim();
        }
    }
    let context = RolloutContext::new(intent, observed, choice, &memory, now);
    let mut partial = context.stop_settled(&memory).and(context.remove_old(&memory));
    for (name, spec) in &intent.jobs {
        let Some(mut state) = memory.jobs.remove(name) else { continue };
        partial = partial.and(context.advance_runs((name, spec), &mut state, &memory));
        let next = spec.schedule.next_after(observed.wall_clock.max(state.decided));
        plan.next_jobs.insert(name.clone(), next);
        let next = next.map(|next| context.at_wall_clock(next));
        let times = [next, retry_at(&state, spec, name)].into_iter().flatten();
        partial = times.fold(partial, PartialPlan::requeue_by);
        memory.jobs.insert(name.clone(), state);
    }
    plan.before_jobs = plan.steps.len();
    plan.steps.extend(partial.steps);
    plan.jobs_requeue_at = partial.requeue_at;
    Plan { memory, ..plan }
}

/// Notes the run that is due by its schedule. A time that had its run before the wall clock was set back has none
/// again.
fn note_scheduled(state: &mut JobMemory, spec: &JobSpec, wall_clock: Timestamp, now: Timestamp) {
    match decide(&spec.schedule, state.decided, wall_clock, spec.catch_up) {
        ScheduleDecision::Wait => {}
        ScheduleDecision::Run(at) | ScheduleDecision::Missed(at) if has_run(state, at) => state.decided = at,
        ScheduleDecision::Run(at) => {
            state.decided = at;
            begin(state, spec.overlap, JobRun::due(at, 1, None), now);
        }
        ScheduleDecision::Missed(at) => {
            state.decided = wall_clock;
            state.runs.push(JobRun::due(at, 1, None));
            let late = humantime::format_duration(latest_start(spec.catch_up));
            let why =
                format!("abide could not run it then, and it may begin at most {late} late (`catch_up`)");
            state.settle(state.runs.len() - 1, JobResult::Missed, now, Some(why));
        }
    }
}

fn has_run(state: &JobMemory, scheduled: Timestamp) -> bool {
    state.runs.iter().any(|run| run.by.is_none() && run.at == scheduled)
}

/// Notes the runs that people asked for, and the repetition of a failed one.
fn note_asked(
    state: &mut JobMemory,
    (name, spec): (&JobName, &JobSpec),
    asked: &[JobRequest],
    now: Timestamp,
) {
    for request in asked {
        if !state.runs.iter().any(|run| run.at == request.at && run.by.as_ref() == Some(&request.by)) {
            let overlap = if request.restore.is_some() { Overlap::Forbid } else { spec.overlap };
            begin(state, overlap, JobRun::asked(request), now);
        }
    }
    if retry_at(state, spec, name).is_some_and(|at| at <= now)
        && let Some((at, attempt)) = last_scheduled(state).map(|run| (run.at, run.attempt))
    {
        state.runs.push(JobRun::due(at, attempt + 1, None));
    }
}

/// Notes a run that is due, or why it does not begin.
fn begin(state: &mut JobMemory, overlap: Overlap, run: JobRun, now: Timestamp) {
    let running: Vec<_> =
        state.runs.iter().enumerate().filter(|(_, run)| !run.result.is_settled()).map(|(at, _)| at).collect();
    let earlier = running.first().and_then(|place| state.runs.get(*place)).map(|run| run.at);
    let goes_on = earlier.map(|at| format!("the run of {at} still goes on"));
    let at = run.at;
    state.runs.push(run);
    match overlap {
        Overlap::Forbid if !running.is_empty() => {
            state.settle(state.runs.len() - 1, JobResult::Skipped, now, goes_on);
        }
        Overlap::Allow if running.len() >= MOST_AT_ONCE => {
            let why = format!("{MOST_AT_ONCE} runs of it go on, which is the limit");
            state.settle(state.runs.len() - 1, JobResult::Skipped, now, Some(why));
        }
        Overlap::Replace => {
            for place in running {
                state.settle(place, JobResult::Failed, now, Some(format!("was replaced by the run of {at}")));
            }
        }
        Overlap::Forbid | Overlap::Allow => {}
    }
}

fn last_scheduled(state: &JobMemory) -> Option<&JobRun> {
    state.runs.iter().rev().find(|run| run.by.is_none())
}

/// The time at which the last scheduled run is repeated, if it failed and may be.
fn retry_at(state: &JobMemory, spec: &JobSpec, name: &JobName) -> Option<Timestamp> {
    let last = last_scheduled(state).filter(|run| run.result == JobResult::Failed)?;
    let is_free = state.runs.iter().all(|run| run.result.is_settled());
    let may = is_free && last.attempt <= spec.retries;
    may.then(|| last.ended.unwrap_or(last.at).after(backoff(last.attempt + 3, name.as_str())))
}

impl RolloutContext<'_> {
    fn of_job<'a>(&'a self, name: &'a JobName) -> impl Iterator<Item = (JobRunKey, &'a ObservedContainer)> {
        let keyed = self.observed.one_offs.iter().filter_map(|seen| Some((key_of(seen)?, seen)));
        keyed.filter(move |(key, _)| key.job == *name)
    }

    /// Stops the containers of runs that are over: they took too long, or were replaced.
    fn stop_settled(&self, memory: &Memory) -> PartialPlan {
        self.observed.one_offs.iter().fold(PartialPlan::default(), |partial, seen| {
            let run = key_of(seen).and_then(|key| {
                let state = memory.jobs.get(&key.job)?;
                state.runs.get(place_of(state, &key)?)
            });
            match run.filter(|run| run.result.is_settled() && is_active(&seen.state)) {
                Some(run) => {
                    let why = run.why.clone().unwrap_or_else(|| "its run is over".to_owned());
                    partial.then(Step::Stop { id: seen.id.clone() }, why)
                }
                None => partial,
            }
        })
    }

    /// Removes the containers of finished runs, except for the last one of each declared job: it has the output.
    fn remove_old(&self, memory: &Memory) -> PartialPlan {
        let mut ended: BTreeMap<JobName, Vec<&ObservedContainer>> = BTreeMap::new();
        for seen in &self.observed.one_offs {
            let Some(key) = key_of(seen).filter(|_| !is_active(&seen.state)) else { continue };
            let goes_on = memory.jobs.get(&key.job).is_some_and(|state| {
                place_of(state, &key)
                    .and_then(|place| state.runs.get(place))
                    .is_some_and(|run| !run.result.is_settled())
            });
            if !goes_on {
                ended.entry(key.job).or_default().push(seen);
            }
        }
        let mut partial = PartialPlan::default();
        for (name, mut containers) in ended {
            containers.sort_by_key(|seen| (seen.created_at, seen.id.clone()));
            if self.intent.jobs.contains_key(&name) {
                containers.pop();
            }
            for old in containers {
                partial = remove_stopped(partial, old, "its run is over");
            }
        }
        partial
    }

    /// The time of this pass's clock at which the wall clock shows `time`, unless it is set meanwhile.
    fn at_wall_clock(&self, time: Timestamp) -> Timestamp {
        self.now.after(time.since(self.observed.wall_clock))
    }

    /// The next steps of the runs that are not over.
    fn advance_runs(
        &self,
        (name, spec): (&JobName, &JobSpec),
        state: &mut JobMemory,
        memory: &Memory,
    ) -> PartialPlan {
        let mut partial = PartialPlan::default();
        for place in 0..state.runs.len() {
            let Some(run) = state.runs.get_mut(place).filter(|run| !run.result.is_settled()) else {
                continue;
            };
            let part = run.part(Some(spec));
            let key = JobRunKey { job: name.clone(), at: run.at, attempt: run.attempt, part };
            let container = self.of_job(name).find(|(of, _)| *of == key).map(|(_, seen)| seen);
            if let Some((_, at)) = run.delayed.filter(|(_, at)| *at > self.now) {
                partial = partial.requeue_by(at);
                continue;
            }
            match container {
                Some(made) if made.state == ContainerState::Created && !self.may_begin(part) => {
                    partial = partial.requeue_by(self.now.after(TRANSIT));
                }
                Some(made) if made.state == ContainerState::Created => {
                    run.result = JobResult::Running;
                    partial = self.pause_for(partial, &key);
                    let step = Step::StartOneOff { id: made.id.clone(), key: OneOffKey::Job(key) };
                    partial = partial.then(step, reason(run));
                }
                Some(paused) if paused.state == ContainerState::Paused => {
                    partial = partial.then(Step::Unpause { id: paused.id.clone() }, "it was paused");
                }
                Some(running) => {
                    partial = deadline(running).into_iter().fold(partial, PartialPlan::requeue_by);
                }
                None => match self.make_run(&key, (run.archive.as_ref(), spec), memory) {
                    Ok(steps) => {
                        let reason = reason(run);
                        run.why = None;
                        partial = steps.and(partial);
                        if let Some(last) =
                            partial.steps.iter_mut().rev().find(|step| is_create_of(&step.step, &key))
                        {
                            last.reason = reason;
                        }
                    }
                    Err(why) => {
                        let until = run.at.after(latest_start(spec.catch_up));
                        if run.by.is_some() {
                            state.settle(place, JobResult::Failed, self.now, Some(why));
                        } else if self.observed.wall_clock >= until {
                            state.settle(place, JobResult::Missed, self.now, Some(why));
                        } else {
                            run.why = Some(why);
                            partial = partial.requeue_by(self.at_wall_clock(until));
                        }
                    }
                },
            }
        }
        partial
    }

    /// Creates the container of a run; an error explains why that is not possible now.
    fn make_run(
        &self,
        key: &JobRunKey,
        (archive, spec): (Option<&ArchiveName>, &JobSpec),
        memory: &Memory,
    ) -> Result<PartialPlan, String> {
        if key.part.is_of_volume() {
            return self.make_volume_run(key, (archive, spec), memory);
        }
        let wanted = self.good_version(memory)?;
        let partial = self.prerequisites(&wanted, memory).map_err(|blocked| blocked.message)?;
        let name = self.name_of_run(&wanted.options.name, &key.job);
        let words = spec.backup.as_ref().map_or(&spec.words, |backup| &backup.dump);
        let one_off = OneOffSpec::new(&wanted, name, JOB, words, (key.mark(), spec.timeout));
        Ok(partial.then(Step::CreateOneOff { spec: Box::new(one_off) }, "it is due"))
    }

    /// The version that jobs run: the last one that became ready.
    pub(super) fn good_version(&self, memory: &Memory) -> Result<ContainerSpec, String> {
        let environment = &self.intent.environment;
        if let Err(why) = &self.intent.options {
            return Err(why.clone());
        }
        if memory.good.is_none() {
            return Err(format!("no version of {environment} has become ready yet"));
        }
        target::good(self.intent, self.observed, memory).ok_or_else(|| {
            format!(
                "the last good image of {environment} is not on its host, or does not start with its options"
            )
        })
    }

    pub(super) fn name_of_run(&self, container: &ContainerName, job: &JobName) -> ContainerName {
        let is_free = |name: &str| {
            let mut all =
                self.observed.containers.iter().chain(&self.observed.one_offs).chain(&self.observed.holders);
            all.all(|seen| seen.name != name)
        };
        self.free_name(container, &format!(".job-{job}"), is_free)
    }
}

fn is_create_of(step: &Step, key: &JobRunKey) -> bool {
    matches!(step, Step::CreateOneOff { spec } if spec.role == JOB && spec.mark == key.mark())
}

fn reason(run: &JobRun) -> String {
    match (&run.by, run.attempt) {
        (Some(by), _) => format!("{by} asked for it"),
        (None, 1) => format!("it is scheduled for {}", run.at),
        (None, attempt) => format!("it is scheduled for {} and failed; attempt {attempt}", run.at),
    }
}

/// Notes a failed step of a run. Returns whether the step was one.
pub(in crate::plan) fn note_failure(
    memory: &mut Memory,
    step: &Step,
    failure: StepFailure<'_>,
    now: Timestamp,
) -> bool {
    let Some(OneOffKey::Job(key)) = step.one_off() else { return false };
    let Some(state) = memory.jobs.get_mut(&key.job) else { return true };
    let Some(place) = place_of(state, &key) else { return true };
    let Some(run) = state.runs.get_mut(place) else { return true };
    let count = run.delayed.map_or(1, |(count, _)| count + 1);
    if failure.cause.is_verdict() || count >= MOST_STARTS {
        let why = format!("cannot be run: {}", failure.message);
        state.settle(place, JobResult::Failed, now, Some(why));
    } else {
        run.delayed = Some((count, now.after(backoff(count + 1, key.job.as_str()))));
    }
    true
}
