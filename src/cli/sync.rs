//! `abide sync`: looks again now.

use std::time::Duration;

use serde_json::json;

use super::exit::{Exit, Failure};
use super::moved;
use super::session::{Need, Session};
use super::wait;
use crate::model::name::EnvironmentName;

const EXAMPLES: &str = "\
Examples:
  abide sync
  abide sync dev --wait

Failures from before are forgiven: what waits for its next attempt is attempted now.";

/// What to look at.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct SyncArgs {
    /// The environment; left out: all of them
    environment: Option<EnvironmentName>,
    /// Wait until they are Ready
    #[arg(long)]
    wait: bool,
    /// How long to wait at most, such as `90s` or `5m`
    #[arg(long, default_value = wait::DEFAULT_TIMEOUT, value_parser = humantime::parse_duration)]
    #[arg(value_name = "DURATION", requires = "wait")]
    timeout: Duration,
}

/// Runs the verb.
pub(crate) async fn run(args: &SyncArgs, session: &mut Session) -> Result<Exit, Failure> {
    let client = session.client(Need::Daemon("sync")).await?;
    let moved = if let Some(environment) = &args.environment {
        let moved = client.act(environment, "sync", &json!({})).await?;
        moved::report(&mut session.console, &moved)?;
        vec![moved]
    } else {
        let moved = client.sync_all().await?;
        moved::report_all(&mut session.console, &moved)?;
        moved
    };
    if args.wait {
        let environments: Vec<_> = moved.into_iter().map(|moved| moved.environment).collect();
        wait::until_all_ready(session, &client, &environments, args.timeout).await?;
    }
    Ok(Exit::Done)
}
