//! Collects evidence about the images of environments, and promotes on its own what the manifest declares so.
//!
//! One task adds up how long each image was healthy, starts the checks of new versions, and judges the
//! promotions with `auto` once something changed or a window opens. The decision itself is in
//! [`plan::gates`](crate::plan::gates).

mod auto;
mod soak;
mod verify;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::cache::watch::EngineState;
use super::environment::pass::Reconciler;
use crate::model::desired::{Desired, Image};
use crate::model::error::chain;
use crate::model::name::{AgentName, EnvironmentName};
use crate::model::spec::Manifest;
use crate::model::status::{Condition, Status};
use crate::model::time::Timestamp;
use crate::record::{RecordError, Wakeup};
use soak::Soaking;

/// The interval of looking at the clock.
const TICK: Duration = Duration::from_secs(1);

/// Whether an agent is connected, so that what it reported last is still true.
pub(super) type Connected = Arc<dyn Fn(&AgentName) -> bool + Send + Sync>;

/// The task. It belongs to the daemon: agents neither promote nor verify.
pub(super) struct Promoter {
    pub(super) pass: Arc<Reconciler>,
    pub(super) bells: Receiver<Wakeup>,
    pub(super) connected: Connected,
    pub(super) stop: CancellationToken,
    state: State,
}

/// What the task remembers between two looks; all of it can be learned again.
#[derive(Default)]
struct State {
    /// Environments of which something may have changed.
    changed: BTreeSet<EnvironmentName>,
    /// Environments that run their recorded image healthy.
    healthy: BTreeMap<EnvironmentName, Healthy>,
    soaking: BTreeMap<EnvironmentName, Soaking>,
    /// Running checks.
    checks: BTreeMap<EnvironmentName, Check>,
    /// The time of the next attempt of a check that could not be run.
    retries: BTreeMap<EnvironmentName, Instant>,
    /// The time at which a gate of an automatic promotion changes.
    edges: BTreeMap<EnvironmentName, Timestamp>,
}

/// A running check. Dropping it ends the check and removes its container.
struct Check {
    generation: crate::model::name::Generation,
    task: JoinHandle<()>,
}

impl Drop for Check {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An environment that runs its recorded image healthy, as observed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Healthy {
    pub(super) desired: Desired,
    pub(super) image: Image,
    pub(super) restarts: u32,
    pub(super) container: String,
}

impl Promoter {
    pub(super) fn new(
        pass: Arc<Reconciler>,
        bells: Receiver<Wakeup>,
        connected: Connected,
        stop: CancellationToken,
    ) -> Self {
        Self { pass, bells, connected, stop, state: State::default() }
    }

    /// Runs until stopped.
    pub(super) async fn run(mut self) {
        let mut manifest = self.pass.manifest.clone();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stop = self.stop.clone();
        self.look_at_all();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                bell = self.bells.recv() => match bell {
                    Ok(Wakeup::Desired(name) | Wakeup::Status(name) | Wakeup::Evidence(name)) => {
                        self.state.changed.insert(name);
                        continue;
                    }
                    Ok(Wakeup::Event(_)) => continue,
                    Err(RecvError::Lagged(_)) => { self.look_at_all(); continue }
                    Err(RecvError::Closed) => return,
                },
                changed = manifest.changed() => {
                    if changed.is_err() { return }
                    self.look_at_all();
                    continue;
                }
                _ = ticks.tick() => {}
            }
            if let Err(error) = self.tick().await {
                warn!(
                    error = chain(&error),
                    "the evidence of promotions cannot be collected; it is tried again"
                );
                self.look_at_all();
            }
        }
    }

    fn look_at_all(&mut self) {
        self.state.changed.extend(self.pass.manifest.borrow().environments.keys().cloned());
    }

    async fn tick(&mut self) -> Result<(), RecordError> {
        let manifest = Arc::clone(&self.pass.manifest.borrow());
        let changed = std::mem::take(&mut self.state.changed);
        for name in &changed {
            match self.healthy(name, &manifest)? {
                Some(healthy) => drop(self.state.healthy.insert(name.clone(), healthy)),
                None => drop(self.state.healthy.remove(name)),
            }
        }
        let soaked = self.soak(&manifest).await?;
        self.verify(&manifest, &changed).await?;
        self.promote(&manifest, &changed, &soaked).await
    }

    /// The environment, if it runs its recorded image healthy as far as anyone knows now.
    fn healthy(&self, name: &EnvironmentName, manifest: &Manifest) -> Result<Option<Healthy>, RecordError> {
        let Some(spec) = manifest.environments.get(name) else { return Ok(None) };
        // The status comes first, so that a change between the two reads makes it outdated.
        let Some(status) = self.pass.status.status(name)? else { return Ok(None) };
        let desired = self.pass.desired.get(name)?;
        let is_known = match &spec.host {
            Some(agent) => (self.connected)(agent),
            None => {
                self.pass.looks.of(name).is_observed && *self.pass.engine_state.borrow() == EngineState::Known
            }
        };
        Ok(healthy(desired, &status, spec.host.is_none()).filter(|_| is_known))
    }
}

/// The recorded image, if `status` says that it runs and is ready.
fn healthy(desired: Desired, status: &Status, is_here: bool) -> Option<Healthy> {
    let is_current = status.observed_generation == desired.entry.generation && desired.hold.is_none();
    let image = desired.entry.image.clone()?;
    let running = status.running.as_ref()?;
    // Image IDs are names within one engine.
    let runs_it = !is_here || running.image_id.is_some() && running.image_id == image.id;
    let is_healthy = status.condition == Condition::Ready && is_current && runs_it;
    let (restarts, container) = (running.restarts, running.container_id.clone());
    is_healthy.then_some(Healthy { desired, image, restarts, container })
}
