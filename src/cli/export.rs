//! `abide export`: prints the whole record as JSON.

use super::exit::{Exit, Failure};
use super::session::{Need, Session};

const EXAMPLES: &str = "\
Examples:
  abide export > record.json
  abide export --server unix:/etc/abide/abide.sock | jq .environments";

/// Takes no options.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ExportArgs {}

pub(crate) async fn run(_: &ExportArgs, session: &mut Session) -> Result<Exit, Failure> {
    let client = session.client(Need::Reading).await?;
    let export = client.export().await?;
    session.console.raw(&export)?;
    if !export.ends_with(b"\n") {
        session.console.raw(b"\n")?;
    }
    Ok(Exit::Done)
}
