//! The handle of the deliverer: outgoing items, and what became of their delivery.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::awaited;
use super::draft::RecordDraft;
use super::error::RecordError;
use super::outgoing::{self, DROPPED, all_of, message_key, state_key};
use super::reader::documents;
use super::shared::RecordInner;
use super::status::count;
use super::store::{DocumentKind, RecordStore};
use crate::model::name::{EnvironmentName, Generation};
use crate::model::outbox::commit::Phase;
use crate::model::outbox::{
    Announcement, DeliveryAttempts, Message, News, OpenProblem, OutboxItem, OutboxRules, OutboxTarget,
    Projection, Subject,
};
use crate::model::time::Timestamp;

/// Dead items that are kept of a target; the oldest are removed first.
const DEAD_KEPT: usize = 100;

/// Reads outgoing items and records their delivery. Every method returns once the write is on disk.
#[derive(Clone)]
pub struct Outbox {
    pub(super) shared: Arc<RecordInner>,
}

/// A problem that was announced and has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Raised {
    /// The open incident.
    incident: String,
    /// Its start.
    since: Timestamp,
    /// Its kind.
    news: News,
    /// Its subject.
    subject: Option<Subject>,
    /// Whether it was too old to be announced.
    is_silent: bool,
}

impl Raised {
    /// The announcement of its end. The end of a wait for an approval is not announced.
    fn end(&self, at: Timestamp) -> Option<Announcement> {
        if self.is_silent || self.news == News::WaitingForApproval {
            return None;
        }
        let lasted = Duration::from_secs(at.since(self.since).as_secs());
        let message = format!("it lasted {}", humantime::format_duration(lasted));
        let incident = Some(self.incident.clone());
        let end = Announcement::new(self.news, self.subject.clone()?, message, at);
        Some(Announcement { is_end: true, incident, ..end })
    }
}

/// The prefix of the keys of problems; those of environments have another one.
const PROBLEMS: &[u8] = b"problem/";

fn problem_key(problem: &OpenProblem) -> Vec<u8> {
    let OpenProblem { news, subject, about, .. } = problem;
    [PROBLEMS, format!("{}/{subject}/{about}", news.as_str()).as_bytes()].concat()
}

/// The announced problems that are readable. Any other is announced again.
fn announced(store: &RecordStore) -> Result<Vec<(Vec<u8>, Raised)>, RecordError> {
    let mut all = Vec::new();
    for pair in store.pairs(DocumentKind::Standings, PROBLEMS) {
        let (key, value) = pair?;
        all.extend(serde_json::from_slice(&value).ok().map(|raised| (key.to_vec(), raised)));
    }
    Ok(all)
}

impl Outbox {
    /// Applies the manifest's choices: from now on, every write derives the items for them. Derives the items of
    /// changes that were made without them, such as by a command while no daemon ran, and removes the items of
    /// targets that are no longer declared.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed.
    pub async fn follow(&self, rules: OutboxRules) -> Result<(), RecordError> {
        let rules = Arc::new(rules);
        self.shared.set_rules(Arc::clone(&rules));
        let work = move |draft: &mut RecordDraft<'_>| {
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
    pub fn messages(&self, target: &OutboxTarget) -> Result<Vec<Message>, RecordError> {
        documents(&self.shared.store, DocumentKind::Messages, &all_of(target)).collect()
    }

    /// The states of commits for a forge.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the store cannot be read.
    pub fn projections(&self, target: &OutboxTarget) -> Result<Vec<Projection>, RecordError> {
        documents(&self.shared.store, DocumentKind::Projections, &all_of(target)).collect()
    }

    /// The text by which a channel knows the first message of an incident; `None` if it gave none.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the store cannot be read.
    pub fn thread(&self, target: &OutboxTarget, incident: &str) -> Result<Option<String>, RecordError> {
        let found = self.shared.store.get(DocumentKind::Threads, &thread_key(target, incident))?;
        Ok(found.and_then(|bytes| String::from_utf8(bytes).ok()))
    }

    /// Records that a message was delivered. `thread` is the text by which the channel knows it.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed; the message is then delivered again.
    pub async fn delivered(&self, message: &Message, thread: Option<String>) -> Result<(), RecordError> {
        let message = message.clone();
        let work = move |draft: &mut RecordDraft<'_>| {
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
    pub async fn postpone(&self, message: &Message, attempts: DeliveryAttempts) -> Result<(), RecordError> {
        let message = Message { attempts, ..message.clone() };
        let work = move |draft: &mut RecordDraft<'_>| {
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
        let work = move |draft: &mut RecordDraft<'_>| {
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
        let work = move |draft: &mut RecordDraft<'_>| {
            let what = || "the state of a commit".to_owned();
            let Some(mut row) =
                draft.store().document::<Projection>(DocumentKind::Projections, &key, what)?
            else {
                return Ok(());
            };
            change(&mut row);
            let recorded = draft.desired(&row.environment)?.entry;
            let is_current = recorded.revision.as_ref() == Some(&row.revision);
            // The commit that serves may be recorded again, and one that waits for its checks will change.
            let is_kept = match row.generation == Generation::default() {
                true => awaited::pending(draft, &row.environment)?
                    .iter()
                    .any(|commit| commit.revision == row.revision && commit.state.is_some()),
                false => row.wanted.phase == Phase::Success,
            };
            if row.is_shown() && !is_current && !is_kept {
                draft.remove(DocumentKind::Projections, key);
                return Ok(());
            }
            draft.put(DocumentKind::Projections, key, &row)
        };
        self.shared.write(work).await
    }

    /// Compares the problems that exist now with those that were announced, and announces what began or ended
    /// since. Repetitions change nothing, also after a restart.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed; nothing was announced then.
    pub async fn announce_problems(
        &self,
        problems: Vec<OpenProblem>,
        at: Timestamp,
    ) -> Result<(), RecordError> {
        let Some(rules) = self.shared.rules() else { return Ok(()) };
        let current: BTreeMap<Vec<u8>, OpenProblem> =
            problems.into_iter().map(|problem| (problem_key(&problem), problem)).collect();
        let is_known = |key: &Vec<u8>| Ok(self.shared.store.get(DocumentKind::Standings, key)?.is_some());
        let begun = current.keys().map(is_known).collect::<Result<Vec<bool>, RecordError>>()?;
        let ended = announced(&self.shared.store)?.into_iter().any(|(key, _)| !current.contains_key(&key));
        // Most looks change nothing, and need no write.
        if begun.into_iter().all(|is_known| is_known) && !ended {
            return Ok(());
        }
        let work = move |draft: &mut RecordDraft<'_>| {
            for (key, raised) in announced(draft.store())? {
                if !current.contains_key(&key) {
                    draft.remove(DocumentKind::Standings, key);
                    if let Some(end) = raised.end(at) {
                        outgoing::post(draft, &rules, &end)?;
                    }
                }
            }
            for (key, problem) in current {
                if draft.store().get(DocumentKind::Standings, &key)?.is_some() {
                    continue;
                }
                let incident = uuid::Uuid::new_v4().simple().to_string();
                let (news, subject) = (problem.news, Some(problem.subject.clone()));
                let raised = Raised {
                    incident: incident.clone(),
                    since: at,
                    news,
                    subject,
                    is_silent: problem.is_old,
                };
                draft.put(DocumentKind::Standings, key, &raised)?;
                if !problem.is_old {
                    let OpenProblem { news, subject, message, by, .. } = problem;
                    let begin = Announcement::new(news, subject, message, at);
                    outgoing::post(draft, &rules, &Announcement { incident: Some(incident), by, ..begin })?;
                }
            }
            Ok(())
        };
        self.shared.write(work).await
    }

    /// Everything that is not delivered, in the order of its targets.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the store cannot be read.
    pub fn items(&self) -> Result<Vec<OutboxItem>, RecordError> {
        let pauses = self.shared.pauses.read().unwrap_or_else(PoisonError::into_inner).clone();
        let shown = |item: OutboxItem, attempts: &DeliveryAttempts| {
            let pause = pauses.get(&item.target).filter(|_| !attempts.asked).copied();
            OutboxItem { next: item.next.map(|next| next.max(pause.unwrap_or_default())), ..item }
        };
        let mut items = Vec::new();
        for message in documents::<Message>(&self.shared.store, DocumentKind::Messages, b"") {
            let message = message?;
            items.push(shown(OutboxItem::from(&message), &message.attempts));
        }
        for row in documents::<Projection>(&self.shared.store, DocumentKind::Projections, b"") {
            let row = row?;
            if !row.is_shown() {
                items.push(shown(OutboxItem::from(&row), &row.attempts));
            }
        }
        items.sort_by(|a, b| a.target.cmp(&b.target));
        Ok(items)
    }

    /// Notes until when nothing is sent to `target`, unless a person asks for it. The items then show that time.
    pub fn pause(&self, target: &OutboxTarget, until: Timestamp) {
        let mut pauses = self.shared.pauses.write().unwrap_or_else(PoisonError::into_inner);
        pauses.insert(target.clone(), until);
    }

    /// The number of messages that were dropped because a channel had too many.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the store cannot be read.
    pub fn dropped(&self) -> Result<u64, RecordError> {
        count(&self.shared.store, DROPPED)
    }

    /// Makes every item of `target`, or of all targets, due at once: dead ones too, and those that wait for a target
    /// that is paused. Returns their number.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed.
    pub async fn retry(&self, target: Option<OutboxTarget>, now: Timestamp) -> Result<usize, RecordError> {
        let work = move |draft: &mut RecordDraft<'_>| {
            let prefix = target.as_ref().map(all_of).unwrap_or_default();
            let mut retried = 0;
            // An item that was never tried and is not due yet waits on purpose: its problem may pass.
            let is_waiting = |attempts: &DeliveryAttempts| {
                attempts.dead.is_some() || attempts.count > 0 || attempts.next <= now
            };
            for (key, value) in draft.pending_pairs(DocumentKind::Messages, &prefix)? {
                let message: Option<Message> = serde_json::from_slice(&value).ok();
                let Some(message) = message.filter(|message| is_waiting(&message.attempts)) else { continue };
                draft.put(
                    DocumentKind::Messages,
                    key,
                    &Message { attempts: DeliveryAttempts::asked(now), ..message },
                )?;
                retried += 1;
            }
            for (key, value) in draft.pending_pairs(DocumentKind::Projections, &prefix)? {
                let row: Option<Projection> = serde_json::from_slice(&value).ok();
                let Some(row) = row.filter(|row| !row.is_shown() && is_waiting(&row.attempts)) else {
                    continue;
                };
                draft.put(
                    DocumentKind::Projections,
                    key,
                    &Projection { attempts: DeliveryAttempts::asked(now), ..row },
                )?;
                retried += 1;
            }
            Ok(retried)
        };
        self.shared.write(work).await
    }
}

fn thread_key(target: &OutboxTarget, incident: &str) -> Vec<u8> {
    [all_of(target), incident.as_bytes().to_vec()].concat()
}

/// Removes the items of targets other than `targets`.
fn withdraw(draft: &mut RecordDraft<'_>, targets: &BTreeSet<OutboxTarget>) -> Result<(), RecordError> {
    for kind in [DocumentKind::Messages, DocumentKind::Projections, DocumentKind::Threads] {
        for (key, _) in draft.pending_pairs(kind, b"")? {
            let target = key.split(|byte| *byte == 0).next().unwrap_or_default();
            let target = std::str::from_utf8(target).ok().and_then(|text| text.parse::<OutboxTarget>().ok());
            if target.is_none_or(|target| !targets.contains(&target)) {
                draft.remove(kind, key);
            }
        }
    }
    Ok(())
}

/// Removes the oldest dead messages beyond [`DEAD_KEPT`].
fn remove_surplus(draft: &mut RecordDraft<'_>, target: &OutboxTarget) -> Result<(), RecordError> {
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
