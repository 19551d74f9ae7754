//! The loop's narrow way to change the record: branch heads and images that it found out.

use std::sync::Arc;

use super::draft::Draft;
use super::error::RecordError;
use super::shared::Shared;
use super::store::Kind;
use super::{generation, keys};
use crate::model::desired::{Desired, Entry, Image, Origin};
use crate::model::name::{CommitId, EnvironmentName, Generation};
use crate::model::time::Timestamp;

/// Completes the record with what git and the engine say.
#[derive(Clone)]
pub struct Resolver {
    pub(super) shared: Arc<Shared>,
}

impl Resolver {
    /// Takes the head of the environment's branch as git tells it. Returns the generation, where
    /// the head makes a new one. A head that was seen before makes none: what a person set stays
    /// until the branch really moves.
    ///
    /// # Errors
    /// [`RecordError`] where nothing was recorded.
    pub async fn advance_head(
        &self,
        environment: &EnvironmentName,
        head: &CommitId,
        at: Timestamp,
    ) -> Result<Option<Generation>, RecordError> {
        let (environment, head) = (environment.clone(), head.clone());
        self.shared.write(move |draft| advance(draft, &environment, &head, at)).await
    }

    /// Names the image of `generation` by its content. No new generation: the same wish, completed.
    /// `false` where the generation is neither the current nor the held one, or names another
    /// image already.
    ///
    /// # Errors
    /// [`RecordError`] where nothing was recorded.
    pub async fn resolve_image(
        &self,
        environment: &EnvironmentName,
        generation: Generation,
        image: Image,
    ) -> Result<bool, RecordError> {
        let environment = environment.clone();
        self.shared.write(move |draft| resolve(draft, &environment, generation, &image)).await
    }

    /// Records that the image of `generation` was gone everywhere and was built again from the
    /// same inputs: a new generation of the same revision. A hold of the old one holds the new
    /// one. `false` where `generation` is not the current one any more.
    ///
    /// # Errors
    /// [`RecordError`] where nothing was recorded.
    pub async fn rebuilt(
        &self,
        environment: &EnvironmentName,
        generation: Generation,
        image: Image,
        note: Option<String>,
        at: Timestamp,
    ) -> Result<bool, RecordError> {
        let environment = environment.clone();
        let work = move |draft: &mut Draft<'_>| rebuild(draft, &environment, generation, image, note, at);
        self.shared.write(work).await
    }
}

fn advance(
    draft: &mut Draft<'_>,
    environment: &EnvironmentName,
    head: &CommitId,
    at: Timestamp,
) -> Result<Option<Generation>, RecordError> {
    let mut desired = draft.desired(environment)?;
    let hint = desired.hint.take();
    if desired.head.as_ref() == Some(head) {
        if hint.is_some() {
            // The loop itself asked, and nothing that anyone waits for changed.
            draft.put_desired_silently(&desired)?;
        }
        return Ok(None);
    }
    desired.head = Some(head.clone());
    let is_new = !is_followed(&desired, head);
    if is_new {
        let by = hint.filter(|hint| hint.revision == *head).map(|hint| hint.by);
        let origin = Some(if by.is_some() { Origin::Push } else { Origin::BranchPoll });
        let entry = Entry { revision: Some(head.clone()), origin, by, at, ..Entry::default() };
        generation::begin(draft, &mut desired, entry)?;
    }
    draft.put_desired(&desired)?;
    Ok(is_new.then_some(desired.entry.generation))
}

/// Whether the current generation is this commit already, and because the branch is followed.
fn is_followed(desired: &Desired, head: &CommitId) -> bool {
    desired.entry.revision.as_ref() == Some(head)
        && matches!(desired.entry.origin, Some(Origin::Push | Origin::BranchPoll))
}

fn resolve(
    draft: &mut Draft<'_>,
    environment: &EnvironmentName,
    generation: Generation,
    image: &Image,
) -> Result<bool, RecordError> {
    let mut desired = draft.desired(environment)?;
    let held = desired.hold.as_ref().and_then(|hold| hold.generation);
    let key = keys::numbered(environment, generation.0);
    if desired.entry.generation == generation && generation != Generation::default() {
        let taken = complete(&mut desired.entry, image);
        if taken == Taken::Changed {
            generation::put(draft, &desired)?;
            draft.put_desired(&desired)?;
        }
        return Ok(taken != Taken::Other);
    }
    if held != Some(generation) {
        return Ok(false);
    }
    let what = || format!("generation {generation} of `{environment}`");
    let Some(mut entry) = draft.store().document::<Entry>(Kind::History, &key, what)? else {
        return Ok(false);
    };
    let taken = complete(&mut entry, image);
    if taken == Taken::Changed {
        draft.put(Kind::History, key, &entry)?;
        draft.ring_desired(environment);
    }
    Ok(taken != Taken::Other)
}

/// How an entry took an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    /// It says more than before.
    Changed,
    /// It said so before.
    Same,
    /// It names other content, which no completion may change.
    Other,
}

fn complete(entry: &mut Entry, image: &Image) -> Taken {
    match &entry.image {
        Some(known) if known == image => Taken::Same,
        Some(known) if !known.is_same(image) => Taken::Other,
        _ => {
            entry.image = Some(image.clone());
            Taken::Changed
        }
    }
}

fn rebuild(
    draft: &mut Draft<'_>,
    environment: &EnvironmentName,
    generation: Generation,
    image: Image,
    note: Option<String>,
    at: Timestamp,
) -> Result<bool, RecordError> {
    let mut desired = draft.desired(environment)?;
    if desired.entry.generation != generation || generation == Generation::default() {
        return Ok(false);
    }
    let revision = desired.entry.revision.clone();
    let entry =
        Entry { revision, image: Some(image), origin: Some(Origin::Rebuild), note, at, ..Entry::default() };
    generation::begin(draft, &mut desired, entry)?;
    let current = desired.entry.generation;
    if let Some(hold) = desired.hold.as_mut().filter(|hold| hold.generation == Some(generation)) {
        hold.generation = Some(current);
    }
    draft.put_desired(&desired)?;
    Ok(true)
}
