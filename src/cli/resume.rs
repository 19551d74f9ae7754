//! `abide resume`: ends a hold.

use serde_json::json;

use super::exit::{Exit, Failure};
use super::moved;
use super::session::Session;
use super::wait::{Goal, SeeThrough};
use crate::model::name::EnvironmentName;

const EXAMPLES: &str = "\
Examples:
  abide resume prod

What was recorded while it was held is applied now.";

/// What to resume.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ResumeArgs {
    /// The environment
    environment: EnvironmentName,
    #[command(flatten)]
    see: SeeThrough,
}

/// Runs the verb.
pub(crate) async fn run(args: &ResumeArgs, session: &mut Session) -> Result<Exit, Failure> {
    let client = session.client(args.see.need("resume --wait")).await?;
    let moved = client.act(&args.environment, "resume", &json!({})).await?;
    moved::report(&mut session.console, &moved)?;
    args.see.to(session, &client, &args.environment, &Goal::default()).await
}
