//! Decides what is announced: compares the record with what was announced of it before.
//!
//! [`AnnouncedState`] is stored in the same write as the facts, so that a restart announces nothing twice.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::commit::is_of_the_program;
use super::{Announcement, News, ReportedVersion, Subject};
use crate::model::desired::{Desired, Entry, Origin, Outcome};
use crate::model::name::Generation;
use crate::model::status::{Condition, Reason, Status};
use crate::model::time::Timestamp;

/// How long a problem of the host or of a service may last before it is announced: most pass by themselves.
pub const GRACE: Duration = Duration::from_secs(60);

/// The last announcements of an environment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnnouncedState {
    /// The newest generation that was announced as ready, or that needs no announcement.
    #[serde(default)]
    pub ready: Generation,
    /// The newest automatic rollback that was announced.
    #[serde(default)]
    pub rolled_back: Generation,
    /// The open incident.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incident: Option<Incident>,
    /// The start of the announced hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Timestamp>,
}

/// A problem from its first message to its last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    /// Its id.
    pub id: String,
    /// The generation of its last message.
    pub generation: Generation,
    /// Its start.
    pub since: Timestamp,
}

/// The facts about an environment.
#[derive(Clone, Copy, Debug)]
pub struct AnnouncedFacts<'a> {
    /// Its record.
    pub desired: &'a Desired,
    /// Its status.
    pub status: Option<&'a Status>,
    /// The outcome of the recorded generation.
    pub outcome: Option<&'a Outcome>,
}

impl AnnouncedState {
    /// The standing of an environment whose present state needs no announcement: after an upgrade or an import.
    pub fn silent(facts: AnnouncedFacts<'_>) -> Self {
        let AnnouncedFacts { desired, status, .. } = facts;
        let entry = &desired.entry;
        let is_rollback = entry.origin == Some(Origin::AutomaticRollback);
        let problem = status.filter(|status| problem(status, entry).is_some());
        Self {
            ready: if is_ready(facts) { entry.generation } else { Generation::default() },
            rolled_back: if is_rollback { entry.generation } else { Generation::default() },
            incident: problem.map(|status| Incident {
                id: format!("{}-{}", desired.environment, entry.generation),
                generation: entry.generation,
                since: status.since,
            }),
            held: desired.hold.as_ref().map(|hold| hold.since),
        }
    }
}

/// Returns the announcements that `facts` need after `standing`, and updates `standing`. `new_id` makes the id
/// of an incident. `now` is the time of events that the record has no time of.
pub fn announce(
    standing: &mut AnnouncedState,
    facts: AnnouncedFacts<'_>,
    now: Timestamp,
    new_id: &mut dyn FnMut() -> String,
) -> Vec<Announcement> {
    let mut announcements = Vec::new();
    announcements.extend(held(standing, facts.desired, now));
    announcements.extend(rolled_back(standing, facts.desired, new_id));
    let Some(status) = facts.status else { return announcements };
    if status.observed_generation == facts.desired.entry.generation {
        announcements.extend(failed(standing, facts.desired, status, new_id));
        announcements.extend(ready(standing, facts, status));
    }
    announcements
}

/// How long an announcement waits, so that a problem that passes by itself is not announced.
pub fn grace(announcement: &Announcement) -> Duration {
    match (announcement.news, announcement.is_end, announcement.reason) {
        (News::Failed, false, Some(reason)) if !is_permanent(reason) => GRACE,
        (News::AgentAway | News::Certificate, false, _) => GRACE,
        _ => Duration::ZERO,
    }
}

fn is_permanent(reason: Reason) -> bool {
    use Reason::{
        NameConflict, PolicyRefused, RecordBehind, RevisionNotFound, SecretMissing, TagMoved, VolumeMissing,
    };
    is_of_the_program(reason)
        || matches!(
            reason,
            NameConflict
                | PolicyRefused
                | RecordBehind
                | RevisionNotFound
                | SecretMissing
                | TagMoved
                | VolumeMissing
        )
}

fn held(standing: &mut AnnouncedState, desired: &Desired, now: Timestamp) -> Option<Announcement> {
    let subject = Subject::Environment(desired.environment.clone());
    let since = desired.hold.as_ref().map(|hold| hold.since);
    if since == standing.held {
        return None;
    }
    let before = std::mem::replace(&mut standing.held, since);
    let incident = |since: Timestamp| Some(format!("{}-hold-{}", desired.environment, since.as_millis()));
    let announcement = match (&desired.hold, before) {
        (Some(hold), _) => Announcement {
            by: Some(hold.by.clone()),
            incident: incident(hold.since),
            ..Announcement::new(News::Held, subject, hold.reason.clone(), hold.since)
        },
        (None, Some(before)) => Announcement {
            is_end: true,
            incident: incident(before),
            ..Announcement::new(News::Held, subject, "changes are applied again", now)
        },
        (None, None) => return None,
    };
    Some(Announcement { to: version(&desired.entry), ..announcement })
}

fn rolled_back(
    standing: &mut AnnouncedState,
    desired: &Desired,
    new_id: &mut dyn FnMut() -> String,
) -> Option<Announcement> {
    let entry = &desired.entry;
    if entry.origin != Some(Origin::AutomaticRollback) || entry.generation <= standing.rolled_back {
        return None;
    }
    standing.rolled_back = entry.generation;
    standing.ready = standing.ready.max(entry.generation);
    let incident = standing.incident.take();
    let (id, since) = incident.map_or_else(|| (new_id(), entry.at), |incident| (incident.id, incident.since));
    standing.incident = Some(Incident { id: id.clone(), generation: entry.generation, since });
    let bad = desired.bad.last();
    let subject = Subject::Environment(desired.environment.clone());
    let message = bad.map(|bad| bad.message.clone()).or_else(|| entry.note.clone()).unwrap_or_default();
    Some(Announcement {
        incident: Some(id),
        to: version(entry),
        from: bad.map(|bad| ReportedVersion {
            generation: bad.generation,
            revision: bad.revision.clone(),
            image: Some(bad.image.clone()),
        }),
        origin: entry.origin,
        by: entry.by.clone(),
        reason: bad.map(|bad| bad.reason),
        ..Announcement::new(News::RolledBack, subject, message, entry.at)
    })
}

fn failed(
    standing: &mut AnnouncedState,
    desired: &Desired,
    status: &Status,
    new_id: &mut dyn FnMut() -> String,
) -> Option<Announcement> {
    let entry = &desired.entry;
    problem(status, entry)?;
    let is_announced =
        standing.incident.as_ref().is_some_and(|incident| incident.generation >= entry.generation);
    if is_announced {
        return None;
    }
    let incident = standing.incident.take();
    let (id, since) =
        incident.map_or_else(|| (new_id(), status.since), |incident| (incident.id, incident.since));
    standing.incident = Some(Incident { id: id.clone(), generation: entry.generation, since });
    let subject = Subject::Environment(desired.environment.clone());
    Some(Announcement {
        incident: Some(id),
        to: version(entry),
        origin: entry.origin,
        by: entry.by.clone(),
        reason: Some(status.reason),
        ..Announcement::new(News::Failed, subject, status.message.clone(), status.since)
    })
}

fn ready(standing: &mut AnnouncedState, facts: AnnouncedFacts<'_>, status: &Status) -> Option<Announcement> {
    if !is_ready(facts) {
        return None;
    }
    let entry = &facts.desired.entry;
    let is_new = entry.generation > standing.ready;
    standing.ready = standing.ready.max(entry.generation);
    let incident = standing.incident.take();
    if incident.is_none() && !is_new {
        return None;
    }
    let subject = Subject::Environment(facts.desired.environment.clone());
    let message = status.message.clone();
    let announcement = match incident {
        None => Announcement::new(News::Ready, subject, message, status.since),
        Some(incident) => Announcement {
            also: is_new.then_some(News::Ready),
            is_end: true,
            incident: Some(incident.id),
            ..Announcement::new(News::Recovered, subject, message, status.since)
        },
    };
    let (origin, by) = (entry.origin, entry.by.clone());
    Some(Announcement { to: version(entry), origin, by, reason: Some(status.reason), ..announcement })
}

/// Whether the recorded generation is ready.
fn is_ready(facts: AnnouncedFacts<'_>) -> bool {
    let generation = facts.desired.entry.generation;
    let is_current = |status: &Status| status.observed_generation == generation;
    facts.status.is_some_and(|status| status.condition == Condition::Ready && is_current(status))
}

/// The reason, if a person may have to act.
fn problem(status: &Status, entry: &Entry) -> Option<Reason> {
    let is_one = match status.condition {
        Condition::Degraded | Condition::Blocked => {
            !matches!(status.reason, Reason::NothingRecorded | Reason::NotInManifest | Reason::Unknown)
        }
        Condition::Ready | Condition::Progressing | Condition::Held | Condition::RolledBack => false,
    };
    (is_one && entry.generation != Generation::default()).then_some(status.reason)
}

fn version(entry: &Entry) -> ReportedVersion {
    let Entry { generation, revision, image, .. } = entry;
    ReportedVersion { generation: *generation, revision: revision.clone(), image: image.clone() }
}
