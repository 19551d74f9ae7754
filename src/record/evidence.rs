//! Evidence about images, and promotions that rest on it.

use std::collections::{BTreeMap, BTreeSet};

use super::desired::{Change, DesiredWriter, Precondition, check};
use super::draft::RecordDraft;
use super::error::{RecordError, WriteError};
use super::reader::{DesiredReader, documents};
use super::resolver::Resolver;
use super::status::{StatusWriter, cut, happen};
use super::store::{DocumentKind, RecordStore};
use super::token::StoredToken;
use super::wakeup::Wakeup;
use super::{keys, together};
use crate::model::desired::{Desired, Image};
use crate::model::event::{Event, EventKind};
use crate::model::evidence::{Evidence, EvidenceFinding, Withdrawal};
use crate::model::name::{EnvironmentName, Generation};
use crate::model::time::Timestamp;

/// The pieces of evidence that are kept of an environment, and the withdrawn rejections. A rejection in effect
/// is always kept.
const KEPT: usize = 300;
/// The images of an environment of which the healthy time is kept.
const SOAKS_KEPT: usize = 20;
/// The longest output of a check that is kept, in bytes.
const LONGEST_OUTPUT: usize = 16 * 1024;

/// Healthy time of an image, as observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Soaked {
    /// The environment.
    pub environment: EnvironmentName,
    /// The image that it ran.
    pub image: Image,
    /// The generation that it ran.
    pub generation: Generation,
    /// The observed time, in milliseconds.
    pub millis: u64,
    /// Restarts meanwhile.
    pub restarts: u32,
    /// The end of the observation.
    pub at: Timestamp,
}

/// The image of an environment whose rejections are withdrawn.
pub struct WithdrawnImage {
    /// The environment in which it was rejected.
    pub environment: EnvironmentName,
    /// Selects the rejections of the image.
    pub is_meant: Box<dyn Fn(&Evidence) -> bool + Send>,
    /// The message of the event.
    pub message: String,
}

/// Refuses a promotion, or does not. It sees the evidence of the same moment in which the generation is written,
/// so no rejection comes in between.
pub type PromotionJudge<E> = Box<dyn FnOnce(&[Evidence]) -> Result<(), E> + Send>;

/// One promotion of a write.
pub struct Promotion<E> {
    /// The source.
    pub from: EnvironmentName,
    /// The target.
    pub to: EnvironmentName,
    /// The change of the target.
    pub change: Change,
    /// An event to record of it.
    pub message: Option<String>,
    /// The judge of its gates.
    pub judge: PromotionJudge<E>,
}

impl DesiredWriter {
    /// Records evidence by a person about the images of one or several environments, all in one write, each with the
    /// message of its event. The record assigns the numbers.
    ///
    /// # Errors
    /// Returns [`WriteError`] if nothing was recorded.
    pub async fn testify(&self, all: Vec<(Evidence, String)>) -> Result<(), WriteError> {
        let seen = self.seen.clone();
        let work = move |draft: &mut RecordDraft<'_>| {
            check(draft, &seen)?;
            for (evidence, message) in all {
                let evidence = add(draft, evidence)?;
                record_event(draft, &evidence.environment, message, evidence.at)?;
            }
            Ok(())
        };
        self.shared.write(work).await
    }

    /// Withdraws rejections in one or several environments, all in one write, each with an event. Returns the
    /// environments that had such rejections.
    ///
    /// # Errors
    /// Returns [`WriteError`] if nothing was recorded.
    pub async fn withdraw(
        &self,
        all: Vec<WithdrawnImage>,
        withdrawal: Withdrawal,
    ) -> Result<BTreeSet<EnvironmentName>, WriteError> {
        let seen = self.seen.clone();
        let work = move |draft: &mut RecordDraft<'_>| {
            check(draft, &seen)?;
            let mut withdrawn = BTreeSet::new();
            for WithdrawnImage { environment, is_meant, message } in all {
                let stored = of(draft.store(), DocumentKind::Rejections, &environment)?;
                let meant = stored.into_iter().filter(|found| found.is_rejection() && is_meant(found));
                for rejected in meant {
                    let finding = EvidenceFinding::Rejected { withdrawn: Some(withdrawal.clone()) };
                    put(draft, &Evidence { finding, ..rejected })?;
                    withdrawn.insert(environment.clone());
                }
                if withdrawn.contains(&environment) {
                    record_event(draft, &environment, message, withdrawal.at)?;
                }
            }
            Ok(withdrawn)
        };
        self.shared.write(work).await
    }

    /// Makes new generations by promotions, all in one write, unless one of their judges refuses. Returns the
    /// records in the order of their names.
    ///
    /// # Errors
    /// Returns the refusal, or [`WriteError::Stale`] if a guard no longer holds; no record changes then.
    pub async fn promote<E>(
        &self,
        promotions: Vec<Promotion<E>>,
        guards: &[Precondition],
    ) -> Result<Vec<Desired>, E>
    where
        E: From<WriteError> + From<RecordError> + Send + 'static,
    {
        let guards = guards.to_vec();
        self.shared.write(move |draft: &mut RecordDraft<'_>| promote(draft, promotions, &guards)).await
    }
}

impl Resolver {
    /// Makes new generations by promotions that nobody asked for. Otherwise works like
    /// [`DesiredWriter::promote`].
    ///
    /// # Errors
    /// Returns the refusal, or [`WriteError::Stale`] if a guard no longer holds; no record changes then.
    pub async fn promote<E>(
        &self,
        promotions: Vec<Promotion<E>>,
        guards: &[Precondition],
    ) -> Result<Vec<Desired>, E>
    where
        E: From<WriteError> + From<RecordError> + Send + 'static,
    {
        let guards = guards.to_vec();
        self.shared.write(move |draft: &mut RecordDraft<'_>| promote(draft, promotions, &guards)).await
    }
}

impl StatusWriter {
    /// Records evidence that abide found itself, with an event. The record assigns its number.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed.
    pub async fn evidence(&self, evidence: Evidence, message: String) -> Result<Evidence, RecordError> {
        let work = move |draft: &mut RecordDraft<'_>| {
            let evidence = add(draft, evidence)?;
            record_event(draft, &evidence.environment, message, evidence.at)?;
            Ok(evidence)
        };
        self.shared.write(work).await
    }

    /// Adds healthy time to what is recorded of these images. It sends no wakeup: time passes all the time.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed; nothing was added then.
    pub async fn soaked(&self, all: Vec<Soaked>) -> Result<(), RecordError> {
        let work = move |draft: &mut RecordDraft<'_>| {
            let mut changed: BTreeMap<EnvironmentName, Vec<Evidence>> = BTreeMap::new();
            for soaked in all {
                let stored = match changed.entry(soaked.environment.clone()) {
                    std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                    std::collections::btree_map::Entry::Vacant(entry) => {
                        let stored = soaks(draft.store(), entry.key())?;
                        entry.insert(stored)
                    }
                };
                soak(stored, soaked);
            }
            for (environment, soaks) in changed {
                draft.put(DocumentKind::Soak, environment.as_str().as_bytes().to_vec(), &soaks)?;
            }
            Ok(())
        };
        self.shared.write(work).await
    }
}

impl DesiredReader {
    /// The evidence about the images of an environment, oldest first; healthy times come first.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the store cannot be read.
    pub fn evidence(&self, environment: &EnvironmentName) -> Result<Vec<Evidence>, RecordError> {
        evidence(self.store(), environment)
    }

    /// Everything that a promotion from `environment` is judged by: its evidence, and the rejections in effect
    /// everywhere.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the store cannot be read.
    pub fn evidence_to_judge(&self, environment: &EnvironmentName) -> Result<Vec<Evidence>, RecordError> {
        to_judge(self.store(), environment)
    }

    /// The rejections in effect, everywhere.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the store cannot be read.
    pub fn rejections(&self) -> Result<Vec<Evidence>, RecordError> {
        rejections(self.store())
    }
}

fn promote<E: From<WriteError> + From<RecordError>>(
    draft: &mut RecordDraft<'_>,
    promotions: Vec<Promotion<E>>,
    guards: &[Precondition],
) -> Result<Vec<Desired>, E> {
    check(draft, guards)?;
    let mut changes = BTreeMap::new();
    for Promotion { from, to, change, message, judge } in promotions {
        judge(&to_judge(draft.store(), &from)?)?;
        if let Some(message) = message {
            record_event(draft, &to, message, change.at)?;
        }
        changes.insert(to, change);
    }
    Ok(together::begin(draft, changes)?)
}

/// Adds healthy time to the document of the image, or begins one.
fn soak(stored: &mut Vec<Evidence>, soaked: Soaked) {
    let known = stored.iter().position(|known| known.image.is_same(&soaked.image));
    let before = known.map(|known| stored.remove(known));
    let (millis, restarts, since) = match before.map(|before| before.finding) {
        Some(EvidenceFinding::Healthy { millis, restarts, since }) => (millis, restarts, since),
        _ => (0, 0, soaked.at),
    };
    let finding = EvidenceFinding::Healthy {
        millis: millis.saturating_add(soaked.millis),
        restarts: restarts.saturating_add(soaked.restarts),
        since,
    };
    let Soaked { environment, image, generation, at, .. } = soaked;
    stored.push(Evidence { sequence: 0, environment, image, generation, finding, by: None, at, note: None });
    let surplus = stored.len().saturating_sub(SOAKS_KEPT);
    stored.drain(..surplus);
}

/// Assigns the next number and writes the evidence.
fn add(draft: &mut RecordDraft<'_>, mut evidence: Evidence) -> Result<Evidence, RecordError> {
    draft.counters.last_evidence += 1;
    evidence.sequence = draft.counters.last_evidence;
    evidence.note = evidence.note.map(cut);
    if let EvidenceFinding::Verified { output, .. } = &mut evidence.finding {
        let start = output.ceil_char_boundary(output.len().saturating_sub(LONGEST_OUTPUT));
        output.drain(..start);
    }
    make_room(draft, kind(&evidence), &evidence.environment)?;
    put(draft, &evidence)?;
    Ok(evidence)
}

fn kind(evidence: &Evidence) -> DocumentKind {
    match evidence.finding {
        EvidenceFinding::Rejected { .. } => DocumentKind::Rejections,
        EvidenceFinding::Healthy { .. } => DocumentKind::Soak,
        _ => DocumentKind::Evidence,
    }
}

fn put(draft: &mut RecordDraft<'_>, evidence: &Evidence) -> Result<(), RecordError> {
    draft.put(kind(evidence), keys::numbered(&evidence.environment, evidence.sequence), evidence)?;
    draft.notify(Wakeup::Evidence(evidence.environment.clone()));
    Ok(())
}

/// Removes the oldest evidence beyond [`KEPT`], but no rejection in effect.
fn make_room(
    draft: &mut RecordDraft<'_>,
    kind: DocumentKind,
    environment: &EnvironmentName,
) -> Result<(), RecordError> {
    let stored = of(draft.store(), kind, environment)?;
    let surplus = (stored.len() + 1).saturating_sub(KEPT);
    for old in stored.iter().filter(|found| !found.is_rejection()).take(surplus) {
        draft.remove(kind, keys::numbered(environment, old.sequence));
    }
    Ok(())
}

pub(super) fn record_event(
    draft: &mut RecordDraft<'_>,
    environment: &EnvironmentName,
    message: String,
    at: Timestamp,
) -> Result<(), RecordError> {
    let (environment, message) = (environment.clone(), cut(message));
    happen(draft, Event { sequence: 0, environment, at, kind: EventKind::Record, message, count: 1 })
}

/// The readable documents of one kind, in order.
fn of(
    store: &RecordStore,
    kind: DocumentKind,
    environment: &EnvironmentName,
) -> Result<Vec<Evidence>, RecordError> {
    documents(store, kind, &keys::all_of(environment)).collect()
}

fn soaks(store: &RecordStore, environment: &EnvironmentName) -> Result<Vec<Evidence>, RecordError> {
    let what = || format!("the healthy times of `{environment}`");
    Ok(store.document(DocumentKind::Soak, environment.as_str().as_bytes(), what)?.unwrap_or_default())
}

fn evidence(store: &RecordStore, environment: &EnvironmentName) -> Result<Vec<Evidence>, RecordError> {
    let mut found = soaks(store, environment)?;
    found.extend(of(store, DocumentKind::Evidence, environment)?);
    found.extend(of(store, DocumentKind::Rejections, environment)?);
    found.sort_by_key(|found| found.sequence);
    Ok(found)
}

fn rejections(store: &RecordStore) -> Result<Vec<Evidence>, RecordError> {
    let all = documents::<Evidence>(store, DocumentKind::Rejections, b"");
    all.filter(|found| found.as_ref().map_or(true, Evidence::is_rejection)).collect()
}

fn to_judge(store: &RecordStore, environment: &EnvironmentName) -> Result<Vec<Evidence>, RecordError> {
    let mut found = Vec::new();
    for one in evidence(store, environment)? {
        if !is_void(store, &one)? {
            found.push(one);
        }
    }
    found.extend(rejections(store)?.into_iter().filter(|found| found.environment != *environment));
    found.sort_by_key(|found| found.sequence);
    Ok(found)
}

/// Whether an approval was given with a token that was revoked or that this record no longer has, by a person who has
/// no other token: a token that was issued again under its name is the same person. A rejection stays in effect,
/// because to miss one would let a bad image pass.
fn is_void(store: &RecordStore, found: &Evidence) -> Result<bool, RecordError> {
    let EvidenceFinding::Approved { .. } = found.finding else { return Ok(false) };
    let Some((by, id)) = found.by.as_ref().and_then(|by| Some((by, by.token.as_ref()?))) else {
        return Ok(false);
    };
    for kept in documents::<StoredToken>(store, DocumentKind::Tokens, b"") {
        let token = kept?.token;
        if token.revoked.is_none() && (token.id == *id || token.name.as_str() == by.name()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The readable evidence of an environment, for an export.
pub(super) fn readable(
    store: &RecordStore,
    environment: &EnvironmentName,
) -> Result<Vec<Evidence>, RecordError> {
    // An unreadable document of healthy times must not end an export.
    let kept = store.get(DocumentKind::Soak, environment.as_str().as_bytes())?;
    let mut found: Vec<Evidence> =
        kept.and_then(|kept| serde_json::from_slice(&kept).ok()).unwrap_or_default();
    found.extend(of(store, DocumentKind::Evidence, environment)?);
    found.extend(of(store, DocumentKind::Rejections, environment)?);
    found.sort_by_key(|found| found.sequence);
    Ok(found)
}

/// Drafts the evidence of an export. Documents that the store has are only replaced if `is_newer`.
pub(super) fn restore(
    draft: &mut RecordDraft<'_>,
    exported: &[Evidence],
    is_newer: bool,
) -> Result<(), RecordError> {
    let (healthy, numbered): (Vec<_>, Vec<_>) =
        exported.iter().partition(|found| matches!(found.finding, EvidenceFinding::Healthy { .. }));
    for found in numbered {
        draft.counters.last_evidence = draft.counters.last_evidence.max(found.sequence);
        let key = keys::numbered(&found.environment, found.sequence);
        let is_missing = draft.store().get(kind(found), &key)?.is_none();
        if is_newer || is_missing {
            put(draft, found)?;
        }
    }
    let Some(environment) = healthy.first().map(|found| &found.environment) else { return Ok(()) };
    let key = environment.as_str().as_bytes().to_vec();
    if is_newer || draft.store().get(DocumentKind::Soak, &key)?.is_none() {
        draft.put(DocumentKind::Soak, key, &healthy)?;
    }
    Ok(())
}
