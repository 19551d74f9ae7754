//! The decision, as a table.

use super::*;
use crate::cli::tests::{NOW, digest, ready, view};
use crate::model::desired::Hold;
use crate::model::time::Timestamp;

fn verdict(status: Condition, reason: Reason) -> Verdict {
    judge(&view("dev", status, reason), &Goal::default())
}

fn held(name: &str) -> EnvironmentView {
    let mut view = view(name, Condition::Held, Reason::HeldByPerson);
    let by = "alice".into();
    view.held = Some(Hold { reason: "audit".into(), by, since: NOW, generation: Some(Generation(4)) });
    view
}

fn with_retry(reason: Reason) -> Verdict {
    let mut view = view("dev", Condition::Degraded, reason);
    view.next_retry = Some(NOW);
    judge(&view, &Goal::default())
}

#[test]
fn only_ready_is_reached_and_progress_is_waited_for() {
    assert_eq!(verdict(Condition::Ready, Reason::AsRecorded), Verdict::Reached);
    assert_eq!(verdict(Condition::Progressing, Reason::Building), Verdict::Waiting);
    assert_eq!(verdict(Condition::Progressing, Reason::Unknown), Verdict::Waiting);
    // On the way back: the end is what it comes to.
    assert_eq!(verdict(Condition::Progressing, Reason::RolledBack), Verdict::Waiting);
}

#[test]
fn every_other_condition_is_an_end() {
    for (status, reason) in [
        (Condition::Degraded, Reason::BuildFailed),
        (Condition::Degraded, Reason::Unhealthy),
        (Condition::Blocked, Reason::NameConflict),
        (Condition::RolledBack, Reason::RolledBack),
    ] {
        assert_eq!(verdict(status, reason), Verdict::Ended, "{status:?} {reason:?}");
    }
}

#[test]
fn a_retry_is_waited_for_only_where_it_may_help() {
    for reason in
        [Reason::SourceUnavailable, Reason::EngineUnavailable, Reason::Unhealthy, Reason::RegistryUnavailable]
    {
        assert_eq!(with_retry(reason), Verdict::Waiting, "{reason:?}");
    }
    for reason in [
        Reason::BuildFailed,
        Reason::RevisionNotFound,
        Reason::StartFailed,
        Reason::NeverReady,
        Reason::ImageNotFound,
        Reason::CrashLoop,
        Reason::NotConverging,
    ] {
        assert_eq!(with_retry(reason), Verdict::Ended, "{reason:?}");
    }
}

#[test]
fn what_speaks_of_an_older_generation_decides_nothing() {
    for status in [Condition::Ready, Condition::RolledBack, Condition::Blocked] {
        let mut view = view("dev", status, Reason::AsRecorded);
        view.observed_generation = Some(Generation(3));
        assert_eq!(judge(&view, &Goal::default()), Verdict::Waiting, "{status:?}");
        view.observed_generation = None;
        assert_eq!(judge(&view, &Goal::default()), Verdict::Waiting, "{status:?}");
    }
}

#[test]
fn a_hold_is_an_end_until_someone_ends_it() {
    let mut view = held("dev");
    view.generation = Generation(5);
    assert_eq!(judge(&view, &Goal::default()), Verdict::Ended, "what is recorded waits for a person");
    view.held = None;
    view.generation = Generation(4);
    assert_eq!(judge(&view, &Goal::default()), Verdict::Waiting, "it was resumed a moment ago");
}

#[test]
fn what_was_seen_before_the_last_sync_decides_nothing() {
    let mut view = view("dev", Condition::Degraded, Reason::BuildFailed);
    view.sync = Some(NOW);
    view.observed_sync = Some(Timestamp::from_millis(NOW.as_millis() - 1));
    assert_eq!(judge(&view, &Goal::default()), Verdict::Waiting);
    view.observed_sync = view.sync;
    assert_eq!(judge(&view, &Goal::default()), Verdict::Ended);
}

#[test]
fn ready_with_another_image_is_not_what_was_waited_for() {
    let other = Digest::new(format!("sha256:{}", "0f".repeat(32))).unwrap();
    let mut goal = Goal { digest: Some(digest()), generation: None };
    assert_eq!(judge(&ready("dev"), &goal), Verdict::Reached);
    goal.digest = Some(other);
    assert_eq!(judge(&ready("dev"), &goal), Verdict::Waiting);
    goal.generation = Some(Generation(4));
    assert_eq!(judge(&ready("dev"), &goal), Verdict::Waiting);
    goal.generation = Some(Generation(3));
    assert_eq!(judge(&ready("dev"), &goal), Verdict::Ended, "a newer generation came between");
}

#[test]
fn the_end_is_named() {
    let failed = Ended { view: held("dev"), verdict: Verdict::Ended };
    let failure = failed.into_result().unwrap_err();
    assert_eq!(failure.to_string(), "dev generation 4: Held (HeldByPerson): generation 4 runs");
    assert_eq!(failure.exit(), Exit::No);
    let other = Ended { view: ready("dev"), verdict: Verdict::Ended }.into_result().unwrap_err();
    assert!(other.to_string().contains("is Ready, but with sha256:ab12"), "{other}");
}

#[test]
fn nothing_is_reached_while_an_agent_is_away_and_a_record_that_is_behind_waits_for_a_person() {
    let away = view("prod", Condition::Ready, Reason::AgentAway);
    assert_eq!(judge(&away, &Goal::default()), Verdict::Waiting);
    let mut behind = view("prod", Condition::Blocked, Reason::RecordBehind);
    behind.observed_generation = behind.generation.next();
    assert_eq!(judge(&behind, &Goal::default()), Verdict::Ended);
}
