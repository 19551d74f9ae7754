//! What all handles share: the store, the bells, the mirror.

use std::fs::File;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::sync::watch;

use super::bell::Bells;
use super::draft::Draft;
use super::error::RecordError;
use super::mirror::Mirror;
use super::owner::Owner;
use super::reopen::Reopener;
use super::store::{Kind, Line, Store};
use crate::failpoint::{self, Point};
use crate::model::error::chain;

/// For so long nobody tries again whether a write succeeds: anyone may ask.
const TRIED_FOR: Duration = Duration::from_secs(1);
/// The key of what is written only to see that it can be.
const TRIED: &[u8] = b"tried";

/// Why nothing can be recorded now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nothing can be recorded now: {why}")]
pub struct WriteTrouble {
    /// Whether it is for lack of space, which opening the record again does not mend.
    pub is_full: bool,
    why: String,
}

impl WriteTrouble {
    pub(super) fn cut_off(error: &tokio::task::JoinError) -> Self {
        Self { is_full: false, why: error.to_string() }
    }
}

/// Fields are dropped in order: the mirror is written a last time while the store is still open,
/// and the lock goes last.
pub(super) struct Shared {
    pub(super) mirror: Mirror,
    pub(super) _reopener: Reopener,
    pub(super) store: Arc<Store>,
    pub(super) bells: Bells,
    /// Rises with every token that is made or revoked.
    pub(super) tokens: watch::Sender<u64>,
    /// When a write was last tried for its own sake, and whether the disk was full or what else failed.
    pub(super) written: Mutex<Option<(Instant, Result<(), WriteTrouble>)>>,
    pub(super) _owner: Owner,
    pub(super) _lock: File,
    /// The folder, if it is a copy for reading.
    pub(super) copy: OnceLock<TempDir>,
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

    /// Tries whether a write reaches the disk, at most once a second.
    pub(super) fn try_write(&self) -> Result<(), WriteTrouble> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, result)) = &*written
            && at.elapsed() < TRIED_FOR
        {
            return result.clone();
        }
        let result = self.write_for_its_own_sake().map_err(|error| WriteTrouble {
            is_full: matches!(error, RecordError::DiskFull),
            why: chain(&error),
        });
        *written = Some((Instant::now(), result.clone()));
        result
    }

    fn write_for_its_own_sake(&self) -> Result<(), RecordError> {
        let gate = self.store.gate();
        let value = Some(gate.serial.to_be_bytes().to_vec());
        let lines = [Line { kind: Kind::Meta, key: TRIED.to_vec(), value }];
        self.store.write(&lines)?;
        drop(gate);
        self.store.flush(&lines)
    }

    /// Returns once the mirror holds everything written so far, or cannot be written, of which
    /// it says so itself.
    pub(super) async fn finish_mirror(self: &Arc<Self>) -> Result<(), RecordError> {
        let shared = Arc::clone(self);
        let finished = tokio::task::spawn_blocking(move || shared.mirror.finish());
        finished.await.map(|_| ()).map_err(|error| RecordError::CutOff(error.into()))
    }
}
