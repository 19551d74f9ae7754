//! `abide demo`: runs dev, test and prod from an example repository.

use super::exit::{CliError, CliExit};
use super::session::CliSession;

const EXAMPLES: &str = "\
Examples:
  abide demo
  abide demo --port-offset 10000

The demo creates its own example repository and desired-state folder, runs the three environments on \
this host, and removes everything on Ctrl-C.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DemoArgs {
    /// Number to add to every port, in case a port is in use on this host
    #[arg(long, value_name = "N", default_value_t = 0)]
    port_offset: u16,
}

pub(crate) async fn run(args: &DemoArgs, session: &mut CliSession) -> Result<CliExit, CliError> {
    (session.entry.demo)(args.port_offset).await.map_err(CliError::Service)?;
    Ok(CliExit::Done)
}
