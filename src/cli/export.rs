//! `abide export`: prints the whole record as JSON.

use futures::StreamExt as _;

use super::exit::{CliError, CliExit};
use super::session::{CliSession, Requirement};

const EXAMPLES: &str = "\
Examples:
  abide export > record.json
  abide export --server unix:/etc/abide/abide.sock | jq .environments";

/// Takes no options.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ExportArgs {}

pub(crate) async fn run(_: &ExportArgs, session: &mut CliSession) -> Result<CliExit, CliError> {
    let client = session.client(Requirement::Reading).await?;
    let mut export = client.export().await?;
    let mut last = None;
    while let Some(part) = export.next().await {
        let part = part?;
        last = part.last().copied().or(last);
        session.console.raw(&part)?;
    }
    if last != Some(b'\n') {
        session.console.raw(b"\n")?;
    }
    Ok(CliExit::Done)
}
