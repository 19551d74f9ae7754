//! `abide check`: validates the manifest and lists every problem.

use std::time::Duration;

use serde::Serialize;

use super::entry::CheckSummary;
use super::exit::{CliError, CliExit};
use super::output::text::{counted, one_line};
use super::session::{CliSession, Requirement};
use crate::model::view::EnvironmentView;

const EXAMPLES: &str = "\
Examples:
  abide check
  abide check --desired-state /etc/abide

Prints each problem as `file:line: sentence` and exits with 1 if there are any. Does not query \
Docker. If a daemon runs, also prints its warnings, such as for submodules that a build does not \
fetch; warnings do not change the exit code.";

/// Takes no options.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CheckArgs {}

/// The output of `-o json`.
#[derive(Serialize)]
struct CheckOutput<'a> {
    #[serde(flatten)]
    summary: &'a CheckSummary,
    problems: &'a [String],
    warnings: &'a [String],
}

/// Timeout for the daemon's warnings, which are optional.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) async fn run(_: &CheckArgs, session: &mut CliSession) -> Result<CliExit, CliError> {
    let (summary, problems) = match (session.entry.check)(&session.desired_state) {
        Ok(summary) => (summary, Vec::new()),
        Err(problems) => (CheckSummary::default(), problems),
    };
    let warnings = tokio::time::timeout(PATIENCE, warnings(session)).await.unwrap_or_default();
    if session.console.is_json() {
        let (summary, problems, warnings) = (&summary, &problems, &warnings);
        session.console.json(&CheckOutput { summary, problems, warnings })?;
    } else if problems.is_empty() {
        session.console.data(&praise(&summary))?;
    } else {
        problems.iter().try_for_each(|problem| session.console.data(&one_line(problem)))?;
    }
    warnings.iter().for_each(|warning| session.console.talk(&format!("warning: {}", one_line(warning))));
    if problems.is_empty() {
        return Ok(CliExit::Done);
    }
    Err(CliError::No(format!("invalid manifest: {}", counted(problems.len(), "problem", "problems"))))
}

/// The running daemon's warnings about its environments; empty without a daemon.
async fn warnings(session: &mut CliSession) -> Vec<String> {
    let Ok(client) = session.client(Requirement::Daemon("check")).await else { return Vec::new() };
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
    format!("the manifest is valid: {environments}, {repositories}")
}

fn listed(names: &[String], one: &str, many: &str) -> String {
    let count = counted(names.len(), one, many);
    if names.is_empty() { count } else { format!("{count} ({})", names.join(", ")) }
}
