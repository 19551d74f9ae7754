//! Changes of several environments in one write.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::{Change, Precondition, Promotion, RecordError, RollbackRequest, WriteError};
use super::{Fixture, at, fixture, hold, image, name, set};
use crate::model::desired::{Desired, HistoryEntry, Origin, Outcome};
use crate::model::name::{EnvironmentName, Generation};
use crate::model::status::Reason;

fn changes(number: u64) -> BTreeMap<EnvironmentName, Change> {
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

/// One write to the members of a group, or of one of them.
#[derive(Clone, Debug)]
enum GroupWrite {
    /// A promotion of all members: the image, whether the guards hold, and the member whose gate is closed.
    Promote(u64, bool, Option<usize>),
    /// A rollback of some members by a person, which holds the others.
    TakeBack(Vec<bool>, u64),
    Hold(usize),
    Resume(usize),
    /// A push or `abide set` of one member.
    Set(usize, u64),
    Ready(usize),
    /// The loop gives the current version of a member up.
    Fail(usize),
    Reopen,
}

const MEMBERS: [&str; 3] = ["cache", "db", "web"];

fn write() -> impl Strategy<Value = GroupWrite> {
    let member = 0..MEMBERS.len();
    prop_oneof![
        4 => (1..6_u64, any::<bool>(), proptest::option::of(member.clone())).prop_map(|(image, holds, closed)| GroupWrite::Promote(image, holds, closed)),
        2 => (prop::collection::vec(any::<bool>(), 3), 1..6_u64).prop_map(|(which, image)| GroupWrite::TakeBack(which, image)),
        1 => member.clone().prop_map(GroupWrite::Hold),
        2 => member.clone().prop_map(GroupWrite::Resume),
        2 => (member.clone(), 1..6_u64).prop_map(|(member, image)| GroupWrite::Set(member, image)),
        4 => member.clone().prop_map(GroupWrite::Ready),
        3 => member.prop_map(GroupWrite::Fail),
        1 => Just(GroupWrite::Reopen),
    ]
}

fn members(record: &Fixture) -> Vec<Desired> {
    MEMBERS.map(|member| record.handles.desired.get(&name(member)).unwrap()).to_vec()
}

/// Does a write. Returns the members that it had to change together: all of them, or none.
async fn perform(record: &Fixture, write: &GroupWrite, before: &[Desired]) -> Vec<EnvironmentName> {
    let writer = &record.handles.writer;
    let all: Vec<EnvironmentName> = MEMBERS.map(name).to_vec();
    match write {
        GroupWrite::Promote(number, holds, closed) => {
            let promotion = |(index, member): (usize, &EnvironmentName)| {
                let is_open = *closed != Some(index);
                Promotion {
                    from: name("test"),
                    to: member.clone(),
                    change: Change { origin: Origin::Promotion, ..set(*number) },
                    message: None,
                    judge: Box::new(move |_| if is_open { Ok(()) } else { Err(Refusal::Judged) }),
                }
            };
            let guards: Vec<_> = before
                .iter()
                .map(|desired| Precondition {
                    environment: desired.environment.clone(),
                    generation: Generation(desired.entry.generation.0 + u64::from(!holds)),
                })
                .collect();
            let promotions = all.iter().enumerate().map(promotion).collect();
            let promoted = writer.promote::<Refusal>(promotions, &guards).await;
            assert_eq!(promoted.is_ok(), *holds && closed.is_none(), "{write:?}");
            return if promoted.is_ok() { all } else { Vec::new() };
        }
        GroupWrite::TakeBack(which, number) => {
            let (mut changes, mut holds) = (BTreeMap::new(), BTreeMap::new());
            for (member, is_changed) in all.iter().zip(which) {
                if *is_changed {
                    changes.insert(member.clone(), Change { origin: Origin::Rollback, ..set(*number) });
                } else {
                    holds.insert(member.clone(), hold(None));
                }
            }
            let changed: Vec<_> = changes.keys().cloned().collect();
            writer.submit_together(changes, holds, &[]).await.unwrap();
            return changed;
        }
        GroupWrite::Hold(member) => drop(writer.hold(&all[*member], hold(None)).await.unwrap()),
        GroupWrite::Resume(member) => drop(writer.resume(&all[*member], at(5), None).await.unwrap()),
        GroupWrite::Set(member, number) => {
            drop(writer.submit(&all[*member], set(*number), &[]).await.unwrap());
        }
        GroupWrite::Ready(member) => {
            let generation = before[*member].entry.generation;
            record.handles.status_writer.outcome(&all[*member], generation, Outcome::Ready).await.unwrap();
        }
        GroupWrite::Fail(member) => {
            let (failed, entry) = (&all[*member], &before[*member].entry);
            let history = record.handles.status.history(failed).unwrap();
            let Some((good, image)) = HistoryEntry::last_good(&history, entry) else { return Vec::new() };
            let request = RollbackRequest {
                from: entry.generation,
                image: image.clone(),
                note: format!("back to {}", good.generation),
                ..back()
            };
            record.handles.resolver.roll_back(failed, request).await.unwrap();
        }
        GroupWrite::Reopen => {}
    }
    Vec::new()
}

/// What must hold after each write, compared with before.
fn check_laws(
    write: &GroupWrite,
    before: &[Desired],
    after: &[Desired],
    record: &Fixture,
    together: &[EnvironmentName],
) {
    let changed: Vec<&Desired> = before
        .iter()
        .zip(after)
        .filter(|(before, after)| before.entry.generation != after.entry.generation)
        .map(|(_, after)| after)
        .collect();
    for (before, after) in before.iter().zip(after) {
        let step = after.entry.generation.0.checked_sub(before.entry.generation.0);
        assert!(
            matches!(step, Some(0 | 1)),
            "generations only grow, by one: {write:?}: {before:?} {after:?}"
        );
        if step == Some(0) {
            assert_eq!(before.entry.image, after.entry.image, "{write:?}");
        }
        let newest = record.handles.desired.history(&after.environment).unwrap().into_iter().next();
        let recorded = newest.unwrap_or_default();
        assert_eq!(
            (recorded.generation, &recorded.image),
            (after.entry.generation, &after.entry.image),
            "{write:?}"
        );
    }
    let names: Vec<&EnvironmentName> = changed.iter().map(|desired| &desired.environment).collect();
    if !together.is_empty() || matches!(write, GroupWrite::Promote(..) | GroupWrite::TakeBack(..)) {
        assert_eq!(names, together.iter().collect::<Vec<_>>(), "all or nothing: {write:?}");
    }
    // Whatever changed in one write names all of it, with the same numbers: one verdict for all.
    let all: BTreeMap<EnvironmentName, Generation> =
        changed.iter().map(|desired| (desired.environment.clone(), desired.entry.generation)).collect();
    for desired in &changed {
        let expected = if all.len() > 1 { all.clone() } else { BTreeMap::new() };
        assert_eq!(desired.entry.together, expected, "{write:?}");
    }
    if let GroupWrite::Fail(member) = write {
        fails_as_one(*member, before, after, record);
    }
}

/// If the version of one member is given up, all members that changed with it go back, unless they moved on, are held
/// or have nothing to go back to.
fn fails_as_one(member: usize, before: &[Desired], after: &[Desired], record: &Fixture) {
    let (failed, now) = (&before[member], &after[member]);
    if now.entry.generation == failed.entry.generation {
        assert_eq!(before, after, "a refused rollback changes nothing");
        return;
    }
    for (before, after) in before.iter().zip(after).filter(|(one, _)| one.environment != failed.environment) {
        let environment = &before.environment;
        let is_joined = failed.entry.together.get(environment) == Some(&before.entry.generation)
            && before.hold.is_none()
            && before.entry.origin != Some(Origin::AutomaticRollback);
        let history = record.handles.status.history(environment).unwrap();
        let has_good = HistoryEntry::last_good(&history, &before.entry).is_some();
        let went_back = after.entry.generation != before.entry.generation;
        assert_eq!(went_back, is_joined && has_good, "{environment}: {before:?} {after:?}");
        if went_back {
            let outcome = history.iter().find(|kept| kept.entry.generation == before.entry.generation);
            assert!(
                matches!(outcome.and_then(|kept| kept.outcome.as_ref()), Some(Outcome::Failed(_))),
                "one verdict"
            );
            assert_eq!(after.entry.origin, Some(Origin::AutomaticRollback));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_group_changes_as_one_whatever_is_written_to_it_and_its_members(
        writes in prop::collection::vec(write(), 1..25)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut record = fixture();
            for write in &writes {
                if matches!(write, GroupWrite::Reopen) {
                    record = record.reopen();
                }
                let before = members(&record);
                let together = perform(&record, write, &before).await;
                check_laws(write, &before, &members(&record), &record, &together);
            }
        });
    }
}
