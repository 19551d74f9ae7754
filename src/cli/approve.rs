//! `abide approve`: confirms the image of an environment for promotions.

use serde_json::json;

use super::exit::{CliError, CliExit};
use super::result;
use super::session::{CliSession, Requirement};
use crate::model::desired::Image;
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
    /// Environment whose image to approve
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
    // The image that is approved is the one that this command shows.
    let view = client.environment(environment).await?;
    let shown = view.image.as_ref().and_then(Image::shown_digest);
    let digest = args.digest.as_ref().or(shown);
    let request = args.seen.with(json!({ "note": args.note, "digest": digest }));
    let moved = client.act(environment, "approve", &request).await?;
    result::report(&mut session.console, &moved)?;
    Ok(CliExit::Done)
}
