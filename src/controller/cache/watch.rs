//! The watch over the engine: its events, the resync, and the connection itself.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use tokio::sync::watch as channel;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::containers::ContainerCache;
use super::inspections::{Inspected, Inspections};
use crate::controller::clock::{now, wall};
use crate::controller::docker::{Engine, EngineError, Happening};
use crate::controller::front::FrontHandle;
use crate::controller::wake::WakeQueue;
use crate::model::spec::Manifest;
use crate::model::time::Timestamp;

/// How far before the connection events are requested, so that none is missed.
const REWIND: Duration = Duration::from_secs(3);
/// The first and the longest pause between attempts to reach the engine.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(8));

/// Whether the known state of the host can be trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::controller) enum EngineState {
    /// The state is not known yet.
    Unasked,
    /// Listed since the connection was made.
    Known,
    /// The engine does not answer, with the error.
    Lost(EngineError),
}

#[derive(Clone)]
pub(in crate::controller) struct EngineWatcher {
    pub(in crate::controller) engine: Arc<Engine>,
    pub(in crate::controller) cache: Arc<ContainerCache>,
    pub(in crate::controller) front: FrontHandle,
    pub(in crate::controller) manifest: channel::Receiver<Arc<Manifest>>,
    /// The ID of the record, which identifies managed containers.
    pub(in crate::controller) record: String,
    pub(in crate::controller) wake: WakeQueue,
    pub(in crate::controller) engine_state: channel::Sender<EngineState>,
    pub(in crate::controller) resynced: channel::Sender<Option<Timestamp>>,
    /// The interval between two resyncs.
    pub(in crate::controller) period: Duration,
    pub(in crate::controller) stop: CancellationToken,
}

impl EngineWatcher {
    /// Watches until stopped, and reconnects whenever the engine is lost.
    pub(in crate::controller) async fn run(self) {
        let mut pause = RETRY.0;
        while !self.stop.is_cancelled() {
            let stop = self.stop.clone();
            let Some(Err(lost)) = stop.run_until_cancelled(self.watch()).await else { return };
            if !matches!(*self.engine_state.borrow(), EngineState::Lost(_)) {
                warn!(error = %lost, "cannot query the Docker Engine; retrying");
                pause = RETRY.0;
            }
            self.engine_state.send_replace(EngineState::Lost(lost));
            self.resynced.send_replace(None);
            self.wake.wake_all();
            self.engine.reconnect().await;
            stop.run_until_cancelled(tokio::time::sleep(pause)).await;
            pause = (pause * 2).min(RETRY.1);
        }
    }

    /// Connects, lists everything, and follows events until the connection is lost.
    async fn watch(&self) -> Result<std::convert::Infallible, EngineError> {
        let (engine, cache) = (&self.engine, &self.cache);
        engine.ping().await?;
        // The engine compares it with its own clock.
        let since = wall().as_millis().saturating_sub(u64::try_from(REWIND.as_millis()).unwrap_or(0)) / 1000;
        let mut happenings = Box::pin(engine.happenings(Some(since)).await?);
        cache.witness_from(now());
        cache.forget_things();
        cache.resync(engine, true).await?;
        engine.remove_left_steps(&self.record).await?;
        info!(containers = cache.count(), "connected to the Docker Engine and listed its containers");
        self.engine_state.send_replace(EngineState::Known);
        self.resynced.send_replace(Some(now()));
        self.wake.wake_all();
        let mut resync = tokio::time::interval_at(tokio::time::Instant::now() + self.period, self.period);
        resync.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut looks, mut is_foreign) = (Inspections::default(), false);
        for id in cache.expected() {
            looks.begin(self, id, Vec::new());
        }
        let mut resyncing: Option<BoxFuture<'_, Result<(), EngineError>>> = None;
        loop {
            tokio::select! {
                happening = happenings.next() => match happening {
                    Some(happening) => self.note_change(happening?, &mut looks),
                    None => return Err(EngineError::Unreachable("its event stream ended".to_owned())),
                },
                Some(looked) = looks.next(self) => match looked {
                    Inspected::Known => {}
                    Inspected::Foreign => {
                        is_foreign = true;
                        resync.reset_immediately();
                    }
                    Inspected::Lost(error) => return Err(error),
                },
                _ = resync.tick(), if resyncing.is_none() => {
                    resyncing = Some(self.resync(std::mem::take(&mut is_foreign)).boxed());
                }
                resynced = under_way(&mut resyncing) => {
                    resyncing = None;
                    if let Err(error) = resynced {
                        self.check_that_it_answers(error).await?;
                    }
                }
            }
        }
    }

    /// Distinguishes a lost engine from one that took too long for one request.
    async fn check_that_it_answers(&self, error: EngineError) -> Result<(), EngineError> {
        if !error.is_slow() {
            return Err(error);
        }
        self.engine.ping().await?;
        warn!(%error, "the Docker Engine is slow; keeping the last known state");
        Ok(())
    }

    fn note_change(&self, happening: Happening, looks: &mut Inspections) {
        let cache = &self.cache;
        debug!(?happening, "event");
        match happening {
            Happening::Signal { id, signal, at } => {
                self.front.note_change(&id, &[]);
                cache.note_signal(&id, signal, at);
            }
            Happening::Inside { id } => self.front.note_change(&id, &[]),
            Happening::Container { id, names, died_at } => {
                self.front.note_change(&id, &names);
                if let Some(at) = died_at {
                    cache.note_end(&id, at);
                }
                looks.begin(self, id, names);
            }
            Happening::ImageCame => {
                self.front.note_image();
                self.wake.wake_all();
            }
            Happening::ImageGone { id } if cache.forget_image(&id) => self.wake.wake_all(),
            Happening::Network { name } if self.is_managed_network(&name) => {
                cache.forget_network();
                self.wake.wake_all();
            }
            Happening::Volume { name } if cache.forget_volume(&name) || self.is_declared_volume(&name) => {
                self.wake.wake_all();
            }
            // Objects of others, of which there may be many: each build creates and removes images.
            Happening::ImageGone { .. } | Happening::Network { .. } | Happening::Volume { .. } => {}
        }
    }

    /// Whether the manifest declares a container of this name.
    pub(in crate::controller) fn is_declared(&self, name: &str) -> bool {
        let manifest = self.manifest.borrow();
        manifest.environments.values().any(|spec| spec.container.as_str() == name)
    }

    fn is_managed_network(&self, name: &str) -> bool {
        self.manifest.borrow().networks().iter().any(|network| network.as_str() == name)
    }

    fn is_declared_volume(&self, name: &str) -> bool {
        let manifest = self.manifest.borrow();
        let mut mounts = manifest.environments.values().flat_map(|spec| &spec.volumes);
        mounts.any(|mount| mount.volume().is_some_and(|volume| volume.as_str() == name))
    }

    /// Lists everything; `is_foreign`: because of an unmanaged container.
    async fn resync(&self, is_foreign: bool) -> Result<(), EngineError> {
        for environment in self.cache.resync(&self.engine, false).await? {
            self.wake.wake(&environment);
        }
        self.resynced.send_replace(Some(now()));
        if is_foreign {
            self.wake.wake_all();
        }
        Ok(())
    }
}

/// Waits for the end of the running work; forever, if there is none.
async fn under_way<T>(work: &mut Option<BoxFuture<'_, T>>) -> T {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}
