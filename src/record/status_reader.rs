//! Reads the results and observations of the reconcile loop.

use std::sync::Arc;

use super::error::RecordError;
use super::keys;
use super::reader::documents;
use super::shared::RecordInner;
use super::status::{BUILDS_BUILT, BUILDS_FAILED, count};
use super::store::{DocumentKind, Store};
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
        let prefix = environment.map(keys::all_of).unwrap_or_default();
        let is_wanted = |event: &Event| after.is_none_or(|after| event.sequence > after);
        let newest_first = documents::<Event>(self.store(), DocumentKind::Events, &prefix).rev();
        let wanted = newest_first.filter(|event| event.as_ref().map_or(true, is_wanted));
        // The events of one environment are ordered by sequence; those of several are sorted below.
        let at_most = if environment.is_some() { limit } else { usize::MAX };
        let mut events: Vec<Event> = wanted.take(at_most).collect::<Result<_, _>>()?;
        events.sort_by_key(|event| event.sequence);
        let surplus = events.len().saturating_sub(limit);
        events.drain(..surplus);
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

    fn store(&self) -> &Store {
        &self.shared.store
    }
}
