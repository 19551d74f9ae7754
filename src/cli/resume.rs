//! `abide resume`: ends a hold.

use serde_json::json;

use super::exit::{CliError, CliExit};
use super::result;
use super::session::CliSession;
use super::wait::{Goal, SeeThrough};
use crate::model::name::EnvironmentName;

const EXAMPLES: &str = "\
Examples:
  abide resume prod

Applies the changes that were recorded during the hold.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ResumeArgs {
    /// Environment or group to resume
    environment: EnvironmentName,
    #[command(flatten)]
    seen: result::SeenGeneration,
    #[command(flatten)]
    see: SeeThrough,
}

pub(crate) async fn run(args: &ResumeArgs, session: &mut CliSession) -> Result<CliExit, CliError> {
    let client = session.client(args.see.need("resume --wait")).await?;
    let moved = client.act(&args.environment, "resume", &args.seen.with(json!({}))).await?;
    result::report(&mut session.console, &moved)?;
    args.see.through(session, &client, &moved, &Goal::default()).await
}
