//! Changes of several environments in one write.

use std::collections::BTreeMap;

use super::super::{Change, Precondition, Promotion, RecordError, RollbackRequest, WriteError};
use super::{Fixture, at, fixture, hold, image, name, set};
use crate::model::desired::{Origin, Outcome};
use crate::model::name::Generation;
use crate::model::status::Reason;

fn changes(number: u64) -> BTreeMap<crate::model::name::EnvironmentName, Change> {
    ["web", "db"].map(|member| (name(member), set(number))).into()
}

/// `web` and `db` were ready with image 1, and changed together to image 2.
async fn changed() -> Fixture {
    let record = fixture();
    for member in ["web", "db"] {
        record.handles.writer.submit(&name(member), set(1), &[]).await.unwrap();
        record.handles.status_writer.outcome(&name(member), Generation(1), Outcome::Ready).await.unwrap();
    }
    record.handles.writer.submit_together(changes(2), BTreeMap::new(), &[]).await.unwrap();
    record
}

fn back() -> RollbackRequest {
    RollbackRequest {
        from: Generation(2),
        image: image(1),
        revision: None,
        note: "generation 2 failed".to_owned(),
        reason: Reason::NeverReady,
        message: "it never answered".to_owned(),
        at: at(9),
    }
}

#[tokio::test]
async fn members_that_change_together_name_each_other_and_one_alone_names_nobody() {
    let record = changed().await.reopen();
    let all = [(name("db"), Generation(2)), (name("web"), Generation(2))].into();
    for member in ["web", "db"] {
        let desired = record.handles.desired.get(&name(member)).unwrap();
        assert_eq!(desired.entry.together, all, "{desired:?}");
        assert_eq!(record.handles.desired.history(&name(member)).unwrap()[0], desired.entry);
    }
    let alone = record.handles.writer.submit(&name("web"), set(3), &[]).await.unwrap();
    assert!(alone.entry.together.is_empty(), "{alone:?}");
}

#[tokio::test]
async fn a_guard_that_no_longer_holds_changes_nothing_at_all() {
    let record = changed().await;
    let guard = Precondition { environment: name("db"), generation: Generation(1) };
    let refused = record.handles.writer.submit_together(changes(3), BTreeMap::new(), &[guard]).await;
    assert!(matches!(refused, Err(WriteError::Stale { .. })), "{refused:?}");
    for member in ["web", "db"] {
        assert_eq!(record.handles.desired.get(&name(member)).unwrap().entry.generation, Generation(2));
    }
}

#[derive(Debug)]
enum Refusal {
    Judged,
    Written,
}

impl From<WriteError> for Refusal {
    fn from(_: WriteError) -> Self {
        Self::Written
    }
}

impl From<RecordError> for Refusal {
    fn from(_: RecordError) -> Self {
        Self::Written
    }
}

#[tokio::test]
async fn one_judge_that_refuses_stops_every_promotion_of_the_write() {
    let record = changed().await;
    let promotion = |to: &str, is_open: bool| Promotion {
        from: name("test"),
        to: name(to),
        change: Change { origin: Origin::Promotion, ..set(3) },
        message: Some("passed".to_owned()),
        judge: Box::new(move |_| if is_open { Ok(()) } else { Err(Refusal::Judged) }),
    };
    let both = |is_open| vec![promotion("db", true), promotion("web", is_open)];
    let refused = record.handles.writer.promote(both(false), &[]).await;
    assert!(matches!(refused, Err(Refusal::Judged)), "{refused:?}");
    assert_eq!(record.handles.desired.get(&name("db")).unwrap().entry.generation, Generation(2));
    let all = record.handles.writer.promote(both(true), &[]).await.unwrap();
    assert!(all.iter().all(|desired| desired.entry.generation == Generation(3)), "{all:?}");
    assert_eq!(all[0].entry.together.len(), 2);
}

#[tokio::test]
async fn if_one_member_goes_back_the_others_go_back_in_the_same_write() {
    let record = changed().await;
    record.handles.status_writer.outcome(&name("web"), Generation(2), Outcome::Ready).await.unwrap();
    assert!(record.handles.resolver.roll_back(&name("db"), back()).await.unwrap());
    let record = record.reopen();
    for (member, is_bad) in [("db", true), ("web", false)] {
        let desired = record.handles.desired.get(&name(member)).unwrap();
        assert_eq!(desired.entry.generation, Generation(3), "{desired:?}");
        assert_eq!(
            (&desired.entry.image, desired.entry.origin),
            (&Some(image(1)), Some(Origin::AutomaticRollback))
        );
        assert_eq!(desired.bad.is_empty(), !is_bad, "only the image that failed is bad: {desired:?}");
        let failed = &record.handles.status.history(&name(member)).unwrap()[1];
        assert!(matches!(failed.outcome, Some(Outcome::Failed(_))), "{failed:?}");
    }
    let events = record.handles.status.events(Some(&name("web")), None, 10).unwrap();
    assert!(
        events.iter().any(|event| event.message.contains("db failed, so the group goes back")),
        "{events:?}"
    );
    assert!(!record.handles.resolver.roll_back(&name("web"), back()).await.unwrap(), "once is enough");
}

#[tokio::test]
async fn a_member_that_moved_on_or_is_held_stays() {
    let record = changed().await;
    record.handles.writer.submit(&name("web"), set(3), &[]).await.unwrap();
    assert!(record.handles.resolver.roll_back(&name("db"), back()).await.unwrap());
    assert_eq!(record.handles.desired.get(&name("web")).unwrap().entry.image, Some(image(3)));
    let record = changed().await;
    record.handles.writer.hold(&name("web"), hold(Some(2))).await.unwrap();
    assert!(record.handles.resolver.roll_back(&name("db"), back()).await.unwrap());
    assert_eq!(record.handles.desired.get(&name("web")).unwrap().entry.image, Some(image(2)));
}

#[tokio::test]
async fn the_rest_of_a_group_is_held_in_the_write_that_takes_some_members_back() {
    let record = changed().await;
    let (changes, holds) = ([(name("web"), set(1))].into(), [(name("db"), hold(Some(2)))].into());
    let all = record.handles.writer.submit_together(changes, holds, &[]).await.unwrap();
    assert_eq!(all.len(), 2);
    let held = record.handles.desired.get(&name("db")).unwrap();
    assert_eq!((held.hold, held.entry.generation), (Some(hold(Some(2))), Generation(2)));
}

/// `web-1` was ready with image 1 and has image 2 now; `web-2` has image 1, `web-3` is new.
async fn first_is_ahead() -> Fixture {
    let record = fixture();
    for slot in ["web-1", "web-2"] {
        record.handles.writer.submit(&name(slot), set(1), &[]).await.unwrap();
        record.handles.status_writer.outcome(&name(slot), Generation(1), Outcome::Ready).await.unwrap();
    }
    record.handles.writer.submit(&name("web-1"), set(2), &[]).await.unwrap();
    record
}

async fn follow(record: &Fixture) -> Vec<String> {
    let followers = ["web-2", "web-3"].map(name).into();
    let all = record.handles.resolver.follow(&name("web-1"), followers, at(5)).await.unwrap();
    all.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn replicas_follow_the_first_one_and_only_those_it_updates_go_back_with_it() {
    let record = first_is_ahead().await;
    assert_eq!(follow(&record).await, ["web-2", "web-3"]);
    assert!(follow(&record).await.is_empty(), "they have it already");
    let record = record.reopen();
    let desired = |slot: &str| record.handles.desired.get(&name(slot)).unwrap();
    let updated = [(name("web-1"), Generation(2)), (name("web-2"), Generation(2))].into();
    for slot in ["web-1", "web-2", "web-3"] {
        assert_eq!(desired(slot).entry.image, Some(image(2)), "{slot}");
    }
    assert_eq!(
        (desired("web-1").entry.together, desired("web-2").entry.together),
        (Clone::clone(&updated), updated)
    );
    assert!(desired("web-3").entry.together.is_empty(), "a new slot that fails takes nobody back");
    assert!(record.handles.resolver.roll_back(&name("web-2"), back()).await.unwrap());
    for slot in ["web-1", "web-2"] {
        assert_eq!(desired(slot).entry.image, Some(image(1)), "{slot}");
    }
    assert_eq!(follow(&record).await, ["web-3"], "the new slot follows back");
}

#[tokio::test]
async fn a_replica_that_failed_with_an_image_gets_it_again_only_on_request() {
    let record = first_is_ahead().await;
    assert_eq!(follow(&record).await, ["web-2", "web-3"]);
    record.handles.writer.hold(&name("web-1"), hold(Some(2))).await.unwrap();
    assert!(record.handles.resolver.roll_back(&name("web-2"), back()).await.unwrap());
    let push = Change { origin: Origin::Push, ..set(2) };
    record.handles.writer.submit(&name("web-1"), push, &[]).await.unwrap();
    assert!(follow(&record).await.is_empty(), "web-2 failed with it");
    record.handles.writer.submit(&name("web-1"), set(2), &[]).await.unwrap();
    assert_eq!(follow(&record).await, ["web-2"], "a person asked for it");
}
