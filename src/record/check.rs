//! The check at every open: it sets unreadable documents aside, and restores lost ones from history and from
//! the backup file.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::time::SystemTime;

use serde::de::DeserializeOwned;
use serde_json::json;

use super::backup::{Backup, BackupError, BackupLength};
use super::draft::{RecordDraft, SERIAL};
use super::error::{OpenError, RecordError};
use super::evidence;
use super::export::{self, EnvironmentExport, ID, INSTANCE, is_id};
use super::identity;
use super::outgoing;
use super::renumber::LAST_EVENT;
use super::repair::{StoredDocuments, repair};
use super::replica::StoredAssignment;
use super::session::KeptSession;
use super::store::{DocumentKind, HIGHEST, KeyValue, RecordStore};
use super::token::StoredToken;
use super::{FORMAT, keys};
use crate::model::build::BuildRecord;
use crate::model::checks::AwaitedCommit;
use crate::model::desired::{Desired, Entry, HistoryEntry, Outcome, RollbackRequest};
use crate::model::event::Event;
use crate::model::evidence::Evidence;
use crate::model::link::{LeftThere, ReportCursor};
use crate::model::memory::Memory;
use crate::model::name::{EnvironmentName, Generation};
use crate::model::outbox::{Message, Projection};
use crate::model::reading;
use crate::model::status::Status;
use crate::model::time::Timestamp;

/// The key of the documents' format version.
const FORMAT_KEY: &[u8] = b"format";
/// The length of the repairs that are written at once, in bytes.
const ONE_WRITE: usize = 8 << 20;

/// The state of the backup file.
pub(super) enum Mirrored {
    /// The file does not exist.
    Missing,
    /// It is unreadable, and why.
    Unreadable(String),
    /// A later abide wrote it.
    TooNew(u32),
    /// It is valid.
    Backup(Backup),
}

impl Mirrored {
    /// Reads the outline of the backup file.
    ///
    /// # Errors
    /// Returns [`io::Error`] if the file exists but cannot be read.
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        match Backup::read(path) {
            Ok(backup) => Ok(match export::check_head(&backup.head) {
                Err(error) => Self::Unreadable(error.to_string()),
                Ok(()) => Self::Backup(backup),
            }),
            Err(BackupError::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(Self::Missing),
            Err(BackupError::Io(error)) => Err(error),
            Err(BackupError::Unreadable(why) | BackupError::Disagreeing(why)) => Ok(Self::Unreadable(why)),
            Err(BackupError::TooNew(format)) => Ok(Self::TooNew(format)),
        }
    }
}

/// The result of the check.
pub(super) struct Checked {
    /// The record's id.
    pub(super) id: String,
    /// The store's own id.
    pub(super) instance: String,
    /// The length of the backup file if it has every write; `None` if it must be written again.
    pub(super) backed_up: Option<BackupLength>,
}

/// Checks every document, and repairs what it can.
pub(super) fn check(
    store: &RecordStore,
    mirrored: &Mirrored,
    notices: &mut Vec<String>,
) -> Result<Checked, OpenError> {
    let is_new = check_format(store, mirrored)?;
    let stored = store.get(DocumentKind::Meta, ID).map_err(OpenError::Check)?;
    let stored = stored.and_then(|id| String::from_utf8(id).ok()).filter(|id| is_id(id));
    let (id, backup) = identify(store.home(), stored.clone(), mirrored, is_new, notices)?;
    // Nothing may carry an id that a loss of the store would lose.
    identity::keep(store.home(), &id)?;
    let is_repaired =
        repair_store(store, &id, stored.is_none(), backup, notices).map_err(OpenError::Check)?;
    let serial = store.gate().serial;
    let backed_up = match mirrored {
        Mirrored::Backup(backup) if !is_repaired && backup.has_everything(&id, serial) => Some(backup.length),
        _ => None,
    };
    let instance = store.get(DocumentKind::Meta, INSTANCE).map_err(OpenError::Check)?;
    let instance = instance.and_then(|own| String::from_utf8(own).ok()).unwrap_or_else(|| id.clone());
    Ok(Checked { id, instance, backed_up })
}

/// Whether the store is new. Documents of a later version are left alone.
fn check_format(store: &RecordStore, mirrored: &Mirrored) -> Result<bool, OpenError> {
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

/// Returns whether anything was repaired that the backup file may lack.
fn repair_store(
    store: &RecordStore,
    id: &str,
    is_new_id: bool,
    backup: Option<&Backup>,
    notices: &mut Vec<String>,
) -> Result<bool, RecordError> {
    let mut draft = RecordDraft::repairing(store);
    let sound = set_aside(&mut draft, notices)?;
    draft.counters = sound.counters;
    if is_new_id {
        let instance = uuid::Uuid::new_v4().simple().to_string();
        draft.put_bytes(DocumentKind::Meta, ID.to_vec(), id.as_bytes().to_vec());
        draft.put_bytes(DocumentKind::Meta, INSTANCE.to_vec(), instance.into_bytes());
    }
    let ahead = backup.filter(|backup| backup.head.serial > sound.counters.serial);
    if let Some(backup) = ahead {
        notices.push(format!(
            "the store is older than its backup file: the backup has write {}, the store ends with {}",
            backup.head.serial, sound.counters.serial
        ));
    }
    let mut repairing =
        Repairing { store, draft: Some(draft), sound, is_behind: ahead.is_some(), notices, done: false };
    repairing.repair_environments(backup)?;
    let Repairing { mut draft, done, .. } = repairing;
    let mut draft = draft.take().unwrap_or_else(|| RecordDraft::repairing(store));
    let is_repaired = done || draft.lines().iter().any(|line| line.kind.is_mirrored());
    if let Some(backup) = ahead {
        draft.counters.serial = backup.head.serial;
    }
    if is_repaired {
        draft.counters.serial += 1;
    }
    draft.put_serial();
    draft.put_bytes(DocumentKind::Meta, FORMAT_KEY.to_vec(), u64::from(FORMAT).to_be_bytes().to_vec());
    let made = draft.commit()?;
    store.flush(made.batch, &made.lines)?;
    Ok(is_repaired)
}

/// The record's id, and the backup file if it belongs to this record. The id is that of the store, else of the
/// backup file, else of its own file, else a new one.
fn identify<'a>(
    home: &Path,
    stored: Option<String>,
    mirrored: &'a Mirrored,
    is_new: bool,
    notices: &mut Vec<String>,
) -> Result<(String, Option<&'a Backup>), OpenError> {
    let backup = if let Mirrored::Backup(backup) = mirrored { Some(backup) } else { None };
    if let Some(id) = stored {
        if backup.is_some_and(|backup| backup.head.id != id) {
            notices
                .push("the backup file beside the store belongs to another record, and was ignored".into());
        }
        let own = backup.filter(|backup| backup.head.id == id);
        return Ok((id, own));
    }
    if is_new && backup.is_some() {
        notices.push("the store was empty, and was restored from its backup file".into());
    }
    if let Some(backup) = backup {
        return Ok((backup.head.id.clone(), Some(backup)));
    }
    if let Some(id) = identity::read(home)? {
        notices.push(lost(&id));
        return Ok((id, None));
    }
    Ok((uuid::Uuid::new_v4().simple().to_string(), None))
}

/// The notice about a record of which only the id is left.
fn lost(id: &str) -> String {
    format!(
        "the store and its backup file `record.json` are lost or unreadable, with the desired state, history and tokens of \
        every environment; the id of the record ({id}) was kept, so abide recognizes its containers and volumes \
        and keeps them. To restore: `abide import FILE` with a copy or an export. Without one, abide deploys \
        the heads of branches and tags; `abide set ENV IMAGE` records the image of any other environment, and \
        `abide token create` makes new tokens"
    )
}

/// The findings of the check of every document. History stays in the store: a long one would fill the memory.
#[derive(Default)]
struct Sound {
    desired: BTreeMap<EnvironmentName, Desired>,
    /// The newest readable entry of each history.
    newest: BTreeMap<EnvironmentName, Entry>,
    /// Environments with an unreadable document.
    spoiled: BTreeSet<EnvironmentName>,
    counters: super::store::Counters,
}

/// Reads every document, and drafts moving each unreadable one into quarantine.
fn set_aside(draft: &mut RecordDraft<'_>, notices: &mut Vec<String>) -> Result<Sound, RecordError> {
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
    draft: &mut RecordDraft<'_>,
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

/// A number that others can follow.
fn bounded(value: &[u8]) -> Result<u64, String> {
    keys::number(value).filter(|number| *number <= HIGHEST).ok_or_else(|| "it is not a number".to_owned())
}

impl Sound {
    /// Adds a document if it is valid under its key.
    fn take(&mut self, kind: DocumentKind, (key, value): &KeyValue) -> Result<(), String> {
        match kind {
            DocumentKind::Meta if key == SERIAL => {
                self.counters.serial = bounded(value)?;
                Ok(())
            }
            DocumentKind::Meta if key == LAST_EVENT => {
                self.counters.last_event = self.counters.last_event.max(bounded(value)?);
                Ok(())
            }
            DocumentKind::Meta | DocumentKind::Quarantine => Ok(()),
            DocumentKind::Desired => self.take_desired(key, value),
            DocumentKind::History => self.take_entry(key, value),
            DocumentKind::Outcomes => {
                parse::<Outcome>(value)?;
                agree(keys::split(key).is_some())
            }
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
            DocumentKind::Cursors => {
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
            DocumentKind::Awaited => {
                parse::<Vec<AwaitedCommit>>(value)?;
                agree(keys::name(key).is_some())
            }
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
        let (environment, entry) = entry(key, value)?;
        // Keys are in the order of the generations.
        self.newest.insert(environment, entry);
        Ok(())
    }

    /// Whether the environment lacks documents that other documents show to be missing.
    fn is_incomplete(&self, environment: &EnvironmentName) -> bool {
        let newest = self.newest.get(environment);
        let is_complete = self.desired.get(environment).is_some_and(|desired| {
            desired.entry.generation == Generation::default() || newest == Some(&desired.entry)
        });
        !is_complete || self.spoiled.contains(environment)
    }
}

/// An entry of history and its environment, if the entry is valid under its key.
fn entry(key: &[u8], value: &[u8]) -> Result<(EnvironmentName, Entry), String> {
    let entry: Entry = parse(value)?;
    let (environment, number) = keys::split(key).ok_or("its key is invalid")?;
    agree(entry.generation.0 == number && number > 0)?;
    Ok((environment, entry))
}

fn parse<T: DeserializeOwned>(value: &[u8]) -> Result<T, String> {
    serde_json::from_slice(value).map_err(|error| error.to_string())
}

fn agree(agrees: bool) -> Result<(), String> {
    if agrees { Ok(()) } else { Err("it does not match its key".to_owned()) }
}

/// Repairs one environment after the other.
struct Repairing<'a> {
    store: &'a RecordStore,
    /// The pending repairs; `None` after they were written.
    draft: Option<RecordDraft<'a>>,
    sound: Sound,
    /// Whether the store lost writes that the backup file has.
    is_behind: bool,
    notices: &'a mut Vec<String>,
    /// Whether repairs were written already.
    done: bool,
}

impl Repairing<'_> {
    /// Restores from the backup file what the store lost, and then from history.
    fn repair_environments(&mut self, backup: Option<&Backup>) -> Result<(), RecordError> {
        let Sound { desired, newest, spoiled, .. } = &self.sound;
        let stored = desired.keys().chain(newest.keys()).chain(spoiled).collect::<BTreeSet<_>>();
        let mut broken: BTreeSet<_> = stored
            .iter()
            .filter(|environment| self.is_behind || self.sound.is_incomplete(environment))
            .map(|environment| (*environment).clone())
            .collect();
        if let Some(backup) = backup {
            let lost = backup.names.iter().filter(|name| self.is_behind || !desired.contains_key(*name));
            broken.extend(lost.cloned());
            if broken.iter().any(|name| backup.names.contains(name)) {
                self.restore(backup, &mut broken)?;
            }
        }
        broken.iter().try_for_each(|environment| self.repair(environment, None))
    }

    /// Mends the environments of `broken` that the backup file has, and removes them from `broken`.
    fn restore(
        &mut self,
        backup: &Backup,
        broken: &mut BTreeSet<EnvironmentName>,
    ) -> Result<(), RecordError> {
        backup.environments(|environment, _| {
            let environment = match environment {
                Ok(environment) => match export::disagreement(&environment) {
                    None => environment,
                    Some(why) => {
                        let name = &environment.desired.environment;
                        self.notices.push(format!("ignored `{name}` of the backup file: {why}"));
                        return Ok(());
                    }
                },
                Err(error) => {
                    let problem = reading::words(&error);
                    self.notices.push(format!("ignored an environment of the backup file: {problem}"));
                    return Ok(());
                }
            };
            let name = environment.desired.environment.clone();
            if broken.remove(&name) { self.repair(&name, Some(&environment)) } else { Ok(()) }
        })
    }

    fn repair(
        &mut self,
        environment: &EnvironmentName,
        mirrored: Option<&EnvironmentExport>,
    ) -> Result<(), RecordError> {
        let before = self.sound.desired.get(environment).cloned();
        let found = StoredDocuments {
            desired: before.clone(),
            history: history(self.store, environment)?,
            is_spoiled: self.sound.spoiled.contains(environment),
            is_behind: self.is_behind,
        };
        let trusts_mirror = self.is_behind || found.is_spoiled || found.desired.is_none();
        let mirrored = mirrored.filter(|_| trusts_mirror);
        let draft = self.draft.get_or_insert_with(|| RecordDraft::repairing(self.store));
        if let Some(mirrored) = mirrored {
            evidence::restore(draft, &mirrored.evidence, self.is_behind)?;
        }
        let repaired = repair(environment, found, mirrored);
        if let Some(desired) = repaired.desired.filter(|desired| before.as_ref() != Some(desired)) {
            draft.put_desired_silently(&desired)?;
        }
        export::put_history(draft, environment, &repaired.history)?;
        self.notices.extend(repaired.notices);
        self.write_if_long()
    }

    /// Writes the repairs once they are long, so that a large record needs no large memory.
    fn write_if_long(&mut self) -> Result<(), RecordError> {
        let is_long = self.draft.as_ref().is_some_and(|draft| draft.length() > ONE_WRITE);
        let Some(draft) = self.draft.take_if(|_| is_long) else { return Ok(()) };
        let made = draft.commit()?;
        self.done = true;
        self.store.flush(made.batch, &made.lines)
    }
}

/// The readable history of an environment.
fn history(
    store: &RecordStore,
    environment: &EnvironmentName,
) -> Result<BTreeMap<Generation, HistoryEntry>, RecordError> {
    let mut history = BTreeMap::new();
    for pair in store.pairs(DocumentKind::History, &keys::all_of(environment)) {
        let (key, value) = pair?;
        let Ok((_, entry)) = entry(&key, &value) else { continue };
        let outcome = store.get(DocumentKind::Outcomes, &key)?;
        let outcome = outcome.and_then(|outcome| serde_json::from_slice(&outcome).ok());
        history.insert(entry.generation, HistoryEntry { entry, outcome });
    }
    Ok(history)
}
