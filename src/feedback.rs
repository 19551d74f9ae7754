//! Informs forges and people: delivers the items of the record's outbox.
//!
//! [`spawn`] starts one lane per target of the manifest. Nothing else waits for a lane, and a lane never changes
//! the desired state.

mod call;
mod channel;
mod content;
mod forge;
mod http;
mod lane;
mod smtp;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::metrics::Metrics;
use crate::model::error::chain;
use crate::model::link::ReportedProxy;
use crate::model::name::{ChannelName, EnvironmentName};
use crate::model::outbox::{Announcement, Message, News, OutboxRules, OutboxTarget, Subject};
use crate::model::spec::{EnvironmentSpec, Manifest};
use crate::model::time::Timestamp;
use crate::record::Outbox;
pub use forge::{CheckReader, show_manifest};
use lane::{ClockFn, Deliver, DeliveryLane, DeliveryRefusal, NextRun};

/// The longest time between two checks of a lane, in case a wakeup is lost.
const LOOK: Duration = Duration::from_secs(60);
/// The pause after the record could not be used.
const AFTER_ERROR: Duration = Duration::from_secs(5);
/// How long lanes may take to end.
const LAST_MOMENTS: Duration = Duration::from_secs(3);

/// The input of the deliveries.
pub struct FeedbackInput {
    /// The outgoing items.
    pub outbox: Outbox,
    /// The current manifest.
    pub manifest: watch::Receiver<Arc<Manifest>>,
    /// The clock.
    pub clock: fn() -> Timestamp,
    /// Counts the attempts.
    pub metrics: Metrics,
}

/// The running deliveries.
pub struct Feedback {
    stop: CancellationToken,
    supervisor: JoinHandle<()>,
}

/// Applies the manifest's choices and starts the deliveries. Changes of the record that are made after this
/// returned are reported.
pub async fn spawn(settings: FeedbackInput) -> Feedback {
    let stop = CancellationToken::new();
    let supervisor = LaneSupervisor {
        outbox: settings.outbox,
        manifest: settings.manifest,
        clock: Arc::new(settings.clock),
        metrics: settings.metrics,
        stop: stop.clone(),
    };
    let rules = supervisor.manifest.borrow().outbox_rules();
    supervisor.follow(rules).await;
    Feedback { stop, supervisor: tokio::spawn(supervisor.run()) }
}

impl Feedback {
    /// Ends the deliveries. Undelivered items stay in the record.
    pub async fn stop(self) {
        self.stop.cancel();
        if tokio::time::timeout(LAST_MOMENTS, self.supervisor).await.is_err() {
            warn!("a delivery did not end in time; it is repeated after the next start");
        }
    }
}

struct LaneSupervisor {
    outbox: Outbox,
    manifest: watch::Receiver<Arc<Manifest>>,
    clock: ClockFn,
    metrics: Metrics,
    stop: CancellationToken,
}

impl LaneSupervisor {
    async fn follow(&self, rules: OutboxRules) {
        if let Err(error) = self.outbox.follow(rules).await {
            warn!(error = %chain(&error), "the outbox cannot be brought up to date");
        }
    }

    /// Runs a lane per target, and starts them again with each edit of the manifest.
    async fn run(mut self) {
        loop {
            let manifest = Arc::clone(&self.manifest.borrow_and_update());
            let edited = self.stop.child_token();
            let lanes: Vec<JoinHandle<()>> = lanes_of(&manifest)
                .into_iter()
                .map(|(target, deliver)| {
                    let (outbox, clock, metrics) =
                        (self.outbox.clone(), Arc::clone(&self.clock), self.metrics.clone());
                    let lane = DeliveryLane::new(target.clone(), outbox.clone(), deliver, clock, metrics);
                    tokio::spawn(run_lane(lane, target, outbox, Arc::clone(&self.clock), edited.clone()))
                })
                .collect();
            let is_over = tokio::select! {
                () = self.stop.cancelled() => true,
                changed = self.manifest.changed() => changed.is_err(),
            };
            if is_over {
                // Without a new manifest, the lanes continue until the stop.
                self.stop.cancelled().await;
            }
            edited.cancel();
            for lane in lanes {
                // A panic has already been logged.
                let _ = lane.await;
            }
            if is_over {
                return;
            }
            let rules = self.manifest.borrow().outbox_rules();
            self.follow(rules).await;
        }
    }
}

async fn run_lane(
    mut lane: DeliveryLane,
    target: OutboxTarget,
    outbox: Outbox,
    clock: ClockFn,
    stop: CancellationToken,
) {
    let mut changes = outbox.subscribe();
    while !stop.is_cancelled() {
        changes.mark_unchanged();
        let pause = match lane.step().await {
            Ok(NextRun::Again) => {
                let gap = tokio::time::sleep(lane.gap());
                tokio::select! { () = gap => {}, () = stop.cancelled() => {} }
                continue;
            }
            Ok(NextRun::At(at)) => at.since(clock()).min(LOOK),
            Ok(NextRun::OnChange) => LOOK,
            Err(error) => {
                lane::report(&target, &error);
                AFTER_ERROR
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            changed = changes.changed() => if changed.is_err() { return },
            () = stop.cancelled() => {}
        }
    }
}

/// The targets of a manifest, and how each is reached.
fn lanes_of(manifest: &Manifest) -> Vec<(OutboxTarget, Arc<dyn Deliver>)> {
    let page = manifest.page_url();
    let channels = manifest.channels.iter().map(|(name, spec)| {
        let deliver = channel::deliver(spec.clone(), page.clone());
        (OutboxTarget::Channel(name.clone()), deliver)
    });
    let forges = manifest.repositories.iter().filter_map(|(name, spec)| {
        let deliver = forge::deliver(spec.forge.clone()?, places(manifest));
        Some((OutboxTarget::Forge(name.clone()), deliver))
    });
    channels.chain(forges).collect()
}

/// What forges show of each environment.
fn places(manifest: &Manifest) -> BTreeMap<EnvironmentName, forge::ForgeEnvironment> {
    let place = |(name, spec): (&EnvironmentName, &EnvironmentSpec)| {
        let page =
            manifest.page_url().map(|page| format!("{}/environments/{name}", page.trim_end_matches('/')));
        let proxy = match spec.host {
            Some(_) => ReportedProxy::UNKNOWN,
            None => ReportedProxy::of(manifest.front.as_ref()),
        };
        let url = proxy.url(spec);
        let branch = manifest.built_in(name).map(|(_, branch)| branch.clone());
        (name.clone(), forge::ForgeEnvironment { page, url, branch })
    };
    manifest.environments.iter().map(place).collect()
}

/// Sends a test message to a channel, or only shows it. Returns the channel's response or the request, in lines.
///
/// # Errors
/// Returns a sentence without secrets if the message could not be sent.
pub async fn test(
    manifest: &Manifest,
    name: &ChannelName,
    print: bool,
    now: Timestamp,
) -> Result<String, String> {
    let Some(spec) = manifest.channels.get(name) else {
        return Err(format!("the manifest declares no channel `{name}`: add `[notify.{name}]`"));
    };
    let message = test_message(name, now);
    if print {
        return channel::print(spec, manifest.page_url(), &message).map_err(|refusal| refusal.why);
    }
    let deliver = channel::deliver(spec.clone(), manifest.page_url());
    deliver.message(&message, None).await.map_err(|refusal: DeliveryRefusal| refusal.why)?;
    Ok(format!("notify.{name} accepted the test message {}", message.id))
}

fn test_message(name: &ChannelName, now: Timestamp) -> Message {
    let text = "If you can read this, abide can reach this channel. Markup is shown as text: <b>&amp;</b> *x* @channel <!here>";
    let announcement = Announcement::new(News::Ready, Subject::Test, text, now);
    Message {
        id: format!("msg_{}", uuid::Uuid::new_v4().simple()),
        sequence: 0,
        target: OutboxTarget::Channel(name.clone()),
        announcement,
        grouped: Vec::new(),
        more: 0,
        attempts: Default::default(),
    }
}
