//! The handle with which the loop reports its results and observations.

use std::sync::Arc;

use super::draft::RecordDraft;
use super::error::RecordError;
use super::keys;
use super::shared::RecordInner;
use super::store::{DocumentKind, RecordStore, encode};
use super::wakeup::Wakeup;
use crate::model::build::{BuildRecord, BuildResult};
use crate::model::desired::Outcome;
use crate::model::event::{Event, EventKind};
use crate::model::memory::Memory;
use crate::model::name::{EnvironmentName, Generation};
use crate::model::status::Status;
use crate::model::time::Timestamp;

/// The number of events that are kept of an environment.
pub(super) const EVENTS_KEPT: usize = 1_000;
/// The number of builds that are kept of an environment.
pub(super) const BUILDS_KEPT: usize = 500;
/// The longest message of an event, and the longest text that an agent reports, in bytes.
const LONGEST_MESSAGE: usize = 4 * 1024;
/// The key of the last build number.
const BUILD_NUMBER: &[u8] = b"build_number";
/// The keys of the counts of build results.
pub(super) const BUILDS_BUILT: &[u8] = b"builds_built";
pub(super) const BUILDS_FAILED: &[u8] = b"builds_failed";

/// Writes the loop's results and observations. Every method returns once the write is on disk.
#[derive(Clone)]
pub struct StatusWriter {
    pub(super) shared: Arc<RecordInner>,
}

impl StatusWriter {
    /// Stores the status and the reconcile state of an environment. Unchanged documents are not written, so
    /// an idle loop does not use the disk.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed.
    pub async fn report(&self, status: &Status, memory: &Memory) -> Result<(), RecordError> {
        let key = status.environment.as_str().as_bytes();
        let store = &self.shared.store;
        let status_line = changed(store, DocumentKind::Status, key, encode(status)?)?;
        let memory_line = changed(store, DocumentKind::Memory, key, encode(memory)?)?;
        if status_line.is_none() && memory_line.is_none() {
            return Ok(());
        }
        let environment = status.environment.clone();
        let work = move |draft: &mut RecordDraft<'_>| {
            let key = environment.as_str().as_bytes().to_vec();
            if let Some(memory) = memory_line {
                draft.put_bytes(DocumentKind::Memory, key.clone(), memory);
            }
            if let Some(status) = status_line {
                draft.put_bytes(DocumentKind::Status, key, status);
                draft.notify(Wakeup::Status(environment));
            }
            Ok(())
        };
        self.shared.write(work).await
    }

    /// Keeps the loop's notes on an environment alone.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed.
    pub async fn notes(&self, environment: &EnvironmentName, memory: &Memory) -> Result<(), RecordError> {
        let key = environment.as_str().as_bytes().to_vec();
        let line = changed(&self.shared.store, DocumentKind::Memory, &key, encode(memory)?)?;
        let Some(line) = line else { return Ok(()) };
        let work = move |draft: &mut RecordDraft<'_>| {
            draft.put_bytes(DocumentKind::Memory, key, line);
            Ok(())
        };
        self.shared.write(work).await
    }

    /// Sends a wakeup for an environment whose status depends on something outside the store.
    pub fn notify(&self, environment: &EnvironmentName) {
        self.shared.wakeups.notify(Wakeup::Status(environment.clone()));
    }

    /// Records the outcome of a generation. A generation that was removed gets none. Returns whether that is new.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed.
    pub async fn outcome(
        &self,
        environment: &EnvironmentName,
        generation: Generation,
        outcome: Outcome,
    ) -> Result<bool, RecordError> {
        let environment = environment.clone();
        let work = move |draft: &mut RecordDraft<'_>| {
            let key = keys::numbered(&environment, generation.0);
            let is_kept = draft.store().get(DocumentKind::History, &key)?.is_some();
            let line = changed(draft.store(), DocumentKind::Outcomes, &key, encode(&outcome)?)?;
            let (true, Some(line)) = (is_kept, line) else { return Ok(false) };
            draft.put_bytes(DocumentKind::Outcomes, key, line);
            draft.notify(Wakeup::Status(environment));
            Ok(true)
        };
        self.shared.write(work).await
    }

    /// Records an event. If it equals the environment's last event, that event's count rises instead.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed.
    pub async fn event(
        &self,
        environment: &EnvironmentName,
        kind: EventKind,
        message: impl Into<String>,
        at: Timestamp,
    ) -> Result<(), RecordError> {
        let (message, environment) = (cut(message.into()), environment.clone());
        let event = Event { sequence: 0, environment, at, kind, message, count: 1 };
        self.shared.write(move |draft| happen(draft, event)).await
    }

    /// Records a build, which becomes the latest of its inputs.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed.
    pub async fn build(&self, build: &BuildRecord) -> Result<(), RecordError> {
        let build = build.clone();
        self.shared.write(move |draft| keep_build(draft, &build)).await
    }

    /// A number that no build of this record has had, above those up to `taken` that others have.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed; the number must not be used then.
    pub async fn next_build_number(&self, taken: u64) -> Result<u64, RecordError> {
        let work = move |draft: &mut RecordDraft<'_>| {
            let next = count(draft.store(), BUILD_NUMBER)?.max(taken) + 1;
            draft.put_bytes(DocumentKind::Meta, BUILD_NUMBER.to_vec(), next.to_be_bytes().to_vec());
            Ok(next)
        };
        self.shared.write(work).await
    }
}

/// Cuts a text to [`LONGEST_MESSAGE`].
pub(super) fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(LONGEST_MESSAGE));
    text
}

/// The document, if it differs from the stored one.
pub(super) fn changed(
    store: &RecordStore,
    kind: DocumentKind,
    key: &[u8],
    document: Vec<u8>,
) -> Result<Option<Vec<u8>>, RecordError> {
    let stored = store.get(kind, key)?;
    Ok((stored.as_deref() != Some(document.as_slice())).then_some(document))
}

pub(super) fn happen(draft: &mut RecordDraft<'_>, event: Event) -> Result<(), RecordError> {
    let last = last_event(draft.store(), &event.environment)?;
    happen_after(draft, last, event).map(drop)
}

/// Records an event, or raises the count of `last` if both are equal. Returns the event as stored.
pub(super) fn happen_after(
    draft: &mut RecordDraft<'_>,
    last: Option<Event>,
    event: Event,
) -> Result<Event, RecordError> {
    let event = match last {
        Some(last) if last.kind == event.kind && last.message == event.message => {
            Event { count: last.count.saturating_add(event.count), at: event.at, ..last }
        }
        _ => {
            draft.counters.last_event += 1;
            forget_oldest(draft, DocumentKind::Events, &event.environment, EVENTS_KEPT, |_, _| Ok(()))?;
            Event { sequence: draft.counters.last_event, ..event }
        }
    };
    draft.put(DocumentKind::Events, keys::numbered(&event.environment, event.sequence), &event)?;
    draft.notify(Wakeup::Event(event.environment.clone()));
    Ok(event)
}

pub(super) fn last_event(
    store: &RecordStore,
    environment: &EnvironmentName,
) -> Result<Option<Event>, RecordError> {
    let last = store.pairs(DocumentKind::Events, &keys::all_of(environment)).next_back().transpose()?;
    Ok(last.and_then(|(_, value)| serde_json::from_slice(&value).ok()))
}

fn keep_build(draft: &mut RecordDraft<'_>, build: &BuildRecord) -> Result<(), RecordError> {
    count_build(draft, build)?;
    forget_oldest(draft, DocumentKind::BuildLog, &build.environment, BUILDS_KEPT, forget_build)?;
    draft.put(DocumentKind::BuildLog, keys::numbered(&build.environment, build.number), build)?;
    // The latest build of its content is also removed last.
    for key in [Some(&build.key), build.content.as_ref()].into_iter().flatten() {
        draft.put(DocumentKind::Builds, key.0.clone().into_bytes(), build)?;
    }
    draft.notify(Wakeup::Status(build.environment.clone()));
    Ok(())
}

/// Counts a build result once. The log of builds is bounded, so it cannot serve as a count.
fn count_build(draft: &mut RecordDraft<'_>, build: &BuildRecord) -> Result<(), RecordError> {
    let logged = keys::numbered(&build.environment, build.number);
    if build.reused.is_none() && draft.store().get(DocumentKind::BuildLog, &logged)?.is_none() {
        let counter = match build.result {
            BuildResult::Built(_) => BUILDS_BUILT,
            BuildResult::Failed(_) => BUILDS_FAILED,
        };
        let count = count(draft.store(), counter)? + 1;
        draft.put_bytes(DocumentKind::Meta, counter.to_vec(), count.to_be_bytes().to_vec());
    }
    Ok(())
}

/// A number of [`DocumentKind::Meta`]; zero if it was never written.
pub(super) fn count(store: &RecordStore, counter: &[u8]) -> Result<u64, RecordError> {
    Ok(store.get(DocumentKind::Meta, counter)?.as_deref().and_then(keys::number).unwrap_or_default())
}

/// Removes the inputs of a build that leaves the log, unless they were built again since.
fn forget_build(draft: &mut RecordDraft<'_>, logged: &[u8]) -> Result<(), RecordError> {
    let Ok(logged) = serde_json::from_slice::<BuildRecord>(logged) else { return Ok(()) };
    for key in [Some(&logged.key), logged.content.as_ref()].into_iter().flatten() {
        let key = key.0.clone().into_bytes();
        let latest: Option<BuildRecord> =
            draft.store().document(DocumentKind::Builds, &key, || format!("build {}", logged.number))?;
        if latest.is_some_and(|latest| latest.number == logged.number) {
            draft.remove(DocumentKind::Builds, key);
        }
    }
    Ok(())
}

/// Makes room for one more document of `environment` if it has `kept` already.
fn forget_oldest(
    draft: &mut RecordDraft<'_>,
    kind: DocumentKind,
    environment: &EnvironmentName,
    kept: usize,
    mut forgotten: impl FnMut(&mut RecordDraft<'_>, &[u8]) -> Result<(), RecordError>,
) -> Result<(), RecordError> {
    let stored = draft.store().keys(kind, &keys::all_of(environment))?;
    let surplus = (stored.len() + 1).saturating_sub(kept);
    for key in stored.into_iter().take(surplus) {
        let value = draft.store().get(kind, &key)?;
        forgotten(draft, &value.unwrap_or_default())?;
        draft.remove(kind, key.to_vec());
    }
    Ok(())
}
