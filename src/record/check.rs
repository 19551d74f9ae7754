//! The check at every open: it sets unreadable documents aside, and restores lost ones from history and from
//! the backup file.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use serde::de::DeserializeOwned;
use serde_json::json;

use super::draft::{Draft, SERIAL};
use super::error::{OpenError, RecordError};
use super::evidence;
use super::export::{self, Export, ID, is_id};
use super::mend::{StoredDocuments, mend};
use super::outgoing;
use super::replica::StoredAssignment;
use super::session::KeptSession;
use super::store::{DocumentKind, KeyValue, Store};
use super::token::StoredToken;
use super::{FORMAT, keys};
use crate::model::build::BuildRecord;
use crate::model::desired::{Desired, Entry, HistoryEntry, Outcome, RollbackRequest};
use crate::model::event::Event;
use crate::model::evidence::Evidence;
use crate::model::link::{LeftThere, ReportCursor};
use crate::model::memory::Memory;
use crate::model::name::{EnvironmentName, Generation};
use crate::model::outbox::{Message, Projection};
use crate::model::status::Status;
use crate::model::time::Timestamp;

/// The key of the documents' format version.
const FORMAT_KEY: &[u8] = b"format";

/// The content of the backup file.
pub(super) enum Mirrored {
    /// The file does not exist.
    Missing,
    /// It is unreadable, and why.
    Unreadable(String),
    /// A later abide wrote it.
    TooNew(u32),
    /// It is valid.
    Export(Export),
}

impl Mirrored {
    /// Parses the backup file.
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let format = serde_json::from_slice::<serde_json::Value>(bytes)
            .ok()
            .and_then(|value| value.get("format")?.as_u64())
            .and_then(|format| u32::try_from(format).ok());
        if let Some(newer) = format.filter(|format| *format > FORMAT) {
            return Self::TooNew(newer);
        }
        match serde_json::from_slice::<Export>(bytes) {
            Err(error) => Self::Unreadable(error.to_string()),
            Ok(export) => match export::check(&export) {
                Err(error) => Self::Unreadable(error.to_string()),
                Ok(()) => Self::Export(export),
            },
        }
    }
}

/// The result of the check.
pub(super) struct Checked {
    /// The record's id.
    pub(super) id: String,
    /// Whether the backup file differs from the store.
    pub(super) is_mirror_behind: bool,
}

/// Checks every document, and repairs what it can.
pub(super) fn check(
    store: &Store,
    mirrored: &Mirrored,
    notices: &mut Vec<String>,
) -> Result<Checked, OpenError> {
    let is_new = check_format(store, mirrored)?;
    let mended = mend_store(store, mirrored, is_new, notices).map_err(OpenError::Check)?;
    let current = export::take(store).map_err(OpenError::Check)?;
    let is_mirror_behind = !matches!(mirrored, Mirrored::Export(export) if *export == current);
    Ok(Checked { id: mended, is_mirror_behind })
}

/// Whether the store is new. Documents of a later version are left alone.
fn check_format(store: &Store, mirrored: &Mirrored) -> Result<bool, OpenError> {
    let stored = store.get(DocumentKind::Meta, FORMAT_KEY).map_err(OpenError::Check)?;
    let stored =
        stored.as_deref().and_then(keys::number).map(|number| u32::try_from(number).unwrap_or(u32::MAX));
    match (stored, mirrored) {
        (Some(found), _) if found > FORMAT => Err(OpenError::TooNew { what: "this record".into(), found }),
        (None, Mirrored::TooNew(found)) => {
            Err(OpenError::TooNew { what: "the backup file of this record".into(), found: *found })
        }
        (stored, _) => Ok(stored.is_none()),
    }
}

fn mend_store(
    store: &Store,
    mirrored: &Mirrored,
    is_new: bool,
    notices: &mut Vec<String>,
) -> Result<String, RecordError> {
    let mut draft = Draft::new(store);
    let sound = set_aside(&mut draft, notices)?;
    draft.counters = sound.counters;
    let (id, export) = identify(&mut draft, mirrored, is_new, notices)?;
    if let Some(export) = export.filter(|export| export.serial > sound.counters.serial) {
        notices.push(format!(
            "the store is older than its backup file: the backup has write {}, the store ends with {}",
            export.serial, sound.counters.serial
        ));
        draft.counters.serial = export.serial;
    }
    mend_environments(&mut draft, sound, export, notices)?;
    draft.put_bytes(DocumentKind::Meta, FORMAT_KEY.to_vec(), u64::from(FORMAT).to_be_bytes().to_vec());
    let made = draft.commit()?;
    store.flush(&made.lines)?;
    Ok(id)
}

/// The record's id, and the backup file if it belongs to this record.
fn identify<'a>(
    draft: &mut Draft<'_>,
    mirrored: &'a Mirrored,
    is_new: bool,
    notices: &mut Vec<String>,
) -> Result<(String, Option<&'a Export>), RecordError> {
    let export = if let Mirrored::Export(export) = mirrored { Some(export) } else { None };
    let stored = draft.store().get(DocumentKind::Meta, ID)?.and_then(|id| String::from_utf8(id).ok());
    if let Some(id) = stored.filter(|id| is_id(id)) {
        if export.is_some_and(|export| export.id != id) {
            notices
                .push("the backup file beside the store belongs to another record, and was ignored".into());
        }
        return Ok((id.clone(), export.filter(|export| export.id == id)));
    }
    if is_new && export.is_some() {
        notices.push("the store was empty, and was restored from its backup file".into());
    }
    let id = export.map_or_else(|| uuid::Uuid::new_v4().simple().to_string(), |export| export.id.clone());
    draft.put_bytes(DocumentKind::Meta, ID.to_vec(), id.clone().into_bytes());
    Ok((id, export))
}

/// The readable documents of the record.
#[derive(Default)]
struct Sound {
    desired: BTreeMap<EnvironmentName, Desired>,
    history: BTreeMap<EnvironmentName, BTreeMap<Generation, HistoryEntry>>,
    /// Environments with an unreadable document.
    spoiled: BTreeSet<EnvironmentName>,
    counters: super::store::Counters,
}

/// Reads every document, and drafts moving each unreadable one into quarantine.
fn set_aside(draft: &mut Draft<'_>, notices: &mut Vec<String>) -> Result<Sound, RecordError> {
    let mut sound = Sound::default();
    for kind in DocumentKind::ALL {
        for pair in draft.store().pairs(kind, b"") {
            let pair = pair?;
            if let Err(why) = sound.take(kind, &pair) {
                sound.spoiled.extend(keys::name(&pair.0).or(keys::split(&pair.0).map(|(name, _)| name)));
                notices.push(format!(
                    "set aside a document of `{}` under `{}`: {why}",
                    kind.name(),
                    pair.0.escape_ascii()
                ));
                quarantine(draft, kind, pair, &why)?;
            }
        }
    }
    Ok(sound)
}

fn quarantine(
    draft: &mut Draft<'_>,
    kind: DocumentKind,
    (key, value): KeyValue,
    why: &str,
) -> Result<(), RecordError> {
    let at = Timestamp::from(SystemTime::now());
    let document = json!({
        "tree": kind.name(),
        "key": hex::encode(&key),
        "value": hex::encode(&value),
        "reason": why,
        "at": at,
    });
    let place = [kind.name().as_bytes(), &[0], &at.as_millis().to_be_bytes(), &key].concat();
    draft.put(DocumentKind::Quarantine, place, &document)?;
    draft.remove(kind, key);
    Ok(())
}

impl Sound {
    /// Adds a document if it is valid under its key.
    fn take(&mut self, kind: DocumentKind, (key, value): &KeyValue) -> Result<(), String> {
        match kind {
            DocumentKind::Meta if key == SERIAL => {
                self.counters.serial = keys::number(value).ok_or("it is not a number")?;
                Ok(())
            }
            DocumentKind::Meta | DocumentKind::Quarantine => Ok(()),
            DocumentKind::Desired => self.take_desired(key, value),
            DocumentKind::History => self.take_entry(key, value),
            DocumentKind::Outcomes => self.take_outcome(key, value),
            DocumentKind::Deliveries => {
                agree(keys::number(value).is_some())?;
                self.counters.deliveries += 1;
                Ok(())
            }
            DocumentKind::DeliveryTimes => agree(key.len() > 8),
            DocumentKind::Status => agree(Some(parse::<Status>(value)?.environment) == keys::name(key)),
            DocumentKind::Memory => {
                parse::<Memory>(value)?;
                agree(keys::name(key).is_some())
            }
            DocumentKind::Events => {
                let Event { sequence, environment, .. } = parse(value)?;
                self.counters.last_event = self.counters.last_event.max(sequence);
                agree(keys::split(key) == Some((environment, sequence)))
            }
            DocumentKind::Assigned => {
                parse::<StoredAssignment>(value)?;
                agree(keys::name(key).is_some())
            }
            DocumentKind::Proposed => {
                parse::<RollbackRequest>(value)?;
                agree(keys::name(key).is_some())
            }
            DocumentKind::Heard => {
                parse::<ReportCursor>(value)?;
                agree(keys::name(key).is_some())
            }
            DocumentKind::Left => {
                parse::<LeftThere>(value)?;
                agree(keys::agent(key).is_some())
            }
            DocumentKind::Evidence | DocumentKind::Rejections => {
                let Evidence { sequence, environment, .. } = parse(value)?;
                self.counters.last_evidence = self.counters.last_evidence.max(sequence);
                agree(keys::split(key) == Some((environment, sequence)))
            }
            DocumentKind::Soak => {
                parse::<Vec<Evidence>>(value)?;
                agree(keys::name(key).is_some())
            }
            DocumentKind::Tokens => {
                agree(parse::<StoredToken>(value)?.token.id.as_str().as_bytes() == key.as_slice())
            }
            DocumentKind::Sessions => agree(parse::<KeptSession>(value)?.hash.as_bytes() == key.as_slice()),
            DocumentKind::TokenUses => agree(keys::number(value).is_some()),
            DocumentKind::Standings => parse::<serde_json::Value>(value).map(drop),
            DocumentKind::Threads => agree(std::str::from_utf8(value).is_ok()),
            DocumentKind::Messages => {
                let Message { target, sequence, .. } = parse(value)?;
                self.counters.last_message = self.counters.last_message.max(sequence);
                agree(*key == outgoing::message_key(&target, sequence))
            }
            DocumentKind::Projections => {
                let Projection { target, environment, revision, .. } = parse(value)?;
                agree(*key == outgoing::state_key(&target, &environment, revision.as_str()))
            }
            DocumentKind::Builds => {
                let BuildRecord { key: own, content, .. } = parse(value)?;
                agree([Some(own), content].iter().flatten().any(|own| own.0.as_bytes() == key.as_slice()))
            }
            DocumentKind::BuildLog => {
                let BuildRecord { environment, number, .. } = parse(value)?;
                agree(keys::split(key) == Some((environment, number)))
            }
        }
    }

    fn take_desired(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let desired: Desired = parse(value)?;
        let environment = desired.environment.clone();
        agree(keys::name(key).as_ref() == Some(&environment))?;
        self.desired.insert(environment, desired);
        Ok(())
    }

    fn take_entry(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let entry: Entry = parse(value)?;
        let (environment, number) = keys::split(key).ok_or("its key is invalid")?;
        agree(entry.generation.0 == number && number > 0)?;
        let kept = HistoryEntry { entry, outcome: None };
        self.history.entry(environment).or_default().insert(Generation(number), kept);
        Ok(())
    }

    /// Outcomes come after history, as in [`DocumentKind::ALL`].
    fn take_outcome(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let outcome: Outcome = parse(value)?;
        let (environment, number) = keys::split(key).ok_or("its key is invalid")?;
        let kept = self.history.get_mut(&environment).and_then(|kept| kept.get_mut(&Generation(number)));
        if let Some(kept) = kept {
            kept.outcome = Some(outcome);
        }
        Ok(())
    }
}

fn parse<T: DeserializeOwned>(value: &[u8]) -> Result<T, String> {
    serde_json::from_slice(value).map_err(|error| error.to_string())
}

fn agree(agrees: bool) -> Result<(), String> {
    if agrees { Ok(()) } else { Err("it does not match its key".to_owned()) }
}

/// Drafts the missing documents of each environment.
fn mend_environments(
    draft: &mut Draft<'_>,
    mut sound: Sound,
    mirror: Option<&Export>,
    notices: &mut Vec<String>,
) -> Result<(), RecordError> {
    let is_mirror_ahead = mirror.is_some_and(|export| export.serial > sound.counters.serial);
    let mirrored: BTreeMap<_, _> = mirror
        .into_iter()
        .flat_map(|export| &export.environments)
        .map(|mirrored| (&mirrored.desired.environment, mirrored))
        .collect();
    let stored = sound.desired.keys().chain(sound.history.keys()).cloned();
    let environments: BTreeSet<_> = stored.chain(mirrored.keys().map(|name| (*name).clone())).collect();
    for environment in environments {
        let before = sound.desired.remove(&environment);
        let found = StoredDocuments {
            desired: before.clone(),
            history: sound.history.remove(&environment).unwrap_or_default(),
            is_spoiled: sound.spoiled.contains(&environment),
            is_behind: is_mirror_ahead,
        };
        let mirrored = mirrored.get(&environment).copied();
        let trusts_mirror = is_mirror_ahead || found.is_spoiled || found.desired.is_none();
        if let Some(mirrored) = mirrored.filter(|_| trusts_mirror) {
            evidence::restore(draft, &mirrored.evidence, is_mirror_ahead)?;
        }
        let mended = mend(&environment, found, mirrored);
        if let Some(desired) = mended.desired.filter(|desired| before.as_ref() != Some(desired)) {
            draft.put_desired_silently(&desired)?;
        }
        export::put_history(draft, &environment, &mended.history)?;
        notices.extend(mended.notices);
    }
    Ok(())
}
