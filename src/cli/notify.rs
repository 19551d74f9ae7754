//! `abide notify`: tests notification channels.

use clap::Subcommand;
use serde_json::json;

use super::exit::{CliError, CliExit};
use super::session::{CliSession, Requirement};
use crate::model::name::ChannelName;

const EXAMPLES: &str = "\
Examples:
  abide notify test team
  abide notify test team --print

The daemon sends the message, because it has the secrets. --print shows the message without secrets \
and sends nothing.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct NotifyArgs {
    #[command(subcommand)]
    verb: NotifyVerb,
}

#[derive(Debug, Subcommand)]
enum NotifyVerb {
    /// Send a test message to a channel of the manifest
    Test(TestArgs),
}

#[derive(Debug, clap::Args)]
struct TestArgs {
    /// Channel: NAME of `[notify.NAME]`
    channel: ChannelName,
    /// Show the message instead of sending it
    #[arg(long)]
    print: bool,
}

pub(crate) async fn run(args: &NotifyArgs, session: &mut CliSession) -> Result<CliExit, CliError> {
    let NotifyVerb::Test(args) = &args.verb;
    let client = session.client(Requirement::Daemon("notify test")).await?;
    let sent = client.test_channel(&args.channel, &json!({ "print": args.print })).await?;
    session.show(&sent, |sent, _, _| sent.text.clone())?;
    Ok(CliExit::Done)
}
