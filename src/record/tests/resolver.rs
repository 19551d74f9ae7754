//! The loop's narrow handle.

use super::super::{Handles, RollbackRequest, Wakeup};
use super::{at, commit, delivery, digest, fixture, hint, hold, image, name, set};
use crate::model::desired::{Desired, Image, Origin, Outcome};
use crate::model::name::Generation;
use crate::model::poll::QueryPeriod;
use crate::model::status::Reason;

#[tokio::test]
async fn a_head_that_a_push_announced_is_that_pushs_generation() {
    let record = fixture();
    let dev = name("dev");
    record.handles.writer.push(delivery("1", 7), std::slice::from_ref(&dev)).await.unwrap();
    let made = record.handles.resolver.advance_head(&dev, &commit(7), at(9)).await.unwrap();
    assert_eq!(made, Some(Generation(1)));
    let desired = record.handles.desired.get(&dev).unwrap();
    assert_eq!(desired.entry.origin, Some(Origin::Push));
    assert_eq!(desired.entry.by.as_deref(), Some("github (user 7)"));
    assert_eq!((desired.entry.revision, desired.entry.image), (Some(commit(7)), None));
    assert_eq!((desired.head, desired.hint), (Some(commit(7)), None));
}

#[tokio::test]
async fn an_unannounced_head_becomes_the_polls_generation() {
    let record = fixture();
    let dev = name("dev");
    record.handles.writer.push(delivery("1", 7), std::slice::from_ref(&dev)).await.unwrap();
    record.handles.resolver.advance_head(&dev, &commit(8), at(9)).await.unwrap();
    let desired = record.handles.desired.get(&dev).unwrap();
    assert_eq!((desired.entry.origin, desired.entry.by), (Some(Origin::BranchPoll), None));
    assert_eq!(desired.hint, Some(hint(7)), "git may only be late");
    record.handles.resolver.advance_head(&dev, &commit(8), at(22)).await.unwrap();
    assert_eq!(record.handles.desired.get(&dev).unwrap().hint, None);
}

#[tokio::test]
async fn a_known_head_changes_nothing_and_clears_the_hint() {
    let record = fixture();
    let dev = name("dev");
    let resolver = &record.handles.resolver;
    resolver.advance_head(&dev, &commit(7), at(9)).await.unwrap();
    record.handles.writer.push(delivery("1", 8), std::slice::from_ref(&dev)).await.unwrap();
    let mut wakeups = record.handles.wakeups.subscribe();
    assert_eq!(resolver.advance_head(&dev, &commit(7), at(22)).await.unwrap(), None);
    assert_eq!(record.handles.desired.get(&dev).unwrap().hint, Some(hint(8)), "git may only be late");
    assert!(wakeups.try_recv().is_err());
    assert_eq!(resolver.advance_head(&dev, &commit(7), at(23)).await.unwrap(), None);
    let desired = record.handles.desired.get(&dev).unwrap();
    assert_eq!((desired.entry.generation, desired.hint), (Generation(1), None));
    assert_eq!(
        wakeups.try_recv().unwrap(),
        Wakeup::Desired(dev.clone()),
        "whoever waits for the answer hears of it"
    );
    assert_eq!(resolver.advance_head(&dev, &commit(7), at(24)).await.unwrap(), None);
    assert!(wakeups.try_recv().is_err(), "a poll that finds nothing rings for nobody");
}

#[tokio::test]
async fn an_answer_to_an_earlier_query_does_not_verify_a_push() {
    let record = fixture();
    let dev = name("dev");
    let (resolver, writer) = (&record.handles.resolver, &record.handles.writer);
    resolver.advance_head(&dev, &commit(7), at(1)).await.unwrap();
    let mut pushed = delivery("1", 8);
    pushed.hint.at = at(10);
    writer.push(pushed, std::slice::from_ref(&dev)).await.unwrap();
    writer.sync(&dev, at(10), true).await.unwrap();
    let of = || record.handles.desired.get(&dev).unwrap();
    let early = QueryPeriod { from: at(9), to: at(12) };
    resolver.advance_head(&dev, &commit(7), early).await.unwrap();
    assert!(of().hint.is_some() && of().asked.is_some());
    // The announced commit answers the push, whenever the query was sent.
    resolver.advance_head(&dev, &commit(8), early).await.unwrap();
    assert_eq!((of().hint, of().asked, of().entry.origin), (None, Some(at(10)), Some(Origin::Push)));
    resolver.advance_head(&dev, &commit(8), QueryPeriod { from: at(10), to: at(12) }).await.unwrap();
    assert_eq!(of().asked, None);
}

#[tokio::test]
async fn an_unanswered_query_leaves_a_push_unverified() {
    let record = fixture();
    let dev = name("dev");
    let (resolver, writer) = (&record.handles.resolver, &record.handles.writer);
    writer.push(delivery("1", 8), std::slice::from_ref(&dev)).await.unwrap();
    writer.sync(&dev, at(10), true).await.unwrap();
    let asked = QueryPeriod { from: at(30), to: at(31) };
    resolver.no_head(&dev, asked, false).await.unwrap();
    let of = || record.handles.desired.get(&dev).unwrap();
    assert_eq!((of().hint.is_some(), of().asked), (true, None), "who asked is told");
    resolver.no_head(&dev, asked, true).await.unwrap();
    assert_eq!(of().hint, None, "there is no such branch");
    let mut wakeups = record.handles.wakeups.subscribe();
    resolver.no_head(&dev, asked, true).await.unwrap();
    assert!(wakeups.try_recv().is_err());
}

#[tokio::test]
async fn an_explicitly_set_image_is_kept_until_the_branch_moves() {
    let record = fixture();
    let dev = name("dev");
    let resolver = &record.handles.resolver;
    resolver.advance_head(&dev, &commit(1), at(1)).await.unwrap();
    let mut by_hand = set(5);
    by_hand.revision = Some(commit(2));
    record.handles.writer.submit(&dev, by_hand, &[]).await.unwrap();
    assert_eq!(resolver.advance_head(&dev, &commit(1), at(3)).await.unwrap(), None);
    // The branch moves to the commit that was set: from now on abide tracks the branch again.
    assert_eq!(resolver.advance_head(&dev, &commit(2), at(4)).await.unwrap(), Some(Generation(3)));
    let history = record.handles.desired.history(&dev).unwrap();
    let origins: Vec<_> = history.iter().map(|entry| entry.origin).collect();
    assert_eq!(origins, [Some(Origin::BranchPoll), Some(Origin::Set), Some(Origin::BranchPoll)]);
}

#[tokio::test]
async fn a_resolved_image_completes_its_generation() {
    let record = fixture();
    let dev = name("dev");
    let resolver = &record.handles.resolver;
    resolver.advance_head(&dev, &commit(1), at(1)).await.unwrap();
    let mut wakeups = record.handles.wakeups.subscribe();
    assert!(resolver.resolve_image(&dev, Generation(1), image(1)).await.unwrap());
    assert_eq!(wakeups.try_recv().unwrap(), Wakeup::Desired(dev.clone()));
    let desired = record.handles.desired.get(&dev).unwrap();
    assert_eq!(desired.entry.generation, Generation(1));
    assert_eq!(desired.entry.image, Some(image(1)));
    assert_eq!(record.handles.desired.history(&dev).unwrap(), [desired.entry]);
    assert!(resolver.resolve_image(&dev, Generation(1), image(1)).await.unwrap());
    assert!(wakeups.try_recv().is_err(), "the same again is no change");
}

#[tokio::test]
async fn an_image_of_a_superseded_generation_is_not_recorded() {
    let record = fixture();
    let dev = name("dev");
    let resolver = &record.handles.resolver;
    resolver.advance_head(&dev, &commit(1), at(1)).await.unwrap();
    resolver.advance_head(&dev, &commit(2), at(2)).await.unwrap();
    assert!(!resolver.resolve_image(&dev, Generation(1), image(1)).await.unwrap());
    assert!(!resolver.resolve_image(&dev, Generation(9), image(1)).await.unwrap());
    assert!(!resolver.resolve_image(&name("test"), Generation(0), image(1)).await.unwrap());
    assert!(record.handles.desired.history(&dev).unwrap().iter().all(|entry| entry.image.is_none()));
}

#[tokio::test]
async fn a_resolved_image_can_be_completed_but_not_replaced() {
    let record = fixture();
    let dev = name("dev");
    let by_digest = Image { reference: Some("r/x".into()), digest: Some(digest(1)), id: None };
    let with_id = Image { id: Some(digest(2)), ..by_digest.clone() };
    let mut change = set(1);
    change.image = Some(by_digest);
    record.handles.writer.submit(&dev, change, &[]).await.unwrap();
    let resolver = &record.handles.resolver;
    assert!(resolver.resolve_image(&dev, Generation(1), with_id.clone()).await.unwrap());
    assert!(!resolver.resolve_image(&dev, Generation(1), image(3)).await.unwrap());
    assert_eq!(record.handles.desired.get(&dev).unwrap().entry.image, Some(with_id));
}

#[tokio::test]
async fn the_held_generation_can_be_completed_while_a_newer_one_waits() {
    let record = fixture();
    let dev = name("dev");
    let resolver = &record.handles.resolver;
    resolver.advance_head(&dev, &commit(1), at(1)).await.unwrap();
    record.handles.writer.hold(&dev, hold(Some(1))).await.unwrap();
    resolver.advance_head(&dev, &commit(2), at(2)).await.unwrap();
    assert!(resolver.resolve_image(&dev, Generation(1), image(1)).await.unwrap());
    let kept = record.handles.desired.entry(&dev, Generation(1)).unwrap().unwrap();
    assert_eq!(kept.image, Some(image(1)));
    assert_eq!(record.handles.desired.get(&dev).unwrap().entry.image, None);
}

#[tokio::test]
async fn a_rebuild_creates_a_generation_and_moves_the_hold_to_it() {
    let record = fixture();
    let dev = name("dev");
    let resolver = &record.handles.resolver;
    resolver.advance_head(&dev, &commit(1), at(1)).await.unwrap();
    record.handles.writer.hold(&dev, hold(Some(1))).await.unwrap();
    let note = Some("the image was gone".to_owned());
    assert!(resolver.rebuilt(&dev, Generation(1), image(2), note.clone(), at(3)).await.unwrap());
    let desired = record.handles.desired.get(&dev).unwrap();
    assert_eq!(desired.entry.origin, Some(Origin::Rebuild));
    assert_eq!((desired.entry.revision, desired.entry.image), (Some(commit(1)), Some(image(2))));
    assert_eq!(desired.entry.note, note);
    assert_eq!(desired.hold.unwrap().generation, Some(Generation(2)));
    assert!(!resolver.rebuilt(&dev, Generation(1), image(3), None, at(4)).await.unwrap());
}

pub(super) fn back(from: u64, to: u64) -> RollbackRequest {
    RollbackRequest {
        from: Generation(from),
        image: image(to),
        revision: Some(commit(to)),
        note: format!("generation {from} was never ready"),
        reason: Reason::NeverReady,
        message: "it was never ready; its last output: oh".to_owned(),
        at: at(from + 50),
    }
}

/// dev at generation 2, which names image 2.
async fn at_two() -> super::Fixture {
    let record = fixture();
    let dev = name("dev");
    for number in [1, 2] {
        record.handles.resolver.advance_head(&dev, &commit(number), at(number)).await.unwrap();
        let resolver = &record.handles.resolver;
        assert!(resolver.resolve_image(&dev, Generation(number), image(number)).await.unwrap());
    }
    record
}

#[tokio::test]
async fn a_rollback_creates_a_generation_that_records_the_failure() {
    let record = at_two().await;
    let dev = name("dev");
    let mut wakeups = record.handles.wakeups.subscribe();
    assert!(record.handles.resolver.roll_back(&dev, back(2, 1)).await.unwrap());
    assert_eq!(wakeups.try_recv().unwrap(), Wakeup::Desired(dev.clone()));
    let desired = record.handles.desired.get(&dev).unwrap();
    assert_eq!(desired.entry.generation, Generation(3));
    assert_eq!(desired.entry.origin, Some(Origin::AutomaticRollback));
    assert_eq!((desired.entry.image, desired.entry.revision), (Some(image(1)), Some(commit(1))));
    assert_eq!(desired.entry.note.as_deref(), Some("generation 2 was never ready"));
    assert_eq!(desired.head, Some(commit(2)), "the branch is where it is");
    let [bad] = desired.bad.as_slice() else { panic!("{:?}", desired.bad) };
    assert_eq!((&bad.image, bad.generation, &bad.revision), (&image(2), Generation(2), &Some(commit(2))));
    assert_eq!(bad.reason, Reason::NeverReady);
    let history = record.handles.status.history(&dev).unwrap();
    assert_eq!(history[1].outcome, Some(Outcome::Failed(bad.message.clone())));
    assert_eq!(history[0].outcome, None);
}

#[tokio::test]
async fn bad_images_survive_a_restart_and_an_export() {
    let record = at_two().await;
    let dev = name("dev");
    assert!(record.handles.resolver.roll_back(&dev, back(2, 1)).await.unwrap());
    let before = record.handles.desired.get(&dev).unwrap();
    let record = record.reopen();
    assert_eq!(record.handles.desired.get(&dev).unwrap(), before);
    let export = record.handles.desired.export().unwrap();
    let other = fixture();
    other.handles.writer.import(export).await.unwrap();
    assert_eq!(other.handles.desired.get(&dev).unwrap().bad, before.bad);
}

#[tokio::test]
async fn an_outdated_rollback_changes_nothing() {
    let record = at_two().await;
    let dev = name("dev");
    let Handles { resolver, writer, desired, .. } = &record.handles;
    assert!(!resolver.roll_back(&dev, back(1, 2)).await.unwrap(), "of an older generation");
    assert!(!resolver.roll_back(&dev, back(2, 2)).await.unwrap(), "to the very image that failed");
    writer.hold(&dev, hold(Some(2))).await.unwrap();
    assert!(!resolver.roll_back(&dev, back(2, 1)).await.unwrap(), "while it is held");
    writer.resume(&dev, at(5), None).await.unwrap();
    assert_eq!(desired.get(&dev).unwrap().bad, []);
    assert!(resolver.roll_back(&dev, back(2, 1)).await.unwrap());
    assert!(!resolver.roll_back(&dev, back(3, 7)).await.unwrap(), "a rollback is never rolled back");
    assert_eq!(desired.get(&dev).unwrap().entry.generation, Generation(3));
}

#[tokio::test]
async fn setting_a_bad_image_explicitly_clears_it() {
    let record = at_two().await;
    let dev = name("dev");
    let Handles { resolver, writer, desired, .. } = &record.handles;
    resolver.roll_back(&dev, back(2, 1)).await.unwrap();
    writer.submit(&dev, set(3), &[]).await.unwrap();
    assert_eq!(desired.get(&dev).unwrap().bad.len(), 1, "another image says nothing of it");
    writer.submit(&dev, set(2), &[]).await.unwrap();
    assert_eq!(desired.get(&dev).unwrap().bad, []);
}

#[tokio::test]
async fn setting_the_commit_of_a_bad_image_clears_it_once_built() {
    let record = at_two().await;
    let dev = name("dev");
    let Handles { resolver, writer, desired, .. } = &record.handles;
    resolver.roll_back(&dev, back(2, 1)).await.unwrap();
    let mut by_commit = set(9);
    (by_commit.revision, by_commit.image) = (Some(commit(2)), None);
    writer.submit(&dev, by_commit, &[]).await.unwrap();
    assert_eq!(desired.get(&dev).unwrap().bad.len(), 1);
    assert!(resolver.resolve_image(&dev, Generation(4), image(2)).await.unwrap());
    assert_eq!(desired.get(&dev).unwrap().bad, []);
}

#[tokio::test]
async fn a_push_of_a_bad_image_does_not_clear_it() {
    let record = at_two().await;
    let dev = name("dev");
    let Handles { resolver, desired, .. } = &record.handles;
    resolver.roll_back(&dev, back(2, 1)).await.unwrap();
    resolver.advance_head(&dev, &commit(1), at(60)).await.unwrap();
    resolver.advance_head(&dev, &commit(2), at(61)).await.unwrap();
    assert!(resolver.resolve_image(&dev, Generation(5), image(2)).await.unwrap());
    assert_eq!(desired.get(&dev).unwrap().bad.len(), 1);
}

#[tokio::test]
async fn a_rebuilt_rollback_keeps_its_rollback_origin() {
    let record = at_two().await;
    let dev = name("dev");
    let Handles { resolver, desired, .. } = &record.handles;
    resolver.roll_back(&dev, back(2, 1)).await.unwrap();
    assert!(resolver.rebuilt(&dev, Generation(3), image(5), None, at(60)).await.unwrap());
    let entry = desired.get(&dev).unwrap().entry;
    assert_eq!((entry.image, entry.origin), (Some(image(5)), Some(Origin::AutomaticRollback)));
}

#[test]
fn the_newest_bad_images_are_remembered_each_once() {
    let mut desired = Desired::empty(name("dev"));
    let bad = |number: u64, at_second: u64| crate::model::desired::Bad {
        image: image(number),
        generation: Generation(number),
        revision: None,
        reason: Reason::StartFailed,
        message: "no".to_owned(),
        at: at(at_second),
    };
    for number in 0..30 {
        desired.mark_bad(bad(number, number));
    }
    desired.mark_bad(bad(20, 99));
    assert_eq!(desired.bad.len(), Desired::BAD_KEPT);
    assert_eq!(desired.bad.first().map(|bad| bad.generation), Some(Generation(10)));
    assert_eq!(desired.bad.last(), Some(&bad(20, 99)));
    assert_eq!(desired.bad.iter().filter(|bad| bad.image == image(20)).count(), 1);
}

#[tokio::test]
async fn a_delivery_names_the_pusher_of_a_commit_that_a_poll_found_first() {
    let record = fixture();
    let dev = name("dev");
    record.handles.resolver.advance_head(&dev, &commit(7), at(0)).await.unwrap();
    assert_eq!(record.handles.desired.get(&dev).unwrap().entry.by, None);
    let outcome = record.handles.writer.push(delivery("1", 7), std::slice::from_ref(&dev)).await.unwrap();
    assert!(outcome.recorded.is_empty(), "it is no news");
    let entry = record.handles.desired.get(&dev).unwrap().entry;
    assert_eq!(entry.by.as_deref(), Some("github (user 7)"));
    assert_eq!(record.handles.desired.history(&dev).unwrap(), std::slice::from_ref(&entry));

    // A later delivery about an earlier commit, and one about a commit whose pusher is known.
    record.handles.resolver.advance_head(&dev, &commit(8), at(1)).await.unwrap();
    record.handles.writer.push(delivery("2", 7), std::slice::from_ref(&dev)).await.unwrap();
    assert_eq!(record.handles.desired.get(&dev).unwrap().entry.by, None, "nobody announced commit 8 yet");
    let history = record.handles.desired.history(&dev).unwrap();
    assert_eq!(history.last(), Some(&entry), "its first pusher stays");
}
