//! The handle of an agent: its record is a copy of the controller's, and follows it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::draft::RecordDraft;
use super::error::RecordError;
use super::reader::documents;
use super::resolver::to_roll_back_from;
use super::shared::RecordInner;
use super::store::{DocumentKind, RecordStore};
use super::wakeup::Wakeup;
use super::{generation, keys};
use crate::model::desired::{Bad, Desired, Entry, Forget, Image, RollbackRequest};
use crate::model::link::{Assigned, Assignment, ForgetThere};
use crate::model::name::{EnvironmentName, Generation, NetworkName};
use crate::model::spec::EnvironmentSpec;

/// The key of the number from which the epochs of the next sessions are derived.
const EPOCH: &[u8] = b"epoch";

/// The maximum number of sessions of one agent process.
pub const SESSIONS: u64 = 1 << 20;

/// Applies the assignments of a controller. Every method returns once the write is on disk.
#[derive(Clone)]
pub struct Replica {
    pub(super) shared: Arc<RecordInner>,
}

/// The result of an assignment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// Environments whose record was rejected, and why. They keep running unchanged.
    pub not_taken: BTreeMap<EnvironmentName, ReplicaRejection>,
}

/// The reason why the record of an environment is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaRejection {
    /// It is older than the copy.
    Behind {
        /// The generation of the copy.
        here: Generation,
        /// The generation that was sent.
        sent: Generation,
    },
    /// It is a different record with the same generation number.
    Forked(Generation),
}

/// The stored declaration of an environment for this host, so that the host heals without a controller.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct StoredAssignment {
    network: NetworkName,
    spec: EnvironmentSpec,
}

/// The last assignment to this host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KeptAssignment {
    /// The managed network.
    pub network: NetworkName,
    /// The declared environments.
    pub environments: BTreeMap<EnvironmentName, EnvironmentSpec>,
}

impl Replica {
    /// Applies the complete assignment. An environment that is neither in it nor among `kept` is forgotten,
    /// except for its record; those in `kept` are unchanged. An older record is rejected: a controller
    /// restored from an old copy must not bring back what ran then.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed; nothing was recorded then.
    pub async fn accept(
        &self,
        assignment: Assignment,
        kept: BTreeSet<EnvironmentName>,
    ) -> Result<Accepted, RecordError> {
        self.shared.write(move |draft| accept(draft, assignment, kept)).await
    }

    /// The last assignment.
    ///
    /// # Errors
    /// Returns [`RecordError`] if it cannot be read.
    pub fn kept(&self) -> Result<KeptAssignment, RecordError> {
        let mut kept = KeptAssignment::default();
        for pair in self.shared.store.pairs(DocumentKind::Assigned, b"") {
            let (key, value) = pair?;
            let stored = serde_json::from_slice::<StoredAssignment>(&value);
            if let (Some(name), Ok(stored)) = (keys::name(&key), stored) {
                kept.network = stored.network;
                kept.environments.insert(name, stored.spec);
            }
        }
        Ok(kept)
    }

    /// The number of the first session of the next process: at least `at_least`, and [`SESSIONS`] above the
    /// previous process. The numbers in between belong to the sessions of that process.
    ///
    /// A full disk keeps no agent from its work: the number is not stored then. Only if the clock is set back as
    /// well, the next process has the same one.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed; the number must not be used then.
    pub async fn next_epoch(&self, at_least: u64) -> Result<u64, RecordError> {
        let work = move |draft: &mut RecordDraft<'_>| {
            let epoch = next_epoch(draft.store(), at_least)?;
            draft.put_bytes(DocumentKind::Meta, EPOCH.to_vec(), epoch.to_be_bytes().to_vec());
            Ok(epoch)
        };
        match self.shared.write(work).await {
            Err(RecordError::DiskFull) => next_epoch(&self.shared.store, at_least),
            written => written,
        }
    }
}

fn next_epoch(store: &RecordStore, at_least: u64) -> Result<u64, RecordError> {
    let last = store.get(DocumentKind::Meta, EPOCH)?.as_deref().and_then(keys::number);
    Ok(last.map_or(at_least, |last| last.saturating_add(SESSIONS).max(at_least)))
}

/// The rollback of an environment that is pending on the controller.
pub(super) fn proposed(
    store: &RecordStore,
    environment: &EnvironmentName,
) -> Result<Option<RollbackRequest>, RecordError> {
    let key = environment.as_str().as_bytes();
    store.document(DocumentKind::Proposed, key, || format!("the rollback of `{environment}`"))
}

/// Notes a rollback for the controller. Returns `false` if the record does not allow it, under the same
/// conditions as [`super::resolver::roll_back`].
pub(super) fn propose(
    draft: &mut RecordDraft<'_>,
    environment: &EnvironmentName,
    back: &RollbackRequest,
) -> Result<bool, RecordError> {
    let desired = draft.desired(environment)?;
    if to_roll_back_from(&desired, back.from, &back.image).is_none() {
        return Ok(false);
    }
    draft.put(DocumentKind::Proposed, environment.as_str().as_bytes().to_vec(), back)?;
    draft.notify_desired(environment);
    Ok(true)
}

fn accept(
    draft: &mut RecordDraft<'_>,
    assignment: Assignment,
    kept: BTreeSet<EnvironmentName>,
) -> Result<Accepted, RecordError> {
    let Assignment { network, environments, forget, misread: _ } = assignment;
    let assigned = environments.iter().map(|one| one.desired.environment.clone());
    let named: BTreeSet<_> = kept.iter().cloned().chain(assigned).collect();
    for pair in draft.store().pairs(DocumentKind::Assigned, b"") {
        let (key, _) = pair?;
        if keys::name(&key).is_none_or(|name| !named.contains(&name)) {
            draft.remove(DocumentKind::Assigned, key);
        }
    }
    let mut accepted = Accepted::default();
    for Assigned { spec, desired, held, heard: _ } in environments {
        let environment = desired.environment.clone();
        declare(draft, &environment, StoredAssignment { network: network.clone(), spec })?;
        if let Some(why) = take_over(draft, desired, held)? {
            withdraw_request(draft, &environment)?;
            accepted.not_taken.insert(environment, why);
        }
    }
    kept.iter().try_for_each(|environment| withdraw_request(draft, environment))?;
    let requested: BTreeSet<_> = forget.iter().map(|request| request.environment.clone()).collect();
    withdraw_others(draft, |environment| named.contains(environment) || requested.contains(environment))?;
    for request in forget.into_iter().filter(|request| !named.contains(&request.environment)) {
        request_to_forget(draft, request)?;
    }
    Ok(accepted)
}

/// Withdraws the request to forget an environment that this host runs again.
fn withdraw_request(draft: &mut RecordDraft<'_>, environment: &EnvironmentName) -> Result<(), RecordError> {
    let desired = draft.desired(environment)?;
    match desired.forget {
        Some(_) => draft.put_desired(&Desired { forget: None, ..desired }),
        None => Ok(()),
    }
}

/// Withdraws the requests that the controller does not repeat: a user withdrew them. An unreadable record is
/// reported elsewhere.
fn withdraw_others(
    draft: &mut RecordDraft<'_>,
    is_current: impl Fn(&EnvironmentName) -> bool,
) -> Result<(), RecordError> {
    for pair in draft.store().pairs(DocumentKind::Desired, b"") {
        let environment = keys::name(&pair?.0).filter(|environment| !is_current(environment));
        if let Some(desired) = environment.and_then(|environment| draft.desired(&environment).ok())
            && desired.forget.is_some()
        {
            draft.put_desired(&Desired { forget: None, ..desired })?;
        }
    }
    Ok(())
}

/// Notes the request to remove what this host still has of an environment. The loop carries it out.
fn request_to_forget(draft: &mut RecordDraft<'_>, request: ForgetThere) -> Result<(), RecordError> {
    let ForgetThere { environment, stop, by, at } = request;
    let desired = draft.desired(&environment)?;
    let forget = Some(Forget { stop, left: None, by, at });
    if desired.forget != forget {
        draft.put_desired(&Desired { forget, ..desired })?;
    }
    Ok(())
}

fn declare(
    draft: &mut RecordDraft<'_>,
    environment: &EnvironmentName,
    assignment: StoredAssignment,
) -> Result<(), RecordError> {
    let key = environment.as_str().as_bytes();
    let what = || format!("the declaration of `{environment}`");
    let before: Option<StoredAssignment> = draft.store().document(DocumentKind::Assigned, key, what)?;
    if before.as_ref() != Some(&assignment) {
        draft.put(DocumentKind::Assigned, key.to_vec(), &assignment)?;
        draft.notify(Wakeup::Desired(environment.clone()));
    }
    Ok(())
}

/// Applies the record of one environment, or returns why it is rejected.
fn take_over(
    draft: &mut RecordDraft<'_>,
    sent: Desired,
    held: Option<Entry>,
) -> Result<Option<ReplicaRejection>, RecordError> {
    let before = draft.desired(&sent.environment)?;
    let here = before.entry.generation;
    if sent.entry.generation < here {
        return Ok(Some(ReplicaRejection::Behind { here, sent: sent.entry.generation }));
    }
    if sent.entry.generation == here && !is_same_generation(&before.entry, &sent.entry) {
        return Ok(Some(ReplicaRejection::Forked(here)));
    }
    let known = known_images(draft, &before)?;
    let desired = localized(sent, &known);
    if desired != before {
        draft.put_desired(&desired)?;
    }
    if desired.entry != before.entry {
        generation::put(draft, &desired)?;
    }
    if desired.entry.generation > here {
        draft.remove(DocumentKind::Proposed, desired.environment.as_str().as_bytes().to_vec());
    }
    if let Some(held) = held.filter(|held| held.generation < desired.entry.generation) {
        keep_held(draft, &desired.environment, held, &known)?;
    }
    Ok(None)
}

/// Whether both are one generation, ignoring that engines may name the image differently.
fn is_same_generation(here: &Entry, sent: &Entry) -> bool {
    let images = match (&here.image, &sent.image) {
        (Some(here), Some(sent)) => here.is_same(sent),
        (None, _) => true,
        (Some(_), None) => false,
    };
    images && here.at == sent.at && here.origin == sent.origin && here.revision == sent.revision
}

/// The generation of a hold. Details that are known on this host are kept.
fn keep_held(
    draft: &mut RecordDraft<'_>,
    environment: &EnvironmentName,
    held: Entry,
    known: &[Image],
) -> Result<(), RecordError> {
    let key = keys::numbered(environment, held.generation.0);
    if held.generation == Generation::default() || draft.store().get(DocumentKind::History, &key)?.is_some() {
        return Ok(());
    }
    let image = held.image.map(|image| local(image, known));
    draft.put(DocumentKind::History, key, &Entry { image, ..held })
}

/// The images that the copy has seen, under their names in this engine.
fn known_images(draft: &RecordDraft<'_>, before: &Desired) -> Result<Vec<Image>, RecordError> {
    let prefix = keys::all_of(&before.environment);
    let entries = documents::<Entry>(draft.store(), DocumentKind::History, &prefix).rev();
    entries.filter_map(|entry| entry.map(|entry| entry.image).transpose()).collect()
}

fn localized(sent: Desired, known: &[Image]) -> Desired {
    let image = sent.entry.image.map(|image| local(image, known));
    let bad = sent.bad.into_iter().map(|bad| Bad { image: local(bad.image, known), ..bad });
    // A request to forget it is about other hosts.
    Desired { entry: Entry { image, ..sent.entry }, bad: bad.collect(), forget: None, ..sent }
}

/// The image under its name in this engine. The image ID of another engine means nothing here, unless nothing
/// else is known.
fn local(image: Image, known: &[Image]) -> Image {
    if image.digest.is_none() {
        return image;
    }
    let met = known.iter().find(|met| met.digest.is_some() && met.is_same(&image) && met.id.is_some());
    Image { id: met.and_then(|met| met.id.clone()), ..image }
}
