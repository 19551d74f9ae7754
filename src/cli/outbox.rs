//! `abide outbox`: messages and commit states that are not delivered yet.

use clap::Subcommand;
use serde_json::json;

use super::exit::{CliError, CliExit};
use super::output::style;
use super::output::table::{Cell, TextTable};
use super::output::text::{ago, ahead};
use super::session::{CliSession, Requirement};
use crate::model::desired::Outcome;
use crate::model::outbox::{OutboxItem, OutboxTarget};
use crate::model::time::Timestamp;

const EXAMPLES: &str = "\
Examples:
  abide outbox
  abide outbox retry
  abide outbox retry notify.team
  abide outbox -o json | jq '.[] | select(.dead != null)'

abide gives up on an item if the service rejects it, or after 72 hours (commit states: 24 hours). \
Such an item stays in the list until it is sent again.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct OutboxArgs {
    #[command(subcommand)]
    verb: Option<OutboxVerb>,
}

#[derive(Debug, Subcommand)]
enum OutboxVerb {
    /// Send failed items again now
    Retry(RetryArgs),
}

#[derive(Debug, clap::Args)]
struct RetryArgs {
    /// Only items for this target: `notify.NAME` or `repository.NAME` [default: all]
    target: Option<OutboxTarget>,
}

pub(crate) async fn run(args: &OutboxArgs, session: &mut CliSession) -> Result<CliExit, CliError> {
    match &args.verb {
        None => list(session).await,
        Some(OutboxVerb::Retry(args)) => retry(args, session).await,
    }
}

async fn list(session: &mut CliSession) -> Result<CliExit, CliError> {
    let client = session.client(Requirement::Reading).await?;
    let items = client.outbox().await?;
    session.show_list(&items, "everything is delivered", table)?;
    Ok(CliExit::Done)
}

async fn retry(args: &RetryArgs, session: &mut CliSession) -> Result<CliExit, CliError> {
    let client = session.client(Requirement::Record).await?;
    let retried = client.retry_outbox(&json!({ "target": args.target })).await?;
    session.show(&retried, |retried, _, _| retried.message.clone())?;
    Ok(CliExit::Done)
}

fn table(items: &[OutboxItem], now: Timestamp, width: Option<usize>) -> String {
    let mut table = TextTable::new(["TARGET", "STATE", "ATTEMPTS", "NEXT", "AT", "ITEM", "ERROR"]);
    for item in items {
        let state = match (item.dead, item.attempts) {
            (Some(_), _) => Cell::styled("dead", style::outcome(Some(&Outcome::Failed(String::new())))),
            (None, 0) => "waiting".into(),
            (None, _) => Cell::styled("failing", style::DIM),
        };
        table.row([
            item.target.to_string().into(),
            state,
            item.attempts.to_string().into(),
            Cell::or_dash(item.next.map(|next| ahead(now, next))),
            Cell::or_dash(item.at.map(|at| ago(now, at))),
            item.title.as_str().into(),
            Cell::or_dash(item.error.as_deref()),
        ]);
    }
    table.render(width)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::NOW;
    use std::time::Duration;

    #[test]
    fn the_outbox_list_shows_waiting_failing_and_dead_items() {
        let item = |attempts, dead: Option<Timestamp>| OutboxItem {
            target: "notify.team".parse().unwrap(),
            id: "msg_1".to_owned(),
            title: "dev failed".to_owned(),
            at: Some(NOW),
            attempts,
            next: dead.is_none().then(|| NOW.after(Duration::from_secs(40))),
            error: (attempts > 0).then(|| "https://hooks.example.com answers 500".to_owned()),
            dead,
        };
        let text = table(&[item(0, None), item(2, None), item(9, Some(NOW))], NOW, None);
        let text = anstream::adapter::strip_str(&text).to_string();
        let states: Vec<&str> =
            text.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).collect();
        assert_eq!(states, ["waiting", "failing", "dead"], "{text}");
        assert!(text.contains("hooks.example.com answers 500") && text.contains("dev failed"), "{text}");
    }
}
