//! The whole record as one document: for backups, for another host, and for the backup file. It is written and
//! checked one environment at a time, so that its size does not matter.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::ser::{SerializeSeq as _, SerializeStruct};
use serde::{Deserialize, Serialize, Serializer};

use super::draft::RecordDraft;
use super::error::{RecordError, WriteError};
use super::evidence;
use super::store::{DocumentKind, HIGHEST, RecordStore};
use super::{FORMAT, keys};
use crate::model::desired::{Desired, HistoryEntry, Image, Outcome};
use crate::model::evidence::Evidence;
use crate::model::name::{EnvironmentName, Generation};

/// The key of the record's id.
pub(super) const ID: &[u8] = b"id";
/// The key of the store's own id. Only a store that was created with one has it.
pub(super) const INSTANCE: &[u8] = b"instance";

/// The whole record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export {
    /// The format version of this document, [`FORMAT`].
    pub format: u32,
    /// The record's id.
    pub id: String,
    /// The number of the last write in this export. It reveals a store that lost writes.
    #[serde(default)]
    pub serial: u64,
    /// Every environment that has a record, ordered by name.
    pub environments: Vec<EnvironmentExport>,
}

/// The record of one environment with its history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvironmentExport {
    /// The desired state.
    pub desired: Desired,
    /// The kept generations, newest first; the first is the current one.
    pub history: Vec<HistoryEntry>,
    /// The evidence about its images, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<Evidence>,
}

/// The first fields of an export, which precede its environments.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct ExportHead {
    pub(super) format: u32,
    pub(super) id: String,
    pub(super) serial: u64,
}

impl ExportHead {
    /// The head of an export of `store` that begins now.
    pub(super) fn of(store: &RecordStore) -> Result<Self, RecordError> {
        let serial = store.gate().serial;
        let id = store.get(DocumentKind::Meta, ID)?.unwrap_or_default();
        Ok(Self { format: FORMAT, id: String::from_utf8_lossy(&id).into_owned(), serial })
    }
}

/// Takes an export. Each environment is read at one moment; writers wait only while its bytes are copied.
pub(super) fn take(store: &RecordStore) -> Result<Export, RecordError> {
    let ExportHead { format, id, serial } = ExportHead::of(store)?;
    let environments = environments(store)?.collect::<Result<_, _>>()?;
    Ok(Export { format, id, serial, environments })
}

/// Writes an export as readable JSON, one environment at a time, so that memory is bounded by the largest.
///
/// # Errors
/// Errors of `to`, and errors of the record as [`io::Error`].
pub(super) fn write(store: &RecordStore, to: impl Write) -> io::Result<()> {
    let ExportHead { format, id, serial } = ExportHead::of(store).map_err(io::Error::other)?;
    let environments = environments(store).map_err(io::Error::other)?;
    let mut serializer = serde_json::Serializer::pretty(to);
    let mut map = serializer.serialize_struct("Export", 4)?;
    map.serialize_field("format", &format)?;
    map.serialize_field("id", &id)?;
    map.serialize_field("serial", &serial)?;
    map.serialize_field("environments", &StreamedEnvironments(RefCell::new(environments)))?;
    SerializeStruct::end(map)?;
    serializer.into_inner().write_all(b"\n")
}

/// Serializes environments as they are read. It serializes only once.
struct StreamedEnvironments<I>(RefCell<I>);

impl<I: Iterator<Item = Result<EnvironmentExport, RecordError>>> Serialize for StreamedEnvironments<I> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut sequence = serializer.serialize_seq(None)?;
        for environment in &mut *self.0.borrow_mut() {
            sequence.serialize_element(&environment.map_err(<S::Error as serde::ser::Error>::custom)?)?;
        }
        sequence.end()
    }
}

/// The environments that have a readable record, ordered by name.
fn environments(
    store: &RecordStore,
) -> Result<impl Iterator<Item = Result<EnvironmentExport, RecordError>>, RecordError> {
    let found = store.keys(DocumentKind::Desired, b"")?;
    let names = found.into_iter().filter_map(|key| keys::name(&key));
    Ok(names.filter_map(move |name| one(store, &name).transpose()))
}

/// One environment at one moment; `None` if it has no readable record.
fn one(store: &RecordStore, name: &EnvironmentName) -> Result<Option<EnvironmentExport>, RecordError> {
    let of_it = keys::all_of(name);
    let gate = store.gate();
    let desired = store.get(DocumentKind::Desired, name.as_str().as_bytes())?;
    let history: Vec<_> = store.pairs(DocumentKind::History, &of_it).collect::<Result<_, _>>()?;
    let outcomes: BTreeMap<_, _> = store.pairs(DocumentKind::Outcomes, &of_it).collect::<Result<_, _>>()?;
    let evidence = evidence::readable(store, name)?;
    drop(gate);
    let Some(desired) = desired.and_then(|bytes| serde_json::from_slice(&bytes).ok()) else {
        return Ok(None);
    };
    let history = history.iter().rev().filter_map(|(key, entry)| {
        let entry = serde_json::from_slice(entry).ok()?;
        let outcome = outcomes.get(key).and_then(|outcome| serde_json::from_slice(outcome).ok());
        Some(HistoryEntry { entry, outcome })
    });
    Ok(Some(EnvironmentExport { history: history.collect(), evidence, desired }))
}

/// Checks whether the head of an export can be imported.
pub(super) fn check_head(head: &ExportHead) -> Result<(), WriteError> {
    let refuse = |why: String| Err(WriteError::Disagreeing(why));
    if head.format != FORMAT {
        return refuse(format!("its format is {}, but this abide reads {FORMAT}", head.format));
    }
    if !is_id(&head.id) {
        return refuse("its `id` must have 32 hexadecimal digits".to_owned());
    }
    Ok(())
}

/// Checks whether one environment of an export can be imported: its documents agree, and history contains
/// its held generation.
pub(super) fn check_environment(environment: &EnvironmentExport) -> Result<(), WriteError> {
    let EnvironmentExport { desired, history, evidence } = environment;
    let name = &desired.environment;
    let refuse = |why: String| Err(WriteError::Disagreeing(format!("`{name}`: {why}")));
    if let Some(why) = disagreement(environment) {
        return refuse(why);
    }
    let numbers = evidence.iter().map(|found| found.sequence).chain([desired.entry.generation.0]);
    if let Some(number) = numbers.into_iter().find(|number| *number > HIGHEST) {
        return refuse(format!("it has the number {number}, and nothing could follow above {HIGHEST}"));
    }
    let of_history = history.iter().filter_map(|kept| kept.entry.image.as_ref());
    let of_evidence = evidence.iter().map(|found| &found.image);
    let mut images = desired.images(None).chain(of_history).chain(of_evidence);
    if let Err(error) = images.try_for_each(Image::check_name) {
        return refuse(error.to_string());
    }
    let held = desired.hold.as_ref().and_then(|hold| hold.generation);
    match held.filter(|held| history.iter().all(|kept| kept.entry.generation != *held)) {
        Some(held) => refuse(format!("it is held at generation {held}, which is missing in its history")),
        None => Ok(()),
    }
}

/// An id becomes a container label, so only the form that [`super::open`] generates is valid.
pub(super) fn is_id(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase())
}

/// How the documents of an environment contradict each other.
pub(super) fn disagreement(of: &EnvironmentExport) -> Option<String> {
    let EnvironmentExport { desired, history, evidence } = of;
    if evidence.iter().any(|found| found.environment != desired.environment) {
        return Some("it has evidence about another environment".to_owned());
    }
    let current = desired.entry.generation;
    let newest = history.first().map(|first| &first.entry);
    if current == Generation::default() {
        return newest.map(|_| "it has a history, but its generation is 0".to_owned());
    }
    if newest != Some(&desired.entry) {
        return Some(format!("its history does not begin with its current generation {current}"));
    }
    let generations: Vec<_> = history.iter().map(|kept| kept.entry.generation).collect();
    if let Some(pair) = generations.windows(2).find(|pair| pair[0] <= pair[1]) {
        return Some(format!("its history has generation {} after {}", pair[1], pair[0]));
    }
    let has_zero = generations.contains(&Generation::default());
    has_zero.then(|| "its history has a generation 0".to_owned())
}

/// Drafts history entries and their outcomes.
pub(super) fn put_history(
    draft: &mut RecordDraft<'_>,
    environment: &EnvironmentName,
    history: &[HistoryEntry],
) -> Result<(), RecordError> {
    for HistoryEntry { entry, outcome } in history {
        let key = keys::numbered(environment, entry.generation.0);
        if let Some(outcome) = outcome {
            draft.put::<Outcome>(DocumentKind::Outcomes, key.clone(), outcome)?;
        }
        draft.put(DocumentKind::History, key, entry)?;
    }
    Ok(())
}
