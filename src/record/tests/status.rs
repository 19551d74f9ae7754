//! What the loop writes.

use super::super::{BuildCounts, Wakeup};
use super::{at, build, fixture, name, set};
use crate::model::build::{BuildKey, BuildRecord, BuildResult};
use crate::model::desired::Outcome;
use crate::model::event::EventKind;
use crate::model::memory::Memory;
use crate::model::name::Generation;
use crate::model::status::{Condition, Reason, Status};
use crate::record::status::{BUILDS_KEPT, EVENTS_KEPT};

fn status(message: &str) -> Status {
    Status::new(name("dev"), Generation(1), (Condition::Ready, Reason::AsRecorded), message, at(1))
}

#[tokio::test]
async fn a_report_is_read_back_after_a_restart() {
    let record = fixture();
    let mut memory = Memory::default();
    memory.volumes.insert("data".into());
    record.handles.status_writer.report(&status("fine"), &memory).await.unwrap();
    let record = record.reopen();
    assert_eq!(record.handles.status.status(&name("dev")).unwrap(), Some(status("fine")));
    assert_eq!(record.handles.status.memory(&name("dev")).unwrap(), memory);
    assert_eq!(record.handles.status.status(&name("test")).unwrap(), None);
    assert_eq!(record.handles.status.memory(&name("test")).unwrap(), Memory::default());
}

#[tokio::test]
async fn a_report_sends_a_wakeup_only_if_the_status_changed() {
    let record = fixture();
    let writer = &record.handles.status_writer;
    writer.report(&status("fine"), &Memory::default()).await.unwrap();
    let mut wakeups = record.handles.wakeups.subscribe();
    writer.report(&status("fine"), &Memory::default()).await.unwrap();
    let mut memory = Memory::default();
    memory.crashes.count = 1;
    writer.report(&status("fine"), &memory).await.unwrap();
    assert!(wakeups.try_recv().is_err());
    writer.report(&status("better"), &memory).await.unwrap();
    assert_eq!(wakeups.try_recv().unwrap(), Wakeup::Status(name("dev")));
}

#[tokio::test]
async fn an_unchanged_report_does_not_write_to_disk() {
    let record = fixture();
    let writer = &record.handles.status_writer;
    writer.report(&status("fine"), &Memory::default()).await.unwrap();
    let log = record.home.path().join("sled/db");
    let before = std::fs::read(&log).unwrap();
    for _ in 0..50 {
        writer.report(&status("fine"), &Memory::default()).await.unwrap();
    }
    assert!(std::fs::read(&log).unwrap() == before, "the log changed");
}

#[tokio::test]
async fn an_outcome_is_stored_only_for_a_kept_generation() {
    let record = fixture();
    let dev = name("dev");
    record.handles.writer.submit(&dev, set(1), &[]).await.unwrap();
    let writer = &record.handles.status_writer;
    writer.outcome(&dev, Generation(1), Outcome::Failed("no".into())).await.unwrap();
    writer.outcome(&dev, Generation(2), Outcome::Ready).await.unwrap();
    let history = record.handles.status.history(&dev).unwrap();
    assert_eq!(history.len(), 1);
    assert_eq!(history[0].outcome, Some(Outcome::Failed("no".into())));
}

#[tokio::test]
async fn a_repeated_event_is_counted_and_keeps_its_place() {
    let record = fixture();
    let (writer, dev) = (&record.handles.status_writer, name("dev"));
    writer.event(&dev, EventKind::Failure, "no answer", at(1)).await.unwrap();
    writer.event(&name("test"), EventKind::Failure, "no answer", at(2)).await.unwrap();
    writer.event(&dev, EventKind::Failure, "no answer", at(3)).await.unwrap();
    writer.event(&dev, EventKind::Step, "no answer", at(4)).await.unwrap();
    writer.event(&dev, EventKind::Failure, "no answer", at(5)).await.unwrap();
    let events = record.handles.status.events(Some(&dev), None, 10).unwrap();
    let repetitions: Vec<_> = events.iter().map(|event| (event.sequence, event.count, event.at)).collect();
    assert_eq!(repetitions, [(1, 2, at(3)), (3, 1, at(4)), (4, 1, at(5))]);
}

#[tokio::test]
async fn events_are_returned_in_order_and_limited_to_the_newest() {
    let record = fixture();
    let writer = &record.handles.status_writer;
    for number in 0..10 {
        let environment = name(if number % 2 == 0 { "prod" } else { "dev" });
        writer.event(&environment, EventKind::Step, format!("step {number}"), at(number)).await.unwrap();
    }
    let record = record.reopen();
    let status = &record.handles.status;
    let sequences = |environment: Option<&str>, after, limit| -> Vec<u64> {
        let environment = environment.map(name);
        let events = status.events(environment.as_ref(), after, limit).unwrap();
        events.iter().map(|event| event.sequence).collect()
    };
    assert_eq!(sequences(None, None, 3), [8, 9, 10]);
    assert_eq!(sequences(None, Some(7), 10), [8, 9, 10]);
    assert_eq!(sequences(Some("dev"), None, 2), [8, 10]);
    assert_eq!(sequences(Some("dev"), Some(10), 2), [0; 0]);
    record.handles.status_writer.event(&name("dev"), EventKind::Step, "more", at(20)).await.unwrap();
    assert_eq!(sequences(None, Some(10), 10), [11], "the sequence goes on after a restart");
}

#[tokio::test]
async fn events_and_their_messages_are_limited() {
    let record = fixture();
    let (writer, dev) = (&record.handles.status_writer, name("dev"));
    for number in 0..EVENTS_KEPT as u64 + 3 {
        writer.event(&dev, EventKind::Step, format!("{number}"), at(number)).await.unwrap();
    }
    writer.event(&dev, EventKind::Build, "ä".repeat(10_000), at(0)).await.unwrap();
    let events = record.handles.status.events(Some(&dev), None, usize::MAX).unwrap();
    assert_eq!((events.len(), events[0].sequence), (EVENTS_KEPT, 5));
    assert_eq!(events[EVENTS_KEPT - 1].message.len(), 4096);
}

#[tokio::test]
async fn build_numbers_rise_across_restarts() {
    let record = fixture();
    assert_eq!(record.handles.status_writer.next_build_number(0).await.unwrap(), 1);
    assert_eq!(record.handles.status_writer.next_build_number(0).await.unwrap(), 2);
    let record = record.reopen();
    assert_eq!(record.handles.status_writer.next_build_number(0).await.unwrap(), 3);
    assert_eq!(record.handles.status_writer.next_build_number(40).await.unwrap(), 41);
    assert_eq!(record.handles.status_writer.next_build_number(7).await.unwrap(), 42);
}

#[tokio::test]
async fn the_latest_build_is_found_by_its_inputs() {
    let record = fixture();
    for (key, number) in [("a", 1), ("b", 2), ("a", 3)] {
        record.handles.status_writer.build(&build(key, number)).await.unwrap();
    }
    let status = record.reopen().handles.status;
    assert_eq!(status.build(&BuildKey("a".into())).unwrap(), Some(build("a", 3)));
    assert_eq!(status.build(&BuildKey("c".into())).unwrap(), None);
    let builds = status.builds(&name("dev"), 2).unwrap();
    assert_eq!(builds, [build("a", 3), build("b", 2)]);
}

#[tokio::test]
async fn build_results_are_counted_once_each() {
    let record = fixture();
    let writer = &record.handles.status_writer;
    let failed = BuildRecord { result: BuildResult::Failed("no".into()), ..build("b", 2) };
    for build in [build("a", 1), failed, build("a", 3), build("a", 3)] {
        writer.build(&build).await.unwrap();
    }
    let counts = record.reopen().handles.status.build_counts().unwrap();
    assert_eq!(counts, BuildCounts { built: 2, failed: 1 });
}

#[tokio::test]
async fn old_builds_are_pruned_unless_built_again() {
    let record = fixture();
    let writer = &record.handles.status_writer;
    for number in 1..=BUILDS_KEPT as u64 {
        writer.build(&build(&format!("key {number}"), number)).await.unwrap();
    }
    let again = BUILDS_KEPT as u64 + 1;
    writer.build(&build("key 2", again)).await.unwrap();
    writer.build(&build("last", again + 1)).await.unwrap();
    let status = &record.handles.status;
    let known = |key: &str| status.build(&BuildKey(key.into())).unwrap().map(|build| build.number);
    assert_eq!((known("key 1"), known("key 2"), known("key 3")), (None, Some(again), Some(3)));
    assert_eq!(status.builds(&name("dev"), usize::MAX).unwrap().len(), BUILDS_KEPT);
}

#[tokio::test]
async fn exceeding_the_highest_generation_is_an_error() {
    let record = fixture();
    let highest = Status { observed_generation: Generation(u64::MAX), ..status("") };
    record.handles.status_writer.report(&highest, &Memory::default()).await.unwrap();
    let error = record.handles.writer.submit(&name("dev"), set(1), &[]).await.unwrap_err();
    assert!(error.to_string().contains("highest possible generation"), "{error}");
    assert_eq!(record.handles.desired.get(&name("dev")).unwrap().entry.generation, Generation(0));
}
