//! Keeps `record.json`: the whole record as readable JSON beside the store. A separate thread adds each change
//! shortly after it was made, so that a lost store costs a restore and not an outage. [`super::backup`] has
//! the format.

use std::fs::{self, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::backup::BackupLength;
use super::error::RecordError;
use super::export;
use super::journal::JournalState;
use super::store::{RecordStore, is_disk_full};
use crate::durable::{self, DraftFile};

/// The backup file, beside the store.
pub(super) const FILE: &str = "record.json";
/// Changes within this time are written together.
const GATHERED_FOR: Duration = Duration::from_millis(200);
/// Pause before a failed write of the backup file is retried.
const RETRY_AFTER: Duration = Duration::from_secs(10);
/// A shorter export, in bytes, is written again as a whole after each change, so that the file of a small
/// record is one readable document.
const SMALL: u64 = 64 << 10;
/// The length of all changes after an export, in bytes: they are in memory while the file is read.
const MOST_CHANGES: u64 = 16 << 20;
/// The buffer for writing the whole file.
const BUFFER: usize = 64 << 10;

/// Keeps the backup file up to date until dropped.
pub(super) struct BackupWriter {
    queue: Arc<BackupQueue>,
    thread: Option<JoinHandle<()>>,
}

struct BackupQueue {
    path: PathBuf,
    store: Arc<RecordStore>,
    work: Mutex<BackupState>,
    changed: Condvar,
}

#[derive(Default)]
struct BackupState {
    /// Changes that were requested.
    asked: u64,
    /// Requested changes that are in the file.
    written: u64,
    /// Attempts so far, so that a waiter notices a failed one.
    attempts: u64,
    /// Someone waits: write at once.
    is_urgent: bool,
    /// The last attempt failed.
    failed: bool,
    /// The record is being closed.
    ending: bool,
}

impl BackupWriter {
    /// Starts the thread. Nothing is written until [`BackupWriter::wake`]. `length` is that of the present file
    /// if changes may be appended to it.
    pub(super) fn start(
        dir: &Path,
        store: Arc<RecordStore>,
        length: Option<BackupLength>,
    ) -> io::Result<Self> {
        let work = Mutex::default();
        let queue = Arc::new(BackupQueue { path: dir.join(FILE), store, work, changed: Condvar::new() });
        let thread_queue = Arc::clone(&queue);
        let thread =
            thread::Builder::new().name("record-mirror".into()).spawn(move || thread_queue.keep(length))?;
        Ok(Self { queue, thread: Some(thread) })
    }

    /// Reports a change.
    pub(super) fn wake(&self) {
        self.queue.work().asked += 1;
        self.queue.changed.notify_all();
    }

    /// Returns once the file holds every change so far; `false` if it cannot be written.
    pub(super) fn finish(&self) -> bool {
        let mut work = self.queue.work();
        let (asked, attempts) = (work.asked, work.attempts);
        work.is_urgent = true;
        self.queue.changed.notify_all();
        while work.written < asked && !(work.failed && work.attempts > attempts) {
            work = self.queue.changed.wait(work).unwrap_or_else(PoisonError::into_inner);
        }
        work.written >= asked
    }

    /// Removes the file until the next change.
    pub(super) fn remove(&self) -> Result<(), RecordError> {
        match fs::remove_file(&self.queue.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(RecordError::Store { doing: "removing the backup file of", source: error.into() })
            }
            _ => Ok(()),
        }
    }
}

impl Drop for BackupWriter {
    fn drop(&mut self) {
        self.queue.work().ending = true;
        self.queue.changed.notify_all();
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("the thread that writes the backup file ended early");
        }
    }
}

impl BackupQueue {
    fn work(&self) -> MutexGuard<'_, BackupState> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread's main loop.
    fn keep(&self, mut length: Option<BackupLength>) {
        while let Some(asked) = self.next() {
            let result = self.write(&mut length);
            let mut work = self.work();
            work.attempts += 1;
            if let Err(error) = &result
                && !work.failed
            {
                let error: &(dyn std::error::Error + 'static) = error;
                tracing::warn!(error, "cannot write the backup file of the record; retrying");
            }
            work.failed = result.is_err();
            if result.is_ok() {
                work.written = asked;
            }
            let gave_up = work.failed && work.ending;
            self.changed.notify_all();
            if gave_up {
                return;
            }
        }
    }

    /// Waits for something to write. Returns `None` once everything is written and the record closes.
    fn next(&self) -> Option<u64> {
        let mut work = self.work();
        let mut patience = None;
        loop {
            let is_due =
                work.is_urgent || work.ending || patience.is_some_and(|left: Duration| left.is_zero());
            if work.asked > work.written && is_due {
                work.is_urgent = false;
                return Some(work.asked);
            }
            if work.asked == work.written {
                if work.ending {
                    return None;
                }
                work = self.changed.wait(work).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let left = patience.unwrap_or(if work.failed { RETRY_AFTER } else { GATHERED_FOR });
            let before = std::time::Instant::now();
            work = self.changed.wait_timeout(work, left).unwrap_or_else(PoisonError::into_inner).0;
            patience = Some(left.saturating_sub(before.elapsed()));
        }
    }

    fn write(&self, length: &mut Option<BackupLength>) -> Result<(), RecordError> {
        let JournalState { lines, is_incomplete } = self.store.journal.take();
        let written = match length.filter(|length| !is_incomplete && length.takes(lines.len())) {
            Some(known) => append(&self.path, known, &lines).unwrap_or_else(|| self.write_atomically()),
            None => self.write_atomically(),
        };
        *length = written.as_ref().ok().copied();
        written.map(drop).map_err(|error| {
            self.store.journal.begin_again();
            if is_disk_full(&error) {
                RecordError::DiskFull
            } else {
                RecordError::Store { doing: "mirroring", source: error.into() }
            }
        })
    }

    /// Writes the file atomically: a crash leaves the old file or the new one. Writers continue meanwhile; what
    /// they write follows the export as lines.
    fn write_atomically(&self) -> io::Result<BackupLength> {
        let mut draft = DraftFile::create(&self.path, durable::PRIVATE)?;
        {
            // Everything in the journal by now is in the export too.
            let _gate = self.store.gate();
            drop(self.store.journal.take());
        }
        let mut buffered = BufWriter::with_capacity(BUFFER, &mut draft.file);
        export::write(&self.store, &mut buffered)?;
        buffered.flush()?;
        drop(buffered);
        let export = draft.file.metadata()?.len();
        let JournalState { lines, is_incomplete } = self.store.journal.take();
        if is_incomplete {
            self.store.journal.begin_again();
        }
        draft.file.write_all(&lines)?;
        draft.commit()?;
        Ok(BackupLength { export, changes: length_of(&lines) })
    }
}

/// Appends lines to the file. `None`: it is not the file that was written last.
fn append(path: &Path, known: BackupLength, lines: &[u8]) -> Option<io::Result<BackupLength>> {
    let mut file = durable::open(path, OpenOptions::new().append(true)).ok()?;
    if file.metadata().ok()?.len() != known.total() {
        return None;
    }
    let appended = file.write_all(lines).and_then(|()| file.sync_data());
    let changes = known.changes + length_of(lines);
    Some(appended.map(|()| BackupLength { changes, ..known }))
}

fn length_of(lines: &[u8]) -> u64 {
    u64::try_from(lines.len()).unwrap_or(u64::MAX)
}

impl BackupLength {
    /// Whether lines of this length may follow: the whole file is written again once they are as long as the
    /// export, so that each byte of a change is written twice on average. A small file, or one with many
    /// changes, is always written as a whole.
    fn takes(self, lines: usize) -> bool {
        let changes = self.changes + u64::try_from(lines).unwrap_or(u64::MAX);
        self.export >= SMALL && changes <= self.export.min(MOST_CHANGES)
    }
}
