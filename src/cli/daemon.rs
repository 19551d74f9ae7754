//! `abide daemon`: runs the controller.

use std::net::SocketAddr;
use std::time::Duration;

use super::entry::DaemonOptions;
use super::exit::{Exit, Failure};
use super::session::Session;

const EXAMPLES: &str = "\
Examples:
  abide daemon
  abide daemon --desired-state /etc/abide --listen 0.0.0.0:8080

It serves webhooks on the address, and the other verbs on the socket in the desired-state folder.
SIGTERM and Ctrl-C end it; the containers go on running.";

/// How to run the controller.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DaemonArgs {
    /// The address and port of webhooks
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// How often everything is looked at even if nothing rang. For tests, which cannot wait that long
    #[arg(long, env = "ABIDE_RESYNC", value_name = "DURATION", default_value = "30s", hide = true)]
    #[arg(value_parser = humantime::parse_duration)]
    resync: Duration,
}

/// Runs the verb.
pub(crate) async fn run(args: &DaemonArgs, session: &mut Session) -> Result<Exit, Failure> {
    let options = DaemonOptions {
        desired_state: session.desired_state.clone(),
        listen: args.listen,
        resync: args.resync,
        verbosity: session.verbosity,
    };
    (session.entry.daemon)(options).await.map_err(Failure::Service)?;
    Ok(Exit::Done)
}
