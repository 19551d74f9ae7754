//! What all handles share: the store, the bells, the mirror.

use std::fs::File;
use std::sync::Arc;

use tokio::sync::watch;

use super::bell::Bells;
use super::draft::Draft;
use super::error::RecordError;
use super::mirror::Mirror;
use super::store::{Kind, Store};
use crate::failpoint::{self, Point};

/// Fields are dropped in order: the mirror is written a last time while the store is still open,
/// and the lock goes last.
pub(super) struct Shared {
    pub(super) mirror: Mirror,
    pub(super) store: Arc<Store>,
    pub(super) bells: Bells,
    /// Rises with every token that is made or revoked.
    pub(super) tokens: watch::Sender<u64>,
    pub(super) _lock: File,
}

impl Shared {
    /// Lets `work` draft a write, makes it, and returns once it is on disk and rung for. It is
    /// done even where the caller stops waiting.
    pub(super) async fn write<T, E>(
        self: &Arc<Self>,
        work: impl FnOnce(&mut Draft<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<RecordError> + Send + 'static,
    {
        let shared = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || shared.write_now(work)).await;
        done.unwrap_or_else(|error| Err(RecordError::CutOff(error.into()).into()))
    }

    /// The same on a thread that may block.
    pub(super) fn write_now<T, E: From<RecordError>>(
        &self,
        work: impl FnOnce(&mut Draft<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut draft = Draft::new(&self.store);
        let answer = work(&mut draft)?;
        let made = draft.commit()?;
        if made.lines.is_empty() {
            return Ok(answer);
        }
        // After the gate is open again, so that writers share the disk's time.
        failpoint::before(Point::Flush);
        self.store.flush(&made.lines)?;
        failpoint::after(Point::Flush);
        if made.lines.iter().any(|line| Kind::is_mirrored(line.kind)) {
            self.mirror.wake();
        }
        made.bells.into_iter().for_each(|bell| self.bells.ring(bell));
        Ok(answer)
    }

    /// Returns once the mirror holds everything written so far, or cannot be written, of which
    /// it says so itself.
    pub(super) async fn finish_mirror(self: &Arc<Self>) -> Result<(), RecordError> {
        let shared = Arc::clone(self);
        let finished = tokio::task::spawn_blocking(move || shared.mirror.finish());
        finished.await.map(|_| ()).map_err(|error| RecordError::CutOff(error.into()))
    }
}
