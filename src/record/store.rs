//! sled: one tree per kind of document, atomic batches, and a flush that survives a loss of power.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sled::transaction::{ConflictableTransactionError, TransactionError, Transactional as _};
use tempfile::TempDir;

use super::error::RecordError;
use super::journal::Journal;

/// Free bytes below which nothing is written. Once sled itself runs out of space, it refuses everything until
/// it is reopened, and reopening needs space for a snapshot.
pub(super) const RESERVE: u64 = 2 << 20;

/// The kinds of documents; each has its own tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum DocumentKind {
    /// The format, the record's id, the last build number.
    Meta,
    /// environment → desired state.
    Desired,
    /// environment, generation → an entry of the record.
    History,
    /// environment, generation → its outcome.
    Outcomes,
    /// hash of a delivery's id → arrival time.
    Deliveries,
    /// arrival time, hash → nothing: the deliveries by age.
    DeliveryTimes,
    /// environment → status.
    Status,
    /// environment → reconcile state.
    Memory,
    /// environment, sequence → an event.
    Events,
    /// build key → the latest build of these inputs.
    Builds,
    /// environment, build number → that build.
    BuildLog,
    /// environment → the controller's assignment to this host; on an agent.
    Assigned,
    /// environment → an automatic rollback that the controller does not know yet; on an agent.
    Proposed,
    /// environment → how much its agent has reported; on a controller.
    Cursors,
    /// agent → its report of leftovers on its host; on a controller.
    Left,
    /// environment, number → evidence about an image, except for rejections.
    Evidence,
    /// environment, number → a rejection of an image.
    Rejections,
    /// environment → how long its latest images were healthy.
    Soak,
    /// id → a token, without its secret.
    Tokens,
    /// id → last use of the token.
    TokenUses,
    /// hash of a session's secret → the session.
    Sessions,
    /// subject → its last announcements.
    Standings,
    /// channel, sequence → a message.
    Messages,
    /// forge, environment, commit → the state of that commit.
    Projections,
    /// environment → the commits of its branch that wait for their checks or failed them, newest first.
    Awaited,
    /// channel, incident → the channel's name of the incident's first message.
    Threads,
    /// Unreadable documents.
    Quarantine,
}

impl DocumentKind {
    /// All kinds, in the order of their trees.
    pub(super) const ALL: [Self; 27] = [
        Self::Meta,
        Self::Desired,
        Self::History,
        Self::Outcomes,
        Self::Deliveries,
        Self::DeliveryTimes,
        Self::Status,
        Self::Memory,
        Self::Events,
        Self::Builds,
        Self::BuildLog,
        Self::Assigned,
        Self::Proposed,
        Self::Cursors,
        Self::Left,
        Self::Evidence,
        Self::Rejections,
        Self::Soak,
        Self::Tokens,
        Self::TokenUses,
        Self::Sessions,
        Self::Standings,
        Self::Messages,
        Self::Projections,
        Self::Awaited,
        Self::Threads,
        Self::Quarantine,
    ];

    /// The kinds that an export has, and that an import replaces.
    pub(super) const EXPORTED: [Self; 6] =
        [Self::Desired, Self::History, Self::Outcomes, Self::Evidence, Self::Rejections, Self::Soak];

    /// The tree's name in the store.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Desired => "desired",
            Self::History => "history",
            Self::Outcomes => "outcomes",
            Self::Deliveries => "deliveries",
            Self::DeliveryTimes => "delivery_times",
            Self::Status => "status",
            Self::Memory => "memory",
            Self::Events => "events",
            Self::Builds => "builds",
            Self::BuildLog => "build_log",
            Self::Assigned => "assigned",
            Self::Proposed => "proposed",
            Self::Cursors => "heard",
            Self::Left => "left",
            Self::Evidence => "evidence",
            Self::Rejections => "rejections",
            Self::Soak => "soak",
            Self::Tokens => "tokens",
            Self::TokenUses => "token_uses",
            Self::Sessions => "sessions",
            Self::Standings => "standings",
            Self::Messages => "messages",
            Self::Projections => "projections",
            Self::Awaited => "awaited",
            Self::Threads => "threads",
            Self::Quarantine => "quarantine",
        }
    }

    /// Whether the kind is part of the backup file.
    pub(super) fn is_mirrored(self) -> bool {
        matches!(self, Self::Desired | Self::History | Self::Outcomes | Self::Evidence | Self::Rejections)
    }

    /// Whether the kind must survive a loss of power. The loop can rebuild its own state.
    fn is_precious(self) -> bool {
        use DocumentKind::{
            Awaited, Cursors, Events, Memory, Outcomes, Projections, Soak, Status, TokenUses,
        };
        !matches!(
            self,
            Status | Memory | Events | Outcomes | Cursors | Soak | TokenUses | Projections | Awaited
        )
    }
}

/// One line of a batch. Without a value, it removes the key.
pub(super) struct BatchLine {
    pub(super) kind: DocumentKind,
    pub(super) key: Vec<u8>,
    pub(super) value: Option<Vec<u8>>,
}

/// The highest number of a write, a document or a generation that is accepted from a file or from the other end of the
/// link. Later ones continue above it.
pub(super) const HIGHEST: u64 = u64::MAX >> 1;

/// Numbers that are cached because counting them would mean reading whole trees. They change only after the
/// counted documents are written.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    /// Recorded deliveries.
    pub(super) deliveries: usize,
    /// The sequence of the last event.
    pub(super) last_event: u64,
    /// The sequence of the last outgoing message.
    pub(super) last_message: u64,
    /// The number of the last piece of evidence.
    pub(super) last_evidence: u64,
    /// The number of the last write that the backup file holds too.
    pub(super) serial: u64,
}

/// A key and its value.
pub(super) type KeyValue = (Vec<u8>, Vec<u8>);

/// The store, which is reopened after a failure.
pub(super) struct RecordStore {
    /// `None` while it is being reopened.
    opened: RwLock<Option<OpenStore>>,
    dir: PathBuf,
    reserve: AtomicU64,
    gate: Mutex<Counters>,
    /// Writes that the backup file does not have yet.
    pub(super) journal: Journal,
    /// The number of batches that were written.
    written: AtomicU64,
    flushed: Mutex<FlushedBatches>,
    watch: Mutex<StoreHealth>,
    on_change: Condvar,
}

/// A written batch: batches are numbered in the order in which they were written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BatchNumber(u64);

/// The last batches that cannot be lost any more.
#[derive(Default)]
struct FlushedBatches {
    /// By a kill.
    flushed: u64,
    /// By a loss of power.
    synced: u64,
    /// The last batch before a failure. Those before it that were not flushed are lost.
    failed: u64,
}

/// The condition that the reopening thread waits for.
#[derive(Default)]
struct StoreHealth {
    /// Something failed since the store was opened. sled then refuses everything.
    failed: bool,
    /// The record is being closed.
    closing: bool,
}

struct OpenStore {
    db: sled::Db,
    trees: Vec<sled::Tree>,
    log: File,
    /// The folder of the files, if they are a copy of a record whose disk is full.
    copy: Option<TempDir>,
}

impl OpenStore {
    fn new(db: sled::Db, dir: &Path) -> Result<Self, RecordError> {
        let opened: Result<Vec<_>, _> =
            DocumentKind::ALL.iter().map(|kind| db.open_tree(kind.name())).collect();
        let trees = opened.map_err(|error| failed("opening", error))?;
        let log = File::open(dir.join("db")).map_err(|error| failed_io("opening", error))?;
        Ok(Self { db, trees, log, copy: None })
    }
}

impl RecordStore {
    /// Returns the space on the store's disk; `None` if the system does not report it.
    pub(super) fn disk_space(&self) -> Option<DiskSpace> {
        disk_space(&self.dir)
    }

    /// `dir` is the folder of sled's files. Everything in `db` was found readable before.
    pub(super) fn new(db: sled::Db, dir: &Path, reserve: u64) -> Result<Self, RecordError> {
        Ok(Self {
            opened: RwLock::new(Some(OpenStore::new(db, dir)?)),
            dir: dir.to_owned(),
            reserve: reserve.into(),
            gate: Mutex::default(),
            journal: Journal::default(),
            written: AtomicU64::new(0),
            flushed: Mutex::default(),
            watch: Mutex::default(),
            on_change: Condvar::new(),
        })
    }

    /// Lets the open store, whose files are in `copy`, stand in for the one in `dir`: it rejects writes.
    pub(super) fn stand_in_for(&mut self, dir: &Path, reserve: u64, copy: TempDir) {
        (self.dir, self.reserve) = (dir.to_owned(), reserve.into());
        let opened = self.opened.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(opened) = opened {
            opened.copy = Some(copy);
        }
    }

    /// Closes the failed store and replaces it with the result of `open`. A copy goes on until then.
    pub(super) fn replace<E: From<RecordError>>(
        &self,
        open: impl FnOnce() -> Result<sled::Db, E>,
    ) -> Result<(), E> {
        let mut flushed = self.flushed();
        let mut opened = self.opened.write().unwrap_or_else(PoisonError::into_inner);
        // Close the old one first: sled locks its files.
        drop(opened.take_if(|opened| opened.copy.is_none()));
        flushed.failed = self.written.load(SeqCst);
        *opened = Some(OpenStore::new(open()?, &self.dir)?);
        self.watch().failed = false;
        Ok(())
    }

    /// Waits for a failure. Returns `false` if the record is being closed.
    pub(super) fn await_failure(&self) -> bool {
        let watch = self.on_change.wait_while(self.watch(), |watch| !watch.failed && !watch.closing);
        !watch.unwrap_or_else(PoisonError::into_inner).closing
    }

    /// Waits for `pause`, or until the record is being closed.
    pub(super) fn await_close(&self, pause: Duration) {
        let waited = self.on_change.wait_timeout_while(self.watch(), pause, |watch| !watch.closing);
        drop(waited);
    }

    /// Whether nothing failed since the store was opened.
    #[cfg(test)]
    pub(super) fn is_sound(&self) -> bool {
        !self.watch().failed
    }

    /// Ends the waiting because the record is being closed.
    pub(super) fn close_watch(&self) {
        self.watch().closing = true;
        self.on_change.notify_all();
    }

    /// Requests that the store is reopened: sled repeats the error of one failure for ever.
    pub(super) fn note_failure(&self) {
        self.watch().failed = true;
        self.on_change.notify_all();
    }

    fn watch(&self) -> MutexGuard<'_, StoreHealth> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn noted(&self, doing: &'static str, error: sled::Error) -> RecordError {
        self.note_failure();
        failed(doing, error)
    }

    fn opened(&self) -> RwLockReadGuard<'_, Option<OpenStore>> {
        self.opened.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks the store for writing. Only the holder of the guard writes.
    pub(super) fn gate(&self) -> MutexGuard<'_, Counters> {
        // The counters are always consistent, so a panic elsewhere does no harm.
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, kind: DocumentKind, key: &[u8]) -> Result<Option<Vec<u8>>, RecordError> {
        let found = self.tree(kind)?.get(key).map_err(|error| self.noted("reading", error))?;
        Ok(found.map(|value| value.to_vec()))
    }

    /// Whether there is a document under `key`.
    pub(super) fn has(&self, kind: DocumentKind, key: &[u8]) -> Result<bool, RecordError> {
        self.tree(kind)?.contains_key(key).map_err(|error| self.noted("reading", error))
    }

    /// The document under `key`; an error names it with `what`.
    pub(super) fn document<T: DeserializeOwned>(
        &self,
        kind: DocumentKind,
        key: &[u8],
        what: impl FnOnce() -> String,
    ) -> Result<Option<T>, RecordError> {
        let Some(bytes) = self.get(kind, key)? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| RecordError::unreadable(what(), error))
    }

    /// Keys that begin with `prefix` and their values, in order; iterates from either end.
    pub(super) fn pairs(&self, kind: DocumentKind, prefix: &[u8]) -> Pairs {
        match self.tree(kind) {
            Ok(tree) => Pairs { pairs: Some(tree.scan_prefix(prefix)), failed: false },
            Err(_) => Pairs { pairs: None, failed: false },
        }
    }

    /// The last key of a kind, or the last one below `before`.
    pub(super) fn last_before(
        &self,
        kind: DocumentKind,
        before: Option<&[u8]>,
    ) -> Result<Option<Vec<u8>>, RecordError> {
        let tree = self.tree(kind)?;
        let found = match before {
            Some(before) => tree.get_lt(before),
            None => tree.last(),
        };
        Ok(found.map_err(|error| self.noted("reading", error))?.map(|(key, _)| key.to_vec()))
    }

    /// The keys that begin with `prefix`, in order, without their values.
    pub(super) fn keys(&self, kind: DocumentKind, prefix: &[u8]) -> Result<Vec<sled::IVec>, RecordError> {
        let keys = self.tree(kind)?.scan_prefix(prefix).keys();
        keys.collect::<Result<_, _>>().map_err(|error| self.noted("reading", error))
    }

    /// Writes all of `lines` or none. They are on disk only after [`RecordStore::flush`].
    pub(super) fn write(&self, lines: &[BatchLine]) -> Result<BatchNumber, RecordError> {
        if self.rejects_writes() {
            return Err(RecordError::DiskFull);
        }
        let opened = self.opened();
        let opened = opened.as_ref().ok_or_else(closed)?;
        let made = opened.trees.as_slice().transaction(|trees| {
            for line in lines {
                let tree = &trees[line.kind as usize];
                match &line.value {
                    Some(value) => tree.insert(line.key.as_slice(), value.as_slice())?,
                    None => tree.remove(line.key.as_slice())?,
                };
            }
            Ok::<(), ConflictableTransactionError<sled::Error>>(())
        });
        made.map_err(|error| match error {
            TransactionError::Abort(error) | TransactionError::Storage(error) => self.noted("writing", error),
        })?;
        Ok(BatchNumber(self.written.fetch_add(1, SeqCst) + 1))
    }

    /// The folder of the record.
    pub(super) fn home(&self) -> &Path {
        self.dir.parent().unwrap_or(&self.dir)
    }

    /// Returns once `batch` is flushed. Its lines decide whether it must survive a loss of power. Batches that
    /// are written while another flush runs share the next one.
    pub(super) fn flush(&self, batch: BatchNumber, lines: &[BatchLine]) -> Result<(), RecordError> {
        let is_precious = lines.iter().any(|line| line.kind.is_precious());
        let mut done = self.flushed();
        if batch.0 <= if is_precious { done.synced } else { done.flushed } {
            return Ok(());
        }
        if batch.0 <= done.failed {
            return Err(closed());
        }
        let covered = self.written.load(SeqCst);
        let flushed = self.flush_everything(is_precious);
        match (&flushed, is_precious) {
            // Pages that failed to reach the disk are lost from memory too: only the files show what is left.
            (Err(_), _) => done.failed = covered,
            (Ok(()), true) => (done.flushed, done.synced) = (covered, covered),
            (Ok(()), false) => done.flushed = covered,
        }
        flushed
    }

    fn flush_everything(&self, is_precious: bool) -> Result<(), RecordError> {
        let opened = self.opened();
        let opened = opened.as_ref().ok_or_else(closed)?;
        opened.db.flush().map_err(|error| self.noted("writing", error))?;
        if is_precious {
            // sled hands its pages to the disk with sync_file_range, which neither waits for the disk's own
            // cache nor writes the file's length.
            opened.log.sync_data().map_err(|error| {
                self.note_failure();
                failed_io("writing", error)
            })?;
        }
        Ok(())
    }

    fn flushed(&self) -> MutexGuard<'_, FlushedBatches> {
        self.flushed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes every disk too small from now on.
    #[cfg(test)]
    pub(super) fn pretend_to_be_full(&self) {
        self.reserve.store(u64::MAX, Relaxed);
    }

    fn tree(&self, kind: DocumentKind) -> Result<sled::Tree, RecordError> {
        let opened = self.opened();
        Ok(opened.as_ref().ok_or_else(closed)?.trees[kind as usize].clone())
    }

    /// Whether the disk is full, or was and the record has not been reopened since.
    pub(super) fn rejects_writes(&self) -> bool {
        self.is_full() || self.opened().as_ref().is_some_and(|opened| opened.copy.is_some())
    }

    /// Whether the disk has too little space for writes.
    pub(super) fn is_full(&self) -> bool {
        free_space(&self.dir).is_some_and(|free| free < self.reserve.load(Relaxed))
    }
}

impl Drop for RecordStore {
    fn drop(&mut self) {
        let opened = self.opened();
        if let Some(Err(error)) = opened.as_ref().map(|opened| opened.db.flush()) {
            tracing::warn!(%error, "cannot flush the record while closing it");
        }
    }
}

/// Documents in the order of their keys. An error is the last item, because sled would repeat the same error
/// for ever.
pub(super) struct Pairs {
    /// `None` if the store is closed.
    pairs: Option<sled::Iter>,
    failed: bool,
}

impl Pairs {
    fn step(
        &mut self,
        next: impl FnOnce(&mut sled::Iter) -> Option<sled::Result<(sled::IVec, sled::IVec)>>,
    ) -> Option<Result<KeyValue, RecordError>> {
        if self.failed {
            return None;
        }
        let Some(pairs) = &mut self.pairs else {
            self.failed = true;
            return Some(Err(closed()));
        };
        let pair = next(pairs)?;
        Some(self.checked(pair))
    }

    fn checked(&mut self, pair: sled::Result<(sled::IVec, sled::IVec)>) -> Result<KeyValue, RecordError> {
        self.failed = pair.is_err();
        let (key, value) = pair.map_err(|error| failed("reading", error))?;
        Ok((key.to_vec(), value.to_vec()))
    }
}

impl Iterator for Pairs {
    type Item = Result<KeyValue, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step(sled::Iter::next)
    }
}

impl DoubleEndedIterator for Pairs {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.step(sled::Iter::next_back)
    }
}

/// The space on a disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// The bytes that may still be written.
    pub free: u64,
    /// The size of the file system.
    pub size: u64,
}

/// Returns the space on the disk of `dir`; `None` if the system does not report it.
fn disk_space(dir: &Path) -> Option<DiskSpace> {
    // Some file systems have no size, and so no free space either.
    let disk = rustix::fs::statvfs(dir).ok().filter(|disk| disk.f_blocks > 0)?;
    let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
    Some(DiskSpace { free: bytes(disk.f_bavail), size: bytes(disk.f_blocks) })
}

/// Bytes that may still be written on the disk of `dir`; `None` if the system does not report it.
pub(super) fn free_space(dir: &Path) -> Option<u64> {
    disk_space(dir).map(|disk| disk.free)
}

/// Encodes a document for the store.
pub(super) fn encode<T: Serialize>(document: &T) -> Result<Vec<u8>, RecordError> {
    serde_json::to_vec(document)
        .map_err(|error| RecordError::Store { doing: "writing", source: error.into() })
}

/// The error while the store is being reopened.
fn closed() -> RecordError {
    RecordError::Store { doing: "reading", source: "it is being reopened after a failure".into() }
}

fn failed(doing: &'static str, error: sled::Error) -> RecordError {
    match error {
        sled::Error::Io(error) => failed_io(doing, error),
        error => RecordError::Store { doing, source: error.into() },
    }
}

fn failed_io(doing: &'static str, error: io::Error) -> RecordError {
    if is_disk_full(&error) {
        RecordError::DiskFull
    } else {
        RecordError::Store { doing, source: error.into() }
    }
}

/// Whether the disk or the user's quota is full.
pub(super) fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
