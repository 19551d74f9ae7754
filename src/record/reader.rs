//! Reads the desired state.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::error::RecordError;
use super::export::{self, Export};
use super::shared::{RecordInner, WriteTrouble};
use super::store::{DocumentKind, RecordStore};
use super::{agent_reports, draft, keys, replica};
use crate::model::desired::{Desired, Entry, RollbackRequest};
use crate::model::link::LeftThere;
use crate::model::name::{AgentName, EnvironmentName, Generation};

/// Reads the record. Asking for an unreadable document by name is an error; lists omit it.
#[derive(Clone)]
pub struct DesiredReader {
    pub(super) shared: Arc<RecordInner>,
}

impl DesiredReader {
    /// The record of `environment`; [`Desired::empty`] if nothing was ever recorded.
    ///
    /// # Errors
    /// Returns [`RecordError`] if it cannot be read.
    pub fn get(&self, environment: &EnvironmentName) -> Result<Desired, RecordError> {
        draft::desired(self.store(), environment)
    }

    /// Checks whether a write succeeds now, at most once a second.
    ///
    /// # Errors
    /// Returns [`WriteTrouble`] if it does not, or if the check was cut off.
    pub async fn try_write(&self) -> Result<(), WriteTrouble> {
        let shared = Arc::clone(&self.shared);
        let tried = tokio::task::spawn_blocking(move || shared.try_write()).await;
        tried.unwrap_or_else(|error| Err(WriteTrouble::cut_off(&error)))
    }

    /// Checks whether the record can be read. It reads only the first document, because any client may ask
    /// for this.
    ///
    /// # Errors
    /// Returns [`RecordError`] if it cannot be read.
    pub fn try_read(&self) -> Result<(), RecordError> {
        self.store().pairs(DocumentKind::Desired, b"").next().transpose().map(drop)
    }

    /// Every environment that has a record, ordered by name.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the store cannot be read.
    pub fn all(&self) -> Result<Vec<Desired>, RecordError> {
        documents(self.store(), DocumentKind::Desired, b"").collect()
    }

    /// Whether an environment has a record.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the store cannot be read.
    pub fn has(&self, environment: &EnvironmentName) -> Result<bool, RecordError> {
        self.store().has(DocumentKind::Desired, environment.as_str().as_bytes())
    }

    /// The environments that have a record, ordered by name. Reads none of their documents.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the store cannot be read.
    pub fn names(&self) -> Result<Vec<EnvironmentName>, RecordError> {
        let keys = self.store().keys(DocumentKind::Desired, b"")?;
        Ok(keys.iter().filter_map(|key| EnvironmentName::new(String::from_utf8_lossy(key)).ok()).collect())
    }

    /// The automatic rollback of an environment that is pending on the controller. Only agents have one.
    ///
    /// # Errors
    /// Returns [`RecordError`] if it cannot be read.
    pub fn proposed(&self, environment: &EnvironmentName) -> Result<Option<RollbackRequest>, RecordError> {
        replica::proposed(self.store(), environment)
    }

    /// What agents last reported to be left on their hosts of environments that they do not run.
    ///
    /// # Errors
    /// Returns [`RecordError`] if it cannot be read.
    pub fn left(&self) -> Result<BTreeMap<AgentName, LeftThere>, RecordError> {
        agent_reports::left(self.store())
    }

    /// One generation of an environment, if it is still kept.
    ///
    /// # Errors
    /// Returns [`RecordError`] if it cannot be read.
    pub fn entry(
        &self,
        environment: &EnvironmentName,
        generation: Generation,
    ) -> Result<Option<Entry>, RecordError> {
        let key = keys::numbered(environment, generation.0);
        let what = || format!("generation {generation} of `{environment}`");
        self.store().document(DocumentKind::History, &key, what)
    }

    /// The kept generations of an environment, newest first.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the store cannot be read.
    pub fn history(&self, environment: &EnvironmentName) -> Result<Vec<Entry>, RecordError> {
        documents(self.store(), DocumentKind::History, &keys::all_of(environment)).rev().collect()
    }

    /// The newest `limit` kept generations of an environment that `is_wanted` accepts, newest first.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the store cannot be read.
    pub fn newest(
        &self,
        environment: &EnvironmentName,
        is_wanted: impl Fn(&Entry) -> bool,
        limit: usize,
    ) -> Result<Vec<Entry>, RecordError> {
        let entries =
            documents::<Entry>(self.store(), DocumentKind::History, &keys::all_of(environment)).rev();
        entries.filter(|entry| entry.as_ref().map_or(true, &is_wanted)).take(limit).collect()
    }

    /// Writes the whole record as readable JSON; each environment is read at one moment. Blocks.
    ///
    /// # Errors
    /// Returns the error of `to`, or of the store.
    pub fn write_export(&self, to: impl io::Write) -> io::Result<()> {
        export::write(self.store(), to)
    }

    /// The whole record in memory.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the store cannot be read.
    pub fn export(&self) -> Result<Export, RecordError> {
        export::take(self.store())
    }

    pub(super) fn store(&self) -> &RecordStore {
        &self.shared.store
    }
}

/// The readable documents under `prefix`; iterates from either end.
pub(super) fn documents<T: serde::de::DeserializeOwned>(
    store: &RecordStore,
    kind: DocumentKind,
    prefix: &[u8],
) -> impl DoubleEndedIterator<Item = Result<T, RecordError>> + use<T> {
    store.pairs(kind, prefix).filter_map(move |pair| match pair {
        Err(error) => Some(Err(error)),
        Ok((key, value)) => match serde_json::from_slice(&value) {
            Ok(document) => Some(Ok(document)),
            Err(error) => {
                let key = String::from_utf8_lossy(&key).into_owned();
                tracing::warn!(kind = kind.name(), key, %error, "skipped an unreadable document");
                None
            }
        },
    })
}
