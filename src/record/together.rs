//! Changes of several environments in one write, and their joint way back.

use std::collections::BTreeMap;

use super::desired::Change;
use super::draft::RecordDraft;
use super::error::{RecordError, WriteError};
use super::evidence::record_event;
use super::reader::documents;
use super::store::DocumentKind;
use super::{generation, keys};
use crate::model::desired::{Desired, Entry, HistoryEntry, Hold, Origin, Outcome};
use crate::model::name::{EnvironmentName, Generation};
use crate::model::time::Timestamp;

/// Makes a new generation of each environment. If there are several, each names the others.
pub(super) fn begin(
    draft: &mut RecordDraft<'_>,
    changes: BTreeMap<EnvironmentName, Change>,
) -> Result<Vec<Desired>, WriteError> {
    let mut all = Vec::new();
    for (environment, change) in changes {
        let mut desired = draft.desired(&environment)?;
        if let Some(image) = change.image.as_ref().filter(|_| change.origin.is_on_purpose()) {
            desired.lift(image);
        }
        let hold = change.hold.clone();
        generation::begin(draft, &mut desired, change.into_entry())?;
        if let Some(hold) = hold {
            desired.hold = Some(Hold { generation: Some(desired.entry.generation), ..hold });
        }
        all.push(desired);
    }
    join(draft, &mut all)?;
    Ok(all)
}

/// Lets each of several new generations name all of them, and writes the records.
fn join(draft: &mut RecordDraft<'_>, all: &mut [Desired]) -> Result<(), RecordError> {
    let generations = |all: &[Desired]| {
        all.iter().map(|desired| (desired.environment.clone(), desired.entry.generation)).collect()
    };
    let together = if all.len() > 1 { generations(all) } else { BTreeMap::new() };
    for desired in all {
        if !together.is_empty() {
            desired.entry.together.clone_from(&together);
            generation::put(draft, desired)?;
            let environment = &desired.environment;
            let others = together.iter().filter(|(other, _)| *other != environment);
            let others: Vec<_> =
                others.map(|(other, number)| format!("{other} generation {number}")).collect();
            let generation = desired.entry.generation;
            let why = desired.entry.note.as_ref().map(|note| format!(": {note}")).unwrap_or_default();
            let message =
                format!("generation {generation} was recorded together with {}{why}", others.join(", "));
            record_event(draft, environment, message, desired.entry.at)?;
        }
        draft.put_desired(desired)?;
    }
    Ok(())
}

/// Gives `followers` the image of `first`. Those that had its previous image change together with it: if one of them
/// fails, all of them go back. Others, such as one that has just been declared, change alone.
pub(super) fn follow(
    draft: &mut RecordDraft<'_>,
    first: &EnvironmentName,
    followers: &[EnvironmentName],
    at: Timestamp,
) -> Result<Vec<EnvironmentName>, RecordError> {
    let first = draft.desired(first)?;
    let Some(image) = first.entry.image.clone() else { return Ok(Vec::new()) };
    let before = history(draft, &first.environment)?;
    let before = before.iter().filter(|kept| kept.entry.generation < first.entry.generation);
    let before = before.max_by_key(|kept| kept.entry.generation).and_then(|kept| kept.entry.image.clone());
    let (mut updated, mut alone) = (vec![first.clone()], Vec::new());
    for follower in followers {
        let mut desired = draft.desired(follower)?;
        if !desired.lacks_image_of(&first.entry) {
            continue;
        }
        desired.lift(&image);
        let is_update =
            desired.entry.image.as_ref().zip(before.as_ref()).is_some_and(|(own, old)| own.is_same(old));
        let note = format!("as {} generation {}", first.environment, first.entry.generation);
        let entry = Entry {
            revision: first.entry.revision.clone(),
            image: Some(image.clone()),
            origin: first.entry.origin,
            by: first.entry.by.clone(),
            token: first.entry.token.clone(),
            note: Some(note),
            at,
            ..Entry::default()
        };
        generation::begin(draft, &mut desired, entry)?;
        if is_update { updated.push(desired) } else { alone.push(desired) }
    }
    let all = updated.iter().skip(1).chain(&alone).map(|desired| desired.environment.clone()).collect();
    for desired in &alone {
        draft.put_desired(desired)?;
    }
    if updated.len() > 1 {
        join(draft, &mut updated)?;
    }
    Ok(all)
}

/// Makes `failed` go back, which has its new entry, and in the same write everything that changed `together` with the
/// failed generation. A member that has moved on since, that is held, or that was never ready before stays.
pub(super) fn roll_back(
    draft: &mut RecordDraft<'_>,
    failed: Desired,
    together: &BTreeMap<EnvironmentName, Generation>,
    message: &str,
) -> Result<(), RecordError> {
    let (name, at) = (failed.environment.clone(), failed.entry.at);
    let mut all = vec![failed];
    for (environment, generation) in together.iter().filter(|(environment, _)| **environment != name) {
        let mut desired = draft.desired(environment)?;
        let is_there = desired.entry.generation == *generation
            && desired.hold.is_none()
            && desired.entry.origin != Some(Origin::AutomaticRollback);
        let history = if is_there { history(draft, environment)? } else { Vec::new() };
        let Some((good, image)) = HistoryEntry::last_good(&history, &desired.entry) else { continue };
        let back = good.generation;
        let entry = Entry {
            revision: good.revision.clone(),
            image: Some(image.clone()),
            origin: Some(Origin::AutomaticRollback),
            note: Some(format!(
                "{name} failed, so the group goes back together; rolled back to generation {back}"
            )),
            at,
            ..Entry::default()
        };
        generation::begin(draft, &mut desired, entry)?;
        // This must come second: starting a generation marks the previous one as superseded.
        let outcome = Outcome::Failed(format!("{name}, which changed together with it, failed: {message}"));
        draft.put(DocumentKind::Outcomes, keys::numbered(environment, generation.0), &outcome)?;
        all.push(desired);
    }
    join(draft, &mut all)
}

/// The kept generations of an environment with their outcomes.
fn history(draft: &RecordDraft<'_>, environment: &EnvironmentName) -> Result<Vec<HistoryEntry>, RecordError> {
    let entries = documents::<Entry>(draft.store(), DocumentKind::History, &keys::all_of(environment));
    let with_outcome = |entry: Entry| {
        let outcome =
            draft.store().get(DocumentKind::Outcomes, &keys::numbered(environment, entry.generation.0))?;
        let outcome = outcome.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Ok(HistoryEntry { entry, outcome })
    };
    entries.map(|entry| entry.and_then(with_outcome)).collect()
}
