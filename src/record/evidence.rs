//! Evidence about images, and promotions that rest on it.

use std::collections::BTreeMap;

use super::bell::Wakeup;
use super::desired::{Change, DesiredWriter, Precondition, check};
use super::draft::Draft;
use super::error::{RecordError, WriteError};
use super::reader::{DesiredReader, documents};
use super::resolver::Resolver;
use super::status::{StatusWriter, cut, happen};
use super::store::{DocumentKind, Store};
use super::{generation, keys};
use crate::model::desired::{Desired, Image};
use crate::model::event::{Event, EventKind};
use crate::model::evidence::{Evidence, Finding, Withdrawal};
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

impl DesiredWriter {
    /// Records evidence by a person, with an event. The record assigns its number.
    ///
    /// # Errors
    /// Returns [`WriteError::Stale`] if a guard no longer holds.
    pub async fn testify(
        &self,
        evidence: Evidence,
        message: String,
        guards: &[Precondition],
    ) -> Result<Evidence, WriteError> {
        let guards = guards.to_vec();
        let work = move |draft: &mut Draft<'_>| {
            check(draft, &guards)?;
            let evidence = add(draft, evidence)?;
            tell(draft, &evidence.environment, message, evidence.at)?;
            Ok(evidence)
        };
        self.shared.write(work).await
    }

    /// Withdraws the rejections that `is_meant` selects in an environment, with an event. Returns how many
    /// there were.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed; nothing was recorded then.
    pub async fn withdraw(
        &self,
        environment: &EnvironmentName,
        is_meant: impl Fn(&Evidence) -> bool + Send + 'static,
        withdrawal: Withdrawal,
        message: String,
    ) -> Result<usize, RecordError> {
        let environment = environment.clone();
        let work = move |draft: &mut Draft<'_>| {
            let stored = of(draft.store(), DocumentKind::Rejections, &environment)?;
            let meant: Vec<_> =
                stored.into_iter().filter(|found| found.is_rejection() && is_meant(found)).collect();
            for rejected in &meant {
                let finding = Finding::Rejected { withdrawn: Some(withdrawal.clone()) };
                put(draft, &Evidence { finding, ..rejected.clone() })?;
            }
            if !meant.is_empty() {
                tell(draft, &environment, message, withdrawal.at)?;
            }
            Ok(meant.len())
        };
        self.shared.write(work).await
    }

    /// Makes a new generation by promotion from `from`, unless `judge` refuses. It sees the evidence of the
    /// same moment in which the generation is written, so no rejection comes in between. An event with
    /// `message` is recorded if there is one.
    ///
    /// # Errors
    /// Returns the refusal, or [`WriteError::Stale`] if a guard no longer holds.
    pub async fn promote<E>(
        &self,
        environment: &EnvironmentName,
        from: &EnvironmentName,
        change: Change,
        guards: &[Precondition],
        message: Option<String>,
        judge: impl FnOnce(&[Evidence]) -> Result<(), E> + Send + 'static,
    ) -> Result<Desired, E>
    where
        E: From<WriteError> + From<RecordError> + Send + 'static,
    {
        let (environment, from, guards) = (environment.clone(), from.clone(), guards.to_vec());
        let work = move |draft: &mut Draft<'_>| {
            let at = change.at;
            let desired = promote(draft, &environment, &from, change, &guards, judge)?;
            if let Some(message) = message {
                tell(draft, &environment, message, at)?;
            }
            Ok(desired)
        };
        self.shared.write(work).await
    }
}

impl Resolver {
    /// Makes a new generation by a promotion that nobody asked for. Otherwise works like
    /// [`DesiredWriter::promote`].
    ///
    /// # Errors
    /// Returns the refusal, or [`WriteError::Stale`] if a guard no longer holds.
    pub async fn promote<E>(
        &self,
        environment: &EnvironmentName,
        from: &EnvironmentName,
        change: Change,
        guards: &[Precondition],
        judge: impl FnOnce(&[Evidence]) -> Result<(), E> + Send + 'static,
    ) -> Result<Desired, E>
    where
        E: From<WriteError> + From<RecordError> + Send + 'static,
    {
        let (environment, from, guards) = (environment.clone(), from.clone(), guards.to_vec());
        let work = move |draft: &mut Draft<'_>| promote(draft, &environment, &from, change, &guards, judge);
        self.shared.write(work).await
    }
}

impl StatusWriter {
    /// Records evidence that abide found itself, with an event. The record assigns its number.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed.
    pub async fn evidence(&self, evidence: Evidence, message: String) -> Result<Evidence, RecordError> {
        let work = move |draft: &mut Draft<'_>| {
            let evidence = add(draft, evidence)?;
            tell(draft, &evidence.environment, message, evidence.at)?;
            Ok(evidence)
        };
        self.shared.write(work).await
    }

    /// Adds healthy time to what is recorded of these images. It sends no wakeup: time passes all the time.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed; nothing was added then.
    pub async fn soaked(&self, all: Vec<Soaked>) -> Result<(), RecordError> {
        let work = move |draft: &mut Draft<'_>| {
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
    draft: &mut Draft<'_>,
    environment: &EnvironmentName,
    from: &EnvironmentName,
    change: Change,
    guards: &[Precondition],
    judge: impl FnOnce(&[Evidence]) -> Result<(), E>,
) -> Result<Desired, E> {
    check(draft, guards)?;
    judge(&to_judge(draft.store(), from)?)?;
    let mut desired = draft.desired(environment)?;
    if let Some(image) = &change.image {
        desired.lift(image);
    }
    generation::begin(draft, &mut desired, change.into_entry())?;
    draft.put_desired(&desired)?;
    Ok(desired)
}

/// Adds healthy time to the document of the image, or begins one.
fn soak(stored: &mut Vec<Evidence>, soaked: Soaked) {
    let known = stored.iter().position(|known| known.image.is_same(&soaked.image));
    let before = known.map(|known| stored.remove(known));
    let (millis, restarts, since) = match before.map(|before| before.finding) {
        Some(Finding::Healthy { millis, restarts, since }) => (millis, restarts, since),
        _ => (0, 0, soaked.at),
    };
    let finding = Finding::Healthy {
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
fn add(draft: &mut Draft<'_>, mut evidence: Evidence) -> Result<Evidence, RecordError> {
    draft.counters.last_evidence += 1;
    evidence.sequence = draft.counters.last_evidence;
    evidence.note = evidence.note.map(cut);
    if let Finding::Verified { output, .. } = &mut evidence.finding {
        let start = output.ceil_char_boundary(output.len().saturating_sub(LONGEST_OUTPUT));
        output.drain(..start);
    }
    make_room(draft, kind(&evidence), &evidence.environment)?;
    put(draft, &evidence)?;
    Ok(evidence)
}

fn kind(evidence: &Evidence) -> DocumentKind {
    match evidence.finding {
        Finding::Rejected { .. } => DocumentKind::Rejections,
        Finding::Healthy { .. } => DocumentKind::Soak,
        _ => DocumentKind::Evidence,
    }
}

fn put(draft: &mut Draft<'_>, evidence: &Evidence) -> Result<(), RecordError> {
    draft.put(kind(evidence), keys::numbered(&evidence.environment, evidence.sequence), evidence)?;
    draft.ring(Wakeup::Evidence(evidence.environment.clone()));
    Ok(())
}

/// Removes the oldest evidence beyond [`KEPT`], but no rejection in effect.
fn make_room(
    draft: &mut Draft<'_>,
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

fn tell(
    draft: &mut Draft<'_>,
    environment: &EnvironmentName,
    message: String,
    at: Timestamp,
) -> Result<(), RecordError> {
    let (environment, message) = (environment.clone(), cut(message));
    happen(draft, Event { sequence: 0, environment, at, kind: EventKind::Record, message, count: 1 })
}

/// The readable documents of one kind, in order.
fn of(
    store: &Store,
    kind: DocumentKind,
    environment: &EnvironmentName,
) -> Result<Vec<Evidence>, RecordError> {
    documents(store, kind, &keys::all_of(environment)).collect()
}

fn soaks(store: &Store, environment: &EnvironmentName) -> Result<Vec<Evidence>, RecordError> {
    let what = || format!("the healthy times of `{environment}`");
    Ok(store.document(DocumentKind::Soak, environment.as_str().as_bytes(), what)?.unwrap_or_default())
}

fn evidence(store: &Store, environment: &EnvironmentName) -> Result<Vec<Evidence>, RecordError> {
    let mut found = soaks(store, environment)?;
    found.extend(of(store, DocumentKind::Evidence, environment)?);
    found.extend(of(store, DocumentKind::Rejections, environment)?);
    found.sort_by_key(|found| found.sequence);
    Ok(found)
}

fn rejections(store: &Store) -> Result<Vec<Evidence>, RecordError> {
    let all = documents::<Evidence>(store, DocumentKind::Rejections, b"");
    all.filter(|found| found.as_ref().map_or(true, Evidence::is_rejection)).collect()
}

fn to_judge(store: &Store, environment: &EnvironmentName) -> Result<Vec<Evidence>, RecordError> {
    let mut found = evidence(store, environment)?;
    found.extend(rejections(store)?.into_iter().filter(|found| found.environment != *environment));
    found.sort_by_key(|found| found.sequence);
    Ok(found)
}

/// Everything that is readable, for an export.
pub(super) fn all(store: &Store) -> Result<Vec<Evidence>, RecordError> {
    let mut found: Vec<Evidence> = Vec::new();
    for soaks in documents::<Vec<Evidence>>(store, DocumentKind::Soak, b"") {
        found.extend(soaks?);
    }
    for kind in [DocumentKind::Evidence, DocumentKind::Rejections] {
        for document in documents(store, kind, b"") {
            found.push(document?);
        }
    }
    found.sort_by_key(|found| found.sequence);
    Ok(found)
}

/// The evidence of each environment.
pub(super) fn by_environment(all: Vec<Evidence>) -> BTreeMap<EnvironmentName, Vec<Evidence>> {
    let mut by_environment: BTreeMap<_, Vec<Evidence>> = BTreeMap::new();
    for found in all {
        by_environment.entry(found.environment.clone()).or_default().push(found);
    }
    by_environment
}

/// Drafts the evidence of an export. Documents that the store has are only replaced if `is_newer`.
pub(super) fn restore(
    draft: &mut Draft<'_>,
    exported: &[Evidence],
    is_newer: bool,
) -> Result<(), RecordError> {
    let (healthy, numbered): (Vec<_>, Vec<_>) =
        exported.iter().partition(|found| matches!(found.finding, Finding::Healthy { .. }));
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
