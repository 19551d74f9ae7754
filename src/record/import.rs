//! Replaces the record with an export, or with a copy of the backup file, one environment at a time.
//!
//! A short import is one write. A long one is several: its file is put beside the store first, and if the
//! process ends in between, the next open continues it. So an import is never left half done, and needs no
//! more memory than [`ONE_WRITE`] and the largest environment.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::NamedTempFile;

use super::backup::{Backup, BackupError};
use super::desired::DesiredWriter;
use super::draft::RecordDraft;
use super::error::{RecordError, WriteError};
use super::evidence;
use super::export::{self, EnvironmentExport, Export, ID};
use super::identity;
use super::shared::RecordInner;
use super::store::{DocumentKind, RESERVE, RecordStore, free_space};
use super::wakeup::Wakeup;
use super::{FORMAT, keys};
use crate::model::name::EnvironmentName;
use crate::model::reading;

/// The file of an import that is under way.
pub(super) const UNDER_WAY: &str = "record.importing.json";
/// The prefix of files that are still being received.
pub(super) const RECEIVED: &str = "record.received-";
/// The text of the environments that are written at once, in bytes.
const ONE_WRITE: usize = if cfg!(test) { 64 << 10 } else { 8 << 20 };
/// Free bytes that receiving leaves.
const LEFT_FREE: u64 = 4 * RESERVE;
/// Received bytes after which the free space is checked again.
const CHECKED_EVERY: usize = 1 << 20;

/// An import as it is received, in a file beside the store.
#[derive(Debug)]
pub struct ImportSpool {
    file: NamedTempFile,
    home: PathBuf,
    unchecked: usize,
}

/// The result of an import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedRecord {
    /// The environments that the record has now, ordered by name.
    pub environments: Vec<EnvironmentName>,
    /// Whether the record has another id than before.
    pub is_moved: bool,
}

impl Write for ImportSpool {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.unchecked == 0 && free_space(&self.home).is_some_and(|free| free < LEFT_FREE) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let written = self.file.write(bytes)?;
        self.unchecked += written;
        if self.unchecked >= CHECKED_EVERY {
            self.unchecked = 0;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl DesiredWriter {
    /// Opens a file that receives an import.
    ///
    /// # Errors
    /// Returns [`RecordError`] if it cannot be created.
    pub fn spool(&self) -> Result<ImportSpool, RecordError> {
        let home = self.shared.store.home().to_owned();
        let file =
            tempfile::Builder::new().prefix(RECEIVED).tempfile_in(&home).map_err(RecordError::receiving)?;
        Ok(ImportSpool { file, home, unchecked: 0 })
    }

    /// Replaces every environment's record, history, outcomes and evidence, and the record's id, with the
    /// content of a received export. The backup file is rewritten before this returns.
    ///
    /// # Errors
    /// Returns [`WriteError::Disagreeing`] if the documents contradict each other, and
    /// [`WriteError::NoExport`] if the file is not an export; nothing is changed then.
    pub async fn import_file(&self, spool: ImportSpool) -> Result<ImportedRecord, WriteError> {
        let shared = Arc::clone(&self.shared);
        let done = tokio::task::spawn_blocking(move || import(&shared, spool)).await;
        let imported = done.unwrap_or_else(|error| Err(RecordError::CutOff(error.into()).into()))?;
        self.shared.finish_mirror().await?;
        remove_finished(&self.shared);
        Ok(imported)
    }

    /// The same for an export that is in memory.
    ///
    /// # Errors
    /// See [`DesiredWriter::import_file`].
    pub async fn import(&self, export: Export) -> Result<(), WriteError> {
        let mut spool = self.spool()?;
        let mut writer = BufWriter::new(&mut spool);
        let written = serde_json::to_writer(&mut writer, &export).map_err(io::Error::from);
        written.and_then(|()| writer.flush()).map_err(RecordError::receiving)?;
        drop(writer);
        self.import_file(spool).await.map(drop)
    }
}

/// Finishes an import that was interrupted. Returns the record's new id, or `None` if there was none.
pub(super) fn resume(shared: &RecordInner) -> Result<Option<String>, WriteError> {
    let path = shared.store.home().join(UNDER_WAY);
    if !path.exists() {
        return Ok(None);
    }
    let backup = Backup::read(&path).map_err(refused)?;
    shared.mirror.remove()?;
    apply(shared, &backup)?;
    keep_id(shared, &backup.head.id);
    shared.store.journal.begin_again();
    shared.mirror.wake();
    if shared.mirror.finish() {
        remove_finished(shared);
    }
    Ok(Some(backup.head.id))
}

fn import(shared: &RecordInner, spool: ImportSpool) -> Result<ImportedRecord, WriteError> {
    let backup = Backup::read(spool.file.path()).map_err(refused)?;
    check(&backup)?;
    let stored = shared.store.get(DocumentKind::Meta, ID)?;
    let is_moved = stored.as_deref() != Some(backup.head.id.as_bytes());
    let is_long = backup.length.total() > u64::try_from(ONE_WRITE).unwrap_or(u64::MAX);
    // The backup file may be ahead of the import. If a crash left it there, the next open would take the
    // import for lost writes and undo it.
    shared.mirror.remove()?;
    let applied = if is_long {
        begin(shared, spool).and_then(|backup| apply(shared, &backup))
    } else {
        apply(shared, &backup)
    };
    shared.store.journal.begin_again();
    shared.mirror.wake();
    applied?;
    keep_id(shared, &backup.head.id);
    Ok(ImportedRecord { environments: backup.names.into_iter().collect(), is_moved })
}

fn check(backup: &Backup) -> Result<(), WriteError> {
    if let Some(why) = &backup.damage {
        return Err(WriteError::NoExport(why.clone()));
    }
    export::check_head(&backup.head)?;
    let each = |environment: serde_json::Result<EnvironmentExport>, _| {
        let environment = environment.map_err(|error| WriteError::NoExport(reading::words(&error)))?;
        export::check_environment(&environment)
    };
    backup.environments(each)
}

/// Puts the file of a long import at the path that the next open reads.
fn begin(shared: &RecordInner, spool: ImportSpool) -> Result<Backup, WriteError> {
    let (home, path) = (shared.store.home(), shared.store.home().join(UNDER_WAY));
    let put = || -> io::Result<()> {
        spool.file.as_file().sync_all()?;
        spool.file.persist(&path)?;
        File::open(home)?.sync_all()
    };
    put().map_err(RecordError::receiving)?;
    Backup::read(&path).map_err(refused)
}

/// Writes the imported id to its own file. If that fails, the next open does it.
fn keep_id(shared: &RecordInner, id: &str) {
    if let Err(error) = identity::keep(shared.store.home(), id) {
        let error: &(dyn std::error::Error + 'static) = &error;
        tracing::warn!(error, "cannot write the id of the imported record to its file");
    }
}

/// The backup file has everything that was imported.
fn remove_finished(shared: &RecordInner) {
    let path = shared.store.home().join(UNDER_WAY);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "cannot remove the file of a finished import");
        }
        _ => {}
    }
}

/// Removes incomplete imports of a killed process.
pub(super) fn remove_received(home: &Path) {
    for entry in fs::read_dir(home).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(RECEIVED) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Writes the environments in groups, and removes those that the export does not have.
fn apply(shared: &RecordInner, backup: &Backup) -> Result<(), WriteError> {
    let mut group = Vec::new();
    let mut length = 0;
    backup.environments(|environment, text| {
        let environment = environment.map_err(|error| WriteError::NoExport(reading::words(&error)))?;
        group.push(environment);
        length += text;
        if length < ONE_WRITE {
            return Ok(());
        }
        length = 0;
        let group = std::mem::take(&mut group);
        shared.write_now(|draft| replace(draft, &group))
    })?;
    shared.write_now(|draft| {
        replace(draft, &group)?;
        finish(draft, backup)
    })
}

/// Drafts the replacement of these environments.
fn replace(draft: &mut RecordDraft<'_>, group: &[EnvironmentExport]) -> Result<(), WriteError> {
    // Nothing of an imported record is announced.
    draft.derive_nothing();
    for environment in group {
        let name = &environment.desired.environment;
        remove(draft, name)?;
        draft.put_desired(&environment.desired)?;
        export::put_history(draft, name, &environment.history)?;
        evidence::restore(draft, &environment.evidence, true)?;
    }
    Ok(())
}

/// Drafts the removal of the environments that `backup` does not have, and its id.
fn finish(draft: &mut RecordDraft<'_>, backup: &Backup) -> Result<(), WriteError> {
    for name in names(draft.store())? {
        if !backup.names.contains(&name) {
            remove(draft, &name)?;
            draft.notify(Wakeup::Desired(name));
        }
    }
    for kind in [DocumentKind::Standings, DocumentKind::Awaited] {
        for pair in draft.store().pairs(kind, b"") {
            draft.remove(kind, pair?.0);
        }
    }
    draft.put_bytes(DocumentKind::Meta, ID.to_vec(), backup.head.id.clone().into_bytes());
    draft.counters.serial = draft.counters.serial.max(backup.head.serial);
    draft.put_serial();
    Ok(())
}

/// Every environment with an exported document.
fn names(store: &RecordStore) -> Result<BTreeSet<EnvironmentName>, RecordError> {
    let mut found = BTreeSet::new();
    for kind in DocumentKind::EXPORTED {
        for pair in store.pairs(kind, b"") {
            let (key, _) = pair?;
            found.extend(keys::name(&key).or(keys::split(&key).map(|(name, _)| name)));
        }
    }
    Ok(found)
}

fn remove(draft: &mut RecordDraft<'_>, name: &EnvironmentName) -> Result<(), RecordError> {
    for kind in DocumentKind::EXPORTED {
        draft.remove(kind, name.as_str().as_bytes().to_vec());
        for pair in draft.store().pairs(kind, &keys::all_of(name)) {
            draft.remove(kind, pair?.0);
        }
    }
    Ok(())
}

impl From<BackupError> for WriteError {
    fn from(error: BackupError) -> Self {
        refused(error)
    }
}

fn refused(error: BackupError) -> WriteError {
    match error {
        BackupError::Io(error) => RecordError::receiving(error).into(),
        BackupError::Unreadable(why) => WriteError::NoExport(why),
        BackupError::Disagreeing(why) => WriteError::Disagreeing(why),
        BackupError::TooNew(format) => {
            WriteError::Disagreeing(format!("its format is {format}, but this abide reads {FORMAT}"))
        }
    }
}
