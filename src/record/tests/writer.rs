//! The handle of webhooks and operators.

use super::super::{Export, Precondition, RecordError, Wakeup, WriteError, open};
use super::{at, commit, delivery, fixture, hint, hold, image, name, set};
use crate::model::desired::{Desired, Origin, Outcome};
use crate::model::name::Generation;
use crate::record::generation::KEPT;

#[tokio::test]
async fn an_environment_without_a_record_reads_as_empty() {
    let record = fixture();
    assert_eq!(record.handles.desired.get(&name("dev")).unwrap(), Desired::empty(name("dev")));
    assert!(record.handles.desired.all().unwrap().is_empty());
}

#[tokio::test]
async fn a_push_records_a_hint_per_environment_but_no_generation() {
    let record = fixture();
    let environments = [name("dev"), name("test")];
    let outcome = record.handles.writer.push(delivery("1", 7), &environments).await.unwrap();
    assert_eq!((outcome.recorded.as_slice(), outcome.repeated), (&environments[..], false));
    let record = record.reopen();
    for environment in &environments {
        let desired = record.handles.desired.get(environment).unwrap();
        assert_eq!(desired.hint, Some(hint(7)));
        assert_eq!(desired.entry.generation, Generation(0));
    }
}

#[tokio::test]
async fn a_push_of_a_known_commit_is_not_recorded() {
    let record = fixture();
    let (writer, dev) = (&record.handles.writer, [name("dev")]);
    writer.push(delivery("1", 7), &dev).await.unwrap();
    let same_hint = writer.push(delivery("2", 7), &dev).await.unwrap();
    assert!(same_hint.recorded.is_empty() && !same_hint.repeated);
    record.handles.resolver.advance_head(&dev[0], &commit(7), at(8)).await.unwrap();
    let same_head = writer.push(delivery("3", 7), &dev).await.unwrap();
    assert!(same_head.recorded.is_empty());
    assert_eq!(record.handles.desired.get(&dev[0]).unwrap().hint, None);
}

#[tokio::test]
async fn a_repeated_delivery_is_recognized_by_id_but_applied_by_content() {
    let record = fixture();
    let dev = [name("dev")];
    record.handles.writer.push(delivery("1", 7), &dev).await.unwrap();
    let record = record.reopen();
    let again = record.handles.writer.push(delivery("1", 7), &dev).await.unwrap();
    assert!(again.repeated && again.recorded.is_empty());
    let other_content = record.handles.writer.push(delivery("1", 8), &dev).await.unwrap();
    assert!(other_content.repeated);
    assert_eq!(other_content.recorded, dev);
}

#[tokio::test]
async fn an_irrelevant_delivery_is_remembered_too() {
    let record = fixture();
    record.handles.writer.push(delivery("1", 7), &[]).await.unwrap();
    let record = record.reopen();
    assert!(record.handles.writer.push(delivery("1", 7), &[]).await.unwrap().repeated);
}

#[tokio::test]
async fn a_delivery_is_forgotten_after_seven_days() {
    let record = fixture();
    let writer = &record.handles.writer;
    let later = |id: &str, days: u64| {
        let mut delivery = delivery(id, 1);
        delivery.hint.at = at(days * 24 * 60 * 60);
        delivery
    };
    writer.push(later("old", 0), &[]).await.unwrap();
    writer.push(later("young", 6), &[]).await.unwrap();
    writer.push(later("now", 8), &[]).await.unwrap();
    assert!(writer.push(later("young", 8), &[]).await.unwrap().repeated);
    assert!(!writer.push(later("old", 8), &[]).await.unwrap().repeated);
}

#[tokio::test]
async fn the_same_delivery_a_hundred_times_at_once_is_recorded_once() {
    let record = fixture();
    let pushes = (0..100).map(|_| {
        let writer = record.handles.writer.clone();
        tokio::spawn(async move { writer.push(delivery("1", 7), &[name("dev")]).await.unwrap() })
    });
    let outcomes = futures::future::try_join_all(pushes).await.unwrap();
    assert_eq!(outcomes.iter().filter(|outcome| !outcome.recorded.is_empty()).count(), 1);
    assert_eq!(outcomes.iter().filter(|outcome| !outcome.repeated).count(), 1);
}

#[tokio::test]
async fn setting_the_same_image_creates_a_new_generation() {
    let record = fixture();
    let (writer, dev) = (&record.handles.writer, name("dev"));
    let first = writer.submit(&dev, set(1), &[]).await.unwrap();
    let second = writer.submit(&dev, set(1), &[]).await.unwrap();
    assert_eq!((first.entry.generation, second.entry.generation), (Generation(1), Generation(2)));
    let record = record.reopen();
    let history = record.handles.desired.history(&dev).unwrap();
    assert_eq!(history, [second.entry.clone(), first.entry]);
    assert_eq!(record.handles.desired.get(&dev).unwrap(), second);
    assert_eq!(record.handles.desired.entry(&dev, Generation(2)).unwrap(), Some(second.entry));
    assert_eq!(record.handles.desired.entry(&dev, Generation(3)).unwrap(), None);
}

#[tokio::test]
async fn a_generation_that_was_never_ready_is_superseded_by_the_next() {
    let record = fixture();
    let dev = name("dev");
    record.handles.writer.submit(&dev, set(1), &[]).await.unwrap();
    record.handles.status_writer.outcome(&dev, Generation(1), Outcome::Ready).await.unwrap();
    record.handles.writer.submit(&dev, set(2), &[]).await.unwrap();
    record.handles.writer.submit(&dev, set(3), &[]).await.unwrap();
    let outcomes: Vec<_> =
        record.handles.status.history(&dev).unwrap().into_iter().map(|kept| kept.outcome).collect();
    assert_eq!(outcomes, [None, Some(Outcome::Superseded), Some(Outcome::Ready)]);
}

#[tokio::test]
async fn a_held_generation_is_not_superseded_by_a_waiting_one() {
    let record = fixture();
    let (writer, dev) = (&record.handles.writer, name("dev"));
    writer.submit(&dev, set(1), &[]).await.unwrap();
    writer.hold(&dev, hold(Some(1))).await.unwrap();
    writer.submit(&dev, set(2), &[]).await.unwrap();
    assert_eq!(record.handles.status.history(&dev).unwrap()[1].outcome, None);
}

#[tokio::test]
async fn a_change_based_on_a_stale_record_is_rejected() {
    let record = fixture();
    let (writer, test, prod) = (&record.handles.writer, name("test"), name("prod"));
    writer.submit(&test, set(1), &[]).await.unwrap();
    let guard = Precondition { environment: test.clone(), generation: Generation(1) };
    writer.submit(&prod, set(1), std::slice::from_ref(&guard)).await.unwrap();
    writer.submit(&test, set(2), &[]).await.unwrap();
    let refused = writer.submit(&prod, set(1), &[guard]).await;
    let Err(WriteError::Stale { environment, expected, actual }) = refused else { panic!("{refused:?}") };
    assert_eq!((environment, expected, actual), (test, Generation(1), Generation(2)));
    assert_eq!(record.handles.desired.get(&prod).unwrap().entry.generation, Generation(1));
}

#[tokio::test]
async fn a_rollback_holds_the_generation_it_creates() {
    let record = fixture();
    let (writer, dev) = (&record.handles.writer, name("dev"));
    writer.submit(&dev, set(1), &[]).await.unwrap();
    let mut rollback = set(1);
    rollback.hold = Some(hold(Some(99)));
    let desired = writer.submit(&dev, rollback, &[]).await.unwrap();
    assert_eq!(desired.hold.unwrap().generation, Some(Generation(2)));
}

#[tokio::test]
async fn a_hold_persists_through_changes_until_resumed() {
    let record = fixture();
    let (writer, dev) = (&record.handles.writer, name("dev"));
    writer.submit(&dev, set(1), &[]).await.unwrap();
    writer.hold(&dev, hold(Some(1))).await.unwrap();
    let held = writer.submit(&dev, set(2), &[]).await.unwrap();
    assert_eq!(held.hold, Some(hold(Some(1))));
    let resumed = writer.resume(&dev, at(9), Some("alice")).await.unwrap();
    assert_eq!((resumed.hold, resumed.entry), (None, held.entry));
}

#[tokio::test]
async fn a_hold_on_an_unknown_generation_has_no_generation() {
    let record = fixture();
    let desired = record.handles.writer.hold(&name("dev"), hold(Some(7))).await.unwrap();
    assert_eq!(desired.hold, Some(hold(None)));
}

#[tokio::test]
async fn resuming_an_unheld_environment_writes_nothing() {
    let record = fixture();
    let mut wakeups = record.handles.wakeups.subscribe();
    let desired = record.handles.writer.resume(&name("dev"), at(1), None).await.unwrap();
    assert_eq!(desired, Desired::empty(name("dev")));
    assert!(wakeups.try_recv().is_err());
    assert!(record.handles.desired.all().unwrap().is_empty());
}

#[tokio::test]
async fn a_sync_request_is_stored_without_a_generation() {
    let record = fixture();
    let desired = record.handles.writer.sync(&name("dev"), at(5), false).await.unwrap();
    assert_eq!((desired.sync, desired.entry.generation), (Some(at(5)), Generation(0)));
}

#[tokio::test]
async fn every_write_sends_wakeups_only_for_what_it_changed() {
    let record = fixture();
    let mut wakeups = record.handles.wakeups.subscribe();
    let dev = name("dev");
    record.handles.writer.push(delivery("1", 7), &[dev.clone(), name("test")]).await.unwrap();
    record.handles.writer.push(delivery("2", 7), std::slice::from_ref(&dev)).await.unwrap();
    record.handles.writer.submit(&dev, set(1), &[]).await.unwrap();
    let received: Vec<_> = std::iter::from_fn(|| wakeups.try_recv().ok()).collect();
    let expected = [Wakeup::Desired(dev.clone()), Wakeup::Desired(name("test")), Wakeup::Desired(dev)];
    assert_eq!(received, expected);
}

#[tokio::test]
async fn history_is_limited_but_keeps_the_held_and_current_generation() {
    let record = fixture();
    let (writer, dev) = (&record.handles.writer, name("dev"));
    writer.submit(&dev, set(1), &[]).await.unwrap();
    writer.hold(&dev, hold(Some(1))).await.unwrap();
    let newest = KEPT as u64 + 5;
    for number in 2..=newest {
        writer.submit(&dev, set(number), &[]).await.unwrap();
    }
    let kept: Vec<_> =
        record.handles.desired.history(&dev).unwrap().iter().map(|entry| entry.generation.0).collect();
    assert_eq!((kept.len(), kept[0], kept[kept.len() - 1]), (KEPT + 1, newest, 1));
    assert_eq!(record.handles.status.history(&dev).unwrap().len(), kept.len());
}

#[tokio::test]
async fn an_export_imports_elsewhere_as_the_same_record() {
    let (here, there) = (fixture(), fixture());
    let (writer, dev) = (&here.handles.writer, name("dev"));
    writer.submit(&dev, set(1), &[]).await.unwrap();
    here.handles.status_writer.outcome(&dev, Generation(1), Outcome::Ready).await.unwrap();
    writer.submit(&dev, set(2), &[]).await.unwrap();
    writer.push(delivery("1", 7), &[name("test")]).await.unwrap();
    there.handles.writer.submit(&name("prod"), set(9), &[]).await.unwrap();

    let export = here.handles.desired.export().unwrap();
    there.handles.writer.import(export.clone()).await.unwrap();
    let there = there.reopen();
    assert_eq!(there.handles.desired.export().unwrap().environments, export.environments);
    assert_eq!(there.handles.id, here.handles.id);
    assert_eq!(there.handles.notices, [""; 0]);
}

#[tokio::test]
async fn an_import_may_restore_an_older_generation() {
    let record = fixture();
    let (writer, dev) = (&record.handles.writer, name("dev"));
    writer.submit(&dev, set(1), &[]).await.unwrap();
    let before = record.handles.desired.export().unwrap();
    writer.submit(&dev, set(2), &[]).await.unwrap();
    writer.import(before.clone()).await.unwrap();
    let record = record.reopen();
    assert_eq!(record.handles.desired.export().unwrap().environments, before.environments);
}

/// The expected refusal, and a function that makes an export deserve it.
type Spoiling = (&'static str, fn(&mut Export));

#[tokio::test]
async fn a_contradictory_export_is_rejected_and_changes_nothing() {
    let record = fixture();
    let (writer, dev) = (&record.handles.writer, name("dev"));
    writer.submit(&dev, set(1), &[]).await.unwrap();
    let good = writer.submit(&dev, set(2), &[]).await.unwrap();
    let export = record.handles.desired.export().unwrap();
    let spoil: [Spoiling; 9] = [
        ("format is 2", |export| export.format = 2),
        ("no write could follow", |export| export.serial = u64::MAX),
        ("nothing could follow", |export| {
            let environment = &mut export.environments[0];
            environment.desired.entry.generation = Generation(u64::MAX);
            environment.history[0].entry.generation = Generation(u64::MAX);
        }),
        ("`id`", |export| export.id = "../../etc".into()),
        ("twice", |export| export.environments.push(export.environments[0].clone())),
        ("does not begin with", |export| export.environments[0].history.reverse()),
        ("does not begin with", |export| export.environments[0].desired.entry.image = Some(image(9))),
        (" after ", |export| {
            let first = export.environments[0].history[0].clone();
            export.environments[0].history.push(first);
        }),
        ("is held at generation 7", |export| export.environments[0].desired.hold = Some(hold(Some(7)))),
    ];
    for (expected, spoil) in spoil {
        let mut spoilt = export.clone();
        spoil(&mut spoilt);
        let refused = writer.import(spoilt).await;
        let Err(WriteError::Disagreeing(why)) = refused else { panic!("{expected}: {refused:?}") };
        assert!(why.contains(expected), "{why}");
    }
    assert_eq!(record.handles.desired.get(&dev).unwrap(), good);
    assert_eq!(good.entry.origin, Some(Origin::Set));
}

#[tokio::test]
async fn a_full_disk_is_reported_and_rejects_only_writes() {
    let home = tempfile::tempdir().unwrap();
    let error = open::open_with(home.path(), u64::MAX).err().unwrap();
    assert!(error.to_string().contains("full"), "{error}");
    let handles = open(home.path()).unwrap();
    handles.writer.submit(&name("dev"), set(1), &[]).await.unwrap();
    drop(handles);

    let half_full = open::open_with(home.path(), 0).unwrap();
    half_full.desired.get(&name("dev")).unwrap();
    half_full.pretend_to_be_full();
    let error = half_full.writer.submit(&name("dev"), set(2), &[]).await.unwrap_err();
    assert!(matches!(error, WriteError::Record(RecordError::DiskFull)), "{error:?}");
    assert_eq!(half_full.desired.get(&name("dev")).unwrap().entry.generation, Generation(1));
}
