//! Which plans wait for a turn if many environments are updated, and what they contain meanwhile.

use super::world::World;
use crate::model::build::Acquisition;
use crate::model::name::EnvironmentName;
use crate::model::status::{Condition, Reason};
use crate::plan::{Step, releases_turn, starts_command, takes_turn};

fn waits(world: &World) -> bool {
    takes_turn(&world.plan(), &world.observed)
}

#[test]
fn only_updates_wait_for_a_turn_not_repairs() {
    let mut world = World::running(1);
    assert!(!waits(&world), "nothing is to be done");
    world.exit(0, 1, false);
    assert!(!waits(&world), "a crash waits");
    world.observed.containers.clear();
    assert!(!waits(&world), "a removed container waits");
    let mut world = World::running(1);
    world.set(2);
    assert!(waits(&world));
    let mut world = World::running(1);
    world.edit(|options| options.command = Some(vec!["other".to_owned()]));
    assert!(waits(&world), "an edit is an update too");
}

#[test]
fn a_first_start_waits_for_a_turn_but_a_crashed_container_does_not() {
    let mut world = World::empty();
    world.push(1);
    assert!(!waits(&world), "a build waits for nobody");
    world.set(1);
    assert!(waits(&world));
    let mut world = World::running(1);
    world.exit(0, 1, false);
    world.set(2);
    assert!(!waits(&world), "it takes nothing down that is not down already");
}

#[test]
fn an_environment_waiting_for_its_turn_reports_why_and_does_nothing() {
    let mut world = World::running(1);
    world.set(2);
    let (plan, memory) = (world.plan(), world.memory.clone());
    assert!(!plan.steps.is_empty());
    let waiting = plan.until_its_turn(memory.clone(), 4);
    assert!(waiting.steps.is_empty(), "{:?}", waiting.steps);
    assert_eq!(
        (waiting.verdict.condition, waiting.verdict.reason),
        (Condition::Progressing, Reason::Updating)
    );
    assert!(waiting.verdict.message.contains("4 environments are being updated"));
    assert_eq!(waiting.memory, memory, "nothing was acted upon");
}

#[test]
fn a_turn_is_released_after_the_update_or_during_a_build() {
    let mut world = World::running(1);
    assert!(releases_turn(&world.plan()));
    world.set(2);
    world.pass();
    assert!(!releases_turn(&world.plan()), "the new one is not ready yet");
    world.rest();
    assert!(releases_turn(&world.plan()));
    world.push(3);
    world.observed.acquisition = Acquisition::Running { step: "building".to_owned() };
    let plan = world.plan();
    assert!(plan.steps.iter().all(|planned| !matches!(planned.step, Step::Create { .. })));
    assert!(releases_turn(&plan), "a build keeps no other from its update: {:?}", plan.verdict);
}

#[test]
fn waiting_for_another_members_command_is_no_failed_attempt() {
    let mut world = World::running(1);
    world.release("migrate");
    world.set(2);
    let other = EnvironmentName::new("other").unwrap();
    for _ in 0..10 {
        let plan = world.plan();
        assert!(starts_command(&plan), "{plan:?}");
        let waiting = plan.until_command_ends(&other, world.memory.clone(), world.now);
        assert!(waiting.steps.is_empty(), "{:?}", waiting.steps);
        assert_eq!(
            (waiting.verdict.condition, waiting.verdict.reason),
            (Condition::Progressing, Reason::Releasing)
        );
        world.memory = waiting.memory;
        world.advance(waiting.requeue_at.unwrap());
    }
}
