//! Opens the record of a full disk. sled writes a snapshot whenever it opens, so it cannot open its files there.
//! A copy on another disk or in memory is opened instead: reads are answered from it, and writes are rejected,
//! until [`super::reopen`] finds space and opens the record itself.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::check::{self, Checked, Mirrored};
use super::error::OpenError;
use super::store::{DocumentKind, RESERVE, RecordStore, free_space};
use super::{export, identity, import, mirror, reading, recover};

/// A file system in memory that every Linux host has.
const MEMORY: &str = "/dev/shm";

/// Opens a copy of the record in `dir`, of which at least `reserve` bytes would have to be free.
///
/// # Errors
/// Returns [`OpenError::DiskFull`] if the record must first be repaired or its import finished, or if no other
/// disk has space for the copy.
pub(super) fn open(dir: &Path, reserve: u64) -> Result<(RecordStore, Checked), OpenError> {
    let id = identity::read(dir)?.filter(|_| !dir.join(import::UNDER_WAY).exists());
    let id = id.ok_or(OpenError::DiskFull)?;
    remove_left(&id);
    let copy = folder(dir, &prefix(&id))?;
    reading::copy_files(dir, copy.path())?;
    // Opening the record itself reports the repairs that remain.
    let mut repairs = Vec::new();
    let db = recover::open_sled(copy.path(), &mut repairs)?;
    let mut store = RecordStore::new(db, &copy.path().join(recover::SLED), 0)?;
    if store.get(DocumentKind::Meta, export::ID)?.is_none() {
        return Err(OpenError::DiskFull);
    }
    let path = copy.path().join(mirror::FILE);
    let mirrored =
        Mirrored::read(&path).map_err(|source| OpenError::Io { doing: "reading", path, source })?;
    let checked = check::check(&store, &mirrored, &mut repairs)?;
    store.stand_in_for(&dir.join(recover::SLED), reserve, copy);
    Ok((store, checked))
}

/// Removes the copies that a killed process has left. The caller has locked the record `id`.
pub(super) fn remove_left(id: &str) {
    let prefix = prefix(id);
    for entry in places().iter().flat_map(fs::read_dir).flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Creates a folder for a copy of the record in `dir`, on the first disk that has space for it.
pub(super) fn folder(dir: &Path, prefix: &str) -> Result<TempDir, OpenError> {
    // sled writes its snapshot beside the log.
    let needed = 2 * (length(&dir.join(recover::SLED)) + length(dir)) + RESERVE;
    let has_space = |place: &PathBuf| place.is_dir() && free_space(place).is_none_or(|free| free >= needed);
    let place = places().into_iter().find(has_space).ok_or(OpenError::DiskFull)?;
    let created = tempfile::Builder::new().prefix(prefix).tempdir_in(&place);
    created.map_err(|source| OpenError::Io { doing: "creating a folder in", path: place, source })
}

fn places() -> [PathBuf; 2] {
    [std::env::temp_dir(), PathBuf::from(MEMORY)]
}

/// The prefix of the names of the copies of a record.
fn prefix(id: &str) -> String {
    format!("abide-{id}-")
}

/// The bytes of the files in a folder, without its subfolders.
fn length(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.metadata().ok())
        .filter(fs::Metadata::is_file)
        .map(|file| file.len())
        .sum()
}
