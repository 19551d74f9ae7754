//! The decision what to announce, and how messages are grouped and retried.

use std::time::Duration;

use super::announce::{AnnouncedFacts, AnnouncedState, GRACE, announce, grace};
use super::commit::{self, Phase};
use super::group::{FLOOD, group, to_group};
use super::*;
use crate::model::desired::{Bad, Desired, Entry, Hold, Outcome};
use crate::model::name::Digest;
use crate::model::status::{Condition, Status};

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(1_790_000_000_000 + seconds * 1_000)
}

fn dev() -> EnvironmentName {
    EnvironmentName::new("dev").unwrap()
}

fn commit_id(number: u64) -> CommitId {
    CommitId::new(format!("{number:040x}")).unwrap()
}

fn image(number: u64) -> Image {
    let id = Digest::new(format!("sha256:{number:064x}")).unwrap();
    Image { reference: None, digest: None, id: Some(id) }
}

fn status(generation: u64, condition: Condition, reason: Reason, message: &str, since: u64) -> Status {
    Status::new(dev(), Generation(generation), (condition, reason), message, at(since))
}

/// An environment whose record and status a test changes.
struct World {
    desired: Desired,
    status: Option<Status>,
    outcome: Option<Outcome>,
    standing: AnnouncedState,
    ids: u32,
}

impl World {
    fn new() -> Self {
        let desired = Desired::empty(dev());
        Self { desired, status: None, outcome: None, standing: AnnouncedState::default(), ids: 0 }
    }

    fn push(&mut self, number: u64) {
        let generation = self.desired.entry.generation.next().unwrap();
        let revision = Some(commit_id(number));
        let origin = Some(Origin::Push);
        self.desired.entry = Entry { generation, revision, origin, at: at(number), ..Entry::default() };
        self.outcome = None;
    }

    fn roll_back(&mut self, seconds: u64) {
        let from = self.desired.entry.clone();
        self.desired.mark_bad(Bad {
            image: image(from.generation.0),
            generation: from.generation,
            revision: from.revision.clone(),
            reason: Reason::NeverReady,
            message: "it never answered".to_owned(),
            at: at(seconds),
        });
        self.desired.entry = Entry {
            generation: from.generation.next().unwrap(),
            revision: Some(commit_id(1)),
            origin: Some(Origin::AutomaticRollback),
            at: at(seconds),
            ..Entry::default()
        };
        self.outcome = None;
    }

    fn is(&mut self, condition: Condition, reason: Reason, seconds: u64) {
        let generation = self.desired.entry.generation.0;
        if condition == Condition::Ready {
            self.outcome = Some(Outcome::Ready);
        }
        self.status = Some(status(generation, condition, reason, "because", seconds));
    }

    fn announcements(&mut self) -> Vec<Announcement> {
        let Self { desired, status, outcome, ids, standing } = self;
        let facts = AnnouncedFacts { desired, status: status.as_ref(), outcome: outcome.as_ref() };
        let mut new_id = || {
            *ids += 1;
            format!("incident-{ids}")
        };
        announce(standing, facts, at(999), &mut new_id)
    }

    /// Treats everything so far as announced.
    fn fall_silent(&mut self) {
        let Self { desired, status, outcome, .. } = self;
        let facts = AnnouncedFacts { desired, status: status.as_ref(), outcome: outcome.as_ref() };
        self.standing = AnnouncedState::silent(facts);
    }

    fn kinds(&mut self) -> Vec<&'static str> {
        let announcements = self.announcements();
        // Nothing is announced a second time.
        assert_eq!(self.announcements(), Vec::new());
        announcements.iter().map(Announcement::kind).collect()
    }

    fn state(&self) -> Phase {
        commit::current(&self.desired, self.status.as_ref(), self.outcome.as_ref()).phase
    }
}

#[test]
fn each_generation_is_announced_as_ready_once_despite_healing() {
    let mut world = World::new();
    world.push(1);
    assert!(world.kinds().is_empty());
    world.is(Condition::Progressing, Reason::Building, 1);
    assert!(world.kinds().is_empty());
    world.is(Condition::Ready, Reason::AsRecorded, 2);
    assert_eq!(world.kinds(), ["environment.ready"]);
    world.is(Condition::Progressing, Reason::Updating, 3);
    world.is(Condition::Ready, Reason::AsRecorded, 4);
    assert!(world.kinds().is_empty());
    world.push(2);
    world.is(Condition::Ready, Reason::AsRecorded, 5);
    assert_eq!(world.kinds(), ["environment.ready"]);
}

#[test]
fn failure_rollback_and_recovery_form_one_incident() {
    let mut world = World::new();
    world.push(1);
    world.is(Condition::Ready, Reason::AsRecorded, 1);
    world.announcements();
    world.push(2);
    world.is(Condition::Degraded, Reason::NeverReady, 2);
    let failed = world.announcements();
    world.roll_back(3);
    let back = world.announcements();
    assert_eq!(back[0].kind(), "environment.rolled_back");
    assert_eq!(back[0].from.as_ref().unwrap().revision, Some(commit_id(2)));
    assert_eq!(back[0].to.revision, Some(commit_id(1)));
    assert_eq!(back[0].message, "it never answered");
    world.is(Condition::RolledBack, Reason::RolledBack, 4);
    assert!(world.kinds().is_empty());
    world.push(3);
    world.is(Condition::Ready, Reason::AsRecorded, 5);
    let recovered = world.announcements();
    assert_eq!(recovered[0].kind(), "environment.recovered");
    assert!(recovered[0].is_end && recovered[0].also == Some(News::Ready));
    let incidents = [&failed[0], &back[0], &recovered[0]].map(|announced| announced.incident.clone());
    assert_eq!(incidents, [(); 3].map(|()| Some("incident-1".to_owned())));
}

#[test]
fn an_incident_is_announced_once_per_version_not_per_reason() {
    let mut world = World::new();
    world.push(1);
    world.is(Condition::Degraded, Reason::SourceUnavailable, 1);
    assert_eq!(world.kinds(), ["environment.failed"]);
    world.is(Condition::Degraded, Reason::BuildFailed, 2);
    assert!(world.kinds().is_empty());
    world.push(2);
    assert!(world.kinds().is_empty());
    world.is(Condition::Degraded, Reason::BuildFailed, 3);
    assert_eq!(world.kinds(), ["environment.failed"]);
    assert_eq!(world.ids, 1);
}

#[test]
fn only_a_temporary_problem_has_a_grace_period() {
    let mut world = World::new();
    world.push(1);
    world.is(Condition::Degraded, Reason::EngineUnavailable, 1);
    assert_eq!(grace(&world.announcements()[0]), GRACE);
    world.push(2);
    world.is(Condition::Degraded, Reason::BuildFailed, 2);
    assert_eq!(grace(&world.announcements()[0]), Duration::ZERO);
}

#[test]
fn a_hold_and_its_end_are_announced() {
    let mut world = World::new();
    world.push(1);
    world.is(Condition::Ready, Reason::AsRecorded, 1);
    world.announcements();
    let (reason, by) = ("migration".to_owned(), "alice".to_owned());
    world.desired.hold = Some(Hold { reason, by, since: at(5), generation: Some(Generation(1)) });
    let held = world.announcements();
    assert_eq!((held[0].kind(), held[0].by.as_deref()), ("environment.held", Some("alice")));
    world.desired.hold = None;
    let resumed = world.announcements();
    assert_eq!((resumed[0].kind(), resumed[0].at), ("environment.resumed", at(999)));
    assert_eq!(held[0].incident, resumed[0].incident);
}

#[test]
fn an_older_record_is_announced_silently() {
    let mut world = World::new();
    world.push(1);
    world.is(Condition::Ready, Reason::AsRecorded, 1);
    world.fall_silent();
    assert!(world.kinds().is_empty());
    world.is(Condition::Degraded, Reason::CrashLoop, 2);
    world.fall_silent();
    assert!(world.kinds().is_empty());
    world.is(Condition::Ready, Reason::AsRecorded, 3);
    assert_eq!(world.kinds(), ["environment.recovered",]);
}

#[test]
fn a_commit_succeeds_once_ready_and_fails_later_only_by_itself() {
    let mut world = World::new();
    world.push(1);
    assert_eq!(world.state(), Phase::Pending);
    for (reason, phase) in [
        (Reason::HeadUnknown, Phase::Pending),
        (Reason::Building, Phase::Running),
        (Reason::AwaitingHealth, Phase::Running),
        (Reason::Canary, Phase::Running),
    ] {
        world.is(Condition::Progressing, reason, 1);
        assert_eq!(world.state(), phase, "{reason:?}");
    }
    for (reason, phase) in [(Reason::BuildFailed, Phase::Failure), (Reason::RegistryDenied, Phase::Error)] {
        world.is(Condition::Degraded, reason, 1);
        assert_eq!(world.state(), phase, "{reason:?}");
    }
    world.is(Condition::Ready, Reason::AsRecorded, 2);
    assert_eq!(world.state(), Phase::Success);
    world.is(Condition::Degraded, Reason::EngineUnavailable, 3);
    assert_eq!(world.state(), Phase::Success);
    world.is(Condition::Degraded, Reason::CrashLoop, 4);
    assert_eq!(world.state(), Phase::Failure);
    world.push(2);
    // The status still describes the former commit.
    assert_eq!(world.state(), Phase::Pending);
    let (reason, by) = ("migration".to_owned(), "alice".to_owned());
    world.desired.hold = Some(Hold { reason, by, since: at(5), generation: Some(Generation(1)) });
    let state = commit::current(&world.desired, None, None);
    assert_eq!((state.phase, state.description.as_str()), (Phase::Pending, "held by alice: migration"));
}

#[test]
fn a_former_commit_ends_with_its_generations_outcome() {
    let recorded = Entry { generation: Generation(4), revision: Some(commit_id(9)), ..Entry::default() };
    let end = |outcome: Option<Outcome>, serves| {
        let state = commit::former(Generation(3), Phase::Running, outcome.as_ref(), &recorded, serves);
        state.map(|state| (state.phase, state.description))
    };
    let failed = Some(Outcome::Failed("it never answered".into()));
    assert_eq!(end(failed, true), Some((Phase::Failure, "it never answered".to_owned())));
    let superseded = end(Some(Outcome::Superseded), false).unwrap();
    assert_eq!(superseded, (Phase::Superseded, "superseded by 000000000000 (generation 4)".to_owned()));
    assert_eq!(end(Some(Outcome::Ready), true).unwrap().0, Phase::Replaced);
    assert_eq!(end(Some(Outcome::Ready), false).unwrap().0, Phase::Success);
    assert_eq!(end(None, true), None);
}

fn message(sequence: u64, seconds: u64) -> Message {
    Message {
        id: format!("msg_{sequence}"),
        sequence,
        target: "notify.team".parse().unwrap(),
        announcement: Announcement::new(News::Failed, Subject::Environment(dev()), "why\nmore", at(seconds)),
        grouped: Vec::new(),
        more: 0,
        attempts: DeliveryAttempts::from(at(seconds)),
    }
}

#[test]
fn a_message_flood_is_grouped_without_losing_the_count() {
    let few: Vec<Message> = (1..FLOOD as u64).map(|number| message(number, number)).collect();
    assert!(to_group(&few, at(10)).is_empty());
    assert_eq!(to_group(&few, at(2 * 60 * 60)).len(), few.len());
    let flood: Vec<Message> = (1..=30).map(|number| message(number, number)).collect();
    let chosen = to_group(&flood, at(40));
    assert_eq!(chosen.len(), 30);
    let one = group(&chosen, "msg_g".into(), at(40)).unwrap();
    assert_eq!((one.grouped.len(), one.more, one.sequence), (20, 10, 30));
    assert_eq!(one.title(), "30 messages");
    assert_eq!(one.grouped.last().unwrap().line, "dev failed: why");
    let next = message(31, 41);
    let both = group(&[&one, &next], "msg_h".into(), at(42)).unwrap();
    assert_eq!((both.title().as_str(), both.more), ("31 messages", 11));
}

#[test]
fn delivery_pauses_and_retry_after_are_capped_at_an_hour() {
    let pauses: Vec<u64> = (1..=12).map(|count| backoff(count).as_secs()).collect();
    assert_eq!(pauses[..4], [5, 10, 20, 40]);
    assert_eq!(pauses[11], 3600);
    let attempts = DeliveryAttempts::from(at(0));
    let asked = attempts.failed("429".into(), at(0), Some(Duration::from_secs(77)), MESSAGE_PATIENCE);
    assert_eq!((asked.next, asked.dead), (at(77), None));
    let asked = attempts.failed("429".into(), at(0), Some(Duration::from_secs(9_999_999)), MESSAGE_PATIENCE);
    assert_eq!(asked.next, at(3600));
    for millis in [0, 200, 400] {
        let now = Timestamp::from_millis(millis);
        let next = attempts.failed("x".into(), now, None, MESSAGE_PATIENCE).next;
        assert_eq!(
            next.since(now).as_millis(),
            u128::from(4000 + 5 * millis),
            "up to a fifth shorter or longer"
        );
    }
    let given_up = asked.failed("x".into(), at(72 * 60 * 60), None, MESSAGE_PATIENCE);
    assert!(given_up.dead.is_some() && !given_up.is_due(at(99_999_999)));
}

#[test]
fn a_channel_gets_only_its_events_of_its_environments() {
    let rule = ChannelRule { on: [News::Ready].into(), environments: Some([dev()].into()) };
    let ready = Announcement::new(News::Ready, Subject::Environment(dev()), "", at(0));
    assert_eq!(rule.takes(&ready), Some(News::Ready));
    let recovered = Announcement { also: Some(News::Ready), news: News::Recovered, ..ready.clone() };
    assert_eq!(rule.takes(&recovered), Some(News::Ready));
    let failed = Announcement { news: News::Failed, ..ready.clone() };
    assert_eq!(rule.takes(&failed), None);
    let other = Subject::Environment(EnvironmentName::new("prod").unwrap());
    assert_eq!(rule.takes(&Announcement { subject: other, ..ready }), None);
}

#[test]
fn an_outbox_target_round_trips_through_text() {
    for text in ["notify.team", "repository.app"] {
        let target: OutboxTarget = text.parse().unwrap();
        assert_eq!(target.to_string(), text);
        assert_eq!(serde_json::to_string(&target).unwrap(), format!("\"{text}\""));
    }
    assert!("team".parse::<OutboxTarget>().is_err());
}
