//! What an environment's record was, from what is left of it. Pure.

use std::collections::BTreeMap;

use super::export::EnvironmentExport;
use crate::model::desired::{Desired, Entry, HistoryEntry, Origin};
use crate::model::name::{EnvironmentName, Generation};

/// What the store still has of an environment.
pub(super) struct Found {
    pub(super) desired: Option<Desired>,
    pub(super) history: BTreeMap<Generation, Entry>,
    /// Whether some of its documents had to be set aside.
    pub(super) is_spoiled: bool,
}

/// What the store should have.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Mended {
    /// The record; `None`: nothing is left to restore it from.
    pub(super) desired: Option<Desired>,
    /// Generations that history lacks.
    pub(super) history: Vec<HistoryEntry>,
    /// What was done, in sentences.
    pub(super) notices: Vec<String>,
}

/// Takes what the store has, the mirror's where it knows more, and history's where neither has
/// the record itself. The result's current generation is the newest of its history.
pub(super) fn mend(
    environment: &EnvironmentName,
    found: Found,
    mirrored: Option<&EnvironmentExport>,
) -> Mended {
    let mut notices = Vec::new();
    let stored = found.desired.as_ref().map(|desired| desired.entry.generation);
    let ahead =
        mirrored.filter(|mirrored| stored.is_none_or(|stored| mirrored.desired.entry.generation > stored));
    let base = match (&found.desired, ahead) {
        (_, Some(mirrored)) => {
            let generation = mirrored.desired.entry.generation;
            notices.push(format!(
                "restored the record of `{environment}` from the mirror (generation {generation})"
            ));
            Some(mirrored.desired.clone())
        }
        (Some(desired), None) => Some(desired.clone()),
        (None, None) => found.history.values().next_back().map(|newest| {
            let generation = newest.generation;
            notices.push(format!(
                "restored the record of `{environment}` from history (generation {generation})"
            ));
            from_history(environment, newest)
        }),
    };
    let Some(mut desired) = base else { return Mended::default() };
    if let Some(newest) = found.history.values().next_back()
        && newest.generation > desired.entry.generation
    {
        let generation = newest.generation;
        notices
            .push(format!("took generation {generation} of `{environment}` from history, which was ahead"));
        desired.entry = newest.clone();
    }
    let mirrored = mirrored.filter(|_| ahead.is_some() || found.is_spoiled);
    let history = lacking(&found.history, &desired.entry, mirrored);
    Mended { desired: Some(desired), history, notices }
}

/// Without the record itself, a head that was followed is known from its entry; a hold is not.
fn from_history(environment: &EnvironmentName, newest: &Entry) -> Desired {
    let is_followed = matches!(newest.origin, Some(Origin::Push | Origin::BranchPoll));
    let head = newest.revision.clone().filter(|_| is_followed);
    Desired { entry: newest.clone(), head, ..Desired::empty(environment.clone()) }
}

/// The generations that `history` lacks: the mirror's, and always the current one.
fn lacking(
    history: &BTreeMap<Generation, Entry>,
    current: &Entry,
    mirrored: Option<&EnvironmentExport>,
) -> Vec<HistoryEntry> {
    let mirrored = mirrored.map(|mirrored| mirrored.history.as_slice()).unwrap_or_default();
    let mut lacking: BTreeMap<Generation, HistoryEntry> = mirrored
        .iter()
        .filter(|kept| !history.contains_key(&kept.entry.generation))
        .map(|kept| (kept.entry.generation, kept.clone()))
        .collect();
    if current.generation > Generation::default() && history.get(&current.generation) != Some(current) {
        let outcome = lacking.remove(&current.generation).and_then(|kept| kept.outcome);
        lacking.insert(current.generation, HistoryEntry { entry: current.clone(), outcome });
    }
    lacking.into_values().collect()
}
