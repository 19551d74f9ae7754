//! Opening the record and dealing out the handles.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;
use tokio::sync::watch;

use super::bell::Bells;
use super::check::{self, Mirrored};
use super::desired::DesiredWriter;
use super::error::{OpenError, RecordError};
use super::hearer::Hearer;
use super::mirror::{self, Mirror};
use super::owner::{self, Owner};
use super::reader::DesiredReader;
use super::recover::{self, SLED};
use super::reopen::Reopener;
use super::replica::Replica;
use super::resolver::Resolver;
use super::shared::Shared;
use super::status::StatusWriter;
use super::status_reader::StatusReader;
use super::store::{RESERVE, Store, free_space};
use super::token::{TokenReader, TokenWriter};

/// The file whose lock says that a process has the record open. sled's own lock is taken too
/// late: files that are no process's are removed before sled is asked.
pub(super) const LOCK: &str = "lock";
/// How often, and how long apart, the lock is tried: a process that ends may still hold it.
const LOCK_TRIES: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// The opened record. Each handle is cheap to clone, and all of them share one store, which is
/// flushed and closed when the last of them is dropped.
#[derive(Clone)]
pub struct Handles {
    /// The record's id: 32 hexadecimal digits, made when it was first opened and kept by export,
    /// import and mirror. After an import of another record it is that record's, and is seen here
    /// at the next open.
    pub id: String,
    /// For webhooks, promotions and people.
    pub writer: DesiredWriter,
    /// For the loop.
    pub resolver: Resolver,
    /// For an agent, where this record is the copy of another.
    pub replica: Replica,
    /// For the link to agents.
    pub hearer: Hearer,
    /// For everyone.
    pub desired: DesiredReader,
    /// For the loop.
    pub status_writer: StatusWriter,
    /// For everyone.
    pub status: StatusReader,
    /// For administrators.
    pub token_writer: TokenWriter,
    /// For the door.
    pub tokens: TokenReader,
    /// For everyone who waits for changes.
    pub bells: Bells,
    /// What had to be repaired, in sentences.
    pub notices: Vec<String>,
    shared: Arc<Shared>,
}

/// Opens the record in the folder `dir`, which is made where it is missing, and repairs what a
/// crash or a bad disk left of it.
///
/// # Errors
/// [`OpenError::Busy`] where another process has it open, [`OpenError::TooNew`] where a newer
/// abide wrote it, others where the disk does not play along.
pub fn open(dir: &Path) -> Result<Handles, OpenError> {
    open_with(dir, RESERVE).map_err(|error| owner::explain(dir, error))
}

/// [`open`], with the number of bytes that must be free for anything to be written.
pub(super) fn open_with(dir: &Path, reserve: u64) -> Result<Handles, OpenError> {
    make_folder(dir)?;
    let lock = lock(lock_file(dir)?, dir)?;
    if free_space(dir).is_some_and(|free| free < reserve) {
        return Err(OpenError::DiskFull);
    }
    let mut notices = Vec::new();
    let mirrored = read_mirror(&dir.join(mirror::FILE))?;
    let db = recover::open_sled(dir, &mut notices)?;
    let store = Arc::new(Store::new(db, &dir.join(SLED), reserve).map_err(OpenError::Check)?);
    let checked = check::check(&store, &mirrored, &mut notices)?;
    keep_unreadable(&dir.join(mirror::FILE), &mirrored, &mut notices)?;
    let mirror = Mirror::start(dir, Arc::clone(&store)).map_err(|source| OpenError::Io {
        doing: "starting the mirror in",
        path: dir.to_owned(),
        source,
    })?;
    if checked.is_mirror_behind {
        mirror.wake();
    }
    let (bells, tokens) = (Bells::new(), watch::Sender::new(0));
    let reopener = Reopener::start(dir, Arc::clone(&store)).map_err(|source| OpenError::Io {
        doing: "starting the repair of",
        path: dir.to_owned(),
        source,
    })?;
    let _owner = Owner::of(dir);
    let written = Mutex::default();
    let shared = Shared {
        mirror,
        _reopener: reopener,
        store,
        bells,
        tokens,
        written,
        _owner,
        _lock: lock,
        copy: OnceLock::new(),
    };
    Ok(deal(checked.id, shared, notices))
}

fn deal(id: String, shared: Shared, notices: Vec<String>) -> Handles {
    let shared = Arc::new(shared);
    Handles {
        id,
        writer: DesiredWriter { shared: Arc::clone(&shared) },
        resolver: Resolver { shared: Arc::clone(&shared), proposes: false },
        replica: Replica { shared: Arc::clone(&shared) },
        hearer: Hearer { shared: Arc::clone(&shared) },
        desired: DesiredReader { shared: Arc::clone(&shared) },
        status_writer: StatusWriter { shared: Arc::clone(&shared) },
        status: StatusReader { shared: Arc::clone(&shared) },
        token_writer: TokenWriter { shared: Arc::clone(&shared) },
        tokens: TokenReader { shared: Arc::clone(&shared) },
        bells: shared.bells.clone(),
        notices,
        shared,
    }
}

impl Handles {
    /// Returns once the mirror holds everything that was written. The store needs no closing:
    /// every write is on disk before it returns.
    ///
    /// # Errors
    /// [`RecordError`] where the program ends before that.
    pub async fn close(self) -> Result<(), RecordError> {
        self.shared.finish_mirror().await
    }

    /// Keeps the folder of a copy for as long as it is read.
    pub(super) fn keep(&self, copy: TempDir) {
        // There is one at most, set as it is opened.
        let _ = self.shared.copy.set(copy);
    }

    /// From now on nothing can be written, as on a full disk.
    #[cfg(test)]
    pub(crate) fn pretend_to_be_full(&self) {
        self.shared.store.pretend_to_be_full();
    }

    /// Replaces the record of an environment by something that makes no sense.
    #[cfg(test)]
    pub(crate) fn spoil(&self, environment: &crate::model::name::EnvironmentName) {
        let (kind, key) = (super::store::Kind::Desired, environment.as_str().as_bytes().to_vec());
        let line = super::store::Line { kind, key, value: Some(b"spoilt".to_vec()) };
        self.shared.store.write(&[line]).unwrap();
    }

    /// The store itself, for tests that damage it.
    #[cfg(test)]
    pub(super) fn shared_store(&self) -> &Store {
        &self.shared.store
    }
}

/// One that was there already is closed to others too: sled makes its files as the umask says.
fn make_folder(dir: &Path) -> Result<(), OpenError> {
    let failed = |doing| move |source| OpenError::Io { doing, path: dir.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed("making the folder"))?;
    let metadata = fs::metadata(dir).map_err(failed("looking at the folder"))?;
    if metadata.permissions().mode() & 0o077 != 0 {
        let closed = fs::Permissions::from_mode(0o700);
        fs::set_permissions(dir, closed).map_err(failed("closing to others the folder"))?;
    }
    Ok(())
}

fn lock_file(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join(LOCK);
    let mut options = OpenOptions::new();
    let opened = options.write(true).create(true).truncate(false).mode(0o600).open(&path);
    opened.map_err(|source| OpenError::Io { doing: "locking", path, source })
}

/// Locks the record in `dir` by its file.
pub(super) fn lock(file: File, dir: &Path) -> Result<File, OpenError> {
    let path = dir.join(LOCK);
    let failed = |source: io::Error| OpenError::Io { doing: "locking", path: path.clone(), source };
    for attempt in 1..=LOCK_TRIES {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if attempt == LOCK_TRIES => {}
            Err(rustix::io::Errno::WOULDBLOCK) => sleep(LOCK_PAUSE),
            Err(error) => return Err(failed(error.into())),
        }
    }
    Err(OpenError::Busy(dir.to_owned()))
}

fn read_mirror(path: &Path) -> Result<Mirrored, OpenError> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Mirrored::Missing),
        Err(source) => Err(OpenError::Io { doing: "reading", path: path.to_owned(), source }),
        Ok(bytes) => Ok(Mirrored::parse(&bytes)),
    }
}

/// A mirror that makes no sense is not overwritten: it may hold what a person can still read.
fn keep_unreadable(path: &Path, mirrored: &Mirrored, notices: &mut Vec<String>) -> Result<(), OpenError> {
    let Mirrored::Unreadable(why) = mirrored else { return Ok(()) };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let kept: PathBuf = path.with_extension(format!("json.unreadable-{now}"));
    fs::rename(path, &kept).map_err(|source| OpenError::Io {
        doing: "setting aside",
        path: path.to_owned(),
        source,
    })?;
    notices.push(format!("the mirror could not be read ({why}) and was set aside as `{}`", kept.display()));
    Ok(())
}
