//! Clocks that are set during a wait.

use std::time::Duration;

use super::world::{Program, World, digest};
use crate::model::status::{Condition, Reason};

const DAY: Duration = Duration::from_secs(24 * 3600);

#[test]
fn a_clock_that_is_set_forward_is_no_verdict_on_what_has_just_been_started() {
    let mut world = World::running(1);
    world.program(2, Program::NeverAnswers);
    world.set(2);
    world.wait(3);
    world.set_clock_forward(DAY);
    world.wait(3);
    let verdict = world.plan().verdict;
    assert_eq!((verdict.condition, verdict.reason), (Condition::Progressing, Reason::AwaitingHealth));
    world.program(2, Program::Good);
    world.rest();
    assert!(world.is_ready_with(2));
}

#[test]
fn a_version_that_really_never_answers_is_given_up_whatever_the_clock_says() {
    let mut world = World::running(1);
    world.program(2, Program::NeverAnswers);
    world.set(2);
    world.wait(3);
    world.set_clock_forward(DAY);
    world.rest();
    assert_eq!(world.plan().verdict.condition, Condition::RolledBack);
    assert_eq!(world.only().image, Some(digest(1)));
}

#[test]
fn a_crash_loop_waits_no_longer_for_a_clock_that_is_set_back() {
    let mut world = World::running(1);
    for _ in 0..2 {
        world.wait(1);
        world.exit(0, 1, false);
        world.pass();
    }
    assert!(world.memory.crashes.next_restart.is_some_and(|due| due > world.now), "{:?}", world.memory);
    world.set_clock_back(DAY);
    world.wait(400);
    assert!(world.is_ready_with(1), "{world:#?}");
}

#[test]
fn calls_that_failed_are_tried_again_after_a_clock_was_set_back() {
    let mut world = World::running(1);
    world.failing.insert(1);
    world.set(2);
    world.pass();
    assert!(world.memory.trouble.is_some());
    world.set_clock_back(DAY);
    world.wait(400);
    assert!(world.is_ready_with(2), "{world:#?}");
}

#[test]
fn sync_forgives_what_was_noted_before_the_clock_was_set_back() {
    let mut world = World::running(1);
    world.failing.insert(1);
    world.set(2);
    world.pass();
    world.set_clock_back(DAY);
    world.sync();
    world.wait(1);
    assert!(world.memory.trouble.is_none());
    world.rest();
    assert!(world.is_ready_with(2));
}
