//! Derives outgoing items from a pending write, so that they are stored in the same batch as their facts.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use super::draft::RecordDraft;
use super::error::RecordError;
use super::store::DocumentKind;
use super::{awaited, keys};
use crate::model::checks::AwaitedCommit;
use crate::model::desired::{Desired, Outcome};
use crate::model::name::{CommitId, EnvironmentName, Generation};
use crate::model::outbox::announce::{AnnouncedFacts, AnnouncedState, announce, grace};
use crate::model::outbox::commit::{self, CommitState, Phase};
use crate::model::outbox::{
    Announcement, DeliveryAttempts, Deployment, ForgeRule, Message, News, OutboxRules, OutboxTarget,
    Projection,
};
use crate::model::status::Status;
use crate::model::time::Timestamp;

/// Messages that are kept of a channel. Beyond it, the oldest informational ones are dropped first.
pub(super) const MESSAGES_KEPT: usize = 500;
/// The key of the number of dropped messages.
pub(super) const DROPPED: &[u8] = b"outbox_dropped";

/// The facts about one environment, as owned documents.
struct KnownEnvironment {
    desired: Option<Desired>,
    status: Option<Status>,
    outcome: Option<Outcome>,
}

/// Adds the outgoing items for every environment whose facts the draft changes.
pub(super) fn derive(draft: &mut RecordDraft<'_>, rules: &Arc<OutboxRules>) -> Result<(), RecordError> {
    let touched: BTreeSet<EnvironmentName> = draft
        .lines()
        .iter()
        .filter_map(|line| match line.kind {
            DocumentKind::Desired | DocumentKind::Status | DocumentKind::Awaited => keys::name(&line.key),
            DocumentKind::Outcomes => keys::split(&line.key).map(|(environment, _)| environment),
            _ => None,
        })
        .collect();
    for environment in touched {
        derive_one(draft, rules, &environment)?;
    }
    Ok(())
}

/// Adds the outgoing items for `environment`.
pub(super) fn derive_one(
    draft: &mut RecordDraft<'_>,
    rules: &OutboxRules,
    environment: &EnvironmentName,
) -> Result<(), RecordError> {
    let key = subject_key(environment);
    let after = known(environment, |kind, key| draft.pending(kind, key))?;
    let Some(desired) = &after.desired else {
        let is_forgotten =
            draft.store().get(DocumentKind::Desired, environment.as_str().as_bytes())?.is_some();
        return match rules.forges.get(environment) {
            // The first commit may wait for its checks before anything is recorded.
            Some(rule) if !is_forgotten => {
                project_awaited(draft, rule, &Desired::empty(environment.clone())).map(drop)
            }
            _ => {
                draft.remove(DocumentKind::Standings, key);
                forget(draft, environment)
            }
        };
    };
    let facts = facts(desired, &after);
    let stored = draft.pending(DocumentKind::Standings, &key)?;
    let stored: Option<AnnouncedState> =
        stored.as_deref().and_then(|bytes| serde_json::from_slice(bytes).ok());
    let mut standing = match &stored {
        Some(standing) => standing.clone(),
        None => unannounced(draft, environment)?,
    };
    let mut new_id = || uuid::Uuid::new_v4().simple().to_string();
    for announcement in announce(&mut standing, facts, Timestamp::from(SystemTime::now()), &mut new_id) {
        post(draft, rules, &announcement)?;
    }
    if stored.as_ref() != Some(&standing) {
        draft.put(DocumentKind::Standings, key, &standing)?;
    }
    match rules.forges.get(environment) {
        Some(rule) => project(draft, rule, desired, facts),
        None => Ok(()),
    }
}

/// The standing before this write: what was recorded without being announced stays so.
fn unannounced(
    draft: &RecordDraft<'_>,
    environment: &EnvironmentName,
) -> Result<AnnouncedState, RecordError> {
    let before = known(environment, |kind, key| draft.store().get(kind, key))?;
    let Some(desired) = &before.desired else { return Ok(AnnouncedState::default()) };
    Ok(AnnouncedState::silent(facts(desired, &before)))
}

fn facts<'a>(desired: &'a Desired, known: &'a KnownEnvironment) -> AnnouncedFacts<'a> {
    AnnouncedFacts { desired, status: known.status.as_ref(), outcome: known.outcome.as_ref() }
}

/// The readable facts about an environment. An unreadable document must not block a write.
fn known(
    environment: &EnvironmentName,
    read: impl Fn(DocumentKind, &[u8]) -> Result<Option<Vec<u8>>, RecordError>,
) -> Result<KnownEnvironment, RecordError> {
    let key = environment.as_str().as_bytes();
    let desired = read(DocumentKind::Desired, key)?;
    let desired: Option<Desired> = desired.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let status = read(DocumentKind::Status, key)?.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let generation = desired.as_ref().map(|desired| desired.entry.generation).unwrap_or_default();
    let outcome = read(DocumentKind::Outcomes, &keys::numbered(environment, generation.0))?;
    let outcome = outcome.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    Ok(KnownEnvironment { desired, status, outcome })
}

// --- messages -------------------------------------------------------------------------------------

/// Adds a message for each channel that takes `announcement`.
pub(super) fn post(
    draft: &mut RecordDraft<'_>,
    rules: &OutboxRules,
    announcement: &Announcement,
) -> Result<(), RecordError> {
    for (name, rule) in &rules.channels {
        let target = OutboxTarget::Channel(name.clone());
        let waiting = waiting_for(draft, &target)?;
        let is_pending = withdraw_pending(draft, announcement, &waiting);
        let Some(news) = rule.takes(announcement) else { continue };
        // A problem that was not announced needs no end, but a new version may still be news.
        let news = match (is_pending, announcement.also) {
            (false, _) => news,
            (true, Some(also)) if rule.on.contains(&also) => also,
            (true, _) => continue,
        };
        let outgoing = Announcement { news, also: None, ..announcement.clone() };
        put_message(draft, &target, outgoing, &waiting)?;
    }
    Ok(())
}

fn put_message(
    draft: &mut RecordDraft<'_>,
    target: &OutboxTarget,
    announcement: Announcement,
    waiting: &[Message],
) -> Result<(), RecordError> {
    draft.counters.last_message += 1;
    let sequence = draft.counters.last_message;
    let due = announcement.at.after(grace(&announcement));
    let id = format!("msg_{}", uuid::Uuid::new_v4().simple());
    let attempts = DeliveryAttempts::from(due);
    let message = Message {
        id,
        sequence,
        target: target.clone(),
        announcement,
        grouped: Vec::new(),
        more: 0,
        attempts,
    };
    make_room(draft, waiting)?;
    draft.put(DocumentKind::Messages, message_key(target, sequence), &message)
}

/// Removes the message of a problem that ended before it was due. Returns whether there was one.
fn withdraw_pending(draft: &mut RecordDraft<'_>, end: &Announcement, waiting: &[Message]) -> bool {
    let (Some(incident), true) = (&end.incident, end.is_end) else { return false };
    let of_incident: Vec<&Message> =
        waiting.iter().filter(|message| message.announcement.incident.as_ref() == Some(incident)).collect();
    let is_pending = |message: &&Message| {
        message.attempts.count == 0
            && message.attempts.next > end.at
            && matches!(message.announcement.news, News::Failed | News::AgentAway | News::Certificate)
    };
    // An earlier message of the incident was delivered if only some of them are here.
    let opens = of_incident.first().is_some_and(is_pending) && of_incident.len() == 1;
    let Some(message) = of_incident.first().filter(|_| opens) else { return false };
    draft.remove(DocumentKind::Messages, message_key(&message.target, message.sequence));
    true
}

/// Drops a message if the channel has too many.
fn make_room(draft: &mut RecordDraft<'_>, waiting: &[Message]) -> Result<(), RecordError> {
    if waiting.len() < MESSAGES_KEPT {
        return Ok(());
    }
    let is_informational = |message: &&Message| {
        matches!(message.announcement.news, News::Ready | News::Held) && message.attempts.dead.is_none()
    };
    let dropped = waiting.iter().find(is_informational).or(waiting.first());
    if let Some(message) = dropped {
        draft.remove(DocumentKind::Messages, message_key(&message.target, message.sequence));
        let count = super::status::count(draft.store(), DROPPED)? + 1;
        draft.put_bytes(DocumentKind::Meta, DROPPED.to_vec(), count.to_be_bytes().to_vec());
    }
    Ok(())
}

/// The messages of a channel, with those of the draft.
fn waiting_for(draft: &RecordDraft<'_>, target: &OutboxTarget) -> Result<Vec<Message>, RecordError> {
    let all = draft.pending_pairs(DocumentKind::Messages, &all_of(target))?;
    Ok(all.values().filter_map(|bytes| serde_json::from_slice(bytes).ok()).collect())
}

// --- states of commits ----------------------------------------------------------------------------

/// Updates the states of the environment's commits.
fn project(
    draft: &mut RecordDraft<'_>,
    rule: &ForgeRule,
    desired: &Desired,
    facts: AnnouncedFacts<'_>,
) -> Result<(), RecordError> {
    let environment = &desired.environment;
    let target = OutboxTarget::Forge(rule.repository.clone());
    let entry = &desired.entry;
    let wanted = commit::current(desired, facts.status, facts.outcome);
    let serves = wanted.phase == Phase::Success;
    let undeployed = project_awaited(draft, rule, desired)?;
    for (key, row) in states_of(draft, &target, environment)? {
        if Some(&row.revision) == entry.revision.as_ref() || undeployed.contains(&row.revision) {
            continue;
        }
        let outcome =
            draft.pending(DocumentKind::Outcomes, &keys::numbered(environment, row.generation.0))?;
        let outcome: Option<Outcome> = outcome.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let state = commit::former(row.generation, row.wanted.phase, outcome.as_ref(), entry, serves);
        let state = state.unwrap_or_else(|| row.wanted.clone());
        let is_over = !matches!(state.phase, Phase::Pending | Phase::Running | Phase::Success);
        let is_shown = state == row.wanted && row.is_shown();
        if is_over && is_shown {
            draft.remove(DocumentKind::Projections, key);
        } else {
            update(draft, key, &row, state, row.generation)?;
        }
    }
    let Some(revision) = &entry.revision else { return Ok(()) };
    let key = state_key(&target, environment, revision.as_str());
    let stored = draft.pending(DocumentKind::Projections, &key)?;
    let stored: Option<Projection> = stored.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let row = stored.unwrap_or_else(|| Projection {
        target,
        environment: environment.clone(),
        revision: revision.clone(),
        generation: Generation::default(),
        wanted: wanted.clone(),
        shown: None,
        deployment: None,
        attempts: DeliveryAttempts::default(),
    });
    let deployment = match &row.deployment {
        None if rule.deployments => Some(Deployment { generation: entry.generation, id: None, shown: None }),
        other => other.clone().filter(|_| rule.deployments),
    };
    update(draft, key, &Projection { deployment, ..row }, wanted, entry.generation)
}

/// Updates the states of the commits without a generation: those that wait for their checks, and those that did.
/// Returns them.
fn project_awaited(
    draft: &mut RecordDraft<'_>,
    rule: &ForgeRule,
    desired: &Desired,
) -> Result<BTreeSet<CommitId>, RecordError> {
    let environment = &desired.environment;
    let target = OutboxTarget::Forge(rule.repository.clone());
    let mut undeployed = BTreeSet::new();
    let awaited = if rule.awaits_checks { awaited::pending(draft, environment)? } else { Vec::new() };
    for commit in awaited {
        let AwaitedCommit { revision, state: Some(state), .. } = commit else { continue };
        if desired.entry.revision.as_ref() == Some(&revision) {
            continue;
        }
        let key = state_key(&target, environment, revision.as_str());
        let stored = draft.pending(DocumentKind::Projections, &key)?;
        let stored: Option<Projection> = stored.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let row = Projection {
            target: target.clone(),
            environment: environment.clone(),
            revision: revision.clone(),
            generation: stored.as_ref().map_or(Generation::default(), |stored| stored.generation),
            wanted: stored.as_ref().map_or_else(|| state.clone(), |stored| stored.wanted.clone()),
            shown: stored.as_ref().and_then(|stored| stored.shown.clone()),
            // If it was deployed once, that deployment is over.
            deployment: None,
            attempts: stored.map(|stored| stored.attempts).unwrap_or_default(),
        };
        update(draft, key, &row, state, Generation::default())?;
        undeployed.insert(revision);
    }
    for (key, row) in states_of(draft, &target, environment)? {
        let is_recorded = desired.entry.revision.as_ref() == Some(&row.revision);
        if row.generation == Generation::default() && !is_recorded && undeployed.insert(row.revision.clone())
        {
            close(draft, key, &row, desired)?;
        }
    }
    Ok(undeployed)
}

/// Closes the state of a commit that waited for its checks and was never deployed.
fn close(
    draft: &mut RecordDraft<'_>,
    key: Vec<u8>,
    row: &Projection,
    desired: &Desired,
) -> Result<(), RecordError> {
    let environment = &desired.environment;
    let is_closed = matches!(row.wanted.phase, Phase::Superseded | Phase::Success);
    if is_closed && row.is_shown() {
        draft.remove(DocumentKind::Projections, key);
        return Ok(());
    }
    let before = draft.desired(environment)?.head;
    let state = match &desired.head {
        _ if is_closed => row.wanted.clone(),
        Some(head) if *head == row.revision => {
            CommitState::new(Phase::Success, format!("it changes nothing that {environment} is built from"))
        }
        Some(head) if before.as_ref() != Some(head) => {
            CommitState::new(Phase::Superseded, format!("superseded by {}", head.short()))
        }
        _ => CommitState::new(Phase::Superseded, "no longer awaited: the branch or the manifest has changed"),
    };
    update(draft, key, row, state, row.generation)
}

/// Writes a changed state. A state that is new makes a failed delivery possible again.
fn update(
    draft: &mut RecordDraft<'_>,
    key: Vec<u8>,
    row: &Projection,
    wanted: CommitState,
    generation: Generation,
) -> Result<(), RecordError> {
    let is_new = row.wanted != wanted || row.generation != generation;
    let attempts = match (is_new, row.attempts.dead) {
        (true, Some(_)) => DeliveryAttempts::default(),
        _ => row.attempts.clone(),
    };
    let next = Projection { wanted, generation, attempts, ..row.clone() };
    let stored = draft.pending(DocumentKind::Projections, &key)?;
    let document = super::store::encode(&next)?;
    if stored.as_ref() != Some(&document) {
        draft.put_bytes(DocumentKind::Projections, key, document);
    }
    Ok(())
}

fn states_of(
    draft: &RecordDraft<'_>,
    target: &OutboxTarget,
    environment: &EnvironmentName,
) -> Result<Vec<(Vec<u8>, Projection)>, RecordError> {
    let all = draft.pending_pairs(DocumentKind::Projections, &state_key(target, environment, ""))?;
    Ok(all.into_iter().filter_map(|(key, value)| Some((key, serde_json::from_slice(&value).ok()?))).collect())
}

/// Removes the states of a forgotten environment.
fn forget(draft: &mut RecordDraft<'_>, environment: &EnvironmentName) -> Result<(), RecordError> {
    for (key, value) in draft.pending_pairs(DocumentKind::Projections, b"")? {
        let row: Option<Projection> = serde_json::from_slice(&value).ok();
        if row.is_some_and(|row| row.environment == *environment) {
            draft.remove(DocumentKind::Projections, key);
        }
    }
    Ok(())
}

// --- keys -----------------------------------------------------------------------------------------

/// The common prefix of a target's items. No name contains the byte at its end.
pub(super) fn all_of(target: &OutboxTarget) -> Vec<u8> {
    let mut key = target.to_string().into_bytes();
    key.push(0);
    key
}

pub(super) fn message_key(target: &OutboxTarget, sequence: u64) -> Vec<u8> {
    [all_of(target), sequence.to_be_bytes().to_vec()].concat()
}

pub(super) fn state_key(target: &OutboxTarget, environment: &EnvironmentName, revision: &str) -> Vec<u8> {
    [all_of(target), keys::all_of(environment), revision.as_bytes().to_vec()].concat()
}

pub(super) fn subject_key(environment: &EnvironmentName) -> Vec<u8> {
    format!("environment/{environment}").into_bytes()
}
