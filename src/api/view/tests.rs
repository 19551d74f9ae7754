//! The status of views, as tables.

use super::*;
use crate::api::tests::{at, hold, manifest, name, status};
use crate::model::desired::{Entry, Hint, TagHint};
use crate::model::name::{CommitId, Digest, Generation};

const DOWN: &str = "repository keepwork: the server cannot be reached";

fn desired(generation: u64) -> Desired {
    let entry = Entry { generation: Generation(generation), at: at(9), ..Entry::default() };
    Desired { entry, ..Desired::empty(name("dev")) }
}

fn hint() -> Hint {
    let revision = CommitId::new("a".repeat(40)).unwrap();
    Hint { revision, by: "github (alice)".into(), at: at(20) }
}

fn observed() -> PollStatus {
    PollStatus { is_observed: true, ..PollStatus::default() }
}

fn trouble(reason: Reason) -> PollStatus {
    let trouble = SourceTrouble { reason, message: DOWN.into(), since: at(3), next_retry: at(30) };
    PollStatus { trouble: Some(trouble), ..observed() }
}

/// The view of `dev`, which tracks a branch, after `change`.
fn seen(
    desired: Desired,
    status: Option<Status>,
    change: impl FnOnce(&mut EnvironmentFacts<'_>),
) -> EnvironmentView {
    let manifest = manifest().manifest;
    let spec = manifest.environments.get(&name("dev"));
    let mark = manifest.mark(&name("dev"));
    let mut facts = EnvironmentFacts { spec, mark, desired, status, presence: None, look: Some(observed()) };
    change(&mut facts);
    environment(facts)
}

fn shown(desired: &Desired, status: Option<Status>) -> (Condition, Reason, String) {
    let view = seen(desired.clone(), status, |_| {});
    (view.status, view.reason, view.message)
}

#[test]
fn before_the_first_reconcile_the_status_is_unknown() {
    let expected = (Condition::Progressing, Reason::Unknown, "not reconciled yet".to_owned());
    assert_eq!(shown(&desired(0), None), expected);
}

#[test]
fn without_a_daemon_the_last_status_is_shown_but_never_as_ready() {
    let unwatched = |status| seen(desired(4), Some(status), |facts| facts.look = None);
    let view = unwatched(status("dev", 4));
    assert_eq!((view.status, view.reason), (Condition::Progressing, Reason::Unknown), "{view:?}");
    assert_eq!(view.message, "no daemon runs, so nothing watches it; last seen: all as recorded");
    let failed = Status { condition: Condition::Degraded, reason: Reason::BuildFailed, ..status("dev", 4) };
    let view = unwatched(Status { next_retry: Some(at(99)), ..failed });
    assert_eq!((view.status, view.reason, view.next_retry), (Condition::Degraded, Reason::BuildFailed, None));
    assert!(view.message.starts_with("no daemon runs"), "{view:?}");
}

#[test]
fn a_state_that_cannot_be_recorded_is_degraded_and_names_the_cause() {
    let why = "the disk is full";
    let view = seen(desired(4), Some(status("dev", 4)), |facts| {
        facts.look = Some(PollStatus { unrecorded: Some(why.to_owned()), ..observed() });
    });
    assert_eq!((view.status, view.reason), (Condition::Degraded, Reason::Unknown));
    let expected = "its state cannot be recorded: the disk is full; last recorded: all as recorded";
    assert_eq!(view.message, expected);
}

#[test]
fn an_environment_whose_agent_is_not_connected_is_never_ready() {
    let mut spec = manifest().manifest.environments[&name("dev")].clone();
    spec.host = Some(AgentName::new("online").unwrap());
    let away = |last_seen, status| {
        let facts = EnvironmentFacts {
            spec: Some(&spec),
            mark: None,
            desired: desired(4),
            status: Some(status),
            presence: Some(Presence { connected: false, last_seen }),
            look: Some(observed()),
        };
        environment(facts)
    };
    let never = away(None, status("dev", 4));
    assert_eq!((never.status, never.reason), (Condition::Blocked, Reason::AgentAway));
    assert!(never.message.contains("online has never connected"), "{}", never.message);
    assert!(never.message.contains("`abide token create --agent online`"), "{}", never.message);
    let gone = away(Some(at(5)), status("dev", 4));
    assert_eq!((gone.status, gone.reason), (Condition::Degraded, Reason::AgentAway));
    assert!(gone.message.contains("last reported: all as recorded"), "{}", gone.message);
    assert_eq!(gone.since, Some(at(5)), "away since then, whatever was reported before");
    let other = away(Some(at(5)), Status { condition: Condition::RolledBack, ..status("dev", 4) });
    assert_eq!(other.status, Condition::RolledBack);
}

#[test]
fn a_status_of_an_older_generation_does_not_apply_to_a_newer_one() {
    for condition in [Condition::Ready, Condition::Degraded, Condition::RolledBack, Condition::Blocked] {
        let old = Status { condition, ..status("dev", 4) };
        let (condition, reason, message) = shown(&desired(5), Some(old));
        assert_eq!((condition, reason), (Condition::Progressing, Reason::Updating));
        assert_eq!(message, "generation 5 is recorded; the controller has not processed it yet (last: 4)");
    }
}

#[test]
fn an_environment_changed_since_the_last_reconcile_is_not_ready() {
    let mut held = desired(4);
    held.hold = Some(hold());
    assert_eq!(shown(&held, Some(status("dev", 4))).1, Reason::Updating, "held a moment ago");
    let mut synced = desired(4);
    synced.sync = Some(at(10));
    assert_eq!(shown(&synced, Some(status("dev", 4))).1, Reason::Updating);
    let looked = Status { observed_sync: Some(at(10)), ..status("dev", 4) };
    assert_eq!(shown(&synced, Some(looked)).0, Condition::Ready);
    let edited = Status { observed_declaration: Some("other".into()), ..status("dev", 4) };
    let (condition, reason, message) = shown(&desired(4), Some(edited));
    assert_eq!((condition, reason), (Condition::Progressing, Reason::Updating), "{message}");
    let before_the_start = seen(desired(4), Some(status("dev", 4)), |facts| {
        facts.look = Some(PollStatus::default());
    });
    assert_eq!((before_the_start.status, before_the_start.reason), (Condition::Progressing, Reason::Unknown));
}

#[test]
fn a_declarations_mark_changes_only_after_an_edit() {
    let (one, mut other) = (manifest().manifest, manifest().manifest);
    assert_eq!(one.mark(&name("dev")), other.mark(&name("dev")));
    other.environments.get_mut(&name("dev")).unwrap().port = Some(1);
    assert_ne!(one.mark(&name("dev")), other.mark(&name("dev")));
    assert_eq!(one.mark(&name("test")), other.mark(&name("test")));
    other.environments.get_mut(&name("dev")).unwrap().mark = Some("sent".into());
    assert_eq!(other.mark(&name("dev")).as_deref(), Some("sent"));
}

#[test]
fn a_held_status_is_kept_unless_another_generation_is_held() {
    let held_status = Status { condition: Condition::Held, reason: Reason::HeldByPerson, ..status("dev", 4) };
    let mut held = desired(5);
    held.hold = Some(hold());
    held.hint = Some(hint());
    assert_eq!(shown(&held, Some(held_status.clone())).0, Condition::Held);
    assert_eq!(
        shown(&desired(4), Some(held_status.clone())).0,
        Condition::Progressing,
        "resumed a moment ago"
    );
    held.hold.as_mut().unwrap().generation = Some(Generation(5));
    assert_eq!(shown(&held, Some(held_status)).0, Condition::Progressing, "rolled back a moment ago");
}

#[test]
fn an_unreachable_engine_is_reported_for_unprocessed_generations() {
    let (condition, reason) = (Condition::Degraded, Reason::EngineUnavailable);
    let lost = Status { condition, reason, ..status("dev", 4) };
    assert_eq!(shown(&desired(5), Some(lost.clone())), (condition, reason, lost.message));
}

#[test]
fn a_status_of_the_current_generation_is_repeated() {
    let current = status("dev", 5);
    let expected = (current.condition, current.reason, current.message.clone());
    assert_eq!(shown(&desired(5), Some(current)), expected);
}

#[test]
fn an_undeclared_environment_is_reported() {
    let view = seen(desired(5), Some(status("dev", 5)), |facts| facts.spec = None);
    assert_eq!((view.status, view.reason), (Condition::Blocked, Reason::NotInManifest));
    assert!(view.message.contains("`abide forget dev` removes it from the record"), "{}", view.message);
    let never_seen = seen(desired(5), None, |facts| facts.spec = None);
    assert_eq!((never_seen.status, never_seen.reason), (Condition::Blocked, Reason::NotInManifest));
}

#[test]
fn the_head_is_unknown_from_a_hint_until_git_answers() {
    let mut hinted = desired(4);
    hinted.hint = Some(hint());
    for condition in [Condition::Ready, Condition::Degraded, Condition::RolledBack, Condition::Blocked] {
        let (condition, reason, message) = shown(&hinted, Some(Status { condition, ..status("dev", 4) }));
        assert_eq!((condition, reason), (Condition::Progressing, Reason::HeadUnknown), "{message}");
        assert!(
            message.starts_with("commit aaaaaaaaaaaa was announced by github (alice), and git"),
            "{message}"
        );
    }
    let late = seen(hinted.clone(), Some(status("dev", 4)), |facts| {
        facts.look = Some(PollStatus { answered: Some(at(21)), ..observed() });
    });
    assert_eq!((late.status, late.reason), (Condition::Progressing, Reason::HeadUnknown));
    assert!(late.message.contains("git does not show it yet"), "{}", late.message);
    let mut asked = desired(4);
    asked.asked = Some(at(21));
    assert_eq!(shown(&asked, Some(status("dev", 4))).1, Reason::HeadUnknown);
    let promoted = |facts: &mut EnvironmentFacts<'_>| facts.spec.map(|_| ());
    let prod = manifest().manifest;
    let view = seen(hinted.clone(), Some(status("dev", 4)), |facts| {
        promoted(facts);
        facts.spec = None;
    });
    assert_ne!(view.reason, Reason::HeadUnknown);
    let facts = EnvironmentFacts {
        spec: prod.environments.get(&name("prod")),
        mark: None,
        desired: hinted,
        status: Some(status("dev", 4)),
        presence: None,
        look: Some(observed()),
    };
    assert_eq!(environment(facts).status, Condition::Ready, "it follows no branch any more");
}

#[test]
fn a_tag_hint_counts_only_if_a_tag_is_tracked() {
    let mut tagged = desired(4);
    let digest = Digest::of_sha256(&[1; 32]);
    tagged.tag_hint = Some(TagHint { digest, by: "registry".into(), at: at(20) });
    assert_eq!(shown(&tagged, Some(status("dev", 4))).0, Condition::Ready, "dev follows a branch");
    let mut spec = manifest().manifest.environments[&name("dev")].clone();
    spec.supply = Supply::Tag { image: "localhost:5000/app:stable".parse().unwrap() };
    let facts = EnvironmentFacts {
        spec: Some(&spec),
        mark: None,
        desired: tagged,
        status: Some(status("dev", 4)),
        presence: None,
        look: Some(observed()),
    };
    assert_eq!(environment(facts).reason, Reason::HeadUnknown);
}

#[test]
fn a_source_error_is_the_reason_unless_a_version_already_serves() {
    let nothing = |_: &str| Status {
        condition: Condition::Progressing,
        reason: Reason::NothingRecorded,
        ..status("dev", 0)
    };
    for reason in
        [Reason::SourceDenied, Reason::SourceMissing, Reason::BranchMissing, Reason::SourceUnreachable]
    {
        let first = seen(desired(0), Some(nothing("")), |facts| facts.look = Some(trouble(reason)));
        assert_eq!((first.status, first.reason, first.message.as_str()), (Condition::Degraded, reason, DOWN));
        assert_eq!((first.since, first.next_retry), (Some(at(3)), Some(at(30))));
        assert!(first.warnings.is_empty());
        let serving = seen(desired(4), Some(status("dev", 4)), |facts| facts.look = Some(trouble(reason)));
        assert_eq!(serving.status, Condition::Ready);
        assert_eq!(
            serving.warnings,
            [format!(
                "{DOWN}; environments that track it keep their current \
            version"
            )]
        );
    }
}

#[test]
fn unreachable_git_leaves_the_head_unknown_but_hides_no_problem() {
    let mut hinted = desired(4);
    hinted.hint = Some(hint());
    let down = |facts: &mut EnvironmentFacts<'_>| facts.look = Some(trouble(Reason::SourceUnreachable));
    let view = seen(hinted.clone(), Some(status("dev", 4)), down);
    assert_eq!((view.status, view.reason), (Condition::Progressing, Reason::HeadUnknown));
    assert!(view.message.contains(DOWN), "{}", view.message);
    assert_eq!(view.next_retry, Some(at(30)));
    let crashing = Status { condition: Condition::Degraded, reason: Reason::CrashLoop, ..status("dev", 4) };
    assert_eq!(seen(hinted, Some(crashing), down).reason, Reason::CrashLoop);
}

#[test]
fn pending_checks_are_progress_and_failed_checks_a_warning() {
    let mut manifest = manifest().manifest;
    let spec = manifest.environments.get_mut(&name("dev")).unwrap();
    spec.checks = Some(crate::model::checks::NeededChecks::OfBranch);
    let spec = &*spec;
    let unchecked = |is_pending| UncheckedHead {
        head: hint().revision,
        sentence: "waiting for CI: 1 of 2 checks".into(),
        is_pending,
        since: at(20),
        recheck_at: at(50),
    };
    let nothing = || Status { reason: Reason::NothingRecorded, ..status("dev", 0) };
    let view = |desired: Desired, status: Status, is_pending| {
        let look = PollStatus { unchecked: Some(unchecked(is_pending)), ..observed() };
        let facts = EnvironmentFacts {
            spec: Some(spec),
            mark: None,
            desired,
            status: Some(status),
            presence: None,
            look: Some(look),
        };
        environment(facts)
    };
    let waiting = view(desired(4), status("dev", 4), true);
    assert_eq!((waiting.status, waiting.reason), (Condition::Progressing, Reason::WaitingForChecks));
    assert_eq!(waiting.message, "waiting for CI: 1 of 2 checks; until then: all as recorded");
    assert!(waiting.warnings.is_empty());
    let failed = view(desired(4), status("dev", 4), false);
    assert_eq!((failed.status, failed.warnings.len()), (Condition::Ready, 1));
    assert!(failed.warnings[0].ends_with("; the current version keeps serving"), "{failed:?}");
    let first = view(desired(0), nothing(), true);
    assert_eq!((first.status, first.reason), (Condition::Progressing, Reason::WaitingForChecks));
    let never = view(desired(0), nothing(), false);
    assert_eq!((never.status, never.reason), (Condition::Degraded, Reason::ChecksFailed));
    assert!(never.warnings.is_empty(), "said once");
    // A problem of what serves comes first, and a hold keeps everything.
    let crashing = Status { condition: Condition::Degraded, reason: Reason::CrashLoop, ..status("dev", 4) };
    assert_eq!(view(desired(4), crashing, true).reason, Reason::CrashLoop);
    let held = Desired { hold: Some(hold()), ..desired(4) };
    let holding = Status { condition: Condition::Held, reason: Reason::HeldByPerson, ..status("dev", 4) };
    assert_eq!(view(held, holding, true).status, Condition::Held);
}
