//! Collects evidence about the images of environments, and promotes on its own what the manifest declares so.
//!
//! One task adds up how long each image was healthy, starts the checks of new versions, and judges the
//! promotions with `auto` once something changed or a window opens. The decision itself is in
//! [`plan::gates`](crate::plan::gates).

mod auto;
mod canaries;
mod collect;
mod replicas;
mod signatures;
mod soak;
mod verify;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::cache::containers::ContainerCache;
use super::cache::watch::EngineState;
use super::docker::Engine;
use super::jobs::registries::Registries;
use super::polling::PollErrors;
use super::polling::checks::Checks;
use super::polling::poll_state::PollState;
use crate::model::desired::{Desired, Image};
use crate::model::error::chain;
use crate::model::name::{AgentName, EnvironmentName};
use crate::model::spec::Manifest;
use crate::model::status::{Condition, Status};
use crate::model::time::Timestamp;
use crate::record::{DesiredReader, RecordError, Resolver, StatusReader, StatusWriter, Wakeup};
use collect::Collection;
use soak::Soaking;

/// The interval of looking at the clock.
const TICK: Duration = Duration::from_secs(1);

/// Whether an agent is connected, so that its last report is still true.
pub(super) type Connected = Arc<dyn Fn(&AgentName) -> bool + Send + Sync>;

/// The sources of evidence, and the handles that record it.
#[derive(Clone)]
pub(super) struct PromoterInput {
    pub(super) engine: Arc<Engine>,
    pub(super) engine_state: watch::Receiver<EngineState>,
    pub(super) cache: Arc<ContainerCache>,
    pub(super) registries: Arc<Registries>,
    pub(super) checks: Checks,
    pub(super) poll_state: PollState,
    pub(super) manifest: watch::Receiver<Arc<Manifest>>,
    pub(super) desired: DesiredReader,
    pub(super) resolver: Resolver,
    pub(super) status: StatusReader,
    pub(super) writer: StatusWriter,
    /// The ID of the record.
    pub(super) record: String,
}

/// The task. It belongs to the daemon: agents neither promote nor verify.
pub(super) struct Promoter {
    pub(super) input: PromoterInput,
    pub(super) wakeups: Receiver<Wakeup>,
    pub(super) connected: Connected,
    /// Why evidence cannot be collected, for the status.
    pub(super) errors: PollErrors,
    pub(super) stop: CancellationToken,
    state: PromoterState,
}

/// The state between two ticks; all of it can be learned again.
#[derive(Default)]
struct PromoterState {
    /// Environments of which something may have changed.
    changed: BTreeSet<EnvironmentName>,
    /// Environments that run their recorded image healthy.
    healthy: BTreeMap<EnvironmentName, Healthy>,
    soaking: BTreeMap<EnvironmentName, Soaking>,
    /// Running checks.
    checks: BTreeMap<EnvironmentName, Check>,
    /// The time of the next attempt of a check that could not be run.
    retries: BTreeMap<EnvironmentName, Instant>,
    /// Running and past collections of evidence from other services.
    collections: BTreeMap<EnvironmentName, Collection>,
    /// Environments that changed during a collection.
    postponed: BTreeSet<EnvironmentName>,
    /// The time of the wall clock at which a gate of an automatic promotion changes.
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
        input: PromoterInput,
        wakeups: Receiver<Wakeup>,
        connected: Connected,
        errors: PollErrors,
        stop: CancellationToken,
    ) -> Self {
        Self { input, wakeups, connected, errors, stop, state: PromoterState::default() }
    }

    /// Runs until stopped.
    pub(super) async fn run(mut self) {
        let mut manifest = self.input.manifest.clone();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stop = self.stop.clone();
        self.look_at_all();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                wakeup = self.wakeups.recv() => match wakeup {
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
        self.state.changed.extend(self.input.manifest.borrow().environments.keys().cloned());
    }

    async fn tick(&mut self) -> Result<(), RecordError> {
        let manifest = Arc::clone(&self.input.manifest.borrow());
        let changed = std::mem::take(&mut self.state.changed);
        for name in &changed {
            match self.healthy(name, &manifest)? {
                Some(healthy) => drop(self.state.healthy.insert(name.clone(), healthy)),
                None => drop(self.state.healthy.remove(name)),
            }
        }
        self.follow(&manifest, &changed).await?;
        self.note_canaries(&changed).await?;
        let soaked = self.soak(&manifest).await?;
        self.verify(&manifest, &changed).await?;
        self.collect(&manifest, &changed).await;
        self.promote(&manifest, &changed, &soaked).await
    }

    /// The environment, if it runs its recorded image healthy as far as anyone knows now.
    fn healthy(&self, name: &EnvironmentName, manifest: &Manifest) -> Result<Option<Healthy>, RecordError> {
        let Some(spec) = manifest.environments.get(name) else { return Ok(None) };
        // The status comes first, so that a change between the two reads makes it outdated.
        let Some(status) = self.input.status.status(name)? else { return Ok(None) };
        let desired = self.input.desired.get(name)?;
        let is_known = match &spec.host {
            Some(agent) => (self.connected)(agent),
            None => {
                self.input.poll_state.of(name).is_observed
                    && *self.input.engine_state.borrow() == EngineState::Known
            }
        };
        Ok(healthy(desired, &status, spec.host.is_none()).filter(|_| is_known))
    }
}

/// The recorded image, if it runs and is ready according to `status`.
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
