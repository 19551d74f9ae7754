//! The loop's narrow way to change the record: branch heads and images that it found out, and the
//! way back from an image that failed.

use std::sync::Arc;

use super::draft::Draft;
use super::error::RecordError;
use super::shared::Shared;
use super::store::Kind;
use super::{generation, keys, replica};
use crate::model::desired::{Bad, Desired, Entry, GoBack, Image, Origin, Outcome};
use crate::model::name::{CommitId, EnvironmentName, Generation};
use crate::model::time::Timestamp;

/// Completes the record with what git and the engine say.
#[derive(Clone)]
pub struct Resolver {
    pub(super) shared: Arc<Shared>,
    /// Whether another record decides, to which a rollback is only proposed.
    pub(super) proposes: bool,
}

impl Resolver {
    /// The same for an agent: the record that it completes is a copy, so a rollback is only noted
    /// for the controller, whose record moves. What runs has gone back already by then.
    #[must_use]
    pub fn of_replica(self) -> Self {
        Self { proposes: true, ..self }
    }

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

    /// Takes the digest of the environment's tag as the registry tells it: `image` names it by
    /// repository and digest. Returns the generation, where it makes a new one. A digest that was
    /// seen before makes none, as with heads.
    ///
    /// # Errors
    /// [`RecordError`] where nothing was recorded.
    pub async fn advance_tag(
        &self,
        environment: &EnvironmentName,
        image: Image,
        note: String,
        at: Timestamp,
    ) -> Result<Option<Generation>, RecordError> {
        let environment = environment.clone();
        self.shared.write(move |draft| advance_tag(draft, &environment, image, note, at)).await
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

    /// Goes back to an image that was good: a new generation, and the image of the one before it is
    /// remembered as bad. `false` where that one is not the current one any more, or is held, or
    /// names no other image, or is a rollback itself, which is never rolled back.
    ///
    /// # Errors
    /// [`RecordError`] where nothing was recorded.
    pub async fn roll_back(&self, environment: &EnvironmentName, back: GoBack) -> Result<bool, RecordError> {
        let environment = environment.clone();
        if self.proposes {
            return self.shared.write(move |draft| replica::propose(draft, &environment, &back)).await;
        }
        self.shared.write(move |draft| go_back(draft, &environment, back)).await
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

fn advance_tag(
    draft: &mut Draft<'_>,
    environment: &EnvironmentName,
    image: Image,
    note: String,
    at: Timestamp,
) -> Result<Option<Generation>, RecordError> {
    let mut desired = draft.desired(environment)?;
    let hint = desired.tag_hint.take();
    if desired.tag == image.digest {
        if hint.is_some() {
            // The loop itself asked, and nothing that anyone waits for changed.
            draft.put_desired_silently(&desired)?;
        }
        return Ok(None);
    }
    desired.tag = image.digest.clone();
    let is_recorded = desired.entry.image.as_ref().is_some_and(|recorded| recorded.digest == image.digest);
    let is_new = !(is_recorded && desired.entry.origin == Some(Origin::Tag));
    if is_new {
        let by = hint.filter(|hint| Some(&hint.digest) == image.digest.as_ref()).map(|hint| hint.by);
        let (image, origin) = (Some(image), Some(Origin::Tag));
        let entry = Entry { image, origin, by, note: Some(note), at, ..Entry::default() };
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
            if desired.entry.origin.is_some_and(Origin::is_on_purpose) {
                desired.lift(image);
            }
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
    // What a rollback led to is still what it led to: it was not asked for, and is no success.
    let origin = desired.entry.origin.filter(|origin| *origin == Origin::AutomaticRollback);
    let origin = Some(origin.unwrap_or(Origin::Rebuild));
    let entry = Entry { revision, image: Some(image), origin, note, at, ..Entry::default() };
    generation::begin(draft, &mut desired, entry)?;
    let current = desired.entry.generation;
    if let Some(hold) = desired.hold.as_mut().filter(|hold| hold.generation == Some(generation)) {
        hold.generation = Some(current);
    }
    draft.put_desired(&desired)?;
    Ok(true)
}

pub(super) fn go_back(
    draft: &mut Draft<'_>,
    environment: &EnvironmentName,
    back: GoBack,
) -> Result<bool, RecordError> {
    let GoBack { from, image, revision, note, reason, message, at } = back;
    let mut desired = draft.desired(environment)?;
    let Some(failed) = to_go_back_from(&desired, from, &image) else { return Ok(false) };
    let outcome = Outcome::Failed(message.clone());
    let failed_revision = desired.entry.revision.clone();
    desired.mark_bad(Bad { image: failed, generation: from, revision: failed_revision, reason, message, at });
    let origin = Some(Origin::AutomaticRollback);
    let entry = Entry { revision, image: Some(image), origin, note: Some(note), at, ..Entry::default() };
    generation::begin(draft, &mut desired, entry)?;
    // After that, since beginning a generation calls the one before superseded.
    draft.put(Kind::Outcomes, keys::numbered(environment, from.0), &outcome)?;
    draft.put_desired(&desired)?;
    Ok(true)
}

/// The image of generation `from`, where it may be rolled back to `to`.
pub(super) fn to_go_back_from(desired: &Desired, from: Generation, to: &Image) -> Option<Image> {
    let may = desired.entry.generation == from
        && desired.hold.is_none()
        && desired.entry.origin != Some(Origin::AutomaticRollback);
    desired.entry.image.clone().filter(|image| may && !image.is_same(to))
}
