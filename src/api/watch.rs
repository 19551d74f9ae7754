//! `/watch`: server-sent events, first of every environment, then of each change. A client that
//! missed events gets everything again, so it never has to ask.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event as Line, KeepAlive, Sse};
use futures::Stream;
use futures::stream::unfold;
use serde::Serialize;
use tokio::sync::broadcast::Receiver as BroadcastReceiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::watch::Receiver;

use super::error::ApiError;
use super::{ApiState, ManifestState};
use crate::model::event::Event;
use crate::model::name::EnvironmentName;
use crate::record::{RecordError, Wakeup};

/// The interval of keep-alive messages, so that no proxy closes a quiet connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// The maximum number of events of one environment at once; more than the record keeps.
const MOST_EVENTS: usize = 10_000;

/// `GET /api/v1/watch`
pub(super) async fn watch(
    State(api): State<ApiState>,
) -> Result<Sse<impl Stream<Item = Result<Line, Infallible>>>, ApiError> {
    let watcher = Watcher::new(api)?;
    let lines = unfold(watcher, |mut watcher| async move { Some((Ok(watcher.next().await?), watcher)) });
    Ok(Sse::new(lines).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

struct Watcher {
    wakeups: BroadcastReceiver<Wakeup>,
    manifest: Receiver<Arc<ManifestState>>,
    api: ApiState,
    /// The sequence number of the last event sent, by environment.
    sent: BTreeMap<EnvironmentName, u64>,
    queue: VecDeque<Line>,
}

/// Pending wakeups; repeated ones are merged.
#[derive(Default)]
struct PendingWakeups {
    everything: bool,
    views: BTreeSet<EnvironmentName>,
    events: BTreeSet<EnvironmentName>,
}

impl Watcher {
    /// Subscribes before it reads, so that it misses no change.
    fn new(api: ApiState) -> Result<Self, RecordError> {
        let (wakeups, mut manifest) = (api.wakeups.subscribe(), api.manifest.clone());
        manifest.mark_unchanged();
        let latest = |name: &EnvironmentName| api.status.events(Some(name), None, 1);
        let mut sent = BTreeMap::new();
        for name in api.names()? {
            let sequence = latest(&name)?.last().map_or(0, |event| event.sequence);
            sent.insert(name, sequence);
        }
        let mut watcher = Self { wakeups, manifest, api, sent, queue: VecDeque::new() };
        watcher.enqueue(PendingWakeups { everything: true, ..PendingWakeups::default() })?;
        Ok(watcher)
    }

    /// Returns the next line, or `None` once the record is closed or unreadable; the client then
    /// reconnects.
    async fn next(&mut self) -> Option<Line> {
        loop {
            if let Some(line) = self.queue.pop_front() {
                return Some(line);
            }
            let pending = self.listen().await?;
            if let Err(error) = self.enqueue(pending) {
                let error: &(dyn std::error::Error + 'static) = &error;
                tracing::warn!(error, "a watch ended: cannot read the record");
                return None;
            }
        }
    }

    async fn listen(&mut self) -> Option<PendingWakeups> {
        let mut pending = PendingWakeups::default();
        tokio::select! {
            wakeup = self.wakeups.recv() => match wakeup {
                Ok(wakeup) => pending.add(wakeup),
                Err(RecvError::Lagged(_)) => pending.everything = true,
                Err(RecvError::Closed) => return None,
            },
            changed = self.manifest.changed() => {
                changed.ok()?;
                pending.everything = true;
            }
        }
        loop {
            match self.wakeups.try_recv() {
                Ok(wakeup) => pending.add(wakeup),
                Err(TryRecvError::Lagged(_)) => pending.everything = true,
                Err(TryRecvError::Empty | TryRecvError::Closed) => return Some(pending),
            }
        }
    }

    fn enqueue(&mut self, pending: PendingWakeups) -> Result<(), RecordError> {
        let views = if pending.everything { self.api.names()? } else { pending.views };
        let events = if pending.everything { views.iter().cloned().collect() } else { pending.events };
        for name in &views {
            let view = self.api.view(name)?;
            self.queue.extend(line("environment", None, &view));
        }
        for name in events {
            for event in self.new_events(&name, pending.everything)? {
                self.sent.insert(name.clone(), event.sequence);
                self.queue.extend(line("event", Some(event.sequence), &event));
            }
        }
        Ok(())
    }

    /// Returns the events since the last one sent. If there are none, the last event was repeated,
    /// so it is sent again.
    fn new_events(&self, name: &EnvironmentName, is_catching_up: bool) -> Result<Vec<Event>, RecordError> {
        let status = &self.api.status;
        let new_events = status.events(Some(name), self.sent.get(name).copied(), MOST_EVENTS)?;
        if new_events.is_empty() && !is_catching_up {
            status.events(Some(name), None, 1)
        } else {
            Ok(new_events)
        }
    }
}

impl PendingWakeups {
    fn add(&mut self, wakeup: Wakeup) {
        match wakeup {
            Wakeup::Desired(name) | Wakeup::Status(name) | Wakeup::Evidence(name) => self.views.insert(name),
            Wakeup::Event(name) => self.events.insert(name),
        };
    }
}

/// Formats a line of the stream. Returns `None` if the document cannot be serialized, which does
/// not happen for a view.
fn line<T: Serialize>(kind: &str, id: Option<u64>, document: &T) -> Option<Line> {
    let line = Line::default().event(kind).json_data(document).ok()?;
    Some(match id {
        Some(id) => line.id(id.to_string()),
        None => line,
    })
}
