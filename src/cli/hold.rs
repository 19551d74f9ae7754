//! `abide hold`: keeps an environment unchanged.

use serde_json::json;

use super::exit::{CliError, CliExit};
use super::result;
use super::session::{CliSession, Requirement};
use crate::model::name::EnvironmentName;

const EXAMPLES: &str = "\
Examples:
  abide hold prod --reason audit
  abide hold prod --reason \"the migration runs until noon\"

During the hold, pushes and promotions are recorded; `abide resume` applies them. The running \
container is still repaired.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct HoldArgs {
    /// Environment or group to hold
    environment: EnvironmentName,
    /// Reason to record with the change
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    seen: result::SeenGeneration,
}

pub(crate) async fn run(args: &HoldArgs, session: &mut CliSession) -> Result<CliExit, CliError> {
    let client = session.client(Requirement::Record).await?;
    let request = args.seen.with(json!({ "reason": args.reason }));
    let moved = client.act(&args.environment, "hold", &request).await?;
    result::report(&mut session.console, &moved)?;
    Ok(CliExit::Done)
}
