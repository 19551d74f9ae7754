//! What the command line starts, beyond what it does itself: filled in by the composition roots.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::BoxFuture;
use serde::Serialize;

use crate::daemon::Encryption;
use crate::manifest_dir::LoadError;
use crate::model::container::Secret;

/// A service of this process: it ends when it is told to stop, or with an error.
pub type Service = BoxFuture<'static, anyhow::Result<()>>;

/// The functions behind the verbs that do more than ask.
#[derive(Clone, Copy)]
pub struct Entrypoints {
    /// Sets up logging to standard error; takes the number of `-v`.
    pub telemetry: fn(u8),
    /// Opens the record of a desired-state folder and answers the API on it, without a loop.
    pub offline_router: fn(&Path) -> anyhow::Result<axum::Router>,
    /// Runs the controller.
    pub daemon: fn(DaemonOptions) -> Service,
    /// Runs an agent.
    pub agent: fn(AgentOptions) -> Service,
    /// Runs the demo.
    pub demo: fn(DemoOptions) -> Service,
    /// Reads a manifest; an error is every problem in it, each as `file:line: sentence`.
    pub check: fn(&Path) -> Result<CheckSummary, Vec<String>>,
}

/// How the controller was asked to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonOptions {
    /// The folder of the manifest, the record and the socket.
    pub desired_state: PathBuf,
    /// Where webhooks and the API are served.
    pub listen: SocketAddr,
    /// Whether TLS is spoken there.
    pub encryption: Encryption,
    /// How often everything is looked at even if nothing rang.
    pub resync: Duration,
    /// How often `-v` was given.
    pub verbosity: u8,
}

/// How an agent was asked to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentOptions {
    /// The folder of its record and its policy.
    pub folder: PathBuf,
    /// The controller, such as `https://ci.example.com`.
    pub server: String,
    /// The token that says which agent it is.
    pub token: Secret,
    /// The file that the token is from, where it is from one.
    pub token_file: Option<PathBuf>,
    /// The authorities that vouch for the controller, where they are not this machine's.
    pub ca: Option<PathBuf>,
    /// The policy's file, where one is named.
    pub policy: Option<PathBuf>,
    /// Where the engine finds the registry, on the loopback address.
    pub registry_port: u16,
    /// How often everything is looked at even if nothing rang.
    pub resync: Duration,
    /// How often `-v` was given.
    pub verbosity: u8,
}

/// How the demo was asked to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DemoOptions {
    /// Added to every port, for machines where they are taken.
    pub port_offset: u16,
    /// How often `-v` was given.
    pub verbosity: u8,
}

/// A manifest in which nothing is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CheckSummary {
    /// The environments that it declares, by name.
    pub environments: Vec<String>,
    /// The repositories that it declares, by name.
    pub repositories: Vec<String>,
}

/// The functions of this build.
pub(super) fn of_this_build() -> Entrypoints {
    Entrypoints {
        telemetry: log_to_standard_error,
        offline_router: crate::daemon::offline_router,
        daemon: |options| Box::pin(run_daemon(options)),
        agent: |options| Box::pin(run_agent(options)),
        demo: |options| Box::pin(crate::demo::run(options.port_offset)),
        check,
    }
}

async fn run_daemon(options: DaemonOptions) -> anyhow::Result<()> {
    let DaemonOptions { desired_state, listen, encryption, resync, verbosity } = options;
    crate::telemetry::start(verbosity);
    crate::daemon::run(crate::daemon::Options { desired_state, listen, encryption, resync }).await
}

async fn run_agent(options: AgentOptions) -> anyhow::Result<()> {
    let AgentOptions { folder, server, token, token_file, ca, policy, registry_port, resync, verbosity } =
        options;
    crate::telemetry::start(verbosity);
    let engine = None;
    let options = crate::agent::Options {
        folder,
        server,
        token,
        token_file,
        ca,
        policy,
        registry_port,
        resync,
        engine,
    };
    crate::agent::run(options).await
}

fn check(desired_state: &Path) -> Result<CheckSummary, Vec<String>> {
    match crate::manifest_dir::load(desired_state) {
        Ok(loaded) => Ok(CheckSummary {
            environments: loaded.manifest.environments.keys().map(ToString::to_string).collect(),
            repositories: loaded.manifest.repositories.keys().map(ToString::to_string).collect(),
        }),
        Err(LoadError::Invalid(problems)) => Err(problems.iter().map(ToString::to_string).collect()),
        Err(error) => Err(vec![format!("{:#}", anyhow::Error::new(error))]),
    }
}

/// Without `-v` the verbs speak for themselves, so only warnings are logged.
fn log_to_standard_error(verbosity: u8) {
    let filter = match verbosity {
        0 => "warn",
        1 => "warn,abide=debug",
        2.. => "debug,abide=trace",
    };
    let filter = tracing_subscriber::EnvFilter::new(filter);
    let colours = anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let subscriber = subscriber.with_ansi(colours);
    // A second call keeps the first one's setup, which is what an embedding test wants.
    let _ = subscriber.try_init();
}
