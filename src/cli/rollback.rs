//! `abide rollback`: records the last good generation again.

use serde::Serialize;

use super::exit::{CliError, CliExit};
use super::result;
use super::session::CliSession;
use super::wait::{Goal, GoalArgs, SeeThrough};
use crate::model::name::{EnvironmentName, Generation};
use crate::model::view::SeenGenerations;

const EXAMPLES: &str = "\
Examples:
  abide rollback prod
  abide rollback prod --to 12 --reason \"checkout is broken\"
  abide rollback prod --yes --wait

Without --to, rolls back to the newest earlier generation that became ready with another image. The \
environment is then held, so that the next push does not undo the rollback; `abide resume` ends the \
hold. With --wait, exits with 0 once the restored version runs and is held.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RollbackArgs {
    /// Environment to roll back, or group: by the newest change of its members
    environment: EnvironmentName,
    /// Generation to roll back to, as `abide history` lists it
    #[arg(long, value_name = "GENERATION")]
    to: Option<u64>,
    /// Reason to record with the change
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    seen: result::SeenGeneration,
    /// Do not ask for confirmation
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    see: SeeThrough,
    #[command(flatten)]
    goal: GoalArgs,
}

#[derive(Serialize)]
struct RollbackBody<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<Generation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seen: Option<&'a SeenGenerations>,
}

pub(crate) async fn run(args: &RollbackArgs, session: &mut CliSession) -> Result<CliExit, CliError> {
    let (to, reason, seen) = (args.to.map(Generation), args.reason.as_deref(), args.seen.seen.as_ref());
    let request = RollbackBody { to, reason, seen };
    let client = session.client(args.see.need("rollback --wait")).await?;
    let environment = &args.environment;
    let to = args.to.map_or_else(|| "its last good generation".to_owned(), |to| format!("generation {to}"));
    if !args.yes && !session.console.agreed_on_a_terminal(&format!("Roll {environment} back to {to}?"))? {
        return Err(CliError::No("nothing was changed".to_owned()));
    }
    let moved = client.act(environment, "rollback", &request).await?;
    result::report(&mut session.console, &moved)?;
    let goal = args.goal.goal();
    let generation = goal.generation.or(Some(moved.generation));
    args.see.through(session, &client, &moved, &Goal { generation, held: true, ..goal }).await
}
