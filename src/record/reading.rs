//! Opens a copy of the record, for commands that only read. Nothing in the record's folder is created or
//! changed, and it is locked only while it is copied.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use tempfile::TempDir;

use super::error::OpenError;
use super::open::{Handles, LOCK, lock, open_with};
use super::recover::{SLED, copy_folder};
use super::store::{RESERVE, is_disk_full};
use super::{identity, import, mirror, owner, stand_in};

/// Opens a copy of the record in the folder `dir`. A missing record opens as an empty one.
///
/// # Errors
/// Returns the errors of [`open`](super::open).
pub fn open_to_read(dir: &Path) -> Result<Handles, OpenError> {
    let copied = copy(dir).map_err(|error| owner::explain(dir, error))?;
    let mut handles = open_with(copied.path(), RESERVE)?;
    // The repairs were made to the copy only.
    handles.notices.clear();
    handles.keep(copied);
    Ok(handles)
}

fn copy(dir: &Path) -> Result<TempDir, OpenError> {
    let place = stand_in::folder(dir, "abide-copy-")?;
    match File::open(dir.join(LOCK)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(place),
        Err(source) => return Err(OpenError::Io { doing: "locking", path: dir.join(LOCK), source }),
        Ok(file) => {
            let _locked = lock(file, dir)?;
            copy_files(dir, place.path())?;
        }
    }
    Ok(place)
}

/// Copies the files of the locked record in `dir` to the folder `place`.
pub(super) fn copy_files(dir: &Path, place: &Path) -> Result<(), OpenError> {
    let failed = |path: &Path, source: io::Error| match is_disk_full(&source) {
        true => OpenError::DiskFull,
        false => OpenError::Io { doing: "copying", path: path.to_owned(), source },
    };
    let sled = dir.join(SLED);
    if sled.exists() {
        copy_folder(&sled, &place.join(SLED)).map_err(|error| failed(&sled, error))?;
    }
    for file in [mirror::FILE, import::UNDER_WAY, identity::FILE] {
        let from = dir.join(file);
        match fs::copy(&from, place.join(file)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&from, error)),
            _ => {}
        }
    }
    Ok(())
}
