//! Reconstructs an environment's record from the remaining documents. Pure.

use std::collections::BTreeMap;

use super::export::EnvironmentExport;
use crate::model::desired::{Desired, Entry, HistoryEntry, Origin};
use crate::model::name::{EnvironmentName, Generation};

/// The documents of an environment that remain in the store.
pub(super) struct StoredDocuments {
    pub(super) desired: Option<Desired>,
    pub(super) history: BTreeMap<Generation, HistoryEntry>,
    /// Whether some of its documents had to be set aside.
    pub(super) is_spoiled: bool,
    /// Whether the store lost writes that the backup file has.
    pub(super) is_behind: bool,
}

/// The documents that the store should have.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Repaired {
    /// The record; `None` if nothing is left to restore it from.
    pub(super) desired: Option<Desired>,
    /// Generations that history lacks or has incomplete.
    pub(super) history: Vec<HistoryEntry>,
    /// The repairs that were made, in sentences.
    pub(super) notices: Vec<String>,
}

/// Uses the store's record, the backup file's if it is newer, and history's if both are missing. The current
/// generation of the result is the newest of its history.
pub(super) fn repair(
    environment: &EnvironmentName,
    found: StoredDocuments,
    mirrored: Option<&EnvironmentExport>,
) -> Repaired {
    let mut notices = Vec::new();
    let stored = found.desired.as_ref().map(|desired| desired.entry.generation);
    let ahead = mirrored.filter(|mirrored| {
        let newer = mirrored.desired.entry.generation;
        stored.is_none_or(|stored| found.is_behind && newer >= stored)
    });
    let newest = found.history.values().next_back().map(|kept| &kept.entry);
    let mut note = |from: &str, generation: Generation| {
        notices.push(format!(
            "restored the record of `{environment}` from {from} (generation \
            {generation})"
        ));
    };
    let base = if let Some(mirrored) = ahead {
        note("the backup file", mirrored.desired.entry.generation);
        Some(mirrored.desired.clone())
    } else {
        found.desired.or_else(|| newest.map(|newest| from_history(environment, newest)))
    };
    let Some(mut desired) = base else { return Repaired::default() };
    if let Some(newest) = newest
        && (newest.generation > desired.entry.generation || (stored.is_none() && ahead.is_none()))
    {
        note("history", newest.generation);
        desired.entry = newest.clone();
    }
    let mut known = KnownHistory { history: &found.history, better: BTreeMap::new() };
    match mirrored {
        Some(mirrored) if ahead.is_some() => known.add(&mirrored.history, MergePriority::Mirror),
        Some(mirrored) if found.is_spoiled => known.add(&mirrored.history, MergePriority::Store),
        _ => {}
    }
    known.add_current(&desired.entry);
    Repaired { desired: Some(desired), history: known.better.into_values().collect(), notices }
}

/// Without the record itself, the entry shows the head of a polled branch; a hold is lost.
fn from_history(environment: &EnvironmentName, newest: &Entry) -> Desired {
    let is_followed = matches!(newest.origin, Some(Origin::Push | Origin::BranchPoll));
    let head = newest.revision.clone().filter(|_| is_followed);
    let digest = newest.image.as_ref().and_then(|image| image.digest.clone());
    let tag = digest.filter(|_| newest.origin == Some(Origin::Tag));
    Desired { entry: newest.clone(), head, tag, ..Desired::empty(environment.clone()) }
}

/// The side that wins if both know a generation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum MergePriority {
    Store,
    Mirror,
}

/// The stored history and its corrections.
struct KnownHistory<'a> {
    history: &'a BTreeMap<Generation, HistoryEntry>,
    better: BTreeMap<Generation, HistoryEntry>,
}

impl KnownHistory<'_> {
    /// Adds the backup file's history. An outcome that only one side knows is kept.
    fn add(&mut self, mirrored: &[HistoryEntry], trust: MergePriority) {
        for mirrored in mirrored {
            let generation = mirrored.entry.generation;
            let Some(stored) = self.history.get(&generation) else {
                self.better.insert(generation, mirrored.clone());
                continue;
            };
            let (first, second) =
                if trust == MergePriority::Store { (stored, mirrored) } else { (mirrored, stored) };
            let outcome = first.outcome.clone().or_else(|| second.outcome.clone());
            let merged = HistoryEntry { entry: first.entry.clone(), outcome };
            if merged != *stored {
                self.better.insert(generation, merged);
            }
        }
    }

    /// Makes history contain the current generation, as in the record itself.
    fn add_current(&mut self, current: &Entry) {
        let generation = current.generation;
        if generation == Generation::default() {
            return;
        }
        let known = self.better.get(&generation).or(self.history.get(&generation));
        if known.is_none_or(|known| known.entry != *current) {
            let outcome = known.and_then(|known| known.outcome.clone());
            self.better.insert(generation, HistoryEntry { entry: current.clone(), outcome });
        }
    }
}
