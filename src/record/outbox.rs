//! The handle of the deliverer: outgoing items, and what became of their delivery.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::draft::Draft;
use super::error::RecordError;
use super::outgoing::{self, DROPPED, all_of, message_key, state_key};
use super::reader::documents;
use super::shared::RecordInner;
use super::status::count;
use super::store::DocumentKind;
use crate::model::name::EnvironmentName;
use crate::model::outbox::{
    Announcement, Attempts, Message, News, OutboxItem, Projection, Rules, Subject, Target,
};
use crate::model::time::Timestamp;

/// Dead items that are kept of a target; the oldest are removed first.
const DEAD_KEPT: usize = 100;

/// Reads outgoing items and records their delivery. Every method returns once the write is on disk.
#[derive(Clone)]
pub struct Outbox {
    pub(super) shared: Arc<RecordInner>,
}

/// What was announced of a subject that is no environment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Raised {
    /// The open incident.
    incident: String,
    /// Its start.
    since: Timestamp,
}

impl Outbox {
    /// Applies the manifest's choices: from now on, every write derives the items for them. Derives the items of
    /// changes that were made without them, such as by a command while no daemon ran, and removes the items of
    /// targets that are no longer declared.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed.
    pub async fn follow(&self, rules: Rules) -> Result<(), RecordError> {
        let rules = Arc::new(rules);
        self.shared.set_rules(Arc::clone(&rules));
        let work = move |draft: &mut Draft<'_>| {
            withdraw(draft, &rules.targets())?;
            let environments =
                draft.store().pairs(DocumentKind::Desired, b"").filter_map(|pair| match pair {
                    Ok((key, _)) => super::keys::name(&key).map(Ok),
                    Err(error) => Some(Err(error)),
                });
            for environment in environments.collect::<Result<BTreeSet<EnvironmentName>, RecordError>>()? {
                outgoing::derive_one(draft, &rules, &environment)?;
            }
            Ok(())
        };
        self.shared.write(work).await
    }

    /// Changes with every change of an item.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.shared.outgoing.subscribe()
    }

    /// The messages of a channel, in order.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the store cannot be read.
    pub fn messages(&self, target: &Target) -> Result<Vec<Message>, RecordError> {
        documents(&self.shared.store, DocumentKind::Messages, &all_of(target)).collect()
    }

    /// The states of commits for a forge.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the store cannot be read.
    pub fn projections(&self, target: &Target) -> Result<Vec<Projection>, RecordError> {
        documents(&self.shared.store, DocumentKind::Projections, &all_of(target)).collect()
    }

    /// The text by which a channel knows the first message of an incident; `None` if it gave none.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the store cannot be read.
    pub fn thread(&self, target: &Target, incident: &str) -> Result<Option<String>, RecordError> {
        let found = self.shared.store.get(DocumentKind::Threads, &thread_key(target, incident))?;
        Ok(found.and_then(|bytes| String::from_utf8(bytes).ok()))
    }

    /// Records that a message was delivered. `thread` is the text by which the channel knows it.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed; the message is then delivered again.
    pub async fn delivered(&self, message: &Message, thread: Option<String>) -> Result<(), RecordError> {
        let message = message.clone();
        let work = move |draft: &mut Draft<'_>| {
            draft.remove(DocumentKind::Messages, message_key(&message.target, message.sequence));
            if let Some(incident) = &message.announcement.incident {
                let key = thread_key(&message.target, incident);
                match thread {
                    _ if message.announcement.is_end => draft.remove(DocumentKind::Threads, key),
                    // Later messages refer to the first one.
                    Some(thread) if draft.store().get(DocumentKind::Threads, &key)?.is_none() => {
                        draft.put_bytes(DocumentKind::Threads, key, thread.into_bytes());
                    }
                    Some(_) | None => {}
                }
            }
            Ok(())
        };
        self.shared.write(work).await
    }

    /// Records a failed attempt to deliver a message.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed.
    pub async fn postpone(&self, message: &Message, attempts: Attempts) -> Result<(), RecordError> {
        let message = Message { attempts, ..message.clone() };
        let work = move |draft: &mut Draft<'_>| {
            let key = message_key(&message.target, message.sequence);
            // It may have been withdrawn meanwhile.
            if draft.store().get(DocumentKind::Messages, &key)?.is_some() {
                draft.put(DocumentKind::Messages, key, &message)?;
                remove_surplus(draft, &message.target)?;
            }
            Ok(())
        };
        self.shared.write(work).await
    }

    /// Replaces `messages` by `group`.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed; nothing was replaced then.
    pub async fn group(&self, messages: &[&Message], group: Message) -> Result<(), RecordError> {
        let keys: Vec<Vec<u8>> =
            messages.iter().map(|message| message_key(&message.target, message.sequence)).collect();
        let work = move |draft: &mut Draft<'_>| {
            keys.into_iter().for_each(|key| draft.remove(DocumentKind::Messages, key));
            draft.put(DocumentKind::Messages, message_key(&group.target, group.sequence), &group)
        };
        self.shared.write(work).await
    }

    /// Records progress with the state of a commit: `change` gets the row as it is now. A row that is completely
    /// shown and can never change again is removed.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed.
    pub async fn progress(
        &self,
        row: &Projection,
        change: impl FnOnce(&mut Projection) + Send + 'static,
    ) -> Result<(), RecordError> {
        let key = state_key(&row.target, &row.environment, row.revision.as_str());
        let work = move |draft: &mut Draft<'_>| {
            let what = || "the state of a commit".to_owned();
            let Some(mut row) =
                draft.store().document::<Projection>(DocumentKind::Projections, &key, what)?
            else {
                return Ok(());
            };
            change(&mut row);
            let recorded = draft.desired(&row.environment)?.entry;
            let is_current = recorded.revision.as_ref() == Some(&row.revision);
            if row.is_shown()
                && !is_current
                && row.wanted.phase != crate::model::outbox::commit::Phase::Success
            {
                draft.remove(DocumentKind::Projections, key);
                return Ok(());
            }
            draft.put(DocumentKind::Projections, key, &row)
        };
        self.shared.write(work).await
    }

    /// Reports that `subject`, which is no environment, has a problem, or that it ended. Repetitions change
    /// nothing.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed.
    pub async fn raise(
        &self,
        news: News,
        subject: Subject,
        problem: Option<String>,
        at: Timestamp,
    ) -> Result<(), RecordError> {
        let Some(rules) = self.shared.rules() else { return Ok(()) };
        let work = move |draft: &mut Draft<'_>| {
            let key = format!("{}/{subject}", news.as_str()).into_bytes();
            let stored: Option<Raised> =
                draft.store().document(DocumentKind::Standings, &key, || "what was announced".to_owned())?;
            let announcement = match (stored, problem) {
                (None, Some(problem)) => {
                    let raised = Raised { incident: uuid::Uuid::new_v4().simple().to_string(), since: at };
                    draft.put(DocumentKind::Standings, key, &raised)?;
                    let incident = Some(raised.incident);
                    Announcement { incident, ..Announcement::new(news, subject, problem, at) }
                }
                (Some(raised), None) => {
                    draft.remove(DocumentKind::Standings, key);
                    let lasted = humantime::format_duration(std::time::Duration::from_secs(
                        at.since(raised.since).as_secs(),
                    ));
                    let message = format!("it lasted {lasted}");
                    let incident = Some(raised.incident);
                    Announcement { is_end: true, incident, ..Announcement::new(news, subject, message, at) }
                }
                (None, None) | (Some(_), Some(_)) => return Ok(()),
            };
            outgoing::post(draft, &rules, &announcement)
        };
        self.shared.write(work).await
    }

    /// Everything that is not delivered, in the order of its targets.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the store cannot be read.
    pub fn items(&self) -> Result<Vec<OutboxItem>, RecordError> {
        let messages = documents::<Message>(&self.shared.store, DocumentKind::Messages, b"");
        let mut items: Vec<OutboxItem> =
            messages.map(|message| Ok(OutboxItem::from(&message?))).collect::<Result<_, RecordError>>()?;
        for row in documents::<Projection>(&self.shared.store, DocumentKind::Projections, b"") {
            let row = row?;
            if !row.is_shown() {
                items.push(OutboxItem::from(&row));
            }
        }
        items.sort_by(|a, b| a.target.cmp(&b.target));
        Ok(items)
    }

    /// The number of messages that were dropped because a channel had too many.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the store cannot be read.
    pub fn dropped(&self) -> Result<u64, RecordError> {
        count(&self.shared.store, DROPPED)
    }

    /// Makes every item of `target`, or of all targets, due at once, dead ones too. Returns their number.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed.
    pub async fn retry(&self, target: Option<Target>, now: Timestamp) -> Result<usize, RecordError> {
        let work = move |draft: &mut Draft<'_>| {
            let prefix = target.as_ref().map(all_of).unwrap_or_default();
            let mut retried = 0;
            let is_waiting = |attempts: &Attempts| attempts.dead.is_some() || attempts.count > 0;
            for (key, value) in draft.pending_pairs(DocumentKind::Messages, &prefix)? {
                let message: Option<Message> = serde_json::from_slice(&value).ok();
                let Some(message) = message.filter(|message| is_waiting(&message.attempts)) else { continue };
                draft.put(
                    DocumentKind::Messages,
                    key,
                    &Message { attempts: Attempts::from(now), ..message },
                )?;
                retried += 1;
            }
            for (key, value) in draft.pending_pairs(DocumentKind::Projections, &prefix)? {
                let row: Option<Projection> = serde_json::from_slice(&value).ok();
                let Some(row) = row.filter(|row| is_waiting(&row.attempts)) else { continue };
                draft.put(
                    DocumentKind::Projections,
                    key,
                    &Projection { attempts: Attempts::from(now), ..row },
                )?;
                retried += 1;
            }
            Ok(retried)
        };
        self.shared.write(work).await
    }
}

fn thread_key(target: &Target, incident: &str) -> Vec<u8> {
    [all_of(target), incident.as_bytes().to_vec()].concat()
}

/// Removes the items of targets other than `targets`.
fn withdraw(draft: &mut Draft<'_>, targets: &BTreeSet<Target>) -> Result<(), RecordError> {
    for kind in [DocumentKind::Messages, DocumentKind::Projections, DocumentKind::Threads] {
        for (key, _) in draft.pending_pairs(kind, b"")? {
            let target = key.split(|byte| *byte == 0).next().unwrap_or_default();
            let target = std::str::from_utf8(target).ok().and_then(|text| text.parse::<Target>().ok());
            if target.is_none_or(|target| !targets.contains(&target)) {
                draft.remove(kind, key);
            }
        }
    }
    Ok(())
}

/// Removes the oldest dead messages beyond [`DEAD_KEPT`].
fn remove_surplus(draft: &mut Draft<'_>, target: &Target) -> Result<(), RecordError> {
    let all = draft.pending_pairs(DocumentKind::Messages, &all_of(target))?;
    let is_dead = |value: &Vec<u8>| {
        serde_json::from_slice::<Message>(value).is_ok_and(|message| message.attempts.dead.is_some())
    };
    let dead: Vec<Vec<u8>> =
        all.into_iter().filter(|(_, value)| is_dead(value)).map(|(key, _)| key).collect();
    let surplus = dead.len().saturating_sub(DEAD_KEPT);
    for key in dead.into_iter().take(surplus) {
        draft.remove(DocumentKind::Messages, key);
        let dropped = count(draft.store(), DROPPED)? + 1;
        draft.put_bytes(DocumentKind::Meta, DROPPED.to_vec(), dropped.to_be_bytes().to_vec());
    }
    Ok(())
}
