//! The handle that updates the record: for webhooks and operators.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::delivery::{self, Push, PushOutcome};
use super::draft::RecordDraft;
use super::error::{RecordError, WriteError};
use super::evidence::record_event;
use super::shared::RecordInner;
use super::store::DocumentKind;
use super::{keys, together};
use crate::model::canary::{CanaryDecision, CanaryOrder};
use crate::model::desired::{Desired, Entry, Hint, Hold, Image, Maintenance, Origin, TagHint};
use crate::model::name::{CommitId, EnvironmentName, Generation, TokenId};
use crate::model::time::Timestamp;

/// Updates the record. Every method returns once the write is on disk.
#[derive(Clone)]
pub struct DesiredWriter {
    pub(super) shared: Arc<RecordInner>,
    /// The conditions of its changes.
    pub(super) seen: Vec<Precondition>,
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
    /// A writer whose changes are refused unless every one of these conditions holds.
    #[must_use]
    pub fn seeing(&self, seen: Vec<Precondition>) -> Self {
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
        let work = move |draft: &mut RecordDraft<'_>| {
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
        let work = move |draft: &mut RecordDraft<'_>| {
            let mut recorded = Vec::new();
            for environment in environments {
                let mut desired = draft.desired(&environment)?;
                let is_hinted = desired.tag_hint.as_ref().is_some_and(|known| known.digest == hint.digest);
                if desired.tag.as_ref() != Some(&hint.digest) && !is_hinted {
                    if let Some(earlier) = desired.tag_hint.replace(hint.clone()) {
                        desired.overtake(&earlier.by, earlier.at);
                    }
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
        let changes = BTreeMap::from([(environment.clone(), change)]);
        let mut all = self.submit_together(changes, BTreeMap::new(), guards).await?;
        Ok(all.pop().unwrap_or_else(|| Desired::empty(environment.clone())))
    }

    /// Does the same for several environments in one write, and holds others at the generation that each hold
    /// names. Returns all their records.
    ///
    /// # Errors
    /// Returns [`WriteError::Stale`] if a guard no longer holds; no record changes then.
    pub async fn submit_together(
        &self,
        changes: BTreeMap<EnvironmentName, Change>,
        holds: BTreeMap<EnvironmentName, Hold>,
        guards: &[Precondition],
    ) -> Result<Vec<Desired>, WriteError> {
        let guards = [self.seen.as_slice(), guards].concat();
        let work = move |draft: &mut RecordDraft<'_>| {
            check(draft, &guards)?;
            let mut all = together::begin(draft, changes)?;
            for (environment, hold) in holds {
                let mut desired = draft.desired(&environment)?;
                desired.hold = Some(hold);
                draft.put_desired(&desired)?;
                all.push(desired);
            }
            Ok(all)
        };
        self.shared.write(work).await
    }

    /// Holds the environment: later changes are recorded but not applied. A generation that is no longer in
    /// history cannot be held; the hold then names none.
    ///
    /// # Errors
    /// Returns [`WriteError`] if nothing was recorded.
    pub async fn hold(&self, environment: &EnvironmentName, hold: Hold) -> Result<Desired, WriteError> {
        let mut all = self.hold_together(BTreeMap::from([(environment.clone(), hold)])).await?;
        Ok(all.pop().unwrap_or_else(|| Desired::empty(environment.clone())))
    }

    /// Does the same for several environments in one write.
    ///
    /// # Errors
    /// Returns [`WriteError`] if nothing was recorded.
    pub async fn hold_together(
        &self,
        holds: BTreeMap<EnvironmentName, Hold>,
    ) -> Result<Vec<Desired>, WriteError> {
        let environments = holds.keys().cloned().collect();
        let work = move |draft: &mut RecordDraft<'_>, desired: &mut Desired| {
            let Some(hold) = holds.get(&desired.environment).cloned() else { return Ok(()) };
            let generation = match hold.generation {
                Some(generation) if is_kept(draft, &desired.environment, generation)? => Some(generation),
                _ => None,
            };
            desired.hold = Some(Hold { generation, ..hold });
            Ok(())
        };
        self.edit_all(environments, work).await
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
        let mut all = self.resume_together(vec![environment.clone()], at, by).await?;
        Ok(all.pop().unwrap_or_else(|| Desired::empty(environment.clone())))
    }

    /// Does the same for several environments in one write.
    ///
    /// # Errors
    /// Returns [`WriteError`] if nothing was recorded.
    pub async fn resume_together(
        &self,
        environments: Vec<EnvironmentName>,
        at: Timestamp,
        by: Option<&str>,
    ) -> Result<Vec<Desired>, WriteError> {
        let by = by.unwrap_or("someone").to_owned();
        let work = move |_: &mut RecordDraft<'_>, desired: &mut Desired| {
            if let Some(hold) = desired.hold.take() {
                let held_for = humantime::format_duration(at.since(hold.since)).to_string();
                tracing::info!(environment = %desired.environment, by, held_for, "resumed");
            }
            Ok(())
        };
        self.edit_all(environments, work).await
    }

    /// Starts (`Some`) or ends maintenance, and records an event of it. Does nothing if it is so already.
    ///
    /// # Errors
    /// Returns [`WriteError`] if nothing was recorded.
    pub async fn maintain(
        &self,
        environment: &EnvironmentName,
        maintenance: Option<Maintenance>,
        by: &str,
        at: Timestamp,
    ) -> Result<Desired, WriteError> {
        let by = by.to_owned();
        let work = move |draft: &mut RecordDraft<'_>, desired: &mut Desired| {
            if desired.maintenance.is_some() == maintenance.is_some() {
                return Ok(());
            }
            let message = match &maintenance {
                Some(Maintenance { reason: Some(reason), .. }) => {
                    format!("{by} started maintenance: {reason}")
                }
                Some(_) => format!("{by} started maintenance"),
                None => format!("{by} ended maintenance"),
            };
            record_event(draft, &desired.environment, message, at)?;
            desired.maintenance = maintenance;
            Ok(())
        };
        self.edit(environment, work).await
    }

    /// Records what a person decided about a canary, and an event of it. An order for an earlier generation is replaced.
    ///
    /// # Errors
    /// Returns [`WriteError`] if nothing was recorded.
    pub async fn order_canary(
        &self,
        environment: &EnvironmentName,
        order: CanaryOrder,
    ) -> Result<Desired, WriteError> {
        let work = move |draft: &mut RecordDraft<'_>, desired: &mut Desired| {
            let CanaryOrder { generation, decision, by, reason, at } = &order;
            let did = match decision {
                CanaryDecision::Promote => "promoted",
                CanaryDecision::Abort => "aborted",
            };
            let why = reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            let message = format!("{by} {did} the canary of generation {generation}{why}");
            record_event(draft, &desired.environment, message, *at)?;
            desired.canary_order = Some(order);
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
        let mut all = self.sync_together(BTreeMap::from([(environment.clone(), asks)]), at).await?;
        Ok(all.pop().unwrap_or_else(|| Desired::empty(environment.clone())))
    }

    /// Does the same for several environments in one write, each with its `asks`.
    ///
    /// # Errors
    /// Returns [`WriteError`] if nothing was recorded.
    pub async fn sync_together(
        &self,
        environments: BTreeMap<EnvironmentName, bool>,
        at: Timestamp,
    ) -> Result<Vec<Desired>, WriteError> {
        let names = environments.keys().cloned().collect();
        let work = move |_: &mut RecordDraft<'_>, desired: &mut Desired| {
            let asks = environments.get(&desired.environment).is_some_and(|asks| *asks);
            desired.sync = Some(at);
            desired.asked = asks.then_some(at).or(desired.asked);
            Ok(())
        };
        self.edit_all(names, work).await
    }

    /// Lets `change` edit the record of `environment`, and writes it if it differs.
    async fn edit(
        &self,
        environment: &EnvironmentName,
        change: impl FnOnce(&mut RecordDraft<'_>, &mut Desired) -> Result<(), WriteError> + Send + 'static,
    ) -> Result<Desired, WriteError> {
        let (environment, seen) = (environment.clone(), self.seen.clone());
        let work = move |draft: &mut RecordDraft<'_>| {
            check(draft, &seen)?;
            edit(draft, &environment, change)
        };
        self.shared.write(work).await
    }

    /// Does the same for several environments, in one write.
    async fn edit_all(
        &self,
        environments: Vec<EnvironmentName>,
        change: impl Fn(&mut RecordDraft<'_>, &mut Desired) -> Result<(), WriteError> + Send + 'static,
    ) -> Result<Vec<Desired>, WriteError> {
        let seen = self.seen.clone();
        let work = move |draft: &mut RecordDraft<'_>| {
            check(draft, &seen)?;
            environments.iter().map(|environment| edit(draft, environment, &change)).collect()
        };
        self.shared.write(work).await
    }
}

impl Change {
    /// The record assigns the generation.
    pub(super) fn into_entry(self) -> Entry {
        let Self { revision, image, origin, by, token, note, at, hold: _ } = self;
        let (origin, together) = (Some(origin), BTreeMap::new());
        Entry {
            generation: Generation::default(),
            revision,
            image,
            recipe: None,
            origin,
            by,
            token,
            note,
            at,
            together,
        }
    }
}

/// Stores the hint if it may be news. Returns `false` if the environment knows the commit.
fn announce(
    draft: &mut RecordDraft<'_>,
    environment: &EnvironmentName,
    hint: &Hint,
) -> Result<bool, RecordError> {
    name_pusher(draft, environment, hint)?;
    let mut desired = draft.desired(environment)?;
    let is_head = desired.head.as_ref() == Some(&hint.revision);
    let is_hinted = desired.hint.as_ref().is_some_and(|stored| stored.revision == hint.revision);
    if is_head || is_hinted {
        return Ok(false);
    }
    if let Some(earlier) = desired.hint.replace(hint.clone()) {
        desired.overtake(&earlier.by, earlier.at);
    }
    draft.put_desired(&desired)?;
    Ok(true)
}

/// Records who pushed a commit that a poll found before the delivery came: the pusher must not approve it.
fn name_pusher(
    draft: &mut RecordDraft<'_>,
    environment: &EnvironmentName,
    hint: &Hint,
) -> Result<(), RecordError> {
    let is_nobodys = |entry: &Entry| {
        entry.by.is_none()
            && entry.origin == Some(Origin::BranchPoll)
            && entry.revision.as_ref() == Some(&hint.revision)
    };
    // Every delivery comes here: only documents that name the commit are parsed, and one that is damaged must not stop
    // a delivery.
    let named = |(_, document): (Vec<u8>, Vec<u8>)| {
        std::str::from_utf8(&document)
            .is_ok_and(|text| text.contains(hint.revision.as_str()))
            .then_some(document)
    };
    let history = draft.store().pairs(DocumentKind::History, &keys::all_of(environment));
    let named: Vec<_> =
        history.map(|pair| pair.map(named)).filter_map(Result::transpose).collect::<Result<_, _>>()?;
    let entries = named.iter().filter_map(|document| serde_json::from_slice::<Entry>(document).ok());
    let found: Vec<Entry> = entries.filter(is_nobodys).collect();
    for entry in found {
        let key = keys::numbered(environment, entry.generation.0);
        draft.put(DocumentKind::History, key, &Entry { by: Some(hint.by.clone()), ..entry })?;
    }
    let desired = draft.desired(environment)?;
    if is_nobodys(&desired.entry) {
        let entry = Entry { by: Some(hint.by.clone()), ..desired.entry };
        draft.put_desired(&Desired { entry, ..desired })?;
    }
    Ok(())
}

fn is_kept(
    draft: &RecordDraft<'_>,
    environment: &EnvironmentName,
    generation: Generation,
) -> Result<bool, RecordError> {
    let key = keys::numbered(environment, generation.0);
    Ok(draft.store().get(DocumentKind::History, &key)?.is_some())
}

fn edit(
    draft: &mut RecordDraft<'_>,
    environment: &EnvironmentName,
    change: impl FnOnce(&mut RecordDraft<'_>, &mut Desired) -> Result<(), WriteError>,
) -> Result<Desired, WriteError> {
    let before = draft.desired(environment)?;
    let mut desired = before.clone();
    change(draft, &mut desired)?;
    if desired != before {
        draft.put_desired(&desired)?;
    }
    Ok(desired)
}

pub(super) fn check(draft: &RecordDraft<'_>, guards: &[Precondition]) -> Result<(), WriteError> {
    for Precondition { environment, generation: expected } in guards {
        let actual = draft.desired(environment)?.entry.generation;
        if actual != *expected {
            return Err(WriteError::Stale { environment: environment.clone(), expected: *expected, actual });
        }
    }
    Ok(())
}
