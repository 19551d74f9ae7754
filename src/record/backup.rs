//! The backup file `record.json`: an export, and after it one line for each later write.
//!
//! The export is the readable document that `abide export` prints. A change appends one line of JSON with the
//! documents that it wrote, so it costs as much as the change and not as much as the record:
//!
//! ```json
//! {"serial":12,"changed":[{"kind":"desired","environment":"dev","document":{...}},
//!                         {"kind":"history","environment":"dev","number":1}]}
//! ```
//!
//! A line without a `document` removes it. Lines name whole documents, so applying one twice changes nothing.
//! A crash may leave an incomplete last line; its write was not acknowledged, and reading ignores it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::error::RecordError;
use super::export::{EnvironmentExport, ExportHead};
use super::scan::{self, ScanError};
use super::store::{BatchLine, DocumentKind, HIGHEST};
use super::{FORMAT, keys};
use crate::model::desired::{Desired, HistoryEntry};
use crate::model::evidence::Evidence;
use crate::model::name::{EnvironmentName, Generation};
use crate::model::reading;

/// The kinds of documents in the lines after the export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum BackupKind {
    Desired,
    History,
    Outcomes,
    Evidence,
    Rejections,
}

/// One line after the export.
#[derive(Debug, Serialize, Deserialize)]
struct ChangeLine {
    /// The number of the write.
    serial: u64,
    changed: Vec<ChangedDocument>,
}

/// A document as a write left it.
#[derive(Debug, Serialize, Deserialize)]
struct ChangedDocument {
    kind: BackupKind,
    environment: EnvironmentName,
    /// The generation, or the number of the evidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    number: Option<u64>,
    /// `None`: it was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    document: Option<Box<RawValue>>,
}

/// Encodes a write as a line of the backup file. `None`: a document has no such form.
pub(super) fn line(serial: u64, written: &[BatchLine]) -> Option<Vec<u8>> {
    let changed = written.iter().filter(|line| line.kind.is_mirrored()).map(ChangedDocument::of);
    let changed = changed.collect::<Option<_>>()?;
    let mut line = serde_json::to_vec(&ChangeLine { serial, changed }).ok()?;
    line.push(b'\n');
    Some(line)
}

impl ChangedDocument {
    fn of(written: &BatchLine) -> Option<Self> {
        let kind = match written.kind {
            DocumentKind::Desired => BackupKind::Desired,
            DocumentKind::History => BackupKind::History,
            DocumentKind::Outcomes => BackupKind::Outcomes,
            DocumentKind::Evidence => BackupKind::Evidence,
            DocumentKind::Rejections => BackupKind::Rejections,
            _ => return None,
        };
        let (environment, number) = match kind {
            BackupKind::Desired => (keys::name(&written.key)?, None),
            _ => keys::split(&written.key).map(|(name, number)| (name, Some(number)))?,
        };
        let document = match &written.value {
            Some(value) => Some(RawValue::from_string(String::from_utf8(value.clone()).ok()?).ok()?),
            None => None,
        };
        Some(Self { kind, environment, number, document })
    }
}

/// The latest documents of an environment that changed after the export.
type EnvironmentChanges = BTreeMap<(BackupKind, Option<u64>), Option<Box<RawValue>>>;

/// The lengths of the parts of a backup file, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct BackupLength {
    pub(super) export: u64,
    pub(super) changes: u64,
}

impl BackupLength {
    pub(super) fn total(self) -> u64 {
        self.export + self.changes
    }
}

/// A readable backup file, or an export. Only its changes are in memory; its environments are read from the
/// file one at a time.
#[derive(Debug)]
pub(super) struct Backup {
    path: PathBuf,
    /// The head of the export, with the number of the last write in the file.
    pub(super) head: ExportHead,
    /// Its environments.
    pub(super) names: BTreeSet<EnvironmentName>,
    changes: BTreeMap<EnvironmentName, EnvironmentChanges>,
    /// The lengths of its parts; without changes if its end is unreadable, so that nothing is appended to it.
    pub(super) length: BackupLength,
    /// Why the end of the file is unreadable, unless the last line is only incomplete.
    pub(super) damage: Option<String>,
}

/// Why a backup file cannot be used.
#[derive(Debug)]
pub(super) enum BackupError {
    /// The file could not be read.
    Io(io::Error),
    /// It is not an export, and why.
    Unreadable(String),
    /// Its documents contradict each other, and how.
    Disagreeing(String),
    /// A later abide wrote it.
    TooNew(u32),
}

/// The part of an environment that an outline needs.
#[derive(Deserialize)]
struct NamedEnvironment {
    desired: NamedDesired,
}

#[derive(Deserialize)]
struct NamedDesired {
    environment: EnvironmentName,
}

impl From<BackupError> for RecordError {
    fn from(error: BackupError) -> Self {
        let what = "the backup file";
        match error {
            BackupError::Io(error) => Self::unreadable(what, error),
            BackupError::Unreadable(why) | BackupError::Disagreeing(why) => Self::unreadable(what, why),
            BackupError::TooNew(format) => Self::unreadable(what, format!("its format is {format}")),
        }
    }
}

impl Backup {
    /// Reads the outline of the file, and its changes.
    pub(super) fn read(path: &Path) -> Result<Self, BackupError> {
        let file = File::open(path).map_err(BackupError::Io)?;
        let mut names = BTreeSet::new();
        let each = |NamedEnvironment { desired }: NamedEnvironment| {
            let twice = format!("it contains `{}` twice", desired.environment);
            if names.insert(desired.environment) { Ok(()) } else { Err(twice) }
        };
        let (head, rest) = scan::export(BufReader::new(file), each).map_err(|error| match error {
            ScanError::Json(error) => BackupError::Unreadable(reading::words(&error)),
            ScanError::Refused(why) => BackupError::Disagreeing(why),
            ScanError::TooNew(format) => BackupError::TooNew(format),
        })?;
        if head.format > FORMAT {
            return Err(BackupError::TooNew(head.format));
        }
        if head.serial > HIGHEST {
            return Err(BackupError::Disagreeing(format!(
                "its `serial` is more than {HIGHEST}: no write could follow"
            )));
        }
        let mut backup = Self {
            path: path.to_owned(),
            head,
            names,
            changes: BTreeMap::new(),
            length: BackupLength::default(),
            damage: None,
        };
        let mut lines = rest.into_iter::<ChangeLine>();
        backup.length.export = offset(lines.byte_offset());
        loop {
            match lines.next() {
                Some(Ok(line)) if line.serial > HIGHEST => {
                    backup.damage = Some(format!("a write has a number above {HIGHEST}"));
                    break;
                }
                Some(Ok(line)) => backup.add(line),
                Some(Err(error)) => {
                    backup.damage = (!error.is_eof()).then(|| error.to_string());
                    break;
                }
                None => {
                    // Only now it includes the end of the last line.
                    backup.length.changes = offset(lines.byte_offset()).saturating_sub(backup.length.export);
                    break;
                }
            }
        }
        Ok(backup)
    }

    /// Whether it has every write of the record with this id, up to `serial`, and nothing unreadable.
    pub(super) fn has_everything(&self, id: &str, serial: u64) -> bool {
        self.head.id == id && self.head.serial == serial && self.damage.is_none()
    }

    fn add(&mut self, ChangeLine { serial, changed }: ChangeLine) {
        self.head.serial = self.head.serial.max(serial);
        for ChangedDocument { kind, environment, number, document } in changed {
            match (kind, &document) {
                (BackupKind::Desired, Some(_)) => drop(self.names.insert(environment.clone())),
                (BackupKind::Desired, None) => drop(self.names.remove(&environment)),
                _ => {}
            }
            self.changes.entry(environment).or_default().insert((kind, number), document);
        }
    }

    /// Reads the environments, one at a time, each with the length of its text. Each unreadable one is a
    /// separate error.
    ///
    /// # Errors
    /// The error of `each`, or of the file.
    pub(super) fn environments<E>(
        &self,
        mut each: impl FnMut(serde_json::Result<EnvironmentExport>, usize) -> Result<(), E>,
    ) -> Result<(), E>
    where
        E: From<BackupError>,
    {
        let file = File::open(&self.path).map_err(BackupError::Io)?;
        let mut new: BTreeSet<_> = self.names.iter().collect();
        let one = |text: Box<RawValue>| {
            let parsed = serde_json::from_str::<EnvironmentExport>(text.get());
            let patched = parsed.and_then(|parsed| {
                let name = parsed.desired.environment.clone();
                new.remove(&name);
                match self.changes.get(&name) {
                    Some(changes) => patched(Some(parsed), changes),
                    None => Ok(Some(parsed)),
                }
            });
            patched.transpose().map_or(Ok(()), |environment| each(environment, text.get().len()))
        };
        let scanned = scan::export(BufReader::new(file), one);
        if let Err(error) = scanned {
            return Err(match error {
                ScanError::Json(error) => BackupError::Unreadable(reading::words(&error)).into(),
                ScanError::TooNew(format) => BackupError::TooNew(format).into(),
                ScanError::Refused(error) => error,
            });
        }
        for name in new {
            let Some(changes) = self.changes.get(name) else { continue };
            if let Some(environment) = patched(None, changes).transpose() {
                each(environment, 0)?;
            }
        }
        Ok(())
    }
}

fn offset(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// The environment after its changes; `None` if it was removed.
fn patched(
    before: Option<EnvironmentExport>,
    changes: &EnvironmentChanges,
) -> serde_json::Result<Option<EnvironmentExport>> {
    let (mut desired, history, evidence) = match before {
        Some(EnvironmentExport { desired, history, evidence }) => (Some(desired), history, evidence),
        None => (None, Vec::new(), Vec::new()),
    };
    let by_generation = history.into_iter().map(|kept| (kept.entry.generation.0, kept));
    let mut history: BTreeMap<u64, HistoryEntry> = by_generation.collect();
    let (mut numbered, mut evidence): (Vec<Evidence>, Vec<_>) =
        evidence.into_iter().partition(|found| found.sequence > 0);
    for ((kind, number), document) in changes {
        let text = document.as_ref().map(|document| document.get());
        let number = number.unwrap_or_default();
        match kind {
            BackupKind::Desired => desired = parse::<Desired>(text)?,
            BackupKind::History => match parse(text)? {
                Some(entry) => {
                    let outcome = history.remove(&number).and_then(|kept| kept.outcome);
                    history.insert(number, HistoryEntry { entry, outcome });
                }
                None => drop(history.remove(&number)),
            },
            BackupKind::Outcomes => {
                let outcome = parse(text)?;
                if let Some(kept) = history.get_mut(&number) {
                    kept.outcome = outcome;
                }
            }
            BackupKind::Evidence | BackupKind::Rejections => {
                numbered.retain(|found| found.sequence != number);
                numbered.extend(parse::<Evidence>(text)?);
            }
        }
    }
    history.remove(&Generation::default().0);
    numbered.sort_by_key(|found| found.sequence);
    evidence.extend(numbered);
    let history = history.into_values().rev().collect();
    Ok(desired.map(|desired| EnvironmentExport { desired, history, evidence }))
}

fn parse<T: serde::de::DeserializeOwned>(text: Option<&str>) -> serde_json::Result<Option<T>> {
    text.map(serde_json::from_str).transpose()
}
