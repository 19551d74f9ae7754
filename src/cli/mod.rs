//! The command line: one file per command.
//!
//! [`main`] parses the arguments (`args`), opens a `session`, runs the command and reports the
//! result (`exit`). A command queries the API with the `client` and prints with the console of
//! `output`. It never touches the store while a daemon has it open.

mod adopt;
mod agent;
mod approve;
mod args;
mod attach;
mod canary;
mod changes;
mod check;
pub(crate) mod client;
mod completions;
mod daemon;
mod demo;
mod diff;
mod doctor;
mod entry;
mod events;
mod evidence;
mod exec;
mod exit;
mod export;
mod forget;
mod history;
mod hold;
mod import;
mod init;
mod jobs;
mod login;
mod logs;
mod maintenance;
mod man;
mod notify;
mod outbox;
mod output;
mod promote;
mod reject;
mod restore;
mod result;
mod resume;
mod rollback;
mod run;
mod schema;
mod session;
mod set;
mod status;
mod sync;
#[cfg(test)]
mod tests;
mod token;
mod wait;
mod why;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use tokio::runtime::Runtime;

pub(crate) use entry::Entrypoints;

use args::{Cli, Commands, Globals};
use exit::{CliError, CliExit};
use output::console::Console;
use session::CliSession;

use crate::model::container::Secret;
use crate::model::spec::SecretRef;
use crate::secret;

/// Enough for a command that only queries; the daemon, the agent and the demo use one thread per
/// core.
const THREADS_OF_A_QUESTION: usize = 2;
/// The stack of each thread, in bytes. An unoptimized build moves whole futures over the stack, and
/// a build with submodules does not fit into the usual 2 MiB. Unused pages take no memory.
const STACK: usize = 8 << 20;
/// How long background tasks may still run after a command is done.
const LAST_MOMENTS: Duration = Duration::from_secs(2);

/// Runs the command line and returns its exit code.
pub fn main() -> ExitCode {
    main_with(entry::of_this_build())
}

/// Runs the command line with the services of `entry` and returns its exit code.
pub fn main_with(entry: Entrypoints) -> ExitCode {
    let cli = Cli::parse();
    if cli.globals.no_color {
        anstream::ColorChoice::Never.write_global();
    }
    let console = Console::of_process(cli.globals.output);
    let mut session = match token(&cli.globals) {
        Ok(token) => CliSession::new(&cli.globals, token, entry, console),
        Err(failure) => {
            let mut session = CliSession::new(&cli.globals, None, entry, console);
            return conclude(Err(failure), &mut session).into();
        }
    };
    if let Some(why) = cli.globals.token_file.as_deref().and_then(secret::exposure) {
        session.console.talk(&why);
    }
    run(&cli.verb, &mut session).into()
}

/// Reads the token from the named file, else from the environment. A value that is not valid text
/// is kept, so that the client rejects it by name instead of ignoring it.
fn token(globals: &Globals) -> Result<Option<Secret>, CliError> {
    if let Some(path) = &globals.token_file {
        let token = secret::read(&SecretRef::SecretFile(path.clone()));
        return token.map(Some).map_err(|error| CliError::Usage(error.to_string()));
    }
    let token = std::env::var_os("ABIDE_TOKEN").filter(|token| !token.is_empty());
    Ok(token.map(|token| Secret::new(token.to_string_lossy())))
}

fn run(verb: &Commands, session: &mut CliSession) -> CliExit {
    // Services set up their own logging.
    if !matches!(verb, Commands::Daemon(_) | Commands::Agent(_) | Commands::Demo(_)) {
        (session.entry.telemetry)(session.verbosity);
    }
    let outcome = runtime(verb).map_err(|error| CliError::Service(error.into())).and_then(|runtime| {
        let outcome = runtime.block_on(perform(verb, session));
        runtime.shutdown_timeout(LAST_MOMENTS);
        outcome
    });
    conclude(outcome, session)
}

fn runtime(verb: &Commands) -> std::io::Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if !matches!(verb, Commands::Daemon(_) | Commands::Agent(_) | Commands::Demo(_)) {
        builder.worker_threads(THREADS_OF_A_QUESTION);
    }
    builder.thread_stack_size(STACK).enable_all().build()
}

/// The one place that prints errors.
fn conclude(outcome: Result<CliExit, CliError>, session: &mut CliSession) -> CliExit {
    outcome.unwrap_or_else(|failure| {
        let exit = failure.exit();
        if exit != CliExit::Done {
            failure.lines().iter().for_each(|line| session.console.talk(line));
        }
        exit
    })
}

async fn perform(verb: &Commands, session: &mut CliSession) -> Result<CliExit, CliError> {
    match verb {
        Commands::Status(args) => status::run(args, session).await,
        Commands::Why(args) => why::run(args, session).await,
        Commands::History(args) => history::run(args, session).await,
        Commands::Evidence(args) => evidence::run(args, session).await,
        Commands::Events(args) => events::run(args, session).await,
        Commands::Logs(args) => logs::run(args, session).await,
        Commands::Exec(args) => exec::run(args, session).await,
        Commands::Run(args) => run::run(args, session).await,
        Commands::Restore(args) => restore::run(args, session).await,
        Commands::Jobs(args) => jobs::run(args, session).await,
        Commands::Diff(args) => diff::run(args, session).await,
        Commands::Set(args) => set::run(args, session).await,
        Commands::Promote(args) => promote::run(args, session).await,
        Commands::Approve(args) => approve::run(args, session).await,
        Commands::Reject(args) => reject::run(args, session).await,
        Commands::Rollback(args) => rollback::run(args, session).await,
        Commands::Hold(args) => hold::run(args, session).await,
        Commands::Resume(args) => resume::run(args, session).await,
        Commands::Maintenance(args) => maintenance::run(args, session).await,
        Commands::Canary(args) => canary::run(args, session).await,
        Commands::Sync(args) => sync::run(args, session).await,
        Commands::Forget(args) => forget::run(args, session).await,
        Commands::Wait(args) => wait::run(args, session).await,
        Commands::Daemon(args) => daemon::run(args, session).await,
        Commands::Agent(args) => agent::run(args, session).await,
        Commands::Demo(args) => demo::run(args, session).await,
        Commands::Check(args) => check::run(args, session).await,
        Commands::Init(args) => init::run(args, session).await,
        Commands::Adopt(args) => adopt::run(args, session).await,
        Commands::Doctor(args) => doctor::run(args, session).await,
        Commands::Export(args) => export::run(args, session).await,
        Commands::Import(args) => import::run(args, session).await,
        Commands::Login(args) => login::run(args, session).await,
        Commands::Outbox(args) => outbox::run(args, session).await,
        Commands::Notify(args) => notify::run(args, session).await,
        Commands::Token(args) => token::run(args, session).await,
        Commands::Schema(args) => schema::run(args, session),
        Commands::Completions(args) => completions::run(args, session),
        Commands::Man(args) => man::run(args),
    }
}
