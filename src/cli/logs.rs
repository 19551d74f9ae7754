//! `abide logs`: prints the output of the container or of a build.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;

use super::client::ClientError;
use super::exit::{CliError, CliExit};
use super::output::text::OutputFilter;
use super::session::{CliSession, Requirement};
use crate::model::name::EnvironmentName;
use crate::model::time::Timestamp;

const EXAMPLES: &str = "\
Examples:
  abide logs dev --tail 100
  abide logs dev -f --since 10m
  abide logs dev --previous
  abide logs dev --build
  abide logs dev --release

With -f, keeps printing over updates and restarts: the output of each new container follows. If \
there is no container yet, waits for the first one. Removes escape sequences and other control \
characters, unless --raw is given. -o has no effect.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct LogsArgs {
    /// Environment whose output to print
    environment: EnvironmentName,
    /// Keep printing new output
    #[arg(short, long)]
    follow: bool,
    /// Print only the last LINES lines
    #[arg(long, value_name = "LINES", value_parser = parse_lines)]
    tail: Option<usize>,
    /// Print only newer lines, such as `10m` or `2026-01-31T12:00:00Z`
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    since: Option<Since>,
    /// Begin each line with the time at which the engine received it
    #[arg(short, long, conflicts_with_all = ["previous", "build"])]
    timestamps: bool,
    /// Print the end of the output of the previous container: why a version failed
    #[arg(short, long, conflicts_with_all = ["follow", "since", "build"])]
    previous: bool,
    /// Print the log of the last build instead
    #[arg(long, conflicts_with = "since")]
    build: bool,
    /// Print the output of the last release command instead
    #[arg(long, conflicts_with_all = ["previous", "build", "after"])]
    release: bool,
    /// Print the output of the last command after a release instead
    #[arg(long, conflicts_with_all = ["previous", "build"])]
    after: bool,
    /// Print the exact bytes, including escape sequences
    #[arg(long)]
    raw: bool,
    /// Number of the build, as `abide events` lists it
    #[arg(long, value_name = "N", requires = "build")]
    number: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Since {
    Ago(Duration),
    At(Timestamp),
}

fn parse_lines(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| "must be a whole number of lines, such as `100`".to_owned())
}

fn parse_since(text: &str) -> Result<Since, String> {
    let moment = Timestamp::parse(text).map(Since::At);
    moment
        .or_else(|_| humantime::parse_duration(text).map(Since::Ago))
        .map_err(|_| "must be a duration, such as `10m`, or a time in RFC 3339".to_owned())
}

pub(crate) async fn run(args: &LogsArgs, session: &mut CliSession) -> Result<CliExit, CliError> {
    let client = session.client(Requirement::Daemon("logs")).await?;
    let pieces = client.logs(&args.environment, &query(args, session.now())).await?;
    print(pieces, args.raw, session).await
}

/// Prints output as it arrives. Unless it is `raw`, characters that a terminal would interpret are removed.
pub(super) async fn print(
    mut pieces: BoxStream<'static, Result<Bytes, ClientError>>,
    raw: bool,
    session: &mut CliSession,
) -> Result<CliExit, CliError> {
    let mut filter = OutputFilter::default();
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        if raw {
            session.console.raw(&piece)?;
        } else {
            session.console.raw(&filter.filter(&piece))?;
        }
    }
    Ok(CliExit::Done)
}

fn query(args: &LogsArgs, now: Timestamp) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    if args.follow {
        query.append_pair("follow", "true");
    }
    if let Some(tail) = args.tail {
        query.append_pair("tail", &tail.to_string());
    }
    if let Some(since) = args.since {
        query.append_pair("since", &since.moment(now).to_string());
    }
    if args.timestamps {
        query.append_pair("timestamps", "true");
    }
    if args.previous {
        query.append_pair("previous", "true");
    }
    if args.release {
        query.append_pair("command", "release");
    }
    if args.after {
        query.append_pair("command", "after");
    }
    if args.build {
        query.append_pair("build", "true");
    }
    if let Some(number) = args.number {
        query.append_pair("number", &number.to_string());
    }
    query.finish()
}

impl Since {
    fn moment(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(moment) => moment,
            Self::Ago(length) => {
                let length = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
                Timestamp::from_millis(now.as_millis().saturating_sub(length))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        logs: LogsArgs,
    }

    fn query_of(typed: &str) -> String {
        let words = std::iter::once("logs").chain(typed.split_whitespace());
        query(&Only::try_parse_from(words).unwrap().logs, Timestamp::from_millis(3_600_000))
    }

    #[test]
    fn log_options_become_query_parameters() {
        assert_eq!(query_of("dev"), "");
        assert_eq!(query_of("dev -f --tail 5"), "follow=true&tail=5");
        assert_eq!(query_of("dev -t"), "timestamps=true");
        assert_eq!(query_of("dev --previous --tail 5"), "tail=5&previous=true");
        assert_eq!(query_of("dev --release -f"), "follow=true&command=release");
        assert_eq!(query_of("dev --after"), "command=after");
        assert_eq!(query_of("dev --build --number 7"), "build=true&number=7");
    }

    #[test]
    fn a_since_duration_becomes_a_timestamp() {
        assert_eq!(query_of("dev --since 10m"), "since=1970-01-01T00%3A50%3A00.000Z");
        assert_eq!(query_of("dev --since 2h"), "since=1970-01-01T00%3A00%3A00.000Z");
        assert_eq!(query_of("dev --since 1970-01-01T00:00:01Z"), "since=1970-01-01T00%3A00%3A01.000Z");
    }
}
