//! Keeps the record's id in a separate file. abide recognizes its containers, volumes and images by this id,
//! so that a daemon that lost the store and its backup file neither duplicates nor abandons them.

use std::fs;
use std::io;
use std::path::Path;

use super::error::OpenError;
use super::export::is_id;
use super::store::is_disk_full;
use crate::durable;

/// The file, beside the store.
pub(super) const FILE: &str = "id";

/// Returns the id in the record's folder; `None` if there is none, or no valid one.
///
/// # Errors
/// Returns [`OpenError`] if the file exists but cannot be read. A new id must not replace it.
pub(super) fn read(home: &Path) -> Result<Option<String>, OpenError> {
    let path = home.join(FILE);
    match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(OpenError::Io { doing: "reading", path, source }),
        Ok(bytes) => {
            let id = String::from_utf8(bytes).ok().map(|text| text.trim().to_owned());
            Ok(id.filter(|id| is_id(id)))
        }
    }
}

/// Writes the id, unless the file has it already. It is on disk when this returns.
///
/// # Errors
/// Returns [`OpenError`] if it cannot be written; the file is unchanged then.
pub(super) fn keep(home: &Path, id: &str) -> Result<(), OpenError> {
    if read(home).ok().flatten().as_deref() == Some(id) {
        return Ok(());
    }
    let path = home.join(FILE);
    durable::replace(&path, durable::PRIVATE, format!("{id}\n").as_bytes()).map_err(|source| match source {
        source if is_disk_full(&source) => OpenError::DiskFull,
        source => OpenError::Io { doing: "writing", path, source },
    })
}
