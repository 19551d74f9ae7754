//! `abide sync`: checks for changes now.

use serde_json::json;

use super::exit::{CliError, CliExit};
use super::result;
use super::session::{CliSession, Requirement};
use super::wait::{self, GoalArgs, SeeThrough};
use crate::model::name::EnvironmentName;
use crate::model::view::SeenGenerations;

const EXAMPLES: &str = "\
Examples:
  abide sync
  abide sync dev --wait
  abide sync shop-test
  abide sync dev --wait --commit 5f0c954e4b8b6f3e0f7f2d3c1f0a9b8c7d6e5f40

First queries git (or the registry) for the newest head; if that fails, prints why and exits with 1. \
Clears earlier failures and retries now every step that waits for its next attempt.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct SyncArgs {
    /// Environment or group to check [default: all]
    environment: Option<EnvironmentName>,
    /// Refuse unless the environment is still at this generation; for a group: MEMBER=GENERATION,...
    #[arg(long, value_name = "GENERATION", requires = "environment")]
    seen: Option<SeenGenerations>,
    #[command(flatten)]
    see: SeeThrough,
    #[command(flatten)]
    goal: GoalArgs,
}

pub(crate) async fn run(args: &SyncArgs, session: &mut CliSession) -> Result<CliExit, CliError> {
    let client = session.client(Requirement::Daemon("sync")).await?;
    let moved = if let Some(environment) = &args.environment {
        let seen = result::SeenGeneration { seen: args.seen.clone() };
        let moved = client.act(environment, "sync", &seen.with(json!({}))).await?;
        result::report(&mut session.console, &moved)?;
        vec![moved]
    } else {
        let moved = client.sync_all().await?;
        result::report_all(&mut session.console, &moved)?;
        moved
    };
    let all_asked = !moved.iter().any(|moved| moved.failed);
    if args.see.wait || args.goal.is_named() {
        // A group answers for each member.
        let each = moved.into_iter().flat_map(|moved| match moved.members.is_empty() {
            true => vec![moved],
            false => moved.members,
        });
        let environments: Vec<_> = each.map(|moved| moved.environment).collect();
        let (goal, timeout) = (args.goal.goal(), args.see.timeout);
        wait::until_all_ready(session, &client, &environments, &goal, timeout).await?;
        return Ok(CliExit::Done);
    }
    Ok(if all_asked { CliExit::Done } else { CliExit::No })
}
