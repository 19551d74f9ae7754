//! `abide demo`: dev, test and prod to look at.

use super::exit::{Exit, Failure};
use super::session::Session;

const EXAMPLES: &str = "\
Examples:
  abide demo
  abide demo --port-offset 10000

It makes an example repository and a desired-state folder of its own, runs the three environments
on this machine, and takes everything away again on Ctrl-C.";

/// How to run the demo.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DemoArgs {
    /// Added to every port, where they are taken on this machine
    #[arg(long, value_name = "N", default_value_t = 0)]
    port_offset: u16,
}

/// Runs the verb.
pub(crate) async fn run(args: &DemoArgs, session: &mut Session) -> Result<Exit, Failure> {
    (session.entry.demo)(args.port_offset).await.map_err(Failure::Service)?;
    Ok(Exit::Done)
}
