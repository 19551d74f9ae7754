//! The state that all handles share: the store, the wakeups and the backup file.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::sync::watch;

use super::draft::RecordDraft;
use super::error::RecordError;
use super::mirror::BackupWriter;
use super::owner::OwnershipGuard;
use super::reopen::Reopener;
use super::store::{BatchLine, DocumentKind, RecordStore};
use super::wakeup::Wakeups;
use crate::failpoint::{self, Point};
use crate::model::error::chain;
use crate::model::outbox::{OutboxRules, OutboxTarget};
use crate::model::time::Timestamp;

/// The result of a test write is reused for this long, because any client may ask for it.
const TRIED_FOR: Duration = Duration::from_secs(1);
/// The key of the test write.
const TRIED: &[u8] = b"tried";

/// The reason why nothing can be recorded now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot write the record: {why}")]
pub struct WriteTrouble {
    /// Whether space is lacking, which reopening the record does not fix.
    pub is_full: bool,
    why: String,
}

impl WriteTrouble {
    pub(super) fn cut_off(error: &tokio::task::JoinError) -> Self {
        Self { is_full: false, why: error.to_string() }
    }
}

/// Fields are dropped in order: the backup file is written a last time while the store is still open, and the
/// lock is released last.
pub(super) struct RecordInner {
    pub(super) mirror: BackupWriter,
    pub(super) _reopener: Reopener,
    pub(super) store: Arc<RecordStore>,
    pub(super) wakeups: Wakeups,
    /// Rises with every token that is created or revoked.
    pub(super) tokens: watch::Sender<u64>,
    /// Rises with every change of an outgoing item.
    pub(super) outgoing: watch::Sender<u64>,
    /// The rules of the outbox; `None` until the daemon sets them.
    pub(super) rules: RwLock<Option<Arc<OutboxRules>>>,
    /// Until when nothing is sent to a target. Not on disk: a restarted daemon tries again.
    pub(super) pauses: RwLock<BTreeMap<OutboxTarget, Timestamp>>,
    /// The time and the result of the last test write.
    pub(super) written: Mutex<Option<(Instant, Result<(), WriteTrouble>)>>,
    pub(super) _owner: OwnershipGuard,
    pub(super) _lock: File,
    /// The folder, if it is a copy for reading.
    pub(super) copy: OnceLock<TempDir>,
}

impl RecordInner {
    /// Lets `work` draft a write, commits it, and returns once it is on disk and the wakeups are sent. The
    /// write completes even if the caller stops waiting.
    pub(super) async fn write<T, E>(
        self: &Arc<Self>,
        work: impl FnOnce(&mut RecordDraft<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<RecordError> + Send + 'static,
    {
        let shared = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || shared.write_now(work)).await;
        done.unwrap_or_else(|error| Err(RecordError::CutOff(error.into()).into()))
    }

    /// Does the same on a thread that may block.
    pub(super) fn write_now<T, E: From<RecordError>>(
        &self,
        work: impl FnOnce(&mut RecordDraft<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut draft = RecordDraft::new(&self.store).deriving(self.rules());
        let answer = work(&mut draft)?;
        let made = draft.commit()?;
        if made.lines.is_empty() {
            return Ok(answer);
        }
        // Flush only after the gate is open again, so that writers share one flush.
        failpoint::before(Point::Flush);
        self.store.flush(made.batch, &made.lines)?;
        failpoint::after(Point::Flush);
        if made.lines.iter().any(|line| DocumentKind::is_mirrored(line.kind)) {
            self.mirror.wake();
        }
        if made
            .lines
            .iter()
            .any(|line| matches!(line.kind, DocumentKind::Messages | DocumentKind::Projections))
        {
            self.outgoing.send_modify(|changes| *changes += 1);
        }
        made.wakeups.into_iter().for_each(|wakeup| self.wakeups.notify(wakeup));
        Ok(answer)
    }

    /// The rules of the outbox.
    pub(super) fn rules(&self) -> Option<Arc<OutboxRules>> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets the rules of the outbox, for every later write.
    pub(super) fn set_rules(&self, rules: Arc<OutboxRules>) {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Some(rules);
    }

    /// Checks whether a write reaches the disk, at most once a second.
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
        let lines = [BatchLine { kind: DocumentKind::Meta, key: TRIED.to_vec(), value }];
        let batch = self.store.write(&lines)?;
        drop(gate);
        self.store.flush(batch, &lines)
    }

    /// Returns once the backup file holds everything written so far, or could not be written. It logs that
    /// failure itself.
    pub(super) async fn finish_mirror(self: &Arc<Self>) -> Result<(), RecordError> {
        let shared = Arc::clone(self);
        let finished = tokio::task::spawn_blocking(move || shared.mirror.finish());
        finished.await.map(|_| ()).map_err(|error| RecordError::CutOff(error.into()))
    }
}
