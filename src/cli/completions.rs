//! `abide completions`: the completion script of a shell.

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::args::Cli;
use super::exit::{CliError, CliExit};
use super::session::CliSession;

const EXAMPLES: &str = "\
Examples:
  abide completions bash > /etc/bash_completion.d/abide
  abide completions zsh > ~/.zfunc/_abide";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CompletionsArgs {
    /// Shell to complete in
    shell: Shell,
}

pub(crate) fn run(args: &CompletionsArgs, session: &mut CliSession) -> Result<CliExit, CliError> {
    // The script goes to memory first, because the generator panics if its output is a closed pipe.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "abide", &mut script);
    session.console.raw(&script)?;
    Ok(CliExit::Done)
}
