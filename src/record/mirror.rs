//! `record.json`: the whole record as readable JSON beside the store. A separate thread writes it shortly
//! after each change, so that a lost store costs a restore and not an outage.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::error::RecordError;
use super::export::{self, Export};
use super::store::{Store, is_disk_full};

/// The backup file, beside the store.
pub(super) const FILE: &str = "record.json";
/// Changes within this time are written together.
const GATHERED_FOR: Duration = Duration::from_millis(200);
/// Pause before a failed write of the backup file is retried.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// Keeps the backup file up to date until dropped.
pub(super) struct BackupWriter {
    desk: Arc<BackupQueue>,
    thread: Option<JoinHandle<()>>,
}

struct BackupQueue {
    path: PathBuf,
    store: Arc<Store>,
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
    hurry: bool,
    /// The last attempt failed.
    failed: bool,
    /// The record is being closed.
    ending: bool,
}

impl BackupWriter {
    /// Starts the thread. Nothing is written until [`BackupWriter::wake`].
    pub(super) fn start(dir: &Path, store: Arc<Store>) -> io::Result<Self> {
        let work = Mutex::default();
        let desk = Arc::new(BackupQueue { path: dir.join(FILE), store, work, changed: Condvar::new() });
        let at_desk = Arc::clone(&desk);
        let thread = thread::Builder::new().name("record-mirror".into()).spawn(move || at_desk.keep())?;
        Ok(Self { desk, thread: Some(thread) })
    }

    /// Reports a change.
    pub(super) fn wake(&self) {
        self.desk.work().asked += 1;
        self.desk.changed.notify_all();
    }

    /// Returns once the file holds every change so far; `false` if it cannot be written.
    pub(super) fn finish(&self) -> bool {
        let mut work = self.desk.work();
        let (asked, attempts) = (work.asked, work.attempts);
        work.hurry = true;
        self.desk.changed.notify_all();
        while work.written < asked && !(work.failed && work.attempts > attempts) {
            work = self.desk.changed.wait(work).unwrap_or_else(PoisonError::into_inner);
        }
        work.written >= asked
    }

    /// Removes the file until the next change.
    pub(super) fn remove(&self) -> Result<(), RecordError> {
        match fs::remove_file(&self.desk.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(RecordError::Store { doing: "removing the backup file of", source: error.into() })
            }
            _ => Ok(()),
        }
    }
}

impl Drop for BackupWriter {
    fn drop(&mut self) {
        self.desk.work().ending = true;
        self.desk.changed.notify_all();
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
    fn keep(&self) {
        while let Some(asked) = self.next() {
            let result = self.write();
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
            let is_due = work.hurry || work.ending || patience.is_some_and(|left: Duration| left.is_zero());
            if work.asked > work.written && is_due {
                work.hurry = false;
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

    fn write(&self) -> Result<(), RecordError> {
        let export = export::take(&self.store)?;
        write(&self.path, &export).map_err(|error| {
            if is_disk_full(&error) {
                RecordError::DiskFull
            } else {
                RecordError::Store { doing: "mirroring", source: error.into() }
            }
        })
    }
}

/// Writes the file atomically: a crash leaves the old file or the new one.
fn write(path: &Path, export: &Export) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(export)?;
    text.push(b'\n');
    let draft = path.with_extension("json.new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    let dir = path.parent().unwrap_or(Path::new("."));
    File::open(dir)?.sync_all()
}
