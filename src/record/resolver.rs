//! The narrow handle with which the loop changes the record: it records branch heads, tags and built images,
//! and rolls back from an image that failed.

use std::sync::Arc;

use super::draft::RecordDraft;
use super::error::RecordError;
use super::shared::RecordInner;
use super::store::DocumentKind;
use super::{awaited, generation, keys, replica, together};
use crate::model::build::RecipeKey;
use crate::model::desired::{
    AskedTag, Bad, Desired, Entry, Hint, Image, Origin, Outcome, RollbackRequest, TagHint,
};
use crate::model::name::{CommitId, EnvironmentName, Generation};
use crate::model::poll::QueryPeriod;
use crate::model::time::Timestamp;

/// Completes the record with results from git and the engine.
#[derive(Clone)]
pub struct Resolver {
    pub(super) shared: Arc<RecordInner>,
    /// Whether another record decides. A rollback is then only proposed to it.
    pub(super) proposes: bool,
}

impl Resolver {
    /// Returns the resolver of an agent, whose record is a copy. It only notes a rollback for the controller,
    /// whose record then changes. The agent's container is already rolled back by then.
    #[must_use]
    pub fn of_replica(self) -> Self {
        Self { proposes: true, ..self }
    }

    /// Records the head of the environment's branch as git reports it. Returns the generation if the head
    /// makes a new one. A head that was seen before makes none, so a generation that an operator set stays
    /// until the branch moves.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed; nothing was recorded then.
    pub async fn advance_head(
        &self,
        environment: &EnvironmentName,
        head: &CommitId,
        asked: impl Into<QueryPeriod>,
    ) -> Result<Option<Generation>, RecordError> {
        let (environment, head, asked) = (environment.clone(), head.clone(), asked.into());
        self.shared.write(move |draft| advance(draft, &environment, &head, asked)).await
    }

    /// Notes that a query for the head or digest ended without one. `is_answered`: git or the registry
    /// reported that none exists. Otherwise the remote did not answer, and an announced push still has to be
    /// verified.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed; nothing was recorded then.
    pub async fn no_head(
        &self,
        environment: &EnvironmentName,
        asked: QueryPeriod,
        is_answered: bool,
    ) -> Result<(), RecordError> {
        let environment = environment.clone();
        self.shared.write(move |draft| without_head(draft, &environment, asked, is_answered)).await
    }

    /// Records a head of the environment's branch that changes none of the environment's paths. It makes no
    /// generation. Returns `false` if that was known already.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed; nothing was recorded then.
    /// # Errors
    /// Returns [`RecordError`] if the write failed; nothing was recorded then.
    pub async fn pass_over(
        &self,
        environment: &EnvironmentName,
        head: &CommitId,
        asked: impl Into<QueryPeriod>,
    ) -> Result<bool, RecordError> {
        let (environment, head, asked) = (environment.clone(), head.clone(), asked.into());
        self.shared.write(move |draft| pass_over(draft, &environment, &head, asked)).await
    }

    /// Records that git shows `head` and that its checks have not passed yet, so it makes no generation. An
    /// announced push keeps its author for the time when they have.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed; nothing was recorded then.
    pub async fn await_checks(
        &self,
        environment: &EnvironmentName,
        head: &CommitId,
        asked: impl Into<QueryPeriod>,
    ) -> Result<(), RecordError> {
        let (environment, head, asked) = (environment.clone(), head.clone(), asked.into());
        self.shared.write(move |draft| await_checks(draft, &environment, &head, asked)).await
    }

    /// Records the newest commit whose checks passed, as [`Resolver::advance_head`] records a head. `note` names
    /// the checks.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed; nothing was recorded then.
    pub async fn advance_checked(
        &self,
        environment: &EnvironmentName,
        commit: &CommitId,
        note: String,
        asked: impl Into<QueryPeriod>,
    ) -> Result<Option<Generation>, RecordError> {
        let (environment, commit, asked) = (environment.clone(), commit.clone(), asked.into());
        self.shared.write(move |draft| advance_with(draft, &environment, &commit, Some(note), asked)).await
    }

    /// Records the digest of the environment's tag as the registry reports it. `image` names it by repository
    /// and digest. Returns the generation if the digest makes a new one. As with heads, a digest that was
    /// seen before makes none.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed; nothing was recorded then.
    pub async fn advance_tag(
        &self,
        environment: &EnvironmentName,
        image: Image,
        note: String,
        asked: impl Into<QueryPeriod>,
    ) -> Result<Option<Generation>, RecordError> {
        let (environment, asked) = (environment.clone(), asked.into());
        self.shared.write(move |draft| advance_tag(draft, &environment, image, note, asked)).await
    }

    /// Records when the registry last answered about the environment's tag.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed; nothing was recorded then.
    pub async fn note_tag(&self, environment: &EnvironmentName, asked: AskedTag) -> Result<(), RecordError> {
        let environment = environment.clone();
        let work = move |draft: &mut RecordDraft<'_>| {
            let mut desired = draft.desired(&environment)?;
            desired.asked_tag = Some(asked);
            draft.put_desired_silently(&desired)
        };
        self.shared.write(work).await
    }

    /// Records the image of `generation` by digest, without creating a new generation. Returns `false` if the
    /// generation is neither current nor held, or already names a different image.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed; nothing was recorded then.
    pub async fn resolve_image(
        &self,
        environment: &EnvironmentName,
        generation: Generation,
        image: Image,
    ) -> Result<bool, RecordError> {
        self.resolve_built(environment, generation, image, None).await
    }

    /// Does the same as [`Resolver::resolve_image`], and records the recipe of the image.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed; nothing was recorded then.
    pub async fn resolve_built(
        &self,
        environment: &EnvironmentName,
        generation: Generation,
        image: Image,
        recipe: Option<RecipeKey>,
    ) -> Result<bool, RecordError> {
        let environment = environment.clone();
        self.shared.write(move |draft| resolve(draft, &environment, generation, &image, recipe)).await
    }

    /// Notes that the image of `generation` matches the manifest's current recipe. No subscriber waits for
    /// this change. Returns `false` if `generation` is not the current one.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed; nothing was recorded then.
    pub async fn note_recipe(
        &self,
        environment: &EnvironmentName,
        generation: Generation,
        recipe: RecipeKey,
    ) -> Result<bool, RecordError> {
        let environment = environment.clone();
        self.shared.write(move |draft| note_recipe(draft, &environment, generation, recipe)).await
    }

    /// Records that the image of `generation` was lost everywhere and was built again from the same inputs.
    /// This makes a new generation of the same revision. A hold of the old generation moves to the new one.
    /// Returns `false` if `generation` is not the current one.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed; nothing was recorded then.
    pub async fn rebuilt(
        &self,
        environment: &EnvironmentName,
        generation: Generation,
        image: Image,
        note: Option<String>,
        at: Timestamp,
    ) -> Result<bool, RecordError> {
        let entry = Entry { image: Some(image), note, at, ..Entry::default() };
        let environment = environment.clone();
        self.shared.write(move |draft| rebuild(draft, &environment, generation, entry)).await
    }

    /// Records that the commit of `generation` was built again because the manifest was edited. `recipe` is
    /// the manifest's current recipe. Otherwise works like [`Resolver::rebuilt`].
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed; nothing was recorded then.
    pub async fn edited(
        &self,
        environment: &EnvironmentName,
        generation: Generation,
        image: Image,
        recipe: RecipeKey,
        at: Timestamp,
    ) -> Result<bool, RecordError> {
        let (image, recipe) = (Some(image), Some(recipe));
        let note = Some(format!("the build of generation {generation} was edited"));
        let origin = Some(Origin::ManifestEdit);
        let entry = Entry { image, recipe, origin, note, at, ..Entry::default() };
        let environment = environment.clone();
        self.shared.write(move |draft| rebuild(draft, &environment, generation, entry)).await
    }

    /// Gives the slots `followers` the image of the slot `first`, as long as they did not fail with it. Returns those
    /// that changed.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed; nothing was recorded then.
    pub async fn follow(
        &self,
        first: &EnvironmentName,
        followers: Vec<EnvironmentName>,
        at: Timestamp,
    ) -> Result<Vec<EnvironmentName>, RecordError> {
        let first = first.clone();
        self.shared.write(move |draft| together::follow(draft, &first, &followers, at)).await
    }

    /// Rolls back to a good image: makes a new generation and marks the image of the previous one as bad. What
    /// changed together with that one goes back in the same write.
    /// Returns `false` if the previous generation is not current any more, is held, does not name a different
    /// image, or is itself a rollback, because a rollback is never rolled back.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed; nothing was recorded then.
    pub async fn roll_back(
        &self,
        environment: &EnvironmentName,
        back: RollbackRequest,
    ) -> Result<bool, RecordError> {
        let environment = environment.clone();
        if self.proposes {
            return self.shared.write(move |draft| replica::propose(draft, &environment, &back)).await;
        }
        self.shared.write(move |draft| roll_back(draft, &environment, back)).await
    }
}

fn advance(
    draft: &mut RecordDraft<'_>,
    environment: &EnvironmentName,
    head: &CommitId,
    asked: QueryPeriod,
) -> Result<Option<Generation>, RecordError> {
    advance_with(draft, environment, head, None, asked)
}

fn advance_with(
    draft: &mut RecordDraft<'_>,
    environment: &EnvironmentName,
    head: &CommitId,
    note: Option<String>,
    asked: QueryPeriod,
) -> Result<Option<Generation>, RecordError> {
    let before = draft.desired(environment)?;
    let mut desired = before.clone();
    let hint = desired.hint.take_if(|hint| hint.revision == *head || asked.settles(hint.at));
    // Pushes before the one that passed are part of it.
    let passed = desired.unchecked.iter().position(|hint| hint.revision == *head);
    let passed: Vec<Hint> = passed.map(|at| desired.unchecked.drain(..=at).collect()).unwrap_or_default();
    let (mut of_head, earlier): (Vec<Hint>, Vec<Hint>) =
        hint.into_iter().chain(passed).partition(|hint| hint.revision == *head);
    earlier.iter().for_each(|hint| desired.overtake(&hint.by, hint.at));
    desired.asked.take_if(|requested_at| asked.covers(*requested_at));
    awaited::settle(draft, environment, head)?;
    let is_passed_over = desired.passed_over.take().as_ref() == Some(head);
    let has_moved = is_passed_over || desired.head.as_ref() != Some(head);
    desired.head = Some(head.clone());
    let is_new = has_moved && !is_followed(&desired, head);
    if is_new {
        let by = (!of_head.is_empty()).then(|| of_head.remove(0).by);
        let origin = Some(if by.is_some() { Origin::Push } else { Origin::BranchPoll });
        let revision = Some(head.clone());
        let entry = Entry { revision, origin, by, note, at: asked.to, ..Entry::default() };
        generation::begin(draft, &mut desired, entry)?;
    }
    let by = desired.entry.by.clone();
    for hint in of_head.iter().filter(|hint| by.as_ref() != Some(&hint.by)) {
        desired.overtake(&hint.by, hint.at);
    }
    put_if_changed(draft, &before, &desired)?;
    Ok(is_new.then_some(desired.entry.generation))
}

fn await_checks(
    draft: &mut RecordDraft<'_>,
    environment: &EnvironmentName,
    head: &CommitId,
    asked: QueryPeriod,
) -> Result<(), RecordError> {
    let before = draft.desired(environment)?;
    let mut desired = before.clone();
    let hint = desired.hint.take_if(|hint| hint.revision == *head || asked.settles(hint.at));
    match hint {
        Some(hint) if hint.revision == *head => {
            desired.unchecked.retain(|known| known.revision != hint.revision);
            desired.unchecked.push(hint);
            let surplus = desired.unchecked.len().saturating_sub(Desired::UNCHECKED_KEPT);
            let surplus: Vec<Hint> = desired.unchecked.drain(..surplus).collect();
            surplus.iter().for_each(|hint| desired.overtake(&hint.by, hint.at));
        }
        Some(hint) => desired.overtake(&hint.by, hint.at),
        None => {}
    }
    desired.asked.take_if(|requested_at| asked.covers(*requested_at));
    put_if_changed(draft, &before, &desired)
}

fn pass_over(
    draft: &mut RecordDraft<'_>,
    environment: &EnvironmentName,
    head: &CommitId,
    asked: QueryPeriod,
) -> Result<bool, RecordError> {
    let before = draft.desired(environment)?;
    let mut desired = before.clone();
    if let Some(hint) = desired.hint.take_if(|hint| hint.revision == *head || asked.settles(hint.at)) {
        desired.overtake(&hint.by, hint.at);
    }
    desired.asked.take_if(|requested_at| asked.covers(*requested_at));
    (desired.head, desired.passed_over) = (Some(head.clone()), Some(head.clone()));
    awaited::settle(draft, environment, head)?;
    put_if_changed(draft, &before, &desired)?;
    Ok((&desired.head, &desired.passed_over) != (&before.head, &before.passed_over))
}

fn advance_tag(
    draft: &mut RecordDraft<'_>,
    environment: &EnvironmentName,
    image: Image,
    note: String,
    asked: QueryPeriod,
) -> Result<Option<Generation>, RecordError> {
    let before = draft.desired(environment)?;
    let mut desired = before.clone();
    let is_announced = |hint: &TagHint| Some(&hint.digest) == image.digest.as_ref();
    let hint = desired.tag_hint.take_if(|hint| is_announced(hint) || asked.settles(hint.at));
    desired.asked.take_if(|requested_at| asked.covers(*requested_at));
    let has_moved = desired.tag != image.digest;
    desired.tag = image.digest.clone();
    let is_recorded = desired.entry.image.as_ref().is_some_and(|recorded| recorded.digest == image.digest);
    let is_new = has_moved && !(is_recorded && desired.entry.origin == Some(Origin::Tag));
    if is_new {
        let by = hint.as_ref().filter(|hint| is_announced(hint)).map(|hint| hint.by.clone());
        let (image, origin) = (Some(image.clone()), Some(Origin::Tag));
        let entry = Entry { image, origin, by, note: Some(note), at: asked.to, ..Entry::default() };
        generation::begin(draft, &mut desired, entry)?;
    }
    if let Some(hint) = hint.filter(|hint| !(is_new && is_announced(hint))) {
        desired.overtake(&hint.by, hint.at);
    }
    put_if_changed(draft, &before, &desired)?;
    Ok(is_new.then_some(desired.entry.generation))
}

/// Ends the waits that the query settles. Only an answer verifies an announced push, and only once the remote had time
/// to show it; a requested query also ends without an answer.
fn without_head(
    draft: &mut RecordDraft<'_>,
    environment: &EnvironmentName,
    asked: QueryPeriod,
    is_answered: bool,
) -> Result<(), RecordError> {
    let before = draft.desired(environment)?;
    let mut desired = before.clone();
    desired.asked.take_if(|requested_at| asked.covers(*requested_at));
    if is_answered {
        let pushed = desired.hint.take_if(|hint| asked.settles(hint.at)).map(|hint| (hint.by, hint.at));
        let tagged = desired.tag_hint.take_if(|hint| asked.settles(hint.at)).map(|hint| (hint.by, hint.at));
        pushed.iter().chain(&tagged).for_each(|(by, at)| desired.overtake(by, *at));
    }
    put_if_changed(draft, &before, &desired)
}

fn put_if_changed(
    draft: &mut RecordDraft<'_>,
    before: &Desired,
    desired: &Desired,
) -> Result<(), RecordError> {
    if desired == before { Ok(()) } else { draft.put_desired(desired) }
}

/// Whether the current generation is this commit already, because abide polls the branch.
fn is_followed(desired: &Desired, head: &CommitId) -> bool {
    desired.entry.revision.as_ref() == Some(head)
        && matches!(desired.entry.origin, Some(Origin::Push | Origin::BranchPoll))
}

fn resolve(
    draft: &mut RecordDraft<'_>,
    environment: &EnvironmentName,
    generation: Generation,
    image: &Image,
    recipe: Option<RecipeKey>,
) -> Result<bool, RecordError> {
    let mut desired = draft.desired(environment)?;
    let held = desired.hold.as_ref().and_then(|hold| hold.generation);
    let key = keys::numbered(environment, generation.0);
    if desired.entry.generation == generation && generation != Generation::default() {
        let taken = complete(&mut desired.entry, image);
        if taken == Taken::Changed {
            desired.entry.recipe = recipe.or(desired.entry.recipe);
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
    let Some(mut entry) = draft.store().document::<Entry>(DocumentKind::History, &key, what)? else {
        return Ok(false);
    };
    let taken = complete(&mut entry, image);
    if taken == Taken::Changed {
        entry.recipe = recipe.or(entry.recipe);
        draft.put(DocumentKind::History, key, &entry)?;
        draft.notify_desired(environment);
    }
    Ok(taken != Taken::Other)
}

/// The result of recording an image in an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    /// The entry is more complete than before.
    Changed,
    /// The entry had this image before.
    Same,
    /// The entry names other content, which a completion must not change.
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

fn note_recipe(
    draft: &mut RecordDraft<'_>,
    environment: &EnvironmentName,
    generation: Generation,
    recipe: RecipeKey,
) -> Result<bool, RecordError> {
    let mut desired = draft.desired(environment)?;
    if desired.entry.generation != generation || generation == Generation::default() {
        return Ok(false);
    }
    desired.entry.recipe = Some(recipe);
    generation::put(draft, &desired)?;
    draft.put_desired_silently(&desired)?;
    Ok(true)
}

fn rebuild(
    draft: &mut RecordDraft<'_>,
    environment: &EnvironmentName,
    generation: Generation,
    entry: Entry,
) -> Result<bool, RecordError> {
    let mut desired = draft.desired(environment)?;
    if desired.entry.generation != generation || generation == Generation::default() {
        return Ok(false);
    }
    let revision = desired.entry.revision.clone();
    // The result of a rollback stays a rollback: nobody requested it, and it is not a success.
    let before = desired.entry.origin.filter(|origin| *origin == Origin::AutomaticRollback);
    let origin = entry.origin.or(before).or(Some(Origin::Rebuild));
    let entry = Entry { revision, origin, ..entry };
    generation::begin(draft, &mut desired, entry)?;
    let current = desired.entry.generation;
    if let Some(hold) = desired.hold.as_mut().filter(|hold| hold.generation == Some(generation)) {
        hold.generation = Some(current);
    }
    draft.put_desired(&desired)?;
    Ok(true)
}

pub(super) fn roll_back(
    draft: &mut RecordDraft<'_>,
    environment: &EnvironmentName,
    back: RollbackRequest,
) -> Result<bool, RecordError> {
    let RollbackRequest { from, image, revision, note, reason, message, at } = back;
    let mut desired = draft.desired(environment)?;
    let Some(failed) = to_roll_back_from(&desired, from, &image) else { return Ok(false) };
    let outcome = Outcome::Failed(message.clone());
    let failed_revision = desired.entry.revision.clone();
    let changed = std::mem::take(&mut desired.entry.together);
    let bad = Bad { image: failed, generation: from, revision: failed_revision, reason, message, at };
    let message = bad.message.clone();
    desired.mark_bad(bad);
    let origin = Some(Origin::AutomaticRollback);
    let entry = Entry { revision, image: Some(image), origin, note: Some(note), at, ..Entry::default() };
    generation::begin(draft, &mut desired, entry)?;
    // This must come second: starting a generation marks the previous one as superseded.
    draft.put(DocumentKind::Outcomes, keys::numbered(environment, from.0), &outcome)?;
    together::roll_back(draft, desired, &changed, &message)?;
    Ok(true)
}

/// The image of generation `from`, if it may be rolled back to `to`.
pub(super) fn to_roll_back_from(desired: &Desired, from: Generation, to: &Image) -> Option<Image> {
    let may = desired.entry.generation == from
        && desired.hold.is_none()
        && desired.entry.origin != Some(Origin::AutomaticRollback);
    desired.entry.image.clone().filter(|image| may && !image.is_same(to))
}
