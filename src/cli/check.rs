//! `abide check`: says all that is wrong with the manifest.

use serde::Serialize;

use super::entry::CheckSummary;
use super::exit::{Exit, Failure};
use super::output::text::{counted, one_line};
use super::session::Session;

const EXAMPLES: &str = "\
Examples:
  abide check
  abide check --desired-state /etc/abide

Problems are printed as `file:line: sentence`, and end it with 1. Neither Docker nor a daemon is
asked.";

/// Nothing to choose.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CheckArgs {}

/// What `-o json` prints.
#[derive(Serialize)]
struct Findings<'a> {
    #[serde(flatten)]
    summary: &'a CheckSummary,
    problems: &'a [String],
}

/// Runs the verb.
pub(crate) fn run(_: &CheckArgs, session: &mut Session) -> Result<Exit, Failure> {
    let (summary, problems) = match (session.entry.check)(&session.desired_state) {
        Ok(summary) => (summary, Vec::new()),
        Err(problems) => (CheckSummary::default(), problems),
    };
    if session.console.is_json() {
        session.console.json(&Findings { summary: &summary, problems: &problems })?;
    } else if problems.is_empty() {
        session.console.data(&praise(&summary))?;
    } else {
        problems.iter().try_for_each(|problem| session.console.data(&one_line(problem)))?;
    }
    if problems.is_empty() {
        return Ok(Exit::Done);
    }
    Err(Failure::No(format!("the manifest has {}", counted(problems.len(), "problem", "problems"))))
}

fn praise(summary: &CheckSummary) -> String {
    let environments = listed(&summary.environments, "environment", "environments");
    let repositories = listed(&summary.repositories, "repository", "repositories");
    format!("nothing is wrong: {environments}, {repositories}")
}

fn listed(names: &[String], one: &str, many: &str) -> String {
    let count = counted(names.len(), one, many);
    if names.is_empty() { count } else { format!("{count} ({})", names.join(", ")) }
}
