//! `abide schema`: a JSON Schema of the manifest, for editors.

use super::exit::{CliError, CliExit};
use super::session::CliSession;
use crate::model::manifest;

const EXAMPLES: &str = "\
Examples:
  abide schema > manifest.schema.json

Editors with a TOML plugin (Even Better TOML, taplo) then complete and check keys if the first line \
of a manifest file is `#:schema ./manifest.schema.json`. `abide check` checks everything.";

/// Takes no options.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct SchemaArgs {}

pub(crate) fn run(_: &SchemaArgs, session: &mut CliSession) -> Result<CliExit, CliError> {
    session.console.json(&manifest::schema())?;
    Ok(CliExit::Done)
}
