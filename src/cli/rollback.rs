//! `abide rollback`: goes back to what was good.

use serde::Serialize;

use super::exit::{Exit, Failure};
use super::moved;
use super::session::{Need, Session};
use crate::model::name::{EnvironmentName, Generation};

const EXAMPLES: &str = "\
Examples:
  abide rollback prod
  abide rollback prod --to 12 --reason \"checkout is broken\"

Without --to it goes to the newest earlier generation that became ready with another image. The
environment is held afterwards, so that the next push does not undo it: `abide resume` ends that.";

/// What to move back, and how far.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RollbackArgs {
    /// The environment
    environment: EnvironmentName,
    /// The generation to go back to, as `abide history` lists them
    #[arg(long, value_name = "GENERATION")]
    to: Option<u64>,
    /// Why, for whoever wonders later
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

#[derive(Serialize)]
struct Request<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<Generation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

/// Runs the verb.
pub(crate) async fn run(args: &RollbackArgs, session: &mut Session) -> Result<Exit, Failure> {
    let request = Request { to: args.to.map(Generation), reason: args.reason.as_deref() };
    let client = session.client(Need::Record).await?;
    let moved = client.act(&args.environment, "rollback", &request).await?;
    moved::report(&mut session.console, &moved)?;
    Ok(Exit::Done)
}
