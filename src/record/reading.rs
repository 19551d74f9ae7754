//! Opens a copy of the record, for commands that only read. Nothing in the record's folder is created or
//! changed, and it is locked only while it is copied.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use tempfile::TempDir;

use super::error::OpenError;
use super::open::{Handles, LOCK, lock, open_with};
use super::recover::{SLED, copy_folder};
use super::store::RESERVE;
use super::{identity, import, mirror, owner};

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
    let failed = |doing| move |source| OpenError::Io { doing, path: dir.to_owned(), source };
    let place = tempfile::tempdir().map_err(failed("copying"))?;
    match File::open(dir.join(LOCK)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(place),
        Err(source) => return Err(OpenError::Io { doing: "locking", path: dir.join(LOCK), source }),
        Ok(file) => {
            let _locked = lock(file, dir)?;
            let (sled, copied) = (dir.join(SLED), place.path().join(SLED));
            if sled.exists() {
                copy_folder(&sled, &copied).map_err(|source| OpenError::Io {
                    doing: "copying",
                    path: sled,
                    source,
                })?;
            }
            for file in [mirror::FILE, import::UNDER_WAY, identity::FILE] {
                let (from, to) = (dir.join(file), place.path().join(file));
                match fs::copy(&from, to) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(OpenError::Io { doing: "copying", path: from, source: error });
                    }
                    _ => {}
                }
            }
        }
    }
    Ok(place)
}
