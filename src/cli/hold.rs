//! `abide hold`: keeps an environment as it is.

use serde_json::json;

use super::exit::{Exit, Failure};
use super::moved;
use super::session::{Need, Session};
use crate::model::name::EnvironmentName;

const EXAMPLES: &str = "\
Examples:
  abide hold prod --reason audit
  abide hold prod --reason \"the migration runs until noon\"

Pushes and promotions are recorded while it is held, and applied by `abide resume`.
What runs goes on being healed.";

/// What to hold, and why.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct HoldArgs {
    /// The environment
    environment: EnvironmentName,
    /// Why, for whoever wonders later
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// Runs the verb.
pub(crate) async fn run(args: &HoldArgs, session: &mut Session) -> Result<Exit, Failure> {
    let client = session.client(Need::Record).await?;
    let moved = client.act(&args.environment, "hold", &json!({ "reason": args.reason })).await?;
    moved::report(&mut session.console, &moved)?;
    Ok(Exit::Done)
}
