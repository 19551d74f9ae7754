//! Reads the results and observations of the reconcile loop.

use std::collections::BinaryHeap;
use std::path::Path;
use std::sync::Arc;

use tracing::warn;

use super::error::RecordError;
use super::keys;
use super::reader::documents;
use super::shared::RecordInner;
use super::status::{BUILDS_BUILT, BUILDS_FAILED, count};
use super::store::{DiskSpace, DocumentKind, Pairs, RecordStore};
use crate::model::build::{BuildKey, BuildRecord};
use crate::model::desired::{Entry, HistoryEntry};
use crate::model::event::Event;
use crate::model::memory::Memory;
use crate::model::name::EnvironmentName;
use crate::model::status::Status;

/// Reads the results and observations of the reconcile loop. Asking for an unreadable document by name is an
/// error; lists omit it.
#[derive(Clone)]
pub struct StatusReader {
    pub(super) shared: Arc<RecordInner>,
}

/// Counts of build results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BuildCounts {
    /// An image was built.
    pub built: u64,
    /// The inputs cannot be built.
    pub failed: u64,
}

impl StatusReader {
    /// The space on the disk of the record; `None` if the system does not report it.
    pub fn disk_space(&self) -> Option<DiskSpace> {
        self.store().disk_space()
    }

    /// The folder of the record, if its disk is full: reads are answered, and writes fail until there is space.
    pub fn full_disk(&self) -> Option<&Path> {
        self.store().rejects_writes().then(|| self.store().home())
    }

    /// The state of an environment; `None` if it was not reconciled yet.
    ///
    /// # Errors
    /// Returns [`RecordError`] if it cannot be read.
    pub fn status(&self, environment: &EnvironmentName) -> Result<Option<Status>, RecordError> {
        let key = environment.as_str().as_bytes();
        self.store().document(DocumentKind::Status, key, || format!("the status of `{environment}`"))
    }

    /// The reconcile state of an environment; empty if the loop stored none.
    ///
    /// # Errors
    /// Returns [`RecordError`] if it cannot be read.
    pub fn memory(&self, environment: &EnvironmentName) -> Result<Memory, RecordError> {
        let key = environment.as_str().as_bytes();
        let what = || format!("the reconcile state of `{environment}`");
        Ok(self.store().document(DocumentKind::Memory, key, what)?.unwrap_or_default())
    }

    /// The kept generations of an environment and their outcomes, newest first.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the store cannot be read.
    pub fn history(&self, environment: &EnvironmentName) -> Result<Vec<HistoryEntry>, RecordError> {
        let entries =
            documents::<Entry>(self.store(), DocumentKind::History, &keys::all_of(environment)).rev();
        let with_outcome = |entry: Entry| {
            let key = keys::numbered(environment, entry.generation.0);
            let outcome = self.store().get(DocumentKind::Outcomes, &key)?;
            let outcome = outcome.and_then(|bytes| serde_json::from_slice(&bytes).ok());
            Ok(HistoryEntry { entry, outcome })
        };
        entries.map(|entry| entry.and_then(with_outcome)).collect()
    }

    /// The newest `limit` events with a sequence above `after`, oldest first: of one environment, or of all.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the store cannot be read.
    pub fn events(
        &self,
        environment: Option<&EnvironmentName>,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Vec<Event>, RecordError> {
        let mut newest = NewestEvents::new(self.store(), environment)?;
        let mut events = Vec::new();
        while events.len() < limit {
            match newest.next(after)? {
                Some(event) => events.extend(event),
                None => break,
            }
        }
        events.reverse();
        Ok(events)
    }

    /// The latest build of these inputs.
    ///
    /// # Errors
    /// Returns [`RecordError`] if it cannot be read.
    pub fn build(&self, key: &BuildKey) -> Result<Option<BuildRecord>, RecordError> {
        self.store().document(DocumentKind::Builds, key.0.as_bytes(), || format!("build {}", key.short()))
    }

    /// The newest `limit` builds of an environment, newest first.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the store cannot be read.
    pub fn builds(
        &self,
        environment: &EnvironmentName,
        limit: usize,
    ) -> Result<Vec<BuildRecord>, RecordError> {
        documents(self.store(), DocumentKind::BuildLog, &keys::all_of(environment))
            .rev()
            .take(limit)
            .collect()
    }

    /// The number of builds of this record with each result, since the record began.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the store cannot be read.
    pub fn build_counts(&self) -> Result<BuildCounts, RecordError> {
        let built = count(self.store(), BUILDS_BUILT)?;
        Ok(BuildCounts { built, failed: count(self.store(), BUILDS_FAILED)? })
    }

    fn store(&self) -> &RecordStore {
        &self.shared.store
    }
}

/// The events of several environments, newest first. It reads only the events that it returns, and one more
/// of each environment: a thousand environments have a million events.
struct NewestEvents {
    /// The newest remaining key of each environment, by its sequence.
    heads: BinaryHeap<(u64, usize)>,
    logs: Vec<EventLog>,
}

/// The remaining events of one environment, newest first.
struct EventLog {
    rest: Pairs,
    /// The value of its newest remaining event.
    head: Vec<u8>,
}

impl NewestEvents {
    fn new(store: &RecordStore, only: Option<&EnvironmentName>) -> Result<Self, RecordError> {
        let mut newest = Self { heads: BinaryHeap::new(), logs: Vec::new() };
        if let Some(only) = only {
            newest.add(store.pairs(DocumentKind::Events, &keys::all_of(only)))?;
            return Ok(newest);
        }
        let mut before = store.last_before(DocumentKind::Events, None)?;
        while let Some(key) = before {
            // A key without a name is unreadable, and set aside at the next start.
            let prefix = keys::split(&key).map_or(key, |(name, _)| keys::all_of(&name));
            newest.add(store.pairs(DocumentKind::Events, &prefix))?;
            before = store.last_before(DocumentKind::Events, Some(&prefix))?;
        }
        Ok(newest)
    }

    fn add(&mut self, mut rest: Pairs) -> Result<(), RecordError> {
        if let Some((sequence, head)) = last_event(&mut rest)? {
            self.heads.push((sequence, self.logs.len()));
            self.logs.push(EventLog { rest, head });
        }
        Ok(())
    }

    /// The next event above `after`; `Some(None)` if it is unreadable.
    fn next(&mut self, after: Option<u64>) -> Result<Option<Option<Event>>, RecordError> {
        let Some((sequence, log)) = self.heads.pop() else { return Ok(None) };
        if after.is_some_and(|after| sequence <= after) {
            return Ok(None);
        }
        let Some(EventLog { rest, head }) = self.logs.get_mut(log) else { return Ok(None) };
        let value = std::mem::take(head);
        if let Some((sequence, value)) = last_event(rest)? {
            *head = value;
            self.heads.push((sequence, log));
        }
        let event = serde_json::from_slice(&value);
        Ok(Some(event.inspect_err(|error| warn!(sequence, %error, "skipped an unreadable event")).ok()))
    }
}

/// The last remaining event with a valid key, as its sequence and its document.
fn last_event(rest: &mut Pairs) -> Result<Option<(u64, Vec<u8>)>, RecordError> {
    while let Some((key, value)) = rest.next_back().transpose()? {
        if let Some((_, sequence)) = keys::split(&key) {
            return Ok(Some((sequence, value)));
        }
    }
    Ok(None)
}
