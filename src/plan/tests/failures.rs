//! Failing engine calls, and worlds that never change.

use super::world::{NAME, Program, World, digest, kind};
use crate::model::desired::Origin;
use crate::model::status::{Condition, Reason};
use crate::plan::Step;

type Story = (&'static str, fn() -> World);

/// Worlds with something to do.
fn stories() -> Vec<Story> {
    vec![
        ("a first deployment", || {
            let mut world = World::empty();
            world.push(2);
            world
        }),
        ("an update", || {
            let mut world = World::running(1);
            world.set(2);
            world
        }),
        ("a failed update", || {
            let mut world = World::running(2);
            world.program(1, Program::crashes_after(2));
            world.set(1);
            world.wait(1);
            world.set(2);
            world
        }),
        ("drift of all kinds", || {
            let mut world = World::running(2);
            world.rename(0, "other");
            world.remove_network();
            world.observed.containers[0].memory = Some(1);
            world.exit(0, 1, false);
            world
        }),
    ]
}

#[test]
fn any_single_failing_step_is_reported_and_recovered_from() {
    for (name, story) in stories() {
        for failing in 0..12 {
            let mut world = story();
            world.failing.insert(failing);
            for _ in 0..60 {
                world.pass();
                if world.failing.is_empty() {
                    // A leftover that could not be removed now is removed when the rest is ready.
                    let plan = world.plan();
                    let verdict = (plan.verdict.condition, plan.verdict.reason);
                    let is_expected = plan.steps.is_empty()
                        || verdict.0 == Condition::Degraded
                        || verdict == (Condition::Progressing, Reason::RolledBack);
                    assert!(is_expected, "{name}, step {failing}: {plan:?}");
                    break;
                }
                world.wait(1);
            }
            world.wait(120);
            match world.intent.entry.origin {
                Some(Origin::AutomaticRollback) => world.set(2),
                _ => world.sync(),
            }
            world.rest();
            assert!(world.is_ready_with(2), "{name}, step {failing}: {:#?}", world.plan());
        }
    }
}

#[test]
fn a_daemon_killed_before_any_step_converges_after_its_next_start() {
    for (name, story) in stories() {
        for step in 0..12 {
            let mut world = story();
            world.killed_before = Some(step);
            world.rest();
            assert!(world.is_ready_with(2), "{name}, killed before step {step}: {:#?}", world.plan());
        }
    }
}

#[test]
fn a_failing_start_is_retried_with_backoff_and_its_cause_reported() {
    let mut world = World::empty();
    world.foreign_has_port = true;
    world.set(1);
    world.wait(0);
    let plan = world.plan();
    assert_eq!((plan.verdict.condition, plan.verdict.reason), (Condition::Degraded, Reason::StartFailed));
    assert_eq!(plan.verdict.message, "dev: port is already allocated");
    assert!(plan.requeue_at > Some(world.now));
    world.wait(3600);
    let count = world.memory.trouble.as_ref().unwrap().count;
    assert!((10..30).contains(&count), "tried {count} times in an hour");
    world.foreign_has_port = false;
    world.wait(300);
    assert!(world.is_ready_with(1));
}

#[test]
fn a_new_generation_does_not_wait_for_the_failures_of_the_old_one() {
    let mut world = World::empty();
    world.program(1, Program::RefusesToStart);
    world.set(1);
    world.wait(3600);
    world.set(2);
    let plan = world.plan();
    assert!(!plan.steps.is_empty(), "{plan:#?}");
}

#[test]
fn the_old_container_heals_while_its_replacement_cannot_be_created() {
    let mut world = World::running(1);
    world.set(2);
    for _ in 0..3 {
        world.failing.insert(0);
        world.pass();
        world.exit(0, 1, false);
        world.wait(0);
        let due = world.memory.trouble.as_ref().unwrap().next_retry;
        world.advance(due);
        world.failing.insert(1);
        world.pass();
        assert_eq!(world.take_done(), ["start"]);
        assert_eq!(world.serving().len(), 1);
        world.advance(world.memory.trouble.as_ref().unwrap().next_retry);
    }
    world.rest();
    assert!(world.is_ready_with(2));
}

#[test]
fn an_ignored_limit_is_reported_after_three_attempts() {
    let mut world = World::running(1);
    world.ignores_limits = true;
    world.observed.containers[0].memory = Some(1);
    world.wait(0);
    assert_eq!(world.take_done(), ["adjust"; 3]);
    let verdict = world.plan().verdict;
    assert_eq!((verdict.condition, verdict.reason), (Condition::Degraded, Reason::NotConverging));
    assert!(verdict.message.contains("the limit of memory is 1"), "{}", verdict.message);
    let acts = world.wait(3600);
    assert!((5..25).contains(&acts), "{acts} acts in an hour");
    world.ignores_limits = false;
    world.wait(300);
    assert!(world.is_ready_with(1));
}

#[test]
fn a_difference_that_persists_delays_neither_restarts_nor_builds() {
    let mut world = World::running(1);
    world.ignores_limits = true;
    world.observed.containers[0].memory = Some(1);
    world.wait(3600);
    world.exit(0, 1, false);
    world.wait(0);
    assert_eq!(world.serving().len(), 1);
    world.push(2);
    world.wait(60);
    world.ignores_limits = false;
    world.rest();
    assert!(world.is_ready_with(2));
}

#[test]
fn a_step_without_effect_is_reported_and_never_retried_in_a_hot_loop() {
    let crashed = || {
        let mut world = World::running(2);
        world.exit(0, 1, false);
        world
    };
    let paused = || {
        let mut world = World::running(2);
        world.pause(0);
        world
    };
    let more: [Story; 2] = [("a crash", crashed), ("a pause", paused)];
    for (name, story) in stories().into_iter().skip(1).chain(more) {
        let mut world = story();
        world.inert = true;
        let acts = world.wait(60);
        assert!(acts <= 40, "{name}: {acts} acts in a minute: {:#?}", world.plan());
        world.wait(3600);
        let verdict = world.plan().verdict;
        assert_eq!(verdict.condition, Condition::Degraded, "{name}: {verdict:?}");
        let acts = world.wait(3600);
        assert!(acts <= 100, "{name}: {acts} acts in an hour");
        world.inert = false;
        world.wait(600);
        assert!(world.is_ready_with(2), "{name}: {:#?}", world.plan());
    }
}

#[test]
fn a_failed_step_is_not_counted_as_ineffective() {
    let mut world = World::running(1);
    world.observed.containers[0].memory = Some(1);
    for _ in 0..6 {
        world.failing.insert(0);
        world.wait(0);
        let verdict = world.plan().verdict;
        assert_eq!((verdict.condition, verdict.reason), (Condition::Degraded, Reason::EngineUnavailable));
        world.advance(world.memory.trouble.as_ref().unwrap().next_retry);
    }
    world.rest();
    assert!(world.is_ready_with(1));
}

#[test]
fn a_failing_limit_update_does_not_delay_a_crash_restart() {
    let mut world = World::running(1);
    world.observed.containers[0].memory = Some(1);
    world.failing.insert(0);
    world.wait(0);
    world.exit(0, 1, false);
    world.failing.insert(1);
    world.pass();
    assert_eq!(world.done.iter().map(kind).collect::<Vec<_>>(), ["start"]);
    assert_eq!(world.serving().len(), 1);
}

#[test]
fn a_replacement_that_cannot_start_returns_the_port_at_once() {
    let mut world = World::running(1);
    world.program(2, Program::RefusesToStart);
    world.set(2);
    world.pass();
    assert!(world.serving().is_empty(), "stopped for the new one");
    world.pass();
    assert_eq!(world.serving().len(), 1);
    assert_eq!((world.only().name.as_str(), world.only().image.clone()), (NAME, Some(digest(1))));
    let starts = world.done.iter().filter(|step| matches!(step, Step::Start { .. })).count();
    assert_eq!(starts, 1);
}
