//! The whole record as one document: for backups, for another host, and for the backup file.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::bell::Wakeup;
use super::draft::Draft;
use super::error::{RecordError, WriteError};
use super::evidence;
use super::store::{DocumentKind, Store};
use super::{FORMAT, keys};
use crate::model::desired::{Desired, HistoryEntry, Image, Outcome};
use crate::model::evidence::Evidence;
use crate::model::name::{EnvironmentName, Generation};

/// The key of the record's id.
pub(super) const ID: &[u8] = b"id";

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

/// Takes an export. Writers wait only while bytes are copied.
pub(super) fn take(store: &Store) -> Result<Export, RecordError> {
    let gate = store.gate();
    let serial = gate.serial;
    let id = store.get(DocumentKind::Meta, ID)?.unwrap_or_default();
    let read = |kind| store.pairs(kind, b"").collect::<Result<BTreeMap<_, _>, _>>();
    let (desired, history, outcomes) =
        (read(DocumentKind::Desired)?, read(DocumentKind::History)?, read(DocumentKind::Outcomes)?);
    let found = evidence::all(store)?;
    drop(gate);

    let mut histories: BTreeMap<EnvironmentName, Vec<HistoryEntry>> = BTreeMap::new();
    for (key, entry) in history.iter().rev() {
        let Some((environment, _)) = keys::split(key) else { continue };
        let Ok(entry) = serde_json::from_slice(entry) else { continue };
        let outcome = outcomes.get(key).and_then(|outcome| serde_json::from_slice(outcome).ok());
        histories.entry(environment).or_default().push(HistoryEntry { entry, outcome });
    }
    let mut found = evidence::by_environment(found);
    let documents = desired.values().filter_map(|bytes| serde_json::from_slice::<Desired>(bytes).ok());
    let environments = documents
        .map(|desired| EnvironmentExport {
            history: histories.remove(&desired.environment).unwrap_or_default(),
            evidence: found.remove(&desired.environment).unwrap_or_default(),
            desired,
        })
        .collect();
    Ok(Export { format: FORMAT, id: String::from_utf8_lossy(&id).into_owned(), serial, environments })
}

/// Checks whether `export` can be imported: its documents agree, and history contains its held generations.
/// The backup file is exempt from the second check, because a store that lost its held generation is still
/// backed up.
pub(super) fn check_import(export: &Export) -> Result<(), WriteError> {
    check(export)?;
    for EnvironmentExport { desired, history, evidence } in &export.environments {
        let of_history = history.iter().filter_map(|kept| kept.entry.image.as_ref());
        let of_evidence = evidence.iter().map(|found| &found.image);
        if let Err(error) =
            desired.images(None).chain(of_history).chain(of_evidence).try_for_each(Image::check_name)
        {
            return Err(WriteError::Disagreeing(format!("`{}`: {error}", desired.environment)));
        }
        let held = desired.hold.as_ref().and_then(|hold| hold.generation);
        if let Some(held) = held.filter(|held| history.iter().all(|kept| kept.entry.generation != *held)) {
            let name = &desired.environment;
            let why = format!("`{name}`: it is held at generation {held}, which is missing in its history");
            return Err(WriteError::Disagreeing(why));
        }
    }
    Ok(())
}

/// Checks whether the documents of `export` agree with each other.
pub(super) fn check(export: &Export) -> Result<(), WriteError> {
    let refuse = |why: String| Err(WriteError::Disagreeing(why));
    if export.format != FORMAT {
        return refuse(format!("its format is {}, but this abide reads {FORMAT}", export.format));
    }
    if !is_id(&export.id) {
        return refuse("its `id` must have 32 hexadecimal digits".to_owned());
    }
    let mut seen = BTreeSet::new();
    for environment in &export.environments {
        let name = &environment.desired.environment;
        if !seen.insert(name) {
            return refuse(format!("it contains `{name}` twice"));
        }
        if let Some(why) = disagreement(environment) {
            return refuse(format!("`{name}`: {why}"));
        }
    }
    Ok(())
}

/// An id becomes a container label, so only the form that [`super::open`] generates is valid.
pub(super) fn is_id(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase())
}

fn disagreement(of: &EnvironmentExport) -> Option<String> {
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

/// Drafts the replacement of the whole record with `export`.
pub(super) fn replace(draft: &mut Draft<'_>, export: &Export) -> Result<(), WriteError> {
    for kind in DocumentKind::EXPORTED {
        for pair in draft.store().pairs(kind, b"") {
            let (key, _) = pair?;
            if let Some(environment) = keys::name(&key).filter(|_| kind == DocumentKind::Desired) {
                draft.ring(Wakeup::Desired(environment));
            }
            draft.remove(kind, key);
        }
    }
    // Nothing of an imported record is announced.
    draft.derive_nothing();
    for pair in draft.store().pairs(DocumentKind::Standings, b"") {
        draft.remove(DocumentKind::Standings, pair?.0);
    }
    draft.put_bytes(DocumentKind::Meta, ID.to_vec(), export.id.clone().into_bytes());
    draft.counters.serial = draft.counters.serial.max(export.serial);
    for environment in &export.environments {
        draft.put_desired(&environment.desired)?;
        put_history(draft, &environment.desired.environment, &environment.history)?;
        evidence::restore(draft, &environment.evidence, true)?;
    }
    Ok(())
}

/// Drafts history entries and their outcomes.
pub(super) fn put_history(
    draft: &mut Draft<'_>,
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
