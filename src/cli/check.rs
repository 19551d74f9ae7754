//! `abide check`: says all that is wrong with the manifest.

use std::time::Duration;

use serde::Serialize;

use super::entry::CheckSummary;
use super::exit::{Exit, Failure};
use super::output::text::{counted, one_line};
use super::session::{Need, Session};
use crate::model::view::EnvironmentView;

const EXAMPLES: &str = "\
Examples:
  abide check
  abide check --desired-state /etc/abide

Problems are printed as `file:line: sentence`, and end it with 1. Docker is not asked. If a daemon
runs, so are its warnings, such as of submodules that a build does not fetch; they are no problems.";

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
    warnings: &'a [String],
}

/// How long the daemon may take to tell its warnings, which are only an extra.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs the verb.
pub(crate) async fn run(_: &CheckArgs, session: &mut Session) -> Result<Exit, Failure> {
    let (summary, problems) = match (session.entry.check)(&session.desired_state) {
        Ok(summary) => (summary, Vec::new()),
        Err(problems) => (CheckSummary::default(), problems),
    };
    let warnings = tokio::time::timeout(PATIENCE, warnings(session)).await.unwrap_or_default();
    if session.console.is_json() {
        let (summary, problems, warnings) = (&summary, &problems, &warnings);
        session.console.json(&Findings { summary, problems, warnings })?;
    } else if problems.is_empty() {
        session.console.data(&praise(&summary))?;
    } else {
        problems.iter().try_for_each(|problem| session.console.data(&one_line(problem)))?;
    }
    warnings.iter().for_each(|warning| session.console.talk(&format!("warning: {}", one_line(warning))));
    if problems.is_empty() {
        return Ok(Exit::Done);
    }
    Err(Failure::No(format!("the manifest has {}", counted(problems.len(), "problem", "problems"))))
}

/// What the running daemon warns of in its environments; nothing if there is none.
async fn warnings(session: &mut Session) -> Vec<String> {
    let Ok(client) = session.client(Need::Daemon("check")).await else { return Vec::new() };
    let Ok(overview) = client.overview().await else { return Vec::new() };
    let of = |view: EnvironmentView| {
        let warnings = view.warnings.into_iter();
        warnings.map(|warning| format!("{}: {warning}", view.environment)).collect::<Vec<_>>()
    };
    overview.environments.into_iter().flat_map(of).collect()
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
