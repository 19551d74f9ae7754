//! The watch over the engine: its events, the resync, and being connected at all.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::watch as channel;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::clock::{now, wall};
use super::docker::{EngineError, Happening};
use super::pass::{EngineState, Pass};
use super::wake::Wake;
use crate::model::time::Timestamp;

/// Events are asked for from this long before the connection, so that none falls in between.
const REWIND: Duration = Duration::from_secs(3);
/// The first and the longest pause between attempts to reach the engine.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(8));

#[derive(Clone)]
pub(super) struct Watch {
    pub(super) pass: Arc<Pass>,
    pub(super) wake: Wake,
    pub(super) engine_state: channel::Sender<EngineState>,
    pub(super) resynced: channel::Sender<Option<Timestamp>>,
    /// Between two resyncs.
    pub(super) period: Duration,
    pub(super) stop: CancellationToken,
}

impl Watch {
    /// Watches until stopped, through every loss of the engine.
    pub(super) async fn run(self) {
        let mut pause = RETRY.0;
        while !self.stop.is_cancelled() {
            let stop = self.stop.clone();
            let Some(Err(lost)) = stop.run_until_cancelled(self.watch()).await else { return };
            if !matches!(*self.engine_state.borrow(), EngineState::Lost(_)) {
                warn!(error = %lost, "the Docker Engine cannot be asked; it is tried again and again");
                pause = RETRY.0;
            }
            self.engine_state.send_replace(EngineState::Lost(lost));
            self.resynced.send_replace(None);
            self.wake.ring_all();
            self.pass.engine.reconnect().await;
            stop.run_until_cancelled(tokio::time::sleep(pause)).await;
            pause = (pause * 2).min(RETRY.1);
        }
    }

    /// Connects, lists everything, and follows events until the connection is lost.
    async fn watch(&self) -> Result<std::convert::Infallible, EngineError> {
        let (pass, engine) = (&self.pass, &self.pass.engine);
        engine.ping().await?;
        // The engine compares it with its own clock.
        let since = wall().as_millis().saturating_sub(u64::try_from(REWIND.as_millis()).unwrap_or(0)) / 1000;
        let mut happenings = Box::pin(engine.happenings(Some(since)).await?);
        pass.fleet.witness_from(now());
        pass.fleet.forget_things();
        pass.fleet.resync(engine, true).await?;
        engine.remove_left_steps(&pass.record).await?;
        info!(containers = pass.fleet.count(), "the Docker Engine is connected and listed");
        self.engine_state.send_replace(EngineState::Known);
        self.resynced.send_replace(Some(now()));
        self.wake.ring_all();
        let mut resync = tokio::time::interval_at(tokio::time::Instant::now() + self.period, self.period);
        resync.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                happening = happenings.next() => match happening {
                    Some(happening) => self.look(happening?).await?,
                    None => return Err(EngineError::Unreachable("its event stream ended".to_owned())),
                },
                _ = resync.tick() => self.resync().await?,
            }
        }
    }

    async fn look(&self, happening: Happening) -> Result<(), EngineError> {
        let (fleet, engine) = (&self.pass.fleet, &self.pass.engine);
        debug!(?happening, "event");
        match happening {
            Happening::Signal { id, signal, at } => fleet.note_signal(&id, signal, at),
            Happening::Container { id, names, died_at } => {
                self.pass.front.hear(&id, &names);
                if let Some(at) = died_at {
                    fleet.note_end(&id, at);
                }
                let looked = fleet.look(engine, &id).await;
                if let Some(environment) = looked.or_else(|error| fleet.keep(&id, error))? {
                    self.wake.ring(&environment);
                } else if !fleet.knows(&id) && names.iter().any(|name| self.is_declared(name)) {
                    // Someone else's container came, went or changed its name where it matters.
                    self.resync().await?;
                    self.wake.ring_all();
                }
            }
            Happening::ImageCame => {
                self.pass.front.hear_of_images();
                self.wake.ring_all();
            }
            Happening::ImageGone { id } if fleet.forget_image(&id) => self.wake.ring_all(),
            Happening::Network { name } if self.is_managed_network(&name) => {
                fleet.forget_network();
                self.wake.ring_all();
            }
            Happening::Volume { name } if fleet.forget_volume(&name) || self.is_declared_volume(&name) => {
                self.wake.ring_all();
            }
            // Other people's, of which there may be many: each build makes and removes images.
            Happening::ImageGone { .. } | Happening::Network { .. } | Happening::Volume { .. } => {}
        }
        Ok(())
    }

    /// Whether the manifest declares a container of this name.
    fn is_declared(&self, name: &str) -> bool {
        let manifest = self.pass.manifest.borrow();
        manifest.environments.values().any(|spec| spec.container.as_str() == name)
    }

    fn is_managed_network(&self, name: &str) -> bool {
        self.pass.manifest.borrow().network.as_str() == name
    }

    fn is_declared_volume(&self, name: &str) -> bool {
        let manifest = self.pass.manifest.borrow();
        let mut mounts = manifest.environments.values().flat_map(|spec| &spec.volumes);
        mounts.any(|mount| mount.volume().is_some_and(|volume| volume.as_str() == name))
    }

    async fn resync(&self) -> Result<(), EngineError> {
        for environment in self.pass.fleet.resync(&self.pass.engine, false).await? {
            self.wake.ring(&environment);
        }
        self.resynced.send_replace(Some(now()));
        Ok(())
    }
}
