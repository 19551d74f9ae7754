//! `abide why`: explains the state, from the event to the next retry.

#[cfg(test)]
mod tests;

use super::client::ApiClient;
use super::exit::{CliError, CliExit};
use super::output::style::{BOLD, paint};
use super::output::text::{ago, ahead, one_line};
use super::session::{CliSession, Requirement};
use super::status::headline;
use super::wait;
use crate::model::name::EnvironmentName;
use crate::model::time::Timestamp;
use crate::model::view::Overview;
use crate::model::why::{LOOKED_THROUGH, Line, Piece, WhyEvidence, chain};

const EXAMPLES: &str = "\
Examples:
  abide why dev
  abide why prod -o json

`-o json` prints the data of the chain: {environment, record, plan, plan_error, warnings, events}.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct WhyArgs {
    /// Environment to explain, or group: its member furthest from Ready
    environment: EnvironmentName,
}

pub(crate) async fn run(args: &WhyArgs, session: &mut CliSession) -> Result<CliExit, CliError> {
    let client = session.client(Requirement::Daemon("why")).await?;
    let group = client.group(&args.environment).await?;
    let explained = group.as_ref().map_or(&args.environment, |group| &group.decisive);
    let evidence = gather(&client, explained).await?;
    if let Some(group) = &group {
        session.console.talk(&wait::group_headline(group));
    }
    session.show(&evidence, |evidence, now, _| render(evidence, now))?;
    Ok(CliExit::Done)
}

async fn gather(client: &ApiClient, name: &EnvironmentName) -> Result<WhyEvidence, CliError> {
    let Overview { mut environments, mut warnings, .. } = client.overview_of(name).await?;
    let environment =
        environments.pop().ok_or_else(|| CliError::No(format!("nothing is known about {name}")))?;
    warnings.extend(environment.warnings.iter().cloned());
    let generation = environment.generation;
    let record = client.history(name).await?.into_iter().find(|view| view.generation == generation);
    let events = client.events(Some(name), None, LOOKED_THROUGH).await?;
    let (plan, plan_error) = match client.plan(name).await {
        Ok(plan) => (Some(plan), None),
        Err(error) => (None, Some(error.to_string())),
    };
    Ok(WhyEvidence { environment, record, plan, plan_error, warnings, events })
}

fn render(evidence: &WhyEvidence, now: Timestamp) -> String {
    let mut text = headline(&evidence.environment, now);
    for link in chain(evidence) {
        for (index, line) in link.lines.iter().enumerate() {
            let label = format!("{:<10}", if index == 0 { link.label } else { "" });
            text.push_str(&format!("  {}  {}\n", paint(BOLD, &label), one_line(&words(line, now))));
        }
    }
    text
}

/// One line with its times in words.
fn words(line: &Line, now: Timestamp) -> String {
    let words = |piece: &Piece| match piece {
        Piece::Text(text) => text.clone(),
        Piece::Ago(at) => ago(now, *at),
        Piece::Ahead(at) => ahead(now, *at),
    };
    line.0.iter().map(words).collect()
}
