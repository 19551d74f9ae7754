//! `abide status`: shows the desired and the running version, since when, and why.

mod detail;
mod stats;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::BTreeSet;

use super::client::{ApiClient, ClientError};
use super::exit::{CliError, CliExit};
use super::output::style;
use super::output::table::{Cell, TextTable};
use super::output::text::{ago, counted};
use super::session::{CliSession, Requirement};
use super::wait;
use crate::model::desired::Image;
use crate::model::name::{CommitId, Digest, EnvironmentName};
use crate::model::status::UNDECLARED_VOLUME;
use crate::model::time::Timestamp;
use crate::model::view::{EnvironmentView, Overview};

use detail::detail;
pub(crate) use detail::headline;

const EXAMPLES: &str = "\
Examples:
  abide status
  abide status dev
  abide status shop-prod
  abide status --watch
  abide status --stats
  abide status -o json | jq -r '.[] | select(.status != \"Ready\") | .environment'

`-o json` prints an array, even for one environment; with --watch, one environment per line at every \
change. The exit code does not depend on the status: use `abide wait` or `abide diff` to test it.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct StatusArgs {
    /// Environment to show in detail, or group [default: a table of all]
    environment: Option<EnvironmentName>,
    /// Keep showing changes
    #[arg(short, long)]
    watch: bool,
    /// Show the CPU and memory in use, measured for two seconds
    #[arg(long, conflicts_with = "watch")]
    stats: bool,
}

pub(crate) async fn run(args: &StatusArgs, session: &mut CliSession) -> Result<CliExit, CliError> {
    let only = args.environment.as_ref();
    if args.watch {
        let client = session.client(Requirement::Daemon("status --watch")).await?;
        return watch::watch(session, &client, only).await;
    }
    let client = session.client(Requirement::Reading).await?;
    let overview = look(&client, only).await?;
    if args.stats {
        return show_stats(session, &client, overview).await;
    }
    if session.console.is_json() {
        session.console.json(&overview.environments)?;
    } else {
        let text = render(&overview, only.is_some(), session.now(), session.console.screen().width);
        session.console.data(&text)?;
    }
    for warning in warnings(&overview, only.is_some()) {
        session.console.talk(&format!("warning: {warning}"));
    }
    Ok(CliExit::Done)
}

/// Shows the resource usage of the containers.
async fn show_stats(
    session: &mut CliSession,
    client: &ApiClient,
    overview: Overview,
) -> Result<CliExit, CliError> {
    let all = stats::measured(client, overview.environments).await;
    session.show(all.as_slice(), |all, _, width| stats::table(all, width))?;
    for environment in &all {
        if let Some(problem) = &environment.problem {
            let name = &environment.view.environment;
            session.console.talk(&format!("warning: {name} cannot be measured: {problem}"));
        }
    }
    Ok(CliExit::Done)
}

/// The global warnings, then those of each environment with its name. A table gets one line about all
/// undeclared volumes, whose warnings are long and many.
fn warnings(overview: &Overview, in_detail: bool) -> Vec<String> {
    let all = || {
        let views = overview.environments.iter();
        views.flat_map(|view| view.warnings.iter().map(move |warning| (&view.environment, warning)))
    };
    let is_counted = |warning: &str| !in_detail && warning.starts_with(UNDECLARED_VOLUME);
    let shown = all().filter(|(_, warning)| !is_counted(warning));
    let shown = shown.map(|(environment, warning)| format!("{environment}: {warning}"));
    let with_volumes: Vec<&EnvironmentName> =
        all().filter(|(_, warning)| is_counted(warning)).map(|(environment, _)| environment).collect();
    overview.warnings.iter().cloned().chain(shown).chain(undeclared_volumes(&with_volumes)).collect()
}

/// One line about undeclared volumes. `of` has the environment of each.
fn undeclared_volumes(of: &[&EnvironmentName]) -> Option<String> {
    let environments: BTreeSet<_> = of.iter().collect();
    let first = environments.first()?;
    let (paths, example) = (counted(of.len(), "VOLUME", "VOLUMEs"), format!("`abide status {first}`"));
    Some(match environments.len() {
        1 => format!(
            "{first}: the image has {paths} that the manifest does not declare: {example} shows details"
        ),
        many => format!(
            "the images of {many} environments have {paths} that the manifest does not declare: {example} shows \
            those of `{first}`"
        ),
    })
}

/// Reads all environments or one; the daemon rejects an unknown name.
async fn look(client: &ApiClient, only: Option<&EnvironmentName>) -> Result<Overview, ClientError> {
    match only {
        None => client.overview().await,
        Some(environment) => client.overview_of(environment).await,
    }
}

fn render(overview: &Overview, in_detail: bool, now: Timestamp, width: Option<usize>) -> String {
    if let [group] = overview.groups.as_slice()
        && in_detail
    {
        return format!("{}\n{}", wait::group_headline(group), table(&overview.environments, now, width));
    }
    if in_detail {
        return overview.environments.iter().map(|view| detail(view, now)).collect();
    }
    if overview.environments.is_empty() {
        return "the manifest declares no environments\n".to_owned();
    }
    let groups = overview.groups.iter().map(|group| wait::group_headline(group) + "\n");
    table(&overview.environments, now, width) + &groups.collect::<String>()
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
