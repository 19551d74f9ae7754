//! The composition root of an agent: the process on another host that runs the same reconcile loop for a
//! controller. It connects to the controller; on its host, only the registry tunnel listens, on the loopback
//! address.
//!
//! The record here is a copy. The controller assigns environments and updates their record; this host
//! resolves secrets, pulls, replaces and heals. While the controller is unreachable, it continues with the
//! last assignment.

mod answers;
mod assign;
mod attach;
mod lines;
mod link;
mod policy;
mod reporter;
mod server;
#[cfg(test)]
mod tests;
mod tunnel;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::controller::{self, ControllerInput, MountPolicy, StateDirs};
use crate::daemon::record_dir;
use crate::daemon::systemd::StopSignals;
use crate::metrics::Metrics;
use crate::model::container::Secret;
use crate::model::link::LeftThere;
use crate::model::name::EnvironmentName;
use crate::model::time::Timestamp;
use crate::record::{self, Handles, SESSIONS};
use crate::secret;
use answers::Answers;
use assign::{Assigner, RefusedEnvironments};
use link::{ControllerLink, LastReported};
use policy::Policy;
use reporter::{IsObserved, ListLeft, Reporter};
use server::ControllerServer;
use tunnel::Tunnel;

/// The default policy file. If it does not exist, the standard policy applies.
const POLICY: &str = "policy.toml";

/// The options of an agent.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// The folder of its record and its policy.
    pub folder: PathBuf,
    /// The controller, such as `https://ci.example.com`.
    pub server: String,
    /// The token that identifies this agent.
    pub token: Secret,
    /// The file of the token, which is never mounted into a container.
    pub token_file: Option<PathBuf>,
    /// The CA certificates (PEM) to verify the controller; `None`: the system's. A pin in the token takes
    /// precedence.
    pub ca: Option<PathBuf>,
    /// The policy file; `None`: `policy.toml` in the folder, if it exists.
    pub policy: Option<PathBuf>,
    /// The port on the loopback address at which the engine reaches the registry; zero: any.
    pub registry_port: u16,
    /// How often every environment is reconciled even without a wakeup.
    pub resync: Duration,
    /// The address of the engine, as in `DOCKER_HOST`; `None`: from the environment.
    pub engine: Option<String>,
    /// How long to wait for the controller before healing the running containers without it.
    pub alone_after: Duration,
}

/// Runs an agent until SIGTERM or Ctrl-C; a second signal ends it at once.
///
/// # Errors
/// Returns an error with a message for users if the agent cannot be started.
pub async fn run(options: AgentOptions) -> anyhow::Result<()> {
    // This comes first, so that a signal during the start still ends the agent in order.
    let mut signals = StopSignals::listen().context("cannot listen for signals")?;
    let dir = record_dir(&options.folder);
    let started = signals.start_with_space(&dir, || Agent::start(options.clone())).await?;
    let Some(agent) = started else { return Ok(()) };
    signals.run_until_stopped(agent.handles.desired.clone(), agent.stop()).await
}

/// A running agent.
pub struct Agent {
    /// The record's handles, for code that embeds an agent.
    pub handles: Handles,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
    running: controller::ShutdownHandle,
}

impl Agent {
    /// Opens, binds and starts everything. Refusals come before anything runs.
    ///
    /// # Errors
    /// Fails on the folder of a controller, a record that another agent holds, an invalid policy, or a port
    /// in use.
    pub async fn start(options: AgentOptions) -> anyhow::Result<Self> {
        let server = ControllerServer::new(&options.server, &options.token, options.ca.as_deref())?;
        warn_of_an_open_token(&options);
        let policy = Arc::new(read_policy(&options)?);
        refuse_controllers(&options.folder)?;
        let dirs = state_dirs(&options.folder);
        let handles = open_record(&options.folder)?;
        let (up, link) = watch::channel(None);
        let tunnel = Tunnel::bind(options.registry_port, link).await.with_context(|| {
            format!(
                "cannot listen on port {} of the loopback address: choose another with --registry-port",
                options.registry_port
            )
        })?;
        let now = Timestamp::from(SystemTime::now()).as_millis();
        let epoch = handles.replica.next_epoch(now.saturating_mul(SESSIONS)).await?;
        let kept = assign::manifest(handles.replica.kept()?, &policy);
        let (manifests, manifest) = watch::channel(Arc::new(kept));
        let (grant, authority) = controller::Grant::awaited();
        let metrics = Metrics::of_agent();
        let (controller, running) = controller::spawn(ControllerInput {
            authority,
            record: handles.id.clone(),
            desired: handles.desired.clone(),
            resolver: handles.resolver.clone().of_replica(),
            status: handles.status.clone(),
            writer: handles.status_writer.clone(),
            wakeups: handles.wakeups.clone(),
            manifest,
            dirs,
            engine: options.engine,
            registry: Some(tunnel.registry()),
            resync: options.resync,
            mount_policy: mount_policy(&policy),
            metrics: metrics.clone(),
            checks: None,
            listener: None,
        });
        let refusals = RefusedEnvironments::default();
        let assigner =
            Assigner { replica: handles.replica.clone(), policy, manifests, refusals: refusals.clone() };
        let reporter = Arc::new(reporter(&handles, refusals, controller.clone(), metrics));
        let (instance, answers) = (handles.instance.clone(), Answers::new(controller.clone()));
        let stop = CancellationToken::new();
        info!(controller = server.url(), registry = tunnel.registry(), record = %handles.id, "abide \
            agent started");
        let link = ControllerLink {
            server,
            instance,
            epoch,
            up,
            assigner,
            reporter,
            answers,
            controller,
            last_reported: LastReported::default(),
            grant: grant.clone(),
            renumbered: Mutex::default(),
        };
        let alone = go_on_alone(grant, options.alone_after, stop.clone());
        let tasks = vec![
            tokio::spawn(link.run(stop.clone())),
            tokio::spawn(tunnel.run(stop.clone())),
            tokio::spawn(alone),
        ];
        Ok(Self { handles, stop, tasks, running })
    }

    /// Ends the link and the reconcile loop, cancels pulls, and touches no container.
    ///
    /// # Errors
    /// Fails if the record cannot be closed.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        for task in self.tasks {
            // A panicked task has already logged its panic.
            let _ = task.await;
        }
        self.running.stop().await;
        self.handles.close().await?;
        info!("stopped");
        Ok(())
    }
}

/// Starts healing the running containers if the controller does not answer in time.
async fn go_on_alone(grant: controller::Grant, patience: Duration, stop: CancellationToken) {
    if stop.run_until_cancelled(grant.wait(patience)).await == Some(true) {
        warn!(
            ?patience,
            "no answer from the controller since the start; repairing the local containers \
            without it"
        );
    }
}

/// Returns a check that judges each mount by the policy.
fn mount_policy(policy: &Arc<Policy>) -> MountPolicy {
    let policy = Arc::clone(policy);
    MountPolicy::new(move |path| policy.bind(path))
}

fn reporter(
    handles: &Handles,
    refusals: RefusedEnvironments,
    controller: controller::Controller,
    metrics: Metrics,
) -> Reporter {
    let (seen, replica) = (controller.clone(), handles.replica.clone());
    let is_observed: IsObserved = Box::new(move |environment| seen.look(environment).is_observed);
    let status = handles.status.clone();
    let left: ListLeft = Box::new(move || {
        let containers = controller.left(&replica.kept().ok()?.environments.into_keys().collect())?;
        let volumes_of = |name: &EnvironmentName| {
            let volumes = status.memory(name).unwrap_or_default().volumes;
            (name.clone(), volumes.into_iter().collect())
        };
        let volumes = containers.keys().map(volumes_of).collect();
        Some(LeftThere { containers, volumes, runs: BTreeSet::new() })
    });
    Reporter {
        instance: handles.instance.clone(),
        status: handles.status.clone(),
        desired: handles.desired.clone(),
        wakeups: handles.wakeups.clone(),
        refusals,
        state: Mutex::default(),
        report_requested: Notify::new(),
        is_observed,
        left,
        take_requests: Box::new(move || metrics.take_unreported()),
    }
}

/// A folder that declares environments is a controller's: its record is not a copy of another one.
fn refuse_controllers(folder: &Path) -> anyhow::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read the folder {}", folder.display()));
        }
    };
    for name in entries.filter_map(|entry| Some(entry.ok()?.file_name())) {
        let name = name.to_string_lossy();
        if name.ends_with(".toml") && name != POLICY {
            anyhow::bail!(
                "{} is a controller's folder: it has the manifest {name}. An agent keeps its own record \
                in a separate folder: set it with --desired-state",
                folder.display()
            );
        }
    }
    Ok(())
}

fn warn_of_an_open_token(options: &AgentOptions) {
    if let Some(why) = options.token_file.as_deref().and_then(secret::exposure) {
        warn!("{why}");
    }
}

fn read_policy(options: &AgentOptions) -> anyhow::Result<Policy> {
    let own: Vec<_> = std::iter::once(options.folder.clone()).chain(options.token_file.clone()).collect();
    match &options.policy {
        Some(path) => Ok(Policy::read(path, own)?),
        None => {
            let path = options.folder.join(POLICY);
            if path.exists() { Ok(Policy::read(&path, own)?) } else { Ok(Policy::standard(own)) }
        }
    }
}

fn open_record(folder: &Path) -> anyhow::Result<Handles> {
    let dir = record_dir(folder);
    let handles =
        record::open(&dir).with_context(|| format!("cannot open the record in {}", dir.display()))?;
    for notice in &handles.notices {
        warn!(notice, "repaired the record");
    }
    Ok(handles)
}

fn state_dirs(folder: &Path) -> StateDirs {
    StateDirs::of(&record_dir(folder))
}
