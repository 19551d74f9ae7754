//! The loop's narrow handle.

use super::super::Bell;
use super::{at, commit, delivery, digest, fixture, hold, image, name, set};
use crate::model::desired::{Image, Origin};
use crate::model::name::Generation;

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
async fn a_head_that_nobody_announced_is_the_polls_generation() {
    let record = fixture();
    let dev = name("dev");
    record.handles.writer.push(delivery("1", 7), std::slice::from_ref(&dev)).await.unwrap();
    record.handles.resolver.advance_head(&dev, &commit(8), at(9)).await.unwrap();
    let desired = record.handles.desired.get(&dev).unwrap();
    assert_eq!((desired.entry.origin, desired.entry.by), (Some(Origin::BranchPoll), None));
    assert_eq!(desired.hint, None);
}

#[tokio::test]
async fn a_head_that_was_seen_before_changes_nothing_and_silently_drops_the_hint() {
    let record = fixture();
    let dev = name("dev");
    let resolver = &record.handles.resolver;
    resolver.advance_head(&dev, &commit(7), at(9)).await.unwrap();
    record.handles.writer.push(delivery("1", 8), std::slice::from_ref(&dev)).await.unwrap();
    let mut bells = record.handles.bells.subscribe();
    assert_eq!(resolver.advance_head(&dev, &commit(7), at(10)).await.unwrap(), None);
    let desired = record.handles.desired.get(&dev).unwrap();
    assert_eq!((desired.entry.generation, desired.hint), (Generation(1), None));
    assert!(bells.try_recv().is_err());
}

#[tokio::test]
async fn what_a_person_set_stays_until_the_branch_moves() {
    let record = fixture();
    let dev = name("dev");
    let resolver = &record.handles.resolver;
    resolver.advance_head(&dev, &commit(1), at(1)).await.unwrap();
    let mut by_hand = set(5);
    by_hand.revision = Some(commit(2));
    record.handles.writer.submit(&dev, by_hand, &[]).await.unwrap();
    assert_eq!(resolver.advance_head(&dev, &commit(1), at(3)).await.unwrap(), None);
    // The branch moves to the very commit that was set: from now on it is followed again.
    assert_eq!(resolver.advance_head(&dev, &commit(2), at(4)).await.unwrap(), Some(Generation(3)));
    let history = record.handles.desired.history(&dev).unwrap();
    let origins: Vec<_> = history.iter().map(|entry| entry.origin).collect();
    assert_eq!(origins, [Some(Origin::BranchPoll), Some(Origin::Set), Some(Origin::BranchPoll)]);
}

#[tokio::test]
async fn an_image_completes_its_generation_and_is_none_of_its_own() {
    let record = fixture();
    let dev = name("dev");
    let resolver = &record.handles.resolver;
    resolver.advance_head(&dev, &commit(1), at(1)).await.unwrap();
    let mut bells = record.handles.bells.subscribe();
    assert!(resolver.resolve_image(&dev, Generation(1), image(1)).await.unwrap());
    assert_eq!(bells.try_recv().unwrap(), Bell::Desired(dev.clone()));
    let desired = record.handles.desired.get(&dev).unwrap();
    assert_eq!(desired.entry.generation, Generation(1));
    assert_eq!(desired.entry.image, Some(image(1)));
    assert_eq!(record.handles.desired.history(&dev).unwrap(), [desired.entry]);
    assert!(resolver.resolve_image(&dev, Generation(1), image(1)).await.unwrap());
    assert!(bells.try_recv().is_err(), "the same again is no change");
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
async fn a_resolved_image_may_be_named_further_but_never_replaced() {
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
async fn a_rebuild_is_a_new_generation_of_the_same_revision_and_takes_the_hold_along() {
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
