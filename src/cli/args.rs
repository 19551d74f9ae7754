//! The command-line arguments.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::output::console::Format;
use super::{
    adopt, agent, approve, canary, check, completions, daemon, demo, diff, doctor, events, evidence, exec,
    export, forget, history, hold, import, init, jobs, login, logs, maintenance, man, notify, outbox,
    promote, reject, restore, resume, rollback, run, schema, set, status, sync, token, wait, why,
};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failure or negative result
  2  bad usage or input
  3  daemon unreachable

Environment variables:
  ABIDE_TOKEN  token to send with every request; if it has a pin, also verifies the daemon's key
  NO_COLOR     print without colours, like --no-color";

/// Keep Docker containers matching the recorded desired state
///
/// Webhooks, promotions and these commands only update a record of what should run. The controller
/// compares the running containers with the record, and builds, pulls and restarts until they
/// match.
#[derive(Debug, Parser)]
#[command(name = "abide", version = env!("ABIDE_VERSION"), after_help = EXIT_CODES, max_term_width = 100)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub(crate) globals: Globals,
    /// The command to run.
    #[command(subcommand)]
    pub(crate) verb: Commands,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Globals {
    /// Folder with the manifest, the record and the daemon's socket
    #[arg(long, global = true, value_name = "DIR", env = "ABIDE_DESIRED_STATE")]
    #[arg(default_value = "./desired-state")]
    pub(crate) desired_state: PathBuf,
    /// URL of the daemon: `https://host:port`, `http://host:port` or `unix:PATH` [default: the
    /// socket DIR/abide.sock]
    #[arg(long, global = true, value_name = "URL", env = "ABIDE_SERVER")]
    pub(crate) server: Option<String>,
    /// Read the token from FILE instead of ABIDE_TOKEN
    #[arg(long, global = true, value_name = "FILE", env = "ABIDE_TOKEN_FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// CA certificates (PEM) to verify the daemon, instead of the system's; a pin in the token
    /// takes precedence
    #[arg(long, global = true, value_name = "FILE", env = "ABIDE_CA")]
    pub(crate) ca: Option<PathBuf>,
    /// Output format of data
    #[arg(short, long, global = true, value_enum, value_name = "FORMAT", default_value_t)]
    pub(crate) output: Format,
    /// Log more to standard error; repeat for even more
    #[arg(short, long = "verbose", global = true, action = clap::ArgAction::Count)]
    pub(crate) verbosity: u8,
    /// Print without colours
    #[arg(long, global = true)]
    pub(crate) no_color: bool,
}

/// All commands: first those that read, then those that update the record, then those that run
/// something.
#[derive(Debug, Subcommand)]
pub(crate) enum Commands {
    /// Show the desired and the running version, since when, and why
    Status(status::StatusArgs),
    /// Explain the state: event, record, difference, step, result, next retry
    Why(why::WhyArgs),
    /// List the generations of an environment and their outcomes
    History(history::HistoryArgs),
    /// List approvals and other evidence, and what promotions wait for
    Evidence(evidence::EvidenceArgs),
    /// List the actions of the controller
    Events(events::EventsArgs),
    /// Print the output of the container or of a build
    Logs(logs::LogsArgs),
    /// Run a command in the running container
    Exec(exec::ExecArgs),
    /// Run a command in a separate container, with the options of an environment
    Run(run::RunArgs),
    /// Restore a volume from an archive of a backup job
    Restore(restore::RestoreArgs),
    /// List jobs, their runs and output, or run one now
    Jobs(jobs::JobsArgs),
    /// Show the steps that the controller would take now
    Diff(diff::DiffArgs),
    /// Record an image or a commit to run
    Set(set::SetArgs),
    /// Promote the exact image of one healthy environment to another
    Promote(promote::PromoteArgs),
    /// Approve the image of an environment for promotions
    Approve(approve::ApproveArgs),
    /// Reject the image of an environment, which blocks its promotion everywhere
    Reject(reject::RejectArgs),
    /// Record the last good generation again and hold the environment there
    Rollback(rollback::RollbackArgs),
    /// Keep an environment unchanged; pushes are recorded but not applied
    Hold(hold::HoldArgs),
    /// End a hold
    Resume(resume::ResumeArgs),
    /// Show a maintenance page (503) instead of an environment
    Maintenance(maintenance::MaintenanceArgs),
    /// Let a new version that serves a part of the visitors take over, or remove it
    Canary(canary::CanaryArgs),
    /// Check for changes now and retry failed steps
    Sync(sync::SyncArgs),
    /// Remove the record of an environment that left the manifest
    Forget(forget::ForgetArgs),
    /// Wait until an environment is Ready
    Wait(wait::WaitArgs),
    /// Run the controller: webhooks, API and reconcile loop
    Daemon(daemon::DaemonArgs),
    /// Run the environments of this host for a controller
    Agent(agent::AgentArgs),
    /// Run dev, test and prod on this host from an example repository, until Ctrl-C
    Demo(demo::DemoArgs),
    /// Write a manifest from a compose file, or for a Dockerfile
    Init(init::InitArgs),
    /// Take over running containers of compose, one by one
    Adopt(adopt::AdoptArgs),
    /// Validate the manifest and list every problem
    Check(check::CheckArgs),
    /// Check this host for problems that would keep abide from working
    Doctor(doctor::DoctorArgs),
    /// Print the whole record as JSON
    Export(export::ExportArgs),
    /// Replace the record with an exported one
    Import(import::ImportArgs),
    /// Print a one-time link to the web page for a user of this host
    Login(login::LoginArgs),
    /// List messages and commit states that are not delivered, or send them again
    Outbox(outbox::OutboxArgs),
    /// Send a test message to a notification channel
    Notify(notify::NotifyArgs),
    /// Create, list and revoke tokens of users, programs and agents
    Token(token::TokenArgs),
    /// Print a JSON Schema of the manifest for editors
    Schema(schema::SchemaArgs),
    /// Print the completion script of a shell
    Completions(completions::CompletionsArgs),
    /// Write the manual pages into a folder
    #[command(hide = true)]
    Man(man::ManArgs),
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_argument_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_a_valid_example_in_its_help() {
        for verb in Cli::command().get_subcommands() {
            let name = verb.get_name();
            let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            let example = help.lines().find_map(|line| line.trim().strip_prefix("abide "));
            let typed = example.unwrap_or_else(|| panic!("`{name}` has no example"));
            let words = typed.split_whitespace().take_while(|word| !matches!(*word, ">" | "#" | "|"));
            let parsed = Cli::try_parse_from(std::iter::once("abide").chain(words));
            assert!(parsed.is_ok(), "{typed}: {}", parsed.unwrap_err());
            assert!(typed.starts_with(name), "{typed}");
        }
    }

    #[test]
    fn help_fits_every_terminal() {
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            for paragraph in help.split("\n\n").filter(|part| !part.starts_with("Examples:")) {
                assert!(!paragraph.contains('\n'), "clap wraps lines: {paragraph}");
            }
            let examples = help.lines().filter(|line| line.starts_with("  "));
            for example in examples {
                assert!(example.chars().count() <= 100, "{example}");
            }
        }
    }

    /// The pages of the documentation, and the systemd units.
    fn documents() -> Vec<(PathBuf, String)> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let pages = ["README.md", "CONTRIBUTING.md", "desired-state/README.md"].map(|name| root.join(name));
        let folders =
            ["docs", "examples", "examples/systemd"].map(|name| fs::read_dir(root.join(name)).unwrap());
        let listed = folders.into_iter().flatten().map(|entry| entry.unwrap().path());
        let listed = listed.map(|path| if path.is_dir() { path.join("README.md") } else { path });
        let is_shown = |path: &PathBuf| {
            path.is_file() && path.extension().is_some_and(|kind| kind == "md" || kind == "service")
        };
        let all = pages.into_iter().chain(listed).filter(is_shown);
        all.map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
    }

    /// The words of a line as a shell splits it, up to a comment, a redirection or another command.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
        for character in line.chars() {
            match (quote, character) {
                (Some(open), _) if open == character => quote = None,
                (None, '"' | '\'') => {
                    quote = Some(character);
                    word.get_or_insert_default();
                }
                (None, _) if character.is_whitespace() => words.extend(word.take()),
                (None, '#' | '<' | '>' | '|' | '&' | ';') if word.is_none() => return words,
                _ => word.get_or_insert_default().push(character),
            }
        }
        words.extend(word);
        words
    }

    /// The command line of `abide` in a line for a shell or systemd; `None` if the line runs another
    /// program.
    fn typed(line: &str) -> Option<Vec<String>> {
        let line = line.split_once("runuser -u abide -- ").map_or(line, |(_, run)| run.trim_end_matches(')'));
        let words = words(line);
        let program = words.first()?.trim_start_matches("ExecStart=");
        let runs = ["abide", "/usr/bin/abide", "/usr/local/bin/abide"].contains(&program);
        (runs && words.len() > 1).then_some(words)
    }

    #[test]
    fn every_command_in_docs_and_systemd_units_parses() {
        let mut count = 0;
        for (path, text) in documents() {
            let mut is_shown = path.extension().is_some_and(|kind| kind == "service");
            for line in text.lines() {
                if let Some(language) = line.strip_prefix("```") {
                    is_shown = ["sh", "ini"].contains(&language);
                }
                let Some(words) = typed(line).filter(|_| is_shown || line.starts_with("    ")) else {
                    continue;
                };
                let parsed = Cli::try_parse_from(words);
                assert!(parsed.is_ok(), "{}: {line}: {}", path.display(), parsed.unwrap_err());
                count += 1;
            }
        }
        assert!(count > 70, "{count}");
    }

    #[test]
    fn global_options_may_follow_the_command() {
        let cli = Cli::try_parse_from(["abide", "status", "dev", "-o", "json", "--no-color", "-vv"]).unwrap();
        assert_eq!(cli.globals.output, Format::Json);
        assert_eq!((cli.globals.no_color, cli.globals.verbosity), (true, 2));
    }

    #[test]
    fn invalid_arguments_are_a_usage_error() {
        for typed in [
            "abide",
            "abide stauts",
            "abide status DEV",
            "abide status ../x",
            "abide set dev nginx:latest",
            "abide set dev --commit abc",
            "abide hold dev",
            "abide maintenance dev",
            "abide maintenance dev maybe",
            "abide canary dev",
            "abide canary dev maybe",
            "abide rollback dev --to x",
            "abide logs dev --number 3",
            "abide wait dev --timeout soon",
            "abide token create --role viewer",
            "abide token create ci",
            "abide token create --role deployer ci",
            "abide token create --role root ci",
            "abide token create --agent online --role admin x",
            "abide token create --agent online --expires soon",
            "abide token create --role runner ci",
            "abide exec dev",
            "abide exec dev ls",
            "abide run",
            "abide outbox retry team",
            "abide notify test",
            "abide notify test TEAM",
            "abide daemon --tls-certificate x",
            "abide daemon --tls-certificate x --tls-key y --insecure-http",
        ] {
            let error = Cli::try_parse_from(typed.split(' ')).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{typed}");
        }
    }
}
