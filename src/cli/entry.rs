//! Entry points of the services that the command line starts; the composition roots fill them in.

use std::path::{Path, PathBuf};

use futures::future::BoxFuture;
use serde::Serialize;

use crate::controller::adoption::{self, ComposeContainer, KeptContainer};
use crate::doctor::Finding;
use crate::manifest_dir::LoadError;
use crate::model::name::EnvironmentName;

/// A service of this process. It ends when it is stopped, or with an error.
pub type Service = BoxFuture<'static, anyhow::Result<()>>;

/// The functions behind the commands that do more than query the API.
#[derive(Clone, Copy)]
pub struct Entrypoints {
    /// Sets up logging to standard error; takes the number of `-v`.
    pub telemetry: fn(u8),
    /// Opens the record of a desired-state folder and serves the API on it, without a reconcile
    /// loop.
    pub offline_router: fn(&Path) -> anyhow::Result<axum::Router>,
    /// The same on a copy of the record, so that nothing in the folder is created or changed.
    pub offline_reading_router: fn(&Path) -> anyhow::Result<axum::Router>,
    /// Runs the controller; takes the number of `-v`.
    pub daemon: fn(u8, crate::daemon::DaemonOptions) -> Service,
    /// Runs an agent; takes the number of `-v`.
    pub agent: fn(u8, crate::agent::AgentOptions) -> Service,
    /// Runs the demo; takes the number to add to every port, in case a port is in use.
    pub demo: fn(u16) -> Service,
    /// Reads a manifest. The error lists every problem, each as `file:line: sentence`.
    pub check: fn(&Path) -> Result<CheckSummary, Vec<String>>,
    /// Checks this host and a desired-state folder for everything that would keep abide from working.
    pub doctor: fn(PathBuf) -> BoxFuture<'static, Vec<Finding>>,
    /// Lists the containers of compose projects on this host.
    pub compose_containers: fn() -> BoxFuture<'static, Result<Vec<ComposeContainer>, String>>,
    /// Stops a container of compose and keeps it under another name.
    pub set_aside: fn(ComposeContainer) -> BoxFuture<'static, Result<KeptContainer, String>>,
    /// Removes what an environment runs and starts a kept container in its place.
    pub put_back: fn(EnvironmentName, KeptContainer) -> BoxFuture<'static, Result<(), String>>,
}

/// The contents of a valid manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CheckSummary {
    /// The names of its environments.
    pub environments: Vec<String>,
    /// The names of its repositories.
    pub repositories: Vec<String>,
}

/// The entry points of this build.
pub(super) fn of_this_build() -> Entrypoints {
    Entrypoints {
        telemetry: log_to_standard_error,
        offline_router: crate::daemon::offline_router,
        offline_reading_router: crate::daemon::offline_reading_router,
        daemon: |verbosity, options| Box::pin(run_daemon(verbosity, options)),
        agent: |verbosity, options| Box::pin(run_agent(verbosity, options)),
        demo: |port_offset| Box::pin(crate::demo::run(port_offset)),
        check,
        doctor: |desired_state| Box::pin(async move { crate::doctor::examine(&desired_state).await }),
        compose_containers: || Box::pin(adoption::compose_containers()),
        set_aside: |container| Box::pin(async move { adoption::set_aside(&container).await }),
        put_back: |environment, kept| Box::pin(async move { adoption::put_back(&environment, &kept).await }),
    }
}

async fn run_daemon(verbosity: u8, options: crate::daemon::DaemonOptions) -> anyhow::Result<()> {
    crate::telemetry::start(verbosity);
    crate::daemon::run(options).await
}

async fn run_agent(verbosity: u8, options: crate::agent::AgentOptions) -> anyhow::Result<()> {
    crate::telemetry::start(verbosity);
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

/// Without `-v` only warnings are logged, because the commands print their own results.
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
    // A second call keeps the setup of the first, as an embedding test expects.
    let _ = subscriber.try_init();
}
