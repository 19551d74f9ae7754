//! `abide approve`: confirms the image of an environment, or the images of a group, for promotions.

use serde_json::json;

use super::exit::{CliError, CliExit};
use super::promote::{shown_image, shown_images};
use super::result;
use super::session::{CliSession, Requirement};
use crate::model::name::{Digest, EnvironmentName};

const EXAMPLES: &str = "\
Examples:
  abide approve test
  abide approve test --note \"all pages load\"

Approves the image that ENV runs healthy now, for every promotion from ENV. The approval lapses when \
ENV runs another image, or when the gates of the promotion are edited. `abide evidence ENV` lists \
approvals and what a promotion still waits for.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ApproveArgs {
    /// Environment or group whose image to approve
    environment: EnvironmentName,
    /// Note to record with the approval
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    /// Image to approve, by digest or ID; refused if ENV runs another image [default:
    /// the image that it runs]
    #[arg(long)]
    digest: Option<Digest>,
    #[command(flatten)]
    seen: result::SeenGeneration,
}

pub(crate) async fn run(args: &ApproveArgs, session: &mut CliSession) -> Result<CliExit, CliError> {
    let client = session.client(Requirement::Record).await?;
    let environment = &args.environment;
    // What is approved is what this command shows.
    let shown = client.overview_of(environment).await?;
    let is_group = shown.groups.iter().any(|group| group.group.as_str() == environment.as_str());
    let request = if is_group {
        json!({ "note": args.note, "digest": args.digest, "images": shown_images(&shown.environments) })
    } else {
        let only = shown.environments.first().and_then(shown_image);
        json!({ "note": args.note, "digest": args.digest.as_ref().or(only) })
    };
    let request = args.seen.with(request);
    let moved = client.act(environment, "approve", &request).await?;
    result::report(&mut session.console, &moved)?;
    Ok(CliExit::Done)
}
