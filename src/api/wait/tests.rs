//! The decision, as a table.

use super::judge::*;
use crate::api::tests::{at, hold};
use crate::api::view::StatusView;
use crate::model::desired::Outcome;
use crate::model::name::{CommitId, Generation};
use crate::model::poll::{PollStatus, SourceTrouble};
use crate::model::status::{Condition, Reason};
use crate::model::view::WaitState::{self, Ended, Reached, Waiting};

fn evidence(condition: Condition, reason: Reason) -> WaitEvidence {
    let settled = StatusView {
        condition,
        reason,
        message: "said".into(),
        since: None,
        next_retry: None,
        is_of_source: false,
    };
    WaitEvidence {
        settled,
        unanswered: None,
        follows: Some("git"),
        look: PollStatus { answered: Some(at(10)), is_observed: true, ..PollStatus::default() },
        asked: at(10),
        hold: None,
        current: Generation(4),
        running: true,
        problem: None,
        carrier: GoalGeneration::Current,
    }
}

fn ready() -> WaitEvidence {
    evidence(Condition::Ready, Reason::AsRecorded)
}

fn state(goal: &WaitGoal, evidence: &WaitEvidence) -> WaitState {
    judge(goal, evidence).0
}

fn plainly(evidence: &WaitEvidence) -> WaitState {
    state(&WaitGoal::default(), evidence)
}

fn commit() -> WaitGoal {
    WaitGoal { commit: Some(CommitId::new("c".repeat(40)).unwrap()), ..WaitGoal::default() }
}

fn in_trouble(reason: Reason) -> PollStatus {
    let trouble = SourceTrouble { reason, message: "no".into(), since: at(1), next_retry: at(9) };
    PollStatus { failed: Some(at(10)), trouble: Some(trouble), is_observed: true, ..PollStatus::default() }
}

#[test]
fn only_ready_reaches_the_goal_and_progress_is_waited_for() {
    assert_eq!(plainly(&ready()), Reached);
    assert_eq!(plainly(&evidence(Condition::Progressing, Reason::Building)), Waiting);
    assert_eq!(plainly(&evidence(Condition::Progressing, Reason::Unknown)), Waiting);
    // During the rollback: its result is the end.
    assert_eq!(plainly(&evidence(Condition::Progressing, Reason::RolledBack)), Waiting);
}

#[test]
fn every_other_condition_ends_the_wait() {
    for (condition, reason) in [
        (Condition::Degraded, Reason::BuildFailed),
        (Condition::Degraded, Reason::Unhealthy),
        (Condition::Blocked, Reason::NameConflict),
        (Condition::RolledBack, Reason::RolledBack),
    ] {
        assert_eq!(plainly(&evidence(condition, reason)), Ended, "{condition:?} {reason:?}");
    }
}

#[test]
fn a_wait_outlasts_retries_only_for_temporary_problems() {
    let retried = |reason| {
        let mut evidence = evidence(Condition::Degraded, reason);
        evidence.settled.next_retry = Some(at(60));
        plainly(&evidence)
    };
    for reason in
        [Reason::SourceUnavailable, Reason::EngineUnavailable, Reason::Unhealthy, Reason::RegistryUnavailable]
    {
        assert_eq!(retried(reason), Waiting, "{reason:?}");
    }
    for reason in [
        Reason::BuildFailed,
        Reason::RevisionNotFound,
        Reason::StartFailed,
        Reason::NeverReady,
        Reason::CanaryFailed,
        Reason::ImageNotFound,
        Reason::CrashLoop,
        Reason::NotConverging,
        Reason::SourceUnreachable,
        Reason::BranchMissing,
    ] {
        assert_eq!(retried(reason), Ended, "{reason:?}");
    }
}

#[test]
fn a_plain_wait_asks_for_the_head_first() {
    let mut evidence = ready();
    evidence.look.answered = Some(at(9));
    assert_eq!(plainly(&evidence), Waiting, "that answer is of before the wait");
    evidence.follows = None;
    assert_eq!(plainly(&evidence), Reached, "there is nobody to ask");
    let mut hinted = ready();
    hinted.unanswered = Some("commit c was announced".into());
    assert_eq!(plainly(&hinted), Waiting);
    for (reason, expected) in [(Reason::SourceUnreachable, Waiting), (Reason::SourceDenied, Ended)] {
        let mut evidence = ready();
        evidence.look = in_trouble(reason);
        assert_eq!(plainly(&evidence), expected, "{reason:?}");
    }
    // Git answered that the branch does not exist, so nothing newer can be meant.
    let mut deleted = ready();
    deleted.look = PollStatus { answered: Some(at(11)), ..in_trouble(Reason::BranchMissing) };
    assert_eq!(plainly(&deleted), Reached);
    let mut problem = ready();
    problem.problem = Some("line 3".into());
    assert_eq!(plainly(&problem), Ended);
}

#[test]
fn a_source_that_never_gave_a_head_ends_every_wait() {
    for reason in [Reason::SourceUnreachable, Reason::SourceMissing, Reason::RegistryUnavailable] {
        let mut evidence = evidence(Condition::Degraded, reason);
        evidence.settled.is_of_source = true;
        evidence.settled.next_retry = Some(at(60));
        evidence.look = in_trouble(reason);
        assert_eq!(plainly(&evidence), Ended, "{reason:?}");
        evidence.carrier = GoalGeneration::None;
        assert_eq!(state(&commit(), &evidence), Ended, "{reason:?}");
    }
}

#[test]
fn a_wait_goal_is_reached_only_by_the_matching_generation() {
    assert_eq!(state(&commit(), &ready()), Reached, "whatever git is asked meanwhile");
    let with = |carrier| WaitEvidence { carrier, ..ready() };
    assert_eq!(state(&commit(), &with(GoalGeneration::None)), Waiting, "it may still be pushed");
    assert_eq!(state(&commit(), &with(GoalGeneration::Unknown)), Waiting);
    let failed = Some(Outcome::Failed("exit code 1".into()));
    for (outcome, words) in [
        (failed, "exit code 1"),
        (Some(Outcome::Superseded), "replaced by generation 4"),
        (Some(Outcome::Ready), "replaced by generation 4"),
        (None, "replaced by generation 4"),
    ] {
        let evidence = with(GoalGeneration::Earlier { generation: Generation(3), outcome });
        let (state, message) = judge(&commit(), &evidence);
        assert_eq!(state, Ended);
        assert!(message.contains(words) && message.contains("commit cccccccccccc"), "{message}");
    }
    let failing = evidence(Condition::Degraded, Reason::BuildFailed);
    assert_eq!(state(&commit(), &failing), Ended);
    assert_eq!(
        state(&commit(), &WaitEvidence { carrier: GoalGeneration::None, ..failing }),
        Waiting,
        "a fix may come"
    );
}

#[test]
fn a_wait_for_a_future_generation_waits_and_for_a_past_one_ends() {
    let of = |generation| WaitGoal { generation: Some(Generation(generation)), ..WaitGoal::default() };
    let none = WaitEvidence { carrier: GoalGeneration::None, ..ready() };
    assert_eq!(state(&of(5), &none), Waiting);
    assert_eq!(state(&of(3), &none), Ended);
}

#[test]
fn a_hold_ends_a_wait_and_succeeds_only_for_its_own_command() {
    let mut held = evidence(Condition::Held, Reason::HeldByPerson);
    assert_eq!(plainly(&held), Waiting, "it was resumed a moment ago");
    held.hold = Some(hold());
    assert_eq!(plainly(&held), Ended);
    let rolled_back = WaitGoal { generation: Some(Generation(4)), held: true, ..WaitGoal::default() };
    assert_eq!(state(&rolled_back, &held), Ended, "another generation is kept");
    held.hold.as_mut().unwrap().generation = Some(Generation(4));
    assert_eq!(state(&rolled_back, &held), Reached);
    assert_eq!(state(&WaitGoal { held: false, ..rolled_back.clone() }, &held), Ended);
    held.running = false;
    assert_eq!(state(&rolled_back, &held), Ended);
}

#[test]
fn a_disconnected_agent_is_waited_for_but_a_record_behind_is_not() {
    assert_eq!(plainly(&evidence(Condition::Degraded, Reason::AgentAway)), Waiting);
    assert_eq!(plainly(&evidence(Condition::Blocked, Reason::RecordBehind)), Ended);
}

#[test]
fn a_wait_does_not_accept_the_old_version_while_checks_are_not_green() {
    let unchecked = |is_pending| crate::model::checks::UncheckedHead {
        head: CommitId::new("c".repeat(40)).unwrap(),
        sentence: "waiting for CI".into(),
        is_pending,
        since: at(1),
        recheck_at: at(50),
    };
    for (is_pending, expected) in [(true, Waiting), (false, Ended)] {
        let mut evidence = ready();
        evidence.look.unchecked = Some(unchecked(is_pending));
        assert_eq!(judge(&WaitGoal::default(), &evidence), (expected, "waiting for CI".to_owned()));
        evidence.carrier = GoalGeneration::None;
        assert_eq!(state(&commit(), &evidence), expected);
        let other = WaitGoal { commit: Some(CommitId::new("d".repeat(40)).unwrap()), ..WaitGoal::default() };
        assert_eq!(state(&other, &evidence), Waiting, "another commit may still be pushed");
    }
}
