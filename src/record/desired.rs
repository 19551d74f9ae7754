//! The handle that moves the record: for webhooks and for people.

use std::sync::Arc;

use super::delivery::{self, Delivery, PushOutcome};
use super::draft::Draft;
use super::error::{RecordError, WriteError};
use super::export::{self, Export};
use super::shared::Shared;
use super::store::Kind;
use super::{generation, keys};
use crate::model::desired::{Desired, Entry, Hint, Hold, Image, Origin, TagHint};
use crate::model::name::{CommitId, EnvironmentName, Generation};
use crate::model::time::Timestamp;

/// Moves the record. Every method returns once the write is on disk.
#[derive(Clone)]
pub struct DesiredWriter {
    pub(super) shared: Arc<Shared>,
}

/// What a person or a promotion wants to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The commit, where one is known.
    pub revision: Option<CommitId>,
    /// The image; `None`: to be built from the commit.
    pub image: Option<Image>,
    /// Why.
    pub origin: Origin,
    /// Who.
    pub by: Option<String>,
    /// One clause for people.
    pub note: Option<String>,
    /// When.
    pub at: Timestamp,
    /// Holds the environment at the generation that this change makes, whatever the hold itself
    /// says of a generation.
    pub hold: Option<Hold>,
}

/// A change is refused where the record of `environment` is no longer at `generation`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// The environment that was looked at; it need not be the one that changes.
    pub environment: EnvironmentName,
    /// The generation that was seen.
    pub generation: Generation,
}

impl DesiredWriter {
    /// Remembers a push, for each environment that may not know of it yet. No generation is made:
    /// a push is a hint, and what runs is the branch's head as git tells it.
    ///
    /// # Errors
    /// [`RecordError`] where nothing was recorded.
    pub async fn push(
        &self,
        delivery: Delivery,
        environments: &[EnvironmentName],
    ) -> Result<PushOutcome, RecordError> {
        let environments = environments.to_vec();
        let work = move |draft: &mut Draft<'_>| {
            let repeated = delivery::remember(draft, &delivery)?;
            let mut recorded = Vec::new();
            for environment in environments {
                if announce(draft, &environment, &delivery.hint)? {
                    recorded.push(environment);
                }
            }
            Ok(PushOutcome { recorded, repeated })
        };
        self.shared.write(work).await
    }

    /// Remembers that a registry said that a followed tag moved, for each environment that may not
    /// know of it yet. No generation is made; gives those for which it was news.
    ///
    /// # Errors
    /// [`RecordError`] where nothing was recorded.
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

    /// Makes a new generation. One that names what the current one names is a new one too: a
    /// person asked for it, and failures of the last do not count against it.
    ///
    /// # Errors
    /// [`WriteError::Stale`] where a guard does not hold any more.
    pub async fn submit(
        &self,
        environment: &EnvironmentName,
        change: Change,
        guards: &[Guard],
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

    /// Keeps the environment as it is: later changes are recorded, and not applied. A generation
    /// that history does not keep any more cannot be held; then nothing is named.
    ///
    /// # Errors
    /// [`RecordError`] where nothing was recorded.
    pub async fn hold(&self, environment: &EnvironmentName, hold: Hold) -> Result<Desired, RecordError> {
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

    /// Ends a hold. Nothing happens where there is none.
    ///
    /// # Errors
    /// [`RecordError`] where nothing was recorded.
    pub async fn resume(
        &self,
        environment: &EnvironmentName,
        at: Timestamp,
        by: Option<&str>,
    ) -> Result<Desired, RecordError> {
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

    /// Asks for a pass now, and forgives failures from before `at`. `asks`: git or the registry is
    /// asked for the head or digest too.
    ///
    /// # Errors
    /// [`RecordError`] where nothing was recorded.
    pub async fn sync(
        &self,
        environment: &EnvironmentName,
        at: Timestamp,
        asks: bool,
    ) -> Result<Desired, RecordError> {
        let work = move |_: &mut Draft<'_>, desired: &mut Desired| {
            desired.sync = Some(at);
            desired.asked = asks.then_some(at).or(desired.asked);
            Ok(())
        };
        self.edit(environment, work).await
    }

    /// Replaces every environment's record, history and outcomes and the record's id by what
    /// `export` holds. The mirror is written anew before this returns.
    ///
    /// # Errors
    /// [`WriteError::Disagreeing`] where the documents contradict each other; nothing is changed.
    pub async fn import(&self, export: Export) -> Result<(), WriteError> {
        export::check_import(&export)?;
        // The mirror may be ahead of what is imported. Were it still there after a crash, the next
        // open would take the import for lost writes, and undo it.
        self.shared.mirror.remove()?;
        let imported = self.shared.write(move |draft| export::replace(draft, &export)).await;
        self.shared.mirror.wake();
        self.shared.finish_mirror().await?;
        imported
    }

    /// Lets `change` edit the record of `environment`, and writes it where it differs.
    async fn edit<E: From<RecordError> + Send + 'static>(
        &self,
        environment: &EnvironmentName,
        change: impl FnOnce(&mut Draft<'_>, &mut Desired) -> Result<(), E> + Send + 'static,
    ) -> Result<Desired, E> {
        let environment = environment.clone();
        let work = move |draft: &mut Draft<'_>| {
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
    /// The generation is left for the record to give.
    fn into_entry(self) -> Entry {
        let Self { revision, image, origin, by, note, at, hold: _ } = self;
        let (generation, origin) = (Generation::default(), Some(origin));
        Entry { generation, revision, image, recipe: None, origin, by, note, at }
    }
}

/// Stores the hint where it may be news; `false` where the environment knows of the commit.
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
    Ok(draft.store().get(Kind::History, &key)?.is_some())
}

fn check(draft: &Draft<'_>, guards: &[Guard]) -> Result<(), WriteError> {
    for Guard { environment, generation: expected } in guards {
        let actual = draft.desired(environment)?.entry.generation;
        if actual != *expected {
            return Err(WriteError::Stale { environment: environment.clone(), expected: *expected, actual });
        }
    }
    Ok(())
}
