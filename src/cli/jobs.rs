//! `abide jobs`: commands that run at scheduled times.

use clap::Subcommand;

use super::attach::attach;
use super::exit::{CliError, CliExit};
use super::output::style;
use super::output::table::{Cell, TextTable};
use super::output::text::{ago, ahead};
use super::session::{CliSession, Requirement};
use crate::model::attach::AttachedCommand;
use crate::model::desired::Outcome;
use crate::model::job::{JobResult, JobRunView, JobView};
use crate::model::name::JobName;
use crate::model::time::Timestamp;

const EXAMPLES: &str = "\
Examples:
  abide jobs
  abide jobs run nightly
  abide jobs history nightly -o json
  abide jobs logs nightly --tail 100

`run` runs the job now, prints its output and exits with its exit code, or with 255 if the job was \
not started or the session was cut off. The job continues if the session ends. Tokens need the role \
`runner` or `admin` for `run`.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct JobsArgs {
    #[command(subcommand)]
    verb: Option<JobsVerb>,
}

#[derive(Debug, Subcommand)]
enum JobsVerb {
    /// Run a job now and wait for it
    Run(JobArgs),
    /// List the latest runs of a job
    History(JobArgs),
    /// Print the output of the last run of a job
    Logs(JobLogsArgs),
}

#[derive(Debug, clap::Args)]
struct JobArgs {
    /// Job, as `abide jobs` lists it
    job: JobName,
}

#[derive(Debug, clap::Args)]
struct JobLogsArgs {
    /// Job whose output to print
    job: JobName,
    /// Keep printing until the run ends
    #[arg(short, long)]
    follow: bool,
    /// Print only the last LINES lines
    #[arg(long, value_name = "LINES")]
    tail: Option<usize>,
    /// Begin each line with the time at which the engine received it
    #[arg(short, long)]
    timestamps: bool,
    /// Print the exact bytes, including escape sequences
    #[arg(long)]
    raw: bool,
}

pub(crate) async fn run(args: &JobsArgs, session: &mut CliSession) -> Result<CliExit, CliError> {
    match &args.verb {
        None => list(session).await,
        Some(JobsVerb::Run(args)) => run_now(&args.job, session).await,
        Some(JobsVerb::History(args)) => history(&args.job, session).await,
        Some(JobsVerb::Logs(args)) => logs(args, session).await,
    }
}

async fn list(session: &mut CliSession) -> Result<CliExit, CliError> {
    let jobs = session.client(Requirement::Reading).await?.jobs().await?;
    session.show_list(&jobs, "the manifest declares no job, such as `[job.nightly]`", table)?;
    Ok(CliExit::Done)
}

async fn run_now(job: &JobName, session: &mut CliSession) -> Result<CliExit, CliError> {
    let view = session.client(Requirement::Daemon("jobs run")).await?.job(job).await?;
    let command = AttachedCommand::Job { job: job.clone(), restore: None };
    attach(session, "jobs run", &view.environment, command, true).await
}

async fn history(job: &JobName, session: &mut CliSession) -> Result<CliExit, CliError> {
    let view = session.client(Requirement::Reading).await?.job(job).await?;
    session.show_list(&view.runs, &format!("{job} has not run yet"), runs)?;
    Ok(CliExit::Done)
}

async fn logs(args: &JobLogsArgs, session: &mut CliSession) -> Result<CliExit, CliError> {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (name, is_set) in [("follow", args.follow), ("timestamps", args.timestamps)] {
        if is_set {
            query.append_pair(name, "true");
        }
    }
    if let Some(tail) = args.tail {
        query.append_pair("tail", &tail.to_string());
    }
    let client = session.client(Requirement::Daemon("jobs logs")).await?;
    let pieces = client.job_logs(&args.job, &query.finish()).await?;
    super::logs::print(pieces, args.raw, session).await
}

fn table(jobs: &[JobView], now: Timestamp, width: Option<usize>) -> String {
    let mut table = TextTable::new(["JOB", "ENVIRONMENT", "HOST", "SCHEDULE", "LAST", "WHEN", "NEXT"]);
    for job in jobs {
        let last = job.runs.first();
        table.row([
            job.name.to_string().into(),
            job.environment.to_string().into(),
            Cell::or_dash(job.host.as_deref()),
            format!("{} {}", job.schedule, job.zone).into(),
            last.map_or_else(|| Cell::or_dash(None::<&str>), result),
            Cell::or_dash(last.map(|run| ago(now, run.started.unwrap_or(run.scheduled))).as_deref()),
            Cell::or_dash(job.next.map(|next| ahead(now, next)).as_deref()),
        ]);
    }
    table.render(width)
}

fn runs(runs: &[JobRunView], now: Timestamp, width: Option<usize>) -> String {
    let mut table = TextTable::new(["SCHEDULED", "STARTED", "TOOK", "RESULT", "CODE", "BY", "HOST", "NOTE"]);
    for run in runs {
        let took = run.started.zip(run.ended).map(|(started, ended)| {
            let seconds = ended.since(started).as_secs();
            humantime::format_duration(std::time::Duration::from_secs(seconds)).to_string()
        });
        table.row([
            run.scheduled.to_string().into(),
            Cell::or_dash(run.started.map(|started| ago(now, started)).as_deref()),
            Cell::or_dash(took.as_deref()),
            result(run),
            Cell::or_dash(run.exit_code.map(|code| code.to_string()).as_deref()),
            Cell::or_dash(run.by.as_deref()),
            Cell::or_dash(run.host.as_deref()),
            note(run).into(),
        ]);
    }
    table.render(width)
}

fn result(run: &JobRunView) -> Cell {
    let outcome = match run.result {
        JobResult::Succeeded => Some(Outcome::Ready),
        JobResult::Failed | JobResult::Missed => Some(Outcome::Failed(String::new())),
        JobResult::Skipped => Some(Outcome::Superseded),
        JobResult::Due | JobResult::Running => None,
    };
    Cell::styled(run.result.as_str(), style::outcome(outcome.as_ref()))
}

fn note(run: &JobRunView) -> String {
    let attempt = (run.attempt > 1).then(|| format!("attempt {}", run.attempt));
    let output = run.output.as_ref().map(|output| format!("output: {output}"));
    let archive = run.archive.as_ref().map(|archive| {
        format!("{} {}", if run.restore { "restore of" } else { "archive" }, archive.as_str())
    });
    attempt.into_iter().chain(archive).chain(run.why.clone()).chain(output).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::job::Overlap;
    use crate::model::name::EnvironmentName;

    fn run(result: JobResult, code: Option<i64>) -> JobRunView {
        let scheduled = Timestamp::parse("2026-11-29T03:00:00Z").unwrap();
        JobRunView {
            scheduled,
            by: None,
            attempt: 1,
            result,
            started: Some(scheduled.after(std::time::Duration::from_secs(1))),
            ended: Some(scheduled.after(std::time::Duration::from_secs(62))),
            exit_code: code,
            why: None,
            output: None,
            image: None,
            generation: None,
            host: None,
            archive: None,
            restore: false,
        }
    }

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn jobs_are_listed_with_their_last_and_next_run() {
        let now = Timestamp::parse("2026-11-29T04:00:01Z").unwrap();
        let job = JobView {
            name: JobName::new("nightly").unwrap(),
            environment: EnvironmentName::new("prod").unwrap(),
            host: Some("online".to_owned()),
            schedule: "0 3 * * *".to_owned(),
            zone: "UTC".to_owned(),
            overlap: Overlap::Forbid,
            next: Some(Timestamp::parse("2026-11-30T03:00:00Z").unwrap()),
            last_success: None,
            successes: 0,
            failures: 1,
            runs: vec![run(JobResult::Failed, Some(3))],
        };
        let unknown = JobView { host: None, next: None, runs: Vec::new(), ..job.clone() };
        let expected = "\
JOB      ENVIRONMENT  HOST    SCHEDULE       LAST    WHEN       NEXT
nightly  prod         online  0 3 * * * UTC  failed  1h 0m ago  in 22h 59m
nightly  prod         -       0 3 * * * UTC  -       -          -
";
        assert_eq!(plain(&table(&[job, unknown], now, None)), expected);
    }

    #[test]
    fn a_job_history_shows_each_runs_result() {
        let now = Timestamp::parse("2026-11-29T04:00:01Z").unwrap();
        let failed = JobRunView {
            attempt: 2,
            why: Some("exited with code 3".to_owned()),
            output: Some("no space".to_owned()),
            ..run(JobResult::Failed, Some(3))
        };
        let shown = plain(&runs(&[failed, run(JobResult::Succeeded, Some(0))], now, None));
        let lines: Vec<_> = shown.lines().collect();
        assert!(lines[1].contains("1m 1s") && lines[1].contains("failed     3"), "{shown}");
        assert!(lines[1].ends_with("attempt 2; exited with code 3; output: no space"), "{shown}");
        assert!(lines[2].contains("succeeded  0"), "{shown}");
    }
}
