//! The command line: one file per command.
//!
//! [`main`] parses the arguments (`args`), opens a `session`, runs the command and reports the
//! result (`exit`). A command queries the API with the `client` and prints with the console of
//! `output`. It never touches the store while a daemon has it open.

mod agent;
mod approve;
mod args;
mod check;
pub(crate) mod client;
mod completions;
mod daemon;
mod demo;
mod diff;
mod doctor;
mod doorbell;
mod entry;
mod events;
mod evidence;
mod exit;
mod export;
mod forget;
mod history;
mod hold;
mod import;
mod login;
mod logs;
mod man;
mod moved;
mod notify;
mod outbox;
mod output;
mod promote;
mod reject;
mod resume;
mod rollback;
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

pub use entry::{CheckSummary, Entrypoints, Service};

use args::{Cli, Globals, Verb};
use exit::{Exit, Failure};
use output::console::Console;
use session::Session;

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
        Ok(token) => Session::new(&cli.globals, token, entry, console),
        Err(failure) => {
            let mut session = Session::new(&cli.globals, None, entry, console);
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
fn token(globals: &Globals) -> Result<Option<Secret>, Failure> {
    if let Some(path) = &globals.token_file {
        let token = secret::read(&SecretRef::SecretFile(path.clone()));
        return token.map(Some).map_err(|error| Failure::Usage(error.to_string()));
    }
    let token = std::env::var_os("ABIDE_TOKEN").filter(|token| !token.is_empty());
    Ok(token.map(|token| Secret::new(token.to_string_lossy())))
}

fn run(verb: &Verb, session: &mut Session) -> Exit {
    // Services set up their own logging.
    if !matches!(verb, Verb::Daemon(_) | Verb::Agent(_) | Verb::Demo(_)) {
        (session.entry.telemetry)(session.verbosity);
    }
    let outcome = runtime(verb).map_err(|error| Failure::Service(error.into())).and_then(|runtime| {
        let outcome = runtime.block_on(perform(verb, session));
        runtime.shutdown_timeout(LAST_MOMENTS);
        outcome
    });
    conclude(outcome, session)
}

fn runtime(verb: &Verb) -> std::io::Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if !matches!(verb, Verb::Daemon(_) | Verb::Agent(_) | Verb::Demo(_)) {
        builder.worker_threads(THREADS_OF_A_QUESTION);
    }
    builder.thread_stack_size(STACK).enable_all().build()
}

/// The one place that prints errors.
fn conclude(outcome: Result<Exit, Failure>, session: &mut Session) -> Exit {
    outcome.unwrap_or_else(|failure| {
        let exit = failure.exit();
        if exit != Exit::Done {
            failure.lines().iter().for_each(|line| session.console.talk(line));
        }
        exit
    })
}

async fn perform(verb: &Verb, session: &mut Session) -> Result<Exit, Failure> {
    match verb {
        Verb::Status(args) => status::run(args, session).await,
        Verb::Why(args) => why::run(args, session).await,
        Verb::History(args) => history::run(args, session).await,
        Verb::Evidence(args) => evidence::run(args, session).await,
        Verb::Events(args) => events::run(args, session).await,
        Verb::Logs(args) => logs::run(args, session).await,
        Verb::Diff(args) => diff::run(args, session).await,
        Verb::Set(args) => set::run(args, session).await,
        Verb::Promote(args) => promote::run(args, session).await,
        Verb::Approve(args) => approve::run(args, session).await,
        Verb::Reject(args) => reject::run(args, session).await,
        Verb::Rollback(args) => rollback::run(args, session).await,
        Verb::Hold(args) => hold::run(args, session).await,
        Verb::Resume(args) => resume::run(args, session).await,
        Verb::Sync(args) => sync::run(args, session).await,
        Verb::Forget(args) => forget::run(args, session).await,
        Verb::Wait(args) => wait::run(args, session).await,
        Verb::Daemon(args) => daemon::run(args, session).await,
        Verb::Agent(args) => agent::run(args, session).await,
        Verb::Demo(args) => demo::run(args, session).await,
        Verb::Check(args) => check::run(args, session).await,
        Verb::Doctor(args) => doctor::run(args, session).await,
        Verb::Export(args) => export::run(args, session).await,
        Verb::Import(args) => import::run(args, session).await,
        Verb::Login(args) => login::run(args, session).await,
        Verb::Outbox(args) => outbox::run(args, session).await,
        Verb::Notify(args) => notify::run(args, session).await,
        Verb::Token(args) => token::run(args, session).await,
        Verb::Schema(args) => schema::run(args, session),
        Verb::Completions(args) => completions::run(args, session),
        Verb::Man(args) => man::run(args),
    }
}
