//! Opens sled, whatever a crash or a bad disk left of its files.
//!
//! sled 0.34 cannot open a store that was killed while it wrote a snapshot, although its log is intact. The
//! incomplete snapshot is removed first. If that does not help, the store is opened without any snapshot. If
//! that fails too, it is set aside and rebuilt from its readable documents.

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use super::error::OpenError;
use super::store::{DocumentKind, is_disk_full};
use crate::durable;

/// The folder of sled's files, in the record's folder.
pub(super) const SLED: &str = "sled";
/// sled's cache in bytes: larger than any record, and far smaller than sled's default of one gigabyte.
const CACHE: u64 = 32 << 20;
/// The interval of sled's background work; every write is flushed anyway.
const HOUSEKEEPING: Duration = Duration::from_secs(5);
/// Attempts to take a lock that a closing process may still hold, and the pause between them.
const LOCK_ATTEMPTS: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// The reason why one attempt failed.
enum OpenFailure {
    /// The files are damaged, and how.
    Damaged(String),
    /// Another error, which no repair fixes.
    Other(OpenError),
}

/// Opens the store in the record's folder `home`, and adds its repairs to `notices`.
pub(super) fn open_sled(home: &Path, notices: &mut Vec<String>) -> Result<sled::Db, OpenError> {
    let dir = home.join(SLED);
    reject_links(&dir)?;
    remove_snapshots(&dir, ".generating", notices)?;
    match attempt(&dir) {
        Ok(db) => check_pages(home, db, notices),
        Err(OpenFailure::Other(error)) => Err(error),
        Err(OpenFailure::Damaged(how)) => without_snapshots(home, &how, notices),
    }
}

/// Tries again from the log alone, and keeps a copy of the files.
fn without_snapshots(home: &Path, how: &str, notices: &mut Vec<String>) -> Result<sled::Db, OpenError> {
    let dir = home.join(SLED);
    let copy = aside(home);
    copy_folder(&dir, &copy).map_err(|error| failed("copying", &dir, error))?;
    notices
        .push(format!("cannot open the store ({how}); a copy of its files is kept in `{}`", copy.display()));
    remove_snapshots(&dir, "", notices)?;
    match attempt(&dir) {
        Ok(db) => check_pages(home, db, notices),
        Err(OpenFailure::Other(error)) => Err(error),
        Err(OpenFailure::Damaged(_)) => {
            fs::remove_dir_all(&dir).map_err(|error| failed("removing", &dir, error))?;
            notices.push("cannot open the store without its snapshot either; it was created again".into());
            fresh(&dir, &[])
        }
    }
}

/// Reads everything once. Only that reveals damage in the middle of the files, which would later fail single
/// reads or writes.
fn check_pages(home: &Path, db: sled::Db, notices: &mut Vec<String>) -> Result<sled::Db, OpenError> {
    if guarded(|| is_readable(&db)).unwrap_or(false) {
        return Ok(db);
    }
    let pairs = guarded(|| Ok(salvage(&db))).unwrap_or_default();
    drop(db);
    let (dir, moved) = (home.join(SLED), aside(home));
    fs::rename(&dir, &moved).map_err(|error| failed("setting aside", &dir, error))?;
    notices.push(format!(
        "parts of the store are unreadable; it was set aside as `{}` and created again with the {} \
        readable documents",
        moved.display(),
        pairs.len()
    ));
    fresh(&dir, &pairs)
}

type SledDocument = (DocumentKind, sled::IVec, sled::IVec);

/// Whether everything is readable. It keeps nothing in memory.
fn is_readable(db: &sled::Db) -> sled::Result<bool> {
    for kind in DocumentKind::ALL {
        if db.open_tree(kind.name())?.iter().any(|pair| pair.is_err()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Everything that is readable from either end of each tree.
fn salvage(db: &sled::Db) -> Vec<SledDocument> {
    let mut documents = Vec::new();
    for kind in DocumentKind::ALL {
        let Ok(tree) = db.open_tree(kind.name()) else { continue };
        let (front, is_all) = readable(tree.iter());
        let (back, _) = if is_all { Default::default() } else { readable(tree.iter().rev()) };
        documents.extend(front.into_iter().chain(back).map(|(key, value)| (kind, key, value)));
    }
    documents
}

/// The items before the first error, which sled's iterator would only repeat.
fn readable(
    pairs: impl Iterator<Item = sled::Result<(sled::IVec, sled::IVec)>>,
) -> (Vec<(sled::IVec, sled::IVec)>, bool) {
    let mut read = Vec::new();
    for pair in pairs {
        let Ok(pair) = pair else { return (read, false) };
        read.push(pair);
    }
    (read, true)
}

fn fresh(dir: &Path, documents: &[SledDocument]) -> Result<sled::Db, OpenError> {
    let db = attempt(dir).map_err(|failure| match failure {
        OpenFailure::Damaged(how) => OpenError::Store(how.into()),
        OpenFailure::Other(error) => error,
    })?;
    let restore = || -> sled::Result<()> {
        for (kind, key, value) in documents {
            db.open_tree(kind.name())?.insert(key, value)?;
        }
        db.flush().map(|_| ())
    };
    restore().map_err(|error| OpenError::Store(error.into()))?;
    Ok(db)
}

fn attempt(dir: &Path) -> Result<sled::Db, OpenFailure> {
    let every = u64::try_from(HOUSEKEEPING.as_millis()).unwrap_or(u64::MAX);
    let config = sled::Config::new().path(dir).cache_capacity(CACHE).flush_every_ms(Some(every));
    for _ in 1..LOCK_ATTEMPTS {
        match guarded(|| config.open()) {
            Err(error) if is_locked(&error) => sleep(LOCK_PAUSE),
            done => return done.map_err(|error| classify(dir, error)),
        }
    }
    guarded(|| config.open()).map_err(|error| classify(dir, error))
}

/// Treats a panic of sled as damage: sled asserts instead of reporting errors.
fn guarded<T>(work: impl FnOnce() -> sled::Result<T>) -> sled::Result<T> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(sled::Error::ReportableBug("sled panicked while reading its files".into())))
}

fn is_locked(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(error) if error.to_string().contains("could not acquire lock"))
}

fn classify(dir: &Path, error: sled::Error) -> OpenFailure {
    use io::ErrorKind::{InvalidData, UnexpectedEof};
    match error {
        sled::Error::Corruption { .. } => OpenFailure::Damaged("its files are damaged".to_owned()),
        sled::Error::ReportableBug(what) => OpenFailure::Damaged(what),
        sled::Error::Io(error) if matches!(error.kind(), InvalidData | UnexpectedEof) => {
            OpenFailure::Damaged(error.to_string())
        }
        error if is_locked(&error) => OpenFailure::Other(OpenError::Busy(dir.to_owned())),
        sled::Error::Io(error) => OpenFailure::Other(failed("opening the store in", dir, error)),
        error => OpenFailure::Other(OpenError::Store(error.into())),
    }
}

/// Removes the snapshots whose names end with `ending`. sled recreates them from its log.
fn remove_snapshots(dir: &Path, ending: &str, notices: &mut Vec<String>) -> Result<(), OpenError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|error| failed("reading", dir, error))?,
    };
    for entry in entries {
        let entry = entry.map_err(|error| failed("reading", dir, error))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("snap.") && name.ends_with(ending) {
            fs::remove_file(entry.path()).map_err(|error| failed("removing", &entry.path(), error))?;
            notices.push(format!("removed the store's snapshot `{name}`, which sled recreates"));
        }
    }
    Ok(())
}

/// An unused name for files that are set aside.
fn aside(home: &Path) -> PathBuf {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let named = |number: u32| match number {
        0 => home.join(format!("{SLED}.damaged-{now}")),
        number => home.join(format!("{SLED}.damaged-{now}-{number}")),
    };
    (0..).map(named).find(|path| !path.exists()).unwrap_or_else(|| named(u32::MAX))
}

pub(super) fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let copy = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &copy)?;
        } else {
            fs::copy(entry.path(), copy)?;
        }
    }
    Ok(())
}

/// sled opens its files itself, and would write through a link.
fn reject_links(dir: &Path) -> Result<(), OpenError> {
    let reject = |path: &Path| durable::reject_link(path).map_err(|error| failed("opening", path, error));
    reject(dir)?;
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        reject(&entry.path())?;
    }
    Ok(())
}

fn failed(doing: &'static str, path: &Path, source: io::Error) -> OpenError {
    if is_disk_full(&source) {
        return OpenError::DiskFull;
    }
    OpenError::Io { doing, path: path.to_owned(), source }
}
