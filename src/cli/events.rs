//! `abide events`: lists the actions of the controller.

use std::io;

use super::changes::{ChangeWatcher, Reconnect};
use super::client::ApiClient;
use super::exit::{CliError, CliExit};
use super::output::console::Console;
use super::output::style::{self, DIM, paint};
use super::output::table::{Cell, TextTable};
use super::output::text::{ago, one_line};
use super::session::{CliSession, Requirement};
use crate::model::event::Event;
use crate::model::name::EnvironmentName;
use crate::model::time::Timestamp;
use crate::model::why;

/// Number of events to request while following: more than a burst, fewer than the daemon keeps.
const MOST_AT_ONCE: usize = 1000;

const EXAMPLES: &str = "\
Examples:
  abide events
  abide events dev -f
  abide events prod --limit 500 -o json

With -f, `-o json` prints one event per line.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct EventsArgs {
    /// Environment or group whose events to list [default: all]
    environment: Option<EnvironmentName>,
    /// Keep printing new events
    #[arg(short, long)]
    follow: bool,
    /// Number of latest events to print
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
}

pub(crate) async fn run(args: &EventsArgs, session: &mut CliSession) -> Result<CliExit, CliError> {
    let need = if args.follow { Requirement::Daemon("events --follow") } else { Requirement::Reading };
    let client = session.client(need).await?;
    let only = args.environment.as_ref();
    if args.follow {
        return follow(&mut session.console, &client, only, args.limit).await;
    }
    let events = client.events(only, None, args.limit).await?;
    session.show(events.as_slice(), table)?;
    Ok(CliExit::Done)
}

/// Also prints every later event, until the reader closes the output or the daemon refuses.
async fn follow(
    console: &mut Console,
    client: &ApiClient,
    only: Option<&EnvironmentName>,
    limit: usize,
) -> Result<CliExit, CliError> {
    let mut changes = ChangeWatcher::new(client, only);
    let mut patience = Reconnect::default();
    // At least one event, to know where new events start; `--limit 0` does not print it.
    let past = patience.bear(client.events(only, None, limit.max(1)).await, console)?.unwrap_or_default();
    let mut last = past.last().map(|event| event.sequence);
    past.iter().skip(past.len().saturating_sub(limit)).try_for_each(|event| print(console, event))?;
    loop {
        changes.wait().await;
        let new_events = client.events(only, last, MOST_AT_ONCE).await;
        for event in patience.bear(new_events, console)?.unwrap_or_default() {
            print(console, &event)?;
            last = last.max(Some(event.sequence));
        }
    }
}

fn print(console: &mut Console, event: &Event) -> io::Result<()> {
    if console.is_json() { console.json_line(event) } else { console.data(&line(event)) }
}

/// Followed events show the time of day, because `3m ago` would be wrong a minute later.
fn line(event: &Event) -> String {
    let kind = style::event(event.kind);
    let at = paint(DIM, &event.at.to_string());
    format!("{at} {} {kind}{:<10}{kind:#} {}", event.environment, event.kind.as_str(), sentence(event))
}

fn table(events: &[Event], now: Timestamp, width: Option<usize>) -> String {
    let mut table = TextTable::new(["WHEN", "ENVIRONMENT", "KIND", "MESSAGE"]);
    for event in events {
        table.row([
            ago(now, event.at).into(),
            event.environment.as_str().into(),
            Cell::styled(event.kind.as_str(), style::event(event.kind)),
            sentence(event).into(),
        ]);
    }
    table.render(width)
}

/// The message on one line, with its number of repeats.
fn sentence(event: &Event) -> String {
    one_line(&why::sentence(event))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::{NOW, event};
    use crate::model::event::EventKind;

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn events_are_listed_oldest_first() {
        let mut repeated = event(8, EventKind::Failure, "the engine\nsaid no");
        repeated.count = 3;
        let text = plain(&table(&[event(7, EventKind::Record, "a push"), repeated], NOW, None));
        let expected = "\
WHEN    ENVIRONMENT  KIND     MESSAGE
3m ago  dev          record   a push
3m ago  dev          failure  the engine said no (3 times)
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_followed_event_line_starts_with_its_timestamp() {
        let text = plain(&line(&event(7, EventKind::Step, "started\u{1b}[2J")));
        assert_eq!(text, "2026-11-23T13:57:00.000Z dev step       started\u{fffd}[2J");
    }
}
