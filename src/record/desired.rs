//! The handle that updates the record: for webhooks and operators.

use std::sync::Arc;

use super::delivery::{self, Push, PushOutcome};
use super::draft::Draft;
use super::error::{RecordError, WriteError};
use super::export::{self, Export};
use super::shared::RecordInner;
use super::store::DocumentKind;
use super::{generation, keys};
use crate::model::desired::{Desired, Entry, Hint, Hold, Image, Origin, TagHint};
use crate::model::name::{CommitId, EnvironmentName, Generation, TokenId};
use crate::model::time::Timestamp;

/// Updates the record. Every method returns once the write is on disk.
#[derive(Clone)]
pub struct DesiredWriter {
    pub(super) shared: Arc<RecordInner>,
    /// The generation that the environment to change must still have.
    pub(super) seen: Option<Generation>,
}

/// A change by an operator or a promotion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The commit, if known.
    pub revision: Option<CommitId>,
    /// The image; `None` means that it is built from the commit.
    pub image: Option<Image>,
    /// The reason.
    pub origin: Origin,
    /// The author.
    pub by: Option<String>,
    /// The token of the author, if one was used.
    pub token: Option<TokenId>,
    /// One clause for people.
    pub note: Option<String>,
    /// The time of the change.
    pub at: Timestamp,
    /// Holds the environment at the generation that this change creates, whatever generation the hold itself
    /// names.
    pub hold: Option<Hold>,
}

/// A condition: the change is refused if the record of `environment` is no longer at `generation`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Precondition {
    /// The environment that was inspected; it need not be the one that changes.
    pub environment: EnvironmentName,
    /// The observed generation.
    pub generation: Generation,
}

impl DesiredWriter {
    /// A writer whose next changes of an environment are refused unless its record is at this generation.
    /// `None`: at any.
    #[must_use]
    pub fn seeing(&self, seen: Option<Generation>) -> Self {
        Self { shared: Arc::clone(&self.shared), seen }
    }

    /// Records a push for each environment that may not know it yet, without a new generation. A push is only
    /// a hint: the branch head that git reports decides what runs.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed; nothing was recorded then.
    pub async fn push(
        &self,
        push: Push,
        environments: &[EnvironmentName],
    ) -> Result<PushOutcome, RecordError> {
        let environments = environments.to_vec();
        let work = move |draft: &mut Draft<'_>| {
            let repeated = delivery::remember(draft, &push)?;
            let mut recorded = Vec::new();
            for environment in environments {
                if announce(draft, &environment, &push.hint)? {
                    recorded.push(environment);
                }
            }
            Ok(PushOutcome { recorded, repeated })
        };
        self.shared.write(work).await
    }

    /// Records that a registry announced a new digest of a tracked tag, for each environment that may not
    /// know it yet. It makes no generation. Returns the environments for which it was news.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed; nothing was recorded then.
    pub async fn announce_tag(
        &self,
        environments: Vec<EnvironmentName>,
        hint: TagHint,
    ) -> Result<Vec<EnvironmentName>, RecordError> {
        let work = move |draft: &mut Draft<'_>| {
            let mut recorded = Vec::new();
            for environment in environments {
                let mut desired = draft.desired(&environment)?;
                let is_hinted = desired.tag_hint.as_ref().is_some_and(|known| known.digest == hint.digest);
                if desired.tag.as_ref() != Some(&hint.digest) && !is_hinted {
                    desired.tag_hint = Some(hint.clone());
                    draft.put_desired(&desired)?;
                    recorded.push(environment);
                }
            }
            Ok(recorded)
        };
        self.shared.write(work).await
    }

    /// Makes a new generation, even if it names the same image as the current one: an operator asked for it,
    /// and earlier failures do not count against it.
    ///
    /// # Errors
    /// Returns [`WriteError::Stale`] if a guard no longer holds.
    pub async fn submit(
        &self,
        environment: &EnvironmentName,
        change: Change,
        guards: &[Precondition],
    ) -> Result<Desired, WriteError> {
        let guards = guards.to_vec();
        let work = move |draft: &mut Draft<'_>, desired: &mut Desired| {
            check(draft, &guards)?;
            let hold = change.hold.clone();
            if let Some(image) = change.image.as_ref().filter(|_| change.origin.is_on_purpose()) {
                desired.lift(image);
            }
            generation::begin(draft, desired, change.into_entry())?;
            if let Some(hold) = hold {
                desired.hold = Some(Hold { generation: Some(desired.entry.generation), ..hold });
            }
            Ok(())
        };
        self.edit(environment, work).await
    }

    /// Holds the environment: later changes are recorded but not applied. A generation that is no longer in
    /// history cannot be held; the hold then names none.
    ///
    /// # Errors
    /// Returns [`WriteError`] if nothing was recorded.
    pub async fn hold(&self, environment: &EnvironmentName, hold: Hold) -> Result<Desired, WriteError> {
        let work = move |draft: &mut Draft<'_>, desired: &mut Desired| {
            let generation = match hold.generation {
                Some(generation) if is_kept(draft, &desired.environment, generation)? => Some(generation),
                _ => None,
            };
            desired.hold = Some(Hold { generation, ..hold });
            Ok(())
        };
        self.edit(environment, work).await
    }

    /// Ends a hold. Does nothing without a hold.
    ///
    /// # Errors
    /// Returns [`WriteError`] if nothing was recorded.
    pub async fn resume(
        &self,
        environment: &EnvironmentName,
        at: Timestamp,
        by: Option<&str>,
    ) -> Result<Desired, WriteError> {
        let by = by.unwrap_or("someone").to_owned();
        let work = move |_: &mut Draft<'_>, desired: &mut Desired| {
            if let Some(hold) = desired.hold.take() {
                let held_for = humantime::format_duration(at.since(hold.since)).to_string();
                tracing::info!(environment = %desired.environment, by, held_for, "resumed");
            }
            Ok(())
        };
        self.edit(environment, work).await
    }

    /// Requests a reconcile now, and clears failures from before `at`. With `asks`, git or the registry is
    /// also asked for the head or digest.
    ///
    /// # Errors
    /// Returns [`WriteError`] if nothing was recorded.
    pub async fn sync(
        &self,
        environment: &EnvironmentName,
        at: Timestamp,
        asks: bool,
    ) -> Result<Desired, WriteError> {
        let work = move |_: &mut Draft<'_>, desired: &mut Desired| {
            desired.sync = Some(at);
            desired.asked = asks.then_some(at).or(desired.asked);
            Ok(())
        };
        self.edit(environment, work).await
    }

    /// Replaces every environment's record, history and outcomes, and the record's id, with the content of
    /// `export`. The backup file is rewritten before this returns.
    ///
    /// # Errors
    /// Returns [`WriteError::Disagreeing`] if the documents contradict each other; nothing is changed then.
    pub async fn import(&self, export: Export) -> Result<(), WriteError> {
        export::check_import(&export)?;
        // The backup file may be ahead of the import. If a crash left it there, the next open would take the
        // import for lost writes and undo it.
        self.shared.mirror.remove()?;
        let imported = self.shared.write(move |draft| export::replace(draft, &export)).await;
        self.shared.mirror.wake();
        self.shared.finish_mirror().await?;
        imported
    }

    /// Lets `change` edit the record of `environment`, and writes it if it differs.
    async fn edit(
        &self,
        environment: &EnvironmentName,
        change: impl FnOnce(&mut Draft<'_>, &mut Desired) -> Result<(), WriteError> + Send + 'static,
    ) -> Result<Desired, WriteError> {
        let (environment, seen) = (environment.clone(), self.seen);
        let work = move |draft: &mut Draft<'_>| {
            let guard = seen.map(|generation| Precondition { environment: environment.clone(), generation });
            check(draft, guard.as_slice())?;
            let before = draft.desired(&environment)?;
            let mut desired = before.clone();
            change(draft, &mut desired)?;
            if desired != before {
                draft.put_desired(&desired)?;
            }
            Ok(desired)
        };
        self.shared.write(work).await
    }
}

impl Change {
    /// The record assigns the generation.
    pub(super) fn into_entry(self) -> Entry {
        let Self { revision, image, origin, by, token, note, at, hold: _ } = self;
        let (generation, origin) = (Generation::default(), Some(origin));
        Entry { generation, revision, image, recipe: None, origin, by, token, note, at }
    }
}

/// Stores the hint if it may be news. Returns `false` if the environment knows the commit.
fn announce(draft: &mut Draft<'_>, environment: &EnvironmentName, hint: &Hint) -> Result<bool, RecordError> {
    let mut desired = draft.desired(environment)?;
    let is_head = desired.head.as_ref() == Some(&hint.revision);
    let is_hinted = desired.hint.as_ref().is_some_and(|stored| stored.revision == hint.revision);
    if is_head || is_hinted {
        return Ok(false);
    }
    desired.hint = Some(hint.clone());
    draft.put_desired(&desired)?;
    Ok(true)
}

fn is_kept(
    draft: &Draft<'_>,
    environment: &EnvironmentName,
    generation: Generation,
) -> Result<bool, RecordError> {
    let key = keys::numbered(environment, generation.0);
    Ok(draft.store().get(DocumentKind::History, &key)?.is_some())
}

pub(super) fn check(draft: &Draft<'_>, guards: &[Precondition]) -> Result<(), WriteError> {
    for Precondition { environment, generation: expected } in guards {
        let actual = draft.desired(environment)?.entry.generation;
        if actual != *expected {
            return Err(WriteError::Stale { environment: environment.clone(), expected: *expected, actual });
        }
    }
    Ok(())
}
