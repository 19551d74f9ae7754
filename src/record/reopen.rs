//! Reopens the store after a failure: sled repeats the error of one failed write for ever.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::check::{self, Mirrored};
use super::error::OpenError;
use super::mirror;
use super::recover;
use super::store::RecordStore;
use crate::durable;

/// The pause between two looks at the space of a full disk.
const WHILE_FULL: Duration = Duration::from_secs(1);
/// The first and the longest pause between two attempts.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// Reopens the store after every failure, until this is dropped.
pub(super) struct Reopener {
    store: Arc<RecordStore>,
    thread: Option<JoinHandle<()>>,
}

impl Reopener {
    /// Starts the thread. `dir` is the record's folder.
    pub(super) fn start(dir: &Path, store: Arc<RecordStore>) -> io::Result<Self> {
        let (dir, watched) = (dir.to_owned(), Arc::clone(&store));
        let name = "record-reopener".to_owned();
        let thread = thread::Builder::new().name(name).spawn(move || keep(&dir, &watched))?;
        Ok(Self { store, thread: Some(thread) })
    }
}

impl Drop for Reopener {
    fn drop(&mut self) {
        self.store.close_watch();
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("the thread that reopens a failed record ended early");
        }
    }
}

fn keep(dir: &Path, store: &RecordStore) {
    let mut pause = PAUSES.0;
    let mut is_known_full = false;
    while store.await_failure() {
        match reopen(dir, store) {
            Ok(notices) => {
                let cause =
                    if std::mem::take(&mut is_known_full) { "its disk was full" } else { "it failed" };
                tracing::warn!(cause, "the record was reopened");
                for notice in notices {
                    tracing::warn!(notice, "repaired the record");
                }
                pause = PAUSES.0;
            }
            Err(OpenError::DiskFull) => {
                if !std::mem::replace(&mut is_known_full, true) {
                    tracing::error!(dir = %dir.display(), "{}", OpenError::DiskFull);
                }
                store.note_failure();
                store.await_close(WHILE_FULL);
            }
            Err(error) => {
                // The store may have opened, and only the check failed.
                store.note_failure();
                let error: &(dyn std::error::Error + 'static) = &error;
                tracing::error!(error, "the record failed and cannot be reopened yet; nothing is recorded");
                store.await_close(pause);
                pause = (pause * 2).min(PAUSES.1);
            }
        }
    }
}

fn reopen(dir: &Path, store: &RecordStore) -> Result<Vec<String>, OpenError> {
    if store.is_full() {
        return Err(OpenError::DiskFull);
    }
    try_disk(dir).map_err(|source| OpenError::Io { doing: "writing to", path: dir.to_owned(), source })?;
    let mut notices = Vec::new();
    store.replace(|| recover::open_sled(dir, &mut notices))?;
    let mirrored = Mirrored::read(&dir.join(mirror::FILE)).unwrap_or(Mirrored::Missing);
    check::check(store, &mirrored, &mut notices)?;
    store.journal.begin_again();
    Ok(notices)
}

/// Checks whether the disk accepts writes. On a disk that does not, sled takes its own files for damaged.
fn try_disk(dir: &Path) -> io::Result<()> {
    let path = dir.join("tried");
    let mut file = durable::create(&path, durable::PRIVATE)?;
    file.write_all(b"tried")?;
    file.sync_all()?;
    fs::remove_file(path)
}
