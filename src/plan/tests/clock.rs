//! Clocks that are set during a wait.

use std::time::Duration;

use super::world::{Program, World, digest};
use crate::model::status::{Condition, Reason};

const DAY: Duration = Duration::from_secs(24 * 3600);

#[test]
fn setting_the_clock_forward_does_not_fail_a_new_container() {
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
fn a_version_that_never_answers_is_given_up_despite_clock_changes() {
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
fn setting_the_clock_back_does_not_prolong_a_crash_backoff() {
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
fn failed_calls_are_retried_after_the_clock_is_set_back() {
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
fn sync_clears_failures_noted_before_the_clock_was_set_back() {
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
