//! `abide reject`: blocks the image of an environment, or the images of a group, or withdraws that.

use serde_json::json;

use super::exit::{CliError, CliExit};
use super::result;
use super::session::{CliSession, Requirement};
use crate::model::name::{Digest, EnvironmentName};

const EXAMPLES: &str = "\
Examples:
  abide reject test --reason broken
  abide reject test --reason \"the logo is gone\"
  abide reject test --withdraw --reason \"it was the browser's cache\"

The rejected image cannot be promoted anywhere, and every environment that runs it shows the reason, \
until somebody who may approve withdraws the rejection. Rollbacks are still possible.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RejectArgs {
    /// Environment or group whose image to reject
    environment: EnvironmentName,
    /// Reason to record; required unless --withdraw is given
    #[arg(long, value_name = "TEXT", required_unless_present = "withdraw")]
    reason: Option<String>,
    /// Withdraw the rejection of the image
    #[arg(long)]
    withdraw: bool,
    /// Image to reject, by digest or ID [default: the recorded one]
    #[arg(long)]
    digest: Option<Digest>,
    #[command(flatten)]
    seen: result::SeenGeneration,
}

pub(crate) async fn run(args: &RejectArgs, session: &mut CliSession) -> Result<CliExit, CliError> {
    let client = session.client(Requirement::Record).await?;
    let verb = if args.withdraw { "withdraw" } else { "reject" };
    let request = args.seen.with(json!({ "reason": args.reason, "digest": args.digest }));
    let moved = client.act(&args.environment, verb, &request).await?;
    result::report(&mut session.console, &moved)?;
    Ok(CliExit::Done)
}
