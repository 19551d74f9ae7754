//! `abide completions`: the completion script of a shell.

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::args::Cli;
use super::exit::{Exit, Failure};
use super::session::Session;

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

pub(crate) fn run(args: &CompletionsArgs, session: &mut Session) -> Result<Exit, Failure> {
    // The script goes to memory first, because the generator panics if its output is a closed pipe.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "abide", &mut script);
    session.console.raw(&script)?;
    Ok(Exit::Done)
}
