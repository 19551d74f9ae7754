//! Reading what should run.

use std::sync::Arc;

use super::error::RecordError;
use super::export::{self, Export};
use super::shared::{Shared, WriteTrouble};
use super::store::{Kind, Store};
use super::{draft, keys, replica};
use crate::model::desired::{Desired, Entry, GoBack};
use crate::model::name::{EnvironmentName, Generation};

/// Reads the record. A document that cannot be read is an error where it is asked for by name,
/// and is left out of lists.
#[derive(Clone)]
pub struct DesiredReader {
    pub(super) shared: Arc<Shared>,
}

impl DesiredReader {
    /// The record of `environment`; [`Desired::empty`] where nothing was ever recorded.
    ///
    /// # Errors
    /// [`RecordError`] where it cannot be read.
    pub fn get(&self, environment: &EnvironmentName) -> Result<Desired, RecordError> {
        draft::desired(self.store(), environment)
    }

    /// Tries whether anything can be recorded now, at most once a second.
    ///
    /// # Errors
    /// [`WriteTrouble`] if not, or if the try was cut off.
    pub async fn try_write(&self) -> Result<(), WriteTrouble> {
        let shared = Arc::clone(&self.shared);
        let tried = tokio::task::spawn_blocking(move || shared.try_write()).await;
        tried.unwrap_or_else(|error| Err(WriteTrouble::cut_off(&error)))
    }

    /// Whether the record can be read: the first document of it, because anyone may ask for that.
    ///
    /// # Errors
    /// [`RecordError`] where it cannot.
    pub fn try_read(&self) -> Result<(), RecordError> {
        self.store().pairs(Kind::Desired, b"").next().transpose().map(drop)
    }

    /// Every environment that has a record, in the order of names.
    ///
    /// # Errors
    /// [`RecordError`] where the store cannot be read.
    pub fn all(&self) -> Result<Vec<Desired>, RecordError> {
        documents(self.store(), Kind::Desired, b"").collect()
    }

    /// The automatic rollback of an environment that waits for the controller; only on an agent.
    ///
    /// # Errors
    /// [`RecordError`] where it cannot be read.
    pub fn proposed(&self, environment: &EnvironmentName) -> Result<Option<GoBack>, RecordError> {
        replica::proposed(self.store(), environment)
    }

    /// One generation of an environment, where it is still kept.
    ///
    /// # Errors
    /// [`RecordError`] where it cannot be read.
    pub fn entry(
        &self,
        environment: &EnvironmentName,
        generation: Generation,
    ) -> Result<Option<Entry>, RecordError> {
        let key = keys::numbered(environment, generation.0);
        let what = || format!("generation {generation} of `{environment}`");
        self.store().document(Kind::History, &key, what)
    }

    /// The kept generations of an environment, newest first.
    ///
    /// # Errors
    /// [`RecordError`] where the store cannot be read.
    pub fn history(&self, environment: &EnvironmentName) -> Result<Vec<Entry>, RecordError> {
        documents(self.store(), Kind::History, &keys::all_of(environment)).rev().collect()
    }

    /// The whole record, as one moment saw it.
    ///
    /// # Errors
    /// [`RecordError`] where the store cannot be read.
    pub fn export(&self) -> Result<Export, RecordError> {
        export::take(self.store())
    }

    fn store(&self) -> &Store {
        &self.shared.store
    }
}

/// The readable documents under `prefix`, from either end.
pub(super) fn documents<T: serde::de::DeserializeOwned>(
    store: &Store,
    kind: Kind,
    prefix: &[u8],
) -> impl DoubleEndedIterator<Item = Result<T, RecordError>> + use<T> {
    store.pairs(kind, prefix).filter_map(move |pair| match pair {
        Err(error) => Some(Err(error)),
        Ok((key, value)) => match serde_json::from_slice(&value) {
            Ok(document) => Some(Ok(document)),
            Err(error) => {
                let key = String::from_utf8_lossy(&key).into_owned();
                tracing::warn!(kind = kind.name(), key, %error, "left out a document that cannot be read");
                None
            }
        },
    })
}
