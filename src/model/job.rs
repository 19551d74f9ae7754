//! Jobs: commands that run at scheduled times, in containers with the options of an environment.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::backup::{ArchiveName, BackupSpec};
use super::name::{Digest, EnvironmentName, Generation, JobName};
use super::one_off::CommandWords;
use super::schedule::Schedule;
use super::time::Timestamp;
use super::wire;

/// The role of the containers of jobs.
pub const JOB: &str = "job";
/// The most retries of a run.
pub const MOST_RETRIES: u32 = 10;
/// The longest delay after which a missed run is still caught up.
pub const LONGEST_CATCH_UP: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// The runs of each job that are kept.
const RUNS_KEPT: usize = 20;
/// The successes and the failures of each job whose output is kept.
const OUTPUTS_KEPT: usize = 3;

/// A job of an environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawJobSpec")]
pub struct JobSpec {
    /// The command; nothing for a backup.
    #[serde(flatten)]
    pub words: CommandWords,
    /// The volume that it backs up; `None`: it only runs its command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupSpec>,
    /// When it runs.
    #[serde(flatten)]
    pub schedule: Schedule,
    /// The longest time that a run may take.
    pub timeout: Duration,
    /// The behavior at a scheduled time while an earlier run lasts.
    pub overlap: Overlap,
    /// How often a failed run is repeated.
    pub retries: u32,
    /// How late a run may begin.
    pub catch_up: Duration,
}

/// The raw form of a job.
#[derive(Deserialize)]
struct RawJobSpec {
    #[serde(flatten)]
    words: CommandWords,
    #[serde(default)]
    backup: Option<BackupSpec>,
    #[serde(flatten)]
    schedule: Schedule,
    #[serde(deserialize_with = "wire::patience")]
    timeout: Duration,
    overlap: Overlap,
    retries: u32,
    catch_up: Duration,
}

impl TryFrom<RawJobSpec> for JobSpec {
    type Error = String;

    fn try_from(raw: RawJobSpec) -> Result<Self, String> {
        let RawJobSpec { words, backup, schedule, timeout, overlap, retries, catch_up } = raw;
        if backup.is_some() && overlap != Overlap::Forbid {
            return Err("two backups of a volume must not overlap".to_owned());
        }
        if retries > MOST_RETRIES || catch_up > LONGEST_CATCH_UP {
            return Err("a job has more retries or a longer `catch_up` than allowed".to_owned());
        }
        Ok(Self { words, backup, schedule, timeout, overlap, retries, catch_up })
    }
}

/// The behavior at a scheduled time while an earlier run lasts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Overlap {
    /// The new run is skipped.
    #[default]
    Forbid,
    /// Both run.
    Allow,
    /// The earlier run is stopped.
    Replace,
}

impl Overlap {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Forbid, Self::Allow, Self::Replace];

    /// The word in the manifest.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Forbid => "forbid",
            Self::Allow => "allow",
            Self::Replace => "replace",
        }
    }
}

/// A person's request to run a job now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobRequest {
    /// The time of the request, which distinguishes it from others.
    pub at: Timestamp,
    /// The person.
    pub by: String,
    /// The archive to restore; `None`: the job itself is to run.
    pub restore: Option<ArchiveName>,
}

/// The part of a run that a container is for. The parts of a backup run one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum JobPart {
    /// The job's command, or the command before a backup.
    Command,
    /// A volume is written into an archive.
    Archive,
    /// The same, while the environment's container is paused.
    PausedArchive,
    /// The content of an archive is put into a volume, while the environment's container is stopped.
    Restore,
}

impl JobPart {
    const MARKED: [(Self, &str); 3] =
        [(Self::Archive, "archive"), (Self::PausedArchive, "paused-archive"), (Self::Restore, "restore")];

    /// Whether abide's own program runs, which has only a volume and the folder of archives.
    pub fn is_of_volume(self) -> bool {
        self != Self::Command
    }
}

/// Which run of a job a container is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct JobRunKey {
    /// The job.
    pub job: JobName,
    /// The scheduled time, or the time of a person's request.
    pub at: Timestamp,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// The part of the run.
    pub part: JobPart,
}

impl JobRunKey {
    /// The text in the label of the container.
    pub fn mark(&self) -> String {
        let part = JobPart::MARKED.iter().find(|(part, _)| *part == self.part);
        let part = part.map(|(_, word)| format!(" {word}")).unwrap_or_default();
        format!("{} {} {}{part}", self.job, self.at, self.attempt)
    }

    /// Reads that text.
    pub fn of_mark(mark: &str) -> Option<Self> {
        let mut parts = mark.split(' ');
        let job = parts.next()?.parse().ok()?;
        let at = Timestamp::parse(parts.next()?).ok()?;
        let attempt = parts.next()?.parse().ok()?;
        let part = match parts.next() {
            None => JobPart::Command,
            Some(word) => JobPart::MARKED.iter().find(|(_, marked)| *marked == word)?.0,
        };
        parts.next().is_none().then_some(Self { job, at, attempt, part })
    }
}

/// The state of a job on its host: all scheduled times up to [`Self::decided`] have had their run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobMemory {
    /// The schedule that the decisions belong to, as text.
    pub schedule: String,
    /// The time up to which every scheduled time was decided.
    pub decided: Timestamp,
    /// The latest runs, the newest last.
    #[serde(default)]
    pub runs: Vec<JobRun>,
    /// The last success.
    #[serde(default)]
    pub last_success: Option<Timestamp>,
    /// The successful runs since the job is known.
    #[serde(default)]
    pub successes: u64,
    /// The failed and missed runs since the job is known, each attempt counted.
    #[serde(default)]
    pub failures: u64,
}

/// A run of a job, or of a scheduled time without a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRun {
    /// The scheduled time, or the time of a person's request.
    pub at: Timestamp,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// The person who asked for it; `None`: it was scheduled.
    #[serde(default)]
    pub by: Option<String>,
    /// The progress or result.
    pub result: JobResult,
    /// The container's id, once there is one.
    #[serde(default)]
    pub container: Option<String>,
    /// The image that it runs.
    #[serde(default)]
    pub image: Option<Digest>,
    /// The generation of that image.
    #[serde(default)]
    pub generation: Option<Generation>,
    /// When its container was started.
    #[serde(default)]
    pub started: Option<Timestamp>,
    /// When the result was known.
    #[serde(default)]
    pub ended: Option<Timestamp>,
    /// The exit code of the command.
    #[serde(default)]
    pub exit_code: Option<i64>,
    /// The reason of the result, or why it cannot begin yet, as a clause.
    #[serde(default)]
    pub why: Option<String>,
    /// The end of the output, in one line and without values of secrets.
    #[serde(default)]
    pub output: Option<String>,
    /// The failed attempts to create or start the container, and the time of the next one.
    #[serde(default)]
    pub delayed: Option<(u32, Timestamp)>,
    /// Whether the command before a backup has succeeded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dumped: bool,
    /// The archive that a backup wrote, or that is restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<ArchiveName>,
    /// Whether it restores its archive.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restore: bool,
}

/// The progress or result of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobResult {
    /// Its container is about to be created.
    Due,
    /// Its container is started, or about to be.
    Running,
    /// Exit code 0.
    Succeeded,
    /// Another exit code, too long, ended by something else, or not startable.
    Failed,
    /// It did not begin, because an earlier run had not ended.
    Skipped,
    /// It did not begin in time.
    Missed,
}

impl JobResult {
    /// The word for people and scripts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Due => "due",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Missed => "missed",
        }
    }

    /// Whether it can no longer change.
    pub fn is_settled(self) -> bool {
        !matches!(self, Self::Due | Self::Running)
    }

    /// Whether a person should look.
    pub fn is_bad(self) -> bool {
        matches!(self, Self::Failed | Self::Missed)
    }
}

impl JobRun {
    /// A run whose container is about to be created.
    pub fn due(at: Timestamp, attempt: u32, by: Option<String>) -> Self {
        Self {
            at,
            attempt,
            by,
            result: JobResult::Due,
            container: None,
            image: None,
            generation: None,
            started: None,
            ended: None,
            exit_code: None,
            why: None,
            output: None,
            delayed: None,
            dumped: false,
            archive: None,
            restore: false,
        }
    }

    /// The run that a person asked for.
    pub fn asked(request: &JobRequest) -> Self {
        Self {
            archive: request.restore.clone(),
            restore: request.restore.is_some(),
            ..Self::due(request.at, 1, Some(request.by.clone()))
        }
    }

    /// The part that runs next or now.
    pub fn part(&self, spec: Option<&JobSpec>) -> JobPart {
        match spec.and_then(|spec| spec.backup.as_ref()) {
            _ if self.restore => JobPart::Restore,
            None => JobPart::Command,
            Some(backup) if !backup.has_dump() => JobPart::PausedArchive,
            Some(_) if self.dumped => JobPart::Archive,
            Some(_) => JobPart::Command,
        }
    }
}

impl JobMemory {
    /// The state of a job that is first seen at `now`: earlier times of its schedule are not caught up.
    pub fn new(schedule: &Schedule, now: Timestamp) -> Self {
        Self {
            schedule: schedule.to_string(),
            decided: now,
            runs: Vec::new(),
            last_success: None,
            successes: 0,
            failures: 0,
        }
    }

    /// Gives a run its result, and counts it.
    pub fn settle(&mut self, place: usize, result: JobResult, at: Timestamp, why: Option<String>) {
        let Some(run) = self.runs.get_mut(place) else { return };
        (run.result, run.ended, run.why, run.delayed) = (result, Some(at), why, None);
        match result {
            JobResult::Succeeded => {
                self.successes += 1;
                self.last_success = Some(at);
            }
            JobResult::Failed | JobResult::Missed => self.failures += 1,
            JobResult::Due | JobResult::Running | JobResult::Skipped => {}
        }
    }

    /// The last scheduled run, if it failed and is not repeated: a person should look. Runs that go on, are
    /// repeated or were skipped decide nothing. A success ends a failure also if a person asked for it.
    pub fn failure(&self, retries: u32) -> Option<&JobRun> {
        let newest = self.runs.iter().rev().find(|run| run.by.is_none())?;
        let decides = |run: &&JobRun| match run.result {
            JobResult::Succeeded | JobResult::Missed => true,
            JobResult::Failed => run.by.is_none() && (run.attempt > retries || run.at != newest.at),
            JobResult::Due | JobResult::Running | JobResult::Skipped => false,
        };
        self.runs.iter().rev().find(decides).filter(|run| run.result.is_bad())
    }

    /// Forgets the oldest runs, and the outputs of all but the latest successes and failures.
    pub fn trim(&mut self) {
        let mut excess = self.runs.len().saturating_sub(RUNS_KEPT);
        self.runs.retain(|run| {
            let goes = excess > 0 && run.result.is_settled();
            excess -= usize::from(goes);
            !goes
        });
        let (mut good, mut bad) = (0, 0);
        for run in self.runs.iter_mut().rev().filter(|run| run.output.is_some() && run.result.is_settled()) {
            let count = if run.result == JobResult::Succeeded { &mut good } else { &mut bad };
            *count += 1;
            if *count > OUTPUTS_KEPT {
                run.output = None;
            }
        }
    }
}

/// A job as its host reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobReport {
    /// Its state.
    #[serde(flatten)]
    pub state: JobMemory,
    /// The next scheduled time; `None`: none in the next years.
    #[serde(default)]
    pub next: Option<Timestamp>,
}

/// The jobs of an environment, by name.
pub type JobReports = BTreeMap<JobName, JobReport>;

/// A job as users see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobView {
    /// Its name.
    pub name: JobName,
    /// Its environment.
    pub environment: EnvironmentName,
    /// The host that runs it: an agent, or `null` for this machine.
    pub host: Option<String>,
    /// The cron expression.
    pub schedule: String,
    /// The time zone of the expression.
    pub zone: String,
    /// The behavior while an earlier run lasts.
    pub overlap: Overlap,
    /// The next scheduled time, if known.
    pub next: Option<Timestamp>,
    /// The last success, if any.
    pub last_success: Option<Timestamp>,
    /// The successful runs since the job is known.
    pub successes: u64,
    /// The failed and missed runs since the job is known.
    pub failures: u64,
    /// The latest runs, the newest first.
    pub runs: Vec<JobRunView>,
}

/// A run as users see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRunView {
    /// The scheduled time, or the time of a person's request.
    pub scheduled: Timestamp,
    /// The person who asked for it; `null`: it was scheduled.
    pub by: Option<String>,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// The progress or result.
    pub result: JobResult,
    /// When its container was started.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// The exit code of the command.
    pub exit_code: Option<i64>,
    /// The reason of the result.
    pub why: Option<String>,
    /// The end of the output.
    pub output: Option<String>,
    /// The image that it ran.
    pub image: Option<Digest>,
    /// The generation of that image.
    pub generation: Option<Generation>,
    /// The agent on whose host it ran; `null`: this machine.
    pub host: Option<String>,
    /// The archive that a backup wrote, or that was restored.
    #[serde(default)]
    pub archive: Option<ArchiveName>,
    /// Whether the archive was restored.
    #[serde(default)]
    pub restore: bool,
}

impl JobView {
    /// Joins a declaration with the report of its host, if there is one.
    pub fn new(
        (name, environment): (JobName, EnvironmentName),
        spec: &JobSpec,
        report: Option<&JobReport>,
        host: Option<String>,
    ) -> Self {
        let state = report.map(|report| &report.state);
        let runs = state.iter().flat_map(|state| state.runs.iter().rev());
        let runs = runs.map(|run| JobRunView::new(run, host.clone())).collect();
        Self {
            name,
            environment,
            host,
            schedule: spec.schedule.text().to_owned(),
            zone: spec.schedule.zone().name().to_owned(),
            overlap: spec.overlap,
            // A report of an earlier declaration has the next time of that.
            next: report
                .filter(|report| report.state.schedule == spec.schedule.to_string())
                .and_then(|report| report.next),
            last_success: state.and_then(|state| state.last_success),
            successes: state.map_or(0, |state| state.successes),
            failures: state.map_or(0, |state| state.failures),
            runs,
        }
    }
}

impl JobRunView {
    fn new(run: &JobRun, host: Option<String>) -> Self {
        let run = run.clone();
        Self {
            scheduled: run.at,
            by: run.by,
            attempt: run.attempt,
            result: run.result,
            started: run.started,
            ended: run.ended,
            exit_code: run.exit_code,
            why: run.why,
            output: run.output,
            image: run.image,
            generation: run.generation,
            host,
            archive: run.archive,
            restore: run.restore,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_round_trips_through_its_mark() {
        let key = JobRunKey {
            job: JobName::new("nightly").unwrap(),
            at: Timestamp::from_millis(1_795_449_600_123),
            attempt: 2,
            part: JobPart::Command,
        };
        for part in [JobPart::Command, JobPart::Archive, JobPart::PausedArchive, JobPart::Restore] {
            let key = JobRunKey { part, ..key.clone() };
            assert_eq!(JobRunKey::of_mark(&key.mark()), Some(key));
        }
        assert_eq!(JobRunKey::of_mark("nightly 2026-11-29T03:00:00Z 1 x"), None);
        assert_eq!(JobRunKey::of_mark("9f86d081884c7d65"), None);
    }

    #[test]
    fn a_failure_is_the_last_decided_run_of_the_schedule() {
        use JobResult::{Due, Failed, Missed, Skipped, Succeeded};
        let schedule = Schedule::new("0 3 * * *", crate::model::gates::Zone::named("UTC").unwrap()).unwrap();
        let run = |(at, attempt, result): (u64, u32, JobResult), by: Option<&str>| JobRun {
            result,
            ..JobRun::due(Timestamp::from_millis(at), attempt, by.map(str::to_owned))
        };
        let failed = |runs: Vec<JobRun>| {
            let state = JobMemory { runs, ..JobMemory::new(&schedule, Timestamp::default()) };
            state.failure(1).map(|run| (run.at.as_millis(), run.attempt))
        };
        let scheduled =
            |runs: &[(u64, u32, JobResult)]| runs.iter().map(|of| run(*of, None)).collect::<Vec<_>>();
        assert_eq!(failed(Vec::new()), None);
        assert_eq!(failed(scheduled(&[(1, 1, Succeeded), (2, 1, Failed)])), None, "it is repeated");
        assert_eq!(failed(scheduled(&[(2, 1, Failed), (2, 2, Due)])), None, "the repetition goes on");
        assert_eq!(failed(scheduled(&[(2, 1, Failed), (2, 2, Failed)])), Some((2, 2)));
        assert_eq!(
            failed(scheduled(&[(2, 1, Failed), (2, 2, Failed), (3, 1, Failed)])),
            Some((2, 2)),
            "still"
        );
        assert_eq!(failed(scheduled(&[(2, 2, Failed), (3, 1, Due), (4, 1, Skipped)])), Some((2, 2)), "still");
        assert_eq!(
            failed(scheduled(&[(2, 1, Failed), (3, 1, Due)])),
            Some((2, 1)),
            "no time is left to repeat it"
        );
        assert_eq!(failed(scheduled(&[(2, 2, Failed), (3, 1, Succeeded)])), None);
        assert_eq!(failed(scheduled(&[(2, 1, Missed)])), Some((2, 1)));
        let mut runs = scheduled(&[(1, 1, Succeeded)]);
        runs.push(run((2, 2, Failed), Some("anna")));
        assert_eq!(failed(runs), None, "anna sees it");
        let mut runs = scheduled(&[(1, 2, Failed)]);
        runs.push(run((2, 1, Succeeded), Some("anna")));
        assert_eq!(failed(runs), None, "anna repaired it");
    }

    #[test]
    fn only_the_latest_runs_and_outputs_are_kept() {
        let run = |number: u64, result| JobRun {
            result,
            output: Some("ok".to_owned()),
            ..JobRun::due(Timestamp::from_millis(number), 1, None)
        };
        let schedule = Schedule::new("0 3 * * *", crate::model::gates::Zone::named("UTC").unwrap()).unwrap();
        let mut state = JobMemory::new(&schedule, Timestamp::default());
        state.runs.push(run(0, JobResult::Running));
        for number in 1..40 {
            let result = if number % 2 == 0 { JobResult::Succeeded } else { JobResult::Failed };
            state.runs.push(run(number, result));
        }
        state.trim();
        assert_eq!(state.runs.len(), RUNS_KEPT);
        assert_eq!(state.runs[0].at.as_millis(), 0, "a run that goes on is kept");
        let kept =
            |result| state.runs.iter().filter(|run| run.result == result && run.output.is_some()).count();
        assert_eq!((kept(JobResult::Succeeded), kept(JobResult::Failed)), (3, 3));
        assert_eq!(kept(JobResult::Running), 1);
    }
}
