//! Starts a generation: writes its entry to history and supersedes the previous generation.

use super::draft::RecordDraft;
use super::error::RecordError;
use super::keys;
use super::store::DocumentKind;
use crate::model::build::RecipeKey;
use crate::model::desired::{Desired, Entry, Outcome};
use crate::model::name::{EnvironmentName, Generation};
use crate::model::status::Status;

/// Generations of an environment that are kept. The current and the held generation are always kept.
pub(super) const KEPT: usize = 500;

/// Gives `desired` the next generation, with the content of `entry`. The caller writes `desired`.
///
/// A generation number that has run is never reused. If the record was restored from an older copy, an agent
/// or a status may know later generations, and would mistake a new one for an old one.
pub(super) fn begin(
    draft: &mut RecordDraft<'_>,
    desired: &mut Desired,
    entry: Entry,
) -> Result<(), RecordError> {
    let before = desired.entry.generation;
    let seen = highest_seen(draft, &desired.environment)?;
    let next =
        before.max(seen).next().ok_or_else(|| RecordError::NoGeneration(desired.environment.clone()))?;
    let recipe = entry.recipe.clone().or_else(|| inherited(desired, &entry));
    desired.entry = Entry { generation: next, recipe, ..entry };
    put(draft, desired)?;
    supersede(draft, desired, before)?;
    prune(draft, desired)
}

/// The recipe in effect before `entry`. A named image, such as that of a rollback, counts as built by the
/// manifest's current recipe: only a later edit builds again.
fn inherited(desired: &Desired, entry: &Entry) -> Option<RecipeKey> {
    entry.image.as_ref().and(desired.entry.recipe.clone())
}

fn highest_seen(draft: &RecordDraft<'_>, environment: &EnvironmentName) -> Result<Generation, RecordError> {
    let key = environment.as_str().as_bytes();
    // An unreadable status must not block a change.
    let status = draft.store().get(DocumentKind::Status, key)?;
    let status = status.and_then(|bytes| serde_json::from_slice::<Status>(&bytes).ok());
    Ok(status.map(|status| status.observed_generation).unwrap_or_default())
}

/// Writes the current entry into history, which keeps it after the next generation.
pub(super) fn put(draft: &mut RecordDraft<'_>, desired: &Desired) -> Result<(), RecordError> {
    let key = keys::numbered(&desired.environment, desired.entry.generation.0);
    draft.put(DocumentKind::History, key, &desired.entry)
}

/// Marks a generation without an outcome as superseded, unless it is held and so still desired. The loop
/// cannot do this: in a burst of generations it may not see each one.
fn supersede(draft: &mut RecordDraft<'_>, desired: &Desired, before: Generation) -> Result<(), RecordError> {
    let held = desired.hold.as_ref().and_then(|hold| hold.generation);
    let key = keys::numbered(&desired.environment, before.0);
    let is_open =
        before != Generation::default() && draft.store().get(DocumentKind::Outcomes, &key)?.is_none();
    if is_open && held != Some(before) {
        draft.put(DocumentKind::Outcomes, key, &Outcome::Superseded)?;
    }
    Ok(())
}

/// Removes the oldest generations beyond [`KEPT`]. The new generation counts.
fn prune(draft: &mut RecordDraft<'_>, desired: &Desired) -> Result<(), RecordError> {
    let held = desired.hold.as_ref().and_then(|hold| hold.generation);
    let stored = generations(draft, &desired.environment)?;
    let surplus = (stored.len() + 1).saturating_sub(KEPT);
    for generation in stored.into_iter().take(surplus) {
        if held != Some(generation) {
            let key = keys::numbered(&desired.environment, generation.0);
            draft.remove(DocumentKind::History, key.clone());
            draft.remove(DocumentKind::Outcomes, key);
        }
    }
    Ok(())
}

fn generations(
    draft: &RecordDraft<'_>,
    environment: &EnvironmentName,
) -> Result<Vec<Generation>, RecordError> {
    let stored = draft.store().keys(DocumentKind::History, &keys::all_of(environment))?;
    Ok(stored.iter().filter_map(|key| keys::split(key)).map(|(_, number)| Generation(number)).collect())
}
