//! `abide status`: shows the desired and the running version, since when, and why.

mod detail;
#[cfg(test)]
mod tests;
mod watch;

use super::client::{ApiClient, ClientError};
use super::exit::{CliError, CliExit};
use super::output::style;
use super::output::table::{Cell, TextTable};
use super::output::text::ago;
use super::session::{CliSession, Requirement};
use crate::model::desired::Image;
use crate::model::name::{CommitId, Digest, EnvironmentName};
use crate::model::time::Timestamp;
use crate::model::view::{EnvironmentView, Overview};

use detail::detail;
pub(crate) use detail::headline;

const EXAMPLES: &str = "\
Examples:
  abide status
  abide status dev
  abide status --watch
  abide status -o json | jq -r '.[] | select(.status != \"Ready\") | .environment'

`-o json` prints an array, even for one environment; with --watch, one environment per line at every
change. The exit code does not depend on the status: use `abide wait` or `abide diff` to test it.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct StatusArgs {
    /// Environment to show in detail [default: a table of all]
    environment: Option<EnvironmentName>,
    /// Keep showing changes
    #[arg(short, long)]
    watch: bool,
}

pub(crate) async fn run(args: &StatusArgs, session: &mut CliSession) -> Result<CliExit, CliError> {
    let only = args.environment.as_ref();
    if args.watch {
        let client = session.client(Requirement::Daemon("status --watch")).await?;
        return watch::watch(session, &client, only).await;
    }
    let client = session.client(Requirement::Reading).await?;
    let overview = look(&client, only).await?;
    if session.console.is_json() {
        session.console.json(&overview.environments)?;
    } else {
        let text = render(&overview, only.is_some(), session.now(), session.console.screen().width);
        session.console.data(&text)?;
    }
    for warning in warnings(&overview) {
        session.console.talk(&format!("warning: {warning}"));
    }
    Ok(CliExit::Done)
}

/// The global warnings, then those of each environment with its name.
fn warnings(overview: &Overview) -> Vec<String> {
    let of_environments = overview
        .environments
        .iter()
        .flat_map(|view| view.warnings.iter().map(|warning| format!("{}: {warning}", view.environment)));
    overview.warnings.iter().cloned().chain(of_environments).collect()
}

/// Reads all environments or one; the daemon rejects an unknown name.
async fn look(client: &ApiClient, only: Option<&EnvironmentName>) -> Result<Overview, ClientError> {
    match only {
        None => client.overview().await,
        Some(environment) => client.overview_of(environment).await,
    }
}

fn render(overview: &Overview, in_detail: bool, now: Timestamp, width: Option<usize>) -> String {
    if in_detail {
        return overview.environments.iter().map(|view| detail(view, now)).collect();
    }
    if overview.environments.is_empty() {
        return "the manifest declares no environments\n".to_owned();
    }
    table(&overview.environments, now, width)
}

fn table(views: &[EnvironmentView], now: Timestamp, width: Option<usize>) -> String {
    let mut table = TextTable::new([
        "ENVIRONMENT",
        "STATUS",
        "GEN",
        "REVISION",
        "IMAGE",
        "CONTAINER",
        "PORT",
        "SINCE",
        "MESSAGE",
    ]);
    for view in views {
        table.row([
            view.environment.as_str().into(),
            Cell::styled(view.status.as_str(), style::condition(view.status)),
            view.generation.to_string().into(),
            Cell::or_dash(view.revision.as_ref().map(CommitId::short)),
            Cell::or_dash(view.image.as_ref().and_then(Image::shown_digest).map(Digest::short)),
            Cell::or_dash(view.container.as_deref()),
            Cell::or_dash(view.port),
            Cell::or_dash(view.since.map(|since| ago(now, since))),
            view.message.as_str().into(),
        ]);
    }
    table.render(width)
}
