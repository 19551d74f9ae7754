//! Opens the record and creates the handles.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;
use tokio::sync::watch;

use super::agent_reports::ReportWriter;
use super::backup::Backup;
use super::check::{self, Checked, Mirrored};
use super::desired::DesiredWriter;
use super::error::{OpenError, RecordError, WriteError};
use super::identity;
use super::import;
use super::mirror::{self, BackupWriter};
use super::outbox::Outbox;
use super::owner::{self, OwnershipGuard};
use super::reader::DesiredReader;
use super::recover::{self, SLED};
use super::reopen::Reopener;
use super::replica::Replica;
use super::resolver::Resolver;
use super::shared::RecordInner;
use super::stand_in;
use super::status::StatusWriter;
use super::status_reader::StatusReader;
use super::store::{RESERVE, RecordStore, free_space};
use super::token::{TokenReader, TokenWriter};
use super::wakeup::Wakeups;
use crate::durable;

/// The lock file: a process that has the record open holds its lock. sled's own lock comes too late, because
/// leftover files are removed before sled opens.
pub(super) const LOCK: &str = "lock";
/// Attempts to take the lock, and the pause between them. A process that is ending may still hold it.
const LOCK_ATTEMPTS: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// The opened record. Each handle is cheap to clone. All handles share one store, which is flushed and closed
/// when the last handle is dropped.
#[derive(Clone)]
pub struct Handles {
    /// The record's id: 32 hexadecimal digits, generated when the record was first opened, and kept by
    /// export, import and the backup file. An import of another record replaces the id; this field shows the
    /// new one after the next open.
    pub id: String,
    /// The id of the store, in which the events are numbered. A store that replaces a lost one has another id,
    /// although the record keeps its own.
    pub instance: String,
    /// For webhooks, promotions and operators.
    pub writer: DesiredWriter,
    /// For the reconcile loop.
    pub resolver: Resolver,
    /// For an agent, whose record is the copy of another.
    pub replica: Replica,
    /// For the link to agents.
    pub reports: ReportWriter,
    /// For everyone.
    pub desired: DesiredReader,
    /// For the reconcile loop.
    pub status_writer: StatusWriter,
    /// For everyone.
    pub status: StatusReader,
    /// For administrators.
    pub token_writer: TokenWriter,
    /// For the HTTP API.
    pub tokens: TokenReader,
    /// For the deliverer of outgoing items.
    pub outbox: Outbox,
    /// For everyone who waits for changes.
    pub wakeups: Wakeups,
    /// The repairs that were made, in sentences.
    pub notices: Vec<String>,
    shared: Arc<RecordInner>,
}

/// Opens the record in the folder `dir` and repairs the damage of a crash or a bad disk. Creates the folder
/// if it is missing.
///
/// # Errors
/// Returns [`OpenError::Busy`] if another process has the record open, [`OpenError::TooNew`] if a newer abide
/// wrote it, and other errors if the disk fails.
pub fn open(dir: &Path) -> Result<Handles, OpenError> {
    open_with(dir, RESERVE).map_err(|error| owner::explain(dir, error))
}

/// Whether the folder `dir` has a record that was opened before.
pub fn exists(dir: &Path) -> bool {
    dir.join(identity::FILE).exists()
}

/// [`open`] with a given reserve: the number of bytes that must be free before anything is written.
pub(super) fn open_with(dir: &Path, reserve: u64) -> Result<Handles, OpenError> {
    make_folder(dir)?;
    let lock = lock(lock_file(dir)?, dir)?;
    let mut notices = Vec::new();
    import::remove_received(dir);
    let is_full = free_space(dir).is_some_and(|free| free < reserve);
    let (store, checked) =
        if is_full { stand_in::open(dir, reserve)? } else { open_store(dir, reserve, &mut notices)? };
    let (store, backed_up) = (Arc::new(store), checked.backed_up);
    let mirror = BackupWriter::start(dir, Arc::clone(&store), backed_up).map_err(|source| OpenError::Io {
        doing: "starting the backup of",
        path: dir.to_owned(),
        source,
    })?;
    if is_full {
        store.note_failure();
    } else {
        stand_in::remove_left(&checked.id);
        if backed_up.is_none() {
            store.journal.begin_again();
            mirror.wake();
        }
    }
    let (wakeups, tokens, outgoing) = (Wakeups::new(), watch::Sender::new(0), watch::Sender::new(0));
    let reopener = Reopener::start(dir, Arc::clone(&store)).map_err(|source| OpenError::Io {
        doing: "starting the repair of",
        path: dir.to_owned(),
        source,
    })?;
    let _owner = OwnershipGuard::of(dir);
    let written = Mutex::default();
    let shared = RecordInner {
        mirror,
        _reopener: reopener,
        store,
        wakeups,
        tokens,
        outgoing,
        rules: RwLock::default(),
        pauses: RwLock::default(),
        written,
        _owner,
        _lock: lock,
        copy: OnceLock::new(),
    };
    let resumed = import::resume(&shared).map_err(|error| match error {
        WriteError::Record(error) => OpenError::Check(error),
        error => OpenError::Check(RecordError::unreadable("the interrupted import", error)),
    })?;
    if resumed.is_some() {
        notices.push("finished an import that was interrupted".to_owned());
    }
    Ok(deal(resumed.unwrap_or(checked.id), checked.instance, shared, notices))
}

fn open_store(
    dir: &Path,
    reserve: u64,
    notices: &mut Vec<String>,
) -> Result<(RecordStore, Checked), OpenError> {
    let mirrored = read_mirror(&dir.join(mirror::FILE))?;
    let db = recover::open_sled(dir, notices)?;
    let store = RecordStore::new(db, &dir.join(SLED), reserve)?;
    let checked = check::check(&store, &mirrored, notices)?;
    keep_unreadable(&dir.join(mirror::FILE), &mirrored, notices)?;
    Ok((store, checked))
}

fn deal(id: String, instance: String, shared: RecordInner, notices: Vec<String>) -> Handles {
    let shared = Arc::new(shared);
    Handles {
        id,
        instance,
        writer: DesiredWriter { shared: Arc::clone(&shared), seen: Vec::new() },
        resolver: Resolver { shared: Arc::clone(&shared), proposes: false },
        replica: Replica { shared: Arc::clone(&shared) },
        reports: ReportWriter { shared: Arc::clone(&shared) },
        desired: DesiredReader { shared: Arc::clone(&shared) },
        status_writer: StatusWriter { shared: Arc::clone(&shared) },
        status: StatusReader { shared: Arc::clone(&shared) },
        token_writer: TokenWriter { shared: Arc::clone(&shared) },
        tokens: TokenReader { shared: Arc::clone(&shared) },
        outbox: Outbox { shared: Arc::clone(&shared) },
        wakeups: shared.wakeups.clone(),
        notices,
        shared,
    }
}

impl Handles {
    /// Returns once the backup file holds every write. The store needs no closing: every write is on disk
    /// before it returns.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the program ends before that.
    pub async fn close(self) -> Result<(), RecordError> {
        self.shared.finish_mirror().await
    }

    /// Keeps the temporary copy's folder for as long as the copy is read.
    pub(super) fn keep(&self, copy: TempDir) {
        // At most one copy exists, and it is set at open.
        let _ = self.shared.copy.set(copy);
    }

    /// Makes every further write fail, as on a full disk.
    #[cfg(test)]
    pub(crate) fn pretend_to_be_full(&self) {
        self.shared.store.pretend_to_be_full();
    }

    /// Replaces the record of an environment with an unreadable document.
    #[cfg(test)]
    pub(crate) fn spoil(&self, environment: &crate::model::name::EnvironmentName) {
        let (kind, key) = (super::store::DocumentKind::Desired, environment.as_str().as_bytes().to_vec());
        let line = super::store::BatchLine { kind, key, value: Some(b"spoilt".to_vec()) };
        self.shared.store.write(&[line]).unwrap();
    }

    /// The store itself, for tests that damage it.
    #[cfg(test)]
    pub(super) fn shared_store(&self) -> &RecordStore {
        &self.shared.store
    }
}

/// An existing folder is closed to other users too: sled creates its files with the umask's permissions.
fn make_folder(dir: &Path) -> Result<(), OpenError> {
    let failed = |doing| move |source| OpenError::Io { doing, path: dir.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed("creating the folder"))?;
    let metadata = fs::metadata(dir).map_err(failed("inspecting the folder"))?;
    if metadata.permissions().mode() & 0o077 != 0 {
        let closed = fs::Permissions::from_mode(0o700);
        fs::set_permissions(dir, closed).map_err(failed(
            "removing the permissions of other users from \
            the folder",
        ))?;
    }
    Ok(())
}

fn lock_file(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join(LOCK);
    let mut options = OpenOptions::new();
    let opened =
        durable::open(&path, options.write(true).create(true).truncate(false).mode(durable::PRIVATE));
    opened.map_err(|source| OpenError::Io { doing: "locking", path, source })
}

/// Locks the record in `dir` with its lock file.
pub(super) fn lock(file: File, dir: &Path) -> Result<File, OpenError> {
    let path = dir.join(LOCK);
    let failed = |source: io::Error| OpenError::Io { doing: "locking", path: path.clone(), source };
    for attempt in 1..=LOCK_ATTEMPTS {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if attempt == LOCK_ATTEMPTS => {}
            Err(rustix::io::Errno::WOULDBLOCK) => sleep(LOCK_PAUSE),
            Err(error) => return Err(failed(error.into())),
        }
    }
    Err(OpenError::Busy(dir.to_owned()))
}

fn read_mirror(path: &Path) -> Result<Mirrored, OpenError> {
    Mirrored::read(path).map_err(|source| OpenError::Io { doing: "reading", path: path.to_owned(), source })
}

/// Sets an unreadable backup file aside instead of overwriting it: a person may still be able to read some of
/// it.
fn keep_unreadable(path: &Path, mirrored: &Mirrored, notices: &mut Vec<String>) -> Result<(), OpenError> {
    let why = match mirrored {
        Mirrored::Unreadable(why) => why,
        Mirrored::Backup(Backup { damage: Some(why), .. }) => why,
        _ => return Ok(()),
    };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let kept: PathBuf = path.with_extension(format!("json.unreadable-{now}"));
    fs::rename(path, &kept).map_err(|source| OpenError::Io {
        doing: "setting aside",
        path: path.to_owned(),
        source,
    })?;
    notices.push(format!("cannot read the backup file ({why}); it was set aside as `{}`", kept.display()));
    Ok(())
}
