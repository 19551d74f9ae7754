//! `abide exec`: runs a command in the running container.

use super::attach::attach;
use super::exit::{CliError, CliExit};
use super::session::CliSession;
use crate::model::attach::AttachedCommand;
use crate::model::name::EnvironmentName;

const EXAMPLES: &str = "\
Examples:
  abide exec dev -- sh
  abide exec prod -- ./manage.py showmigrations

The command gets a terminal if standard input and output are a terminal. The exit code is that of \
the command, or 255 if the session was cut off. If abide replaces the container, the command ends. \
Tokens need the role `runner` or `admin`. Events record the user and the command.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ExecArgs {
    /// Environment in whose container to run the command
    environment: EnvironmentName,
    /// Do not give the command a terminal
    #[arg(short = 'T', long)]
    no_tty: bool,
    /// Program and arguments
    #[arg(required = true, last = true, value_name = "CMD")]
    command: Vec<String>,
}

pub(crate) async fn run(args: &ExecArgs, session: &mut CliSession) -> Result<CliExit, CliError> {
    let command = AttachedCommand::Exec { command: args.command.clone() };
    attach(session, "exec", &args.environment, command, args.no_tty).await
}
