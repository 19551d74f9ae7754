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
fn any_single_failing_step_is_named_at_the_next_pass_and_overcome() {
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
                    let is_said = plan.steps.is_empty()
                        || verdict.0 == Condition::Degraded
                        || verdict == (Condition::Progressing, Reason::RolledBack);
                    assert!(is_said, "{name}, step {failing}: {plan:?}");
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
fn a_start_that_fails_is_tried_again_with_backoff_and_says_why() {
    let mut world = World::empty();
    world.foreign_has_port = true;
    world.set(1);
    world.wait(0);
    let plan = world.plan();
    assert_eq!((plan.verdict.condition, plan.verdict.reason), (Condition::Degraded, Reason::StartFailed));
    assert_eq!(plan.verdict.message, "dev: port is already allocated");
    assert!(plan.look_again > Some(world.now));
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
fn while_a_replacement_cannot_be_made_the_container_before_it_still_heals() {
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
fn a_limit_that_the_engine_never_takes_is_named_after_three_acts_and_tried_with_backoff() {
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
fn what_does_not_converge_keeps_neither_restarts_nor_builds_waiting() {
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
fn a_world_that_never_changes_is_named_and_never_driven_hot() {
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
fn a_step_that_fails_is_not_taken_for_one_that_changed_nothing() {
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
fn a_limit_that_cannot_be_set_does_not_keep_a_crashed_container_down() {
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
fn a_replacement_that_cannot_be_started_gives_the_port_back_at_the_next_pass() {
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
