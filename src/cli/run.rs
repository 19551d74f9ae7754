//! `abide run`: runs a command in a new container, with the options of an environment.

use super::attach::attach;
use super::exit::{CliError, CliExit};
use super::session::CliSession;
use crate::model::attach::AttachedCommand;
use crate::model::name::EnvironmentName;

const EXAMPLES: &str = "\
Examples:
  abide run dev -- ./manage.py shell
  abide run --entrypoint sh prod -- -c env
  abide run prod < dump.sql

The container has the recorded image and the environment's variables, secrets, volumes, networks and \
limits, and publishes no port. As with docker, arguments follow the entrypoint. The container is \
removed when the command ends, and at the latest after 24 hours. The exit code is that of the \
command, or 255 if the session was cut off. Tokens need the role `runner` or `admin`.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RunArgs {
    /// Program to run instead of the entrypoint, without the arguments of the environment
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// Do not give the command a terminal
    #[arg(short = 'T', long)]
    no_tty: bool,
    /// Environment whose image and options to use
    environment: EnvironmentName,
    /// Arguments after the entrypoint [default: those of the environment]
    #[arg(last = true, value_name = "ARG")]
    arguments: Vec<String>,
}

pub(crate) async fn run(args: &RunArgs, session: &mut CliSession) -> Result<CliExit, CliError> {
    let (entrypoint, arguments) = (args.entrypoint.clone(), args.arguments.clone());
    let command = AttachedCommand::Run { entrypoint, arguments };
    attach(session, "run", &args.environment, command, args.no_tty).await
}
