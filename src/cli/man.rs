//! `abide man`: the manual pages, for packages.

use std::path::PathBuf;

use clap::CommandFactory as _;

use super::args::Cli;
use super::exit::{CliError, CliExit};

const EXAMPLES: &str = "\
Examples:
  abide man /usr/local/share/man/man1";

/// The folder to write to.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ManArgs {
    /// An existing folder; gets `abide.1` and a page for each command
    folder: PathBuf,
}

/// Runs the command.
pub(crate) fn run(args: &ManArgs) -> Result<CliExit, CliError> {
    let written = clap_mangen::generate_to(Cli::command(), &args.folder);
    written.map_err(|error| CliError::No(format!("cannot write to {}: {error}", args.folder.display())))?;
    Ok(CliExit::Done)
}
