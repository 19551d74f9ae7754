//! Canaries: a new version serves a part of the visitors before it takes over.

use std::time::Duration;

use super::world::{Mode, Program, World, digest};
use crate::model::canary::{CanaryDecision, CanaryOrder, CanaryPercent, CanarySpec, CanaryState, ErrorLimit};
use crate::model::desired::Origin;
use crate::model::name::Generation;
use crate::model::status::{Condition, Reason};
use crate::plan::{Step, must_be_stored};

/// Long enough for a hundred requests.
pub(super) fn declared() -> CanarySpec {
    CanarySpec {
        percent: CanaryPercent::default(),
        time: Duration::from_secs(30),
        fail_on: ErrorLimit::default(),
    }
}

/// A world that runs image 1 behind a proxy, with a canary declared.
fn world() -> World {
    let mut world = World::running_in(Mode::Front, 1);
    world.intent.canary = Some(declared());
    world.always_served = true;
    world
}

/// The same, with image 2 as a canary.
fn with_canary() -> World {
    let mut world = world();
    world.set(2);
    world.wait(15);
    assert_eq!(state(&world), CanaryState::UnderWay, "{world:#?}");
    assert_eq!(serving(&world), (1, Some(2)), "{world:#?}");
    world
}

fn state(world: &World) -> CanaryState {
    world.memory.canary.clone().unwrap().state
}

/// The images that the proxy passes requests to: most of them, and a part.
fn serving(world: &World) -> (u8, Option<u8>) {
    let front = world.front.as_ref().unwrap();
    let number = |id: &String| {
        let container = world.observed.containers.iter().find(|container| container.id == *id).unwrap();
        (0..=u8::MAX).find(|number| container.image == Some(digest(*number))).unwrap()
    };
    (number(front.serves.as_ref().unwrap()), front.canary.as_ref().map(number))
}

fn status(world: &World) -> (Condition, Reason) {
    let verdict = world.plan().verdict;
    (verdict.condition, verdict.reason)
}

/// Whether the last canary took over before its time, for a reason with these words.
fn is_early(world: &World, why: &str) -> bool {
    matches!(state(world), CanaryState::Passed { early: Some(early) } if early.contains(why))
}

#[track_caller]
fn is_rolled_back(world: &World) {
    assert_eq!(serving(world), (1, None), "{world:#?}");
    assert_eq!(status(world), (Condition::RolledBack, Reason::RolledBack), "{:#?}", world.plan());
    assert_eq!(world.only().image, Some(digest(1)));
    let bad = world.intent.bad.last().unwrap();
    assert_eq!((bad.image.id.clone(), bad.reason), (Some(digest(2)), Reason::CanaryFailed));
    assert!(matches!(state(world), CanaryState::Failed { .. }));
}

fn order(world: &mut World, decision: CanaryDecision) {
    world.intent.canary_order = Some(CanaryOrder {
        generation: world.intent.entry.generation,
        decision,
        by: "alice".to_owned(),
        reason: Some("too slow".to_owned()),
        at: world.now,
    });
}

#[test]
fn a_canary_takes_over_after_its_time() {
    let mut world = with_canary();
    assert_eq!(status(&world), (Condition::Progressing, Reason::Canary));
    world.wait(20);
    assert_eq!(serving(&world), (1, Some(2)), "before its time");
    world.wait(20);
    world.rest();
    assert!(world.is_ready_with(2), "{world:#?}");
    assert_eq!((serving(&world), state(&world)), ((2, None), CanaryState::Passed { early: None }));
    let canary = world.memory.canary.clone().unwrap();
    assert!(canary.count().requests >= 100 && canary.count().failed == 0, "{canary:?}");
}

#[test]
fn a_canary_that_fails_too_often_is_removed_before_its_time() {
    let mut world = with_canary();
    world.front.as_mut().unwrap().fails = true;
    world.wait(12);
    world.rest();
    is_rolled_back(&world);
    let message = &world.intent.bad[0].message;
    assert!(
        message.contains("failed as a canary: it met `5xx > 1%` (10 % of the visitors for "),
        "{message}"
    );
    assert_eq!(world.history.last().unwrap().origin, Some(Origin::AutomaticRollback));
}

#[test]
fn a_canary_that_crashes_or_hangs_is_removed() {
    for hangs in [false, true] {
        let mut world = with_canary();
        let canary = world.front.as_ref().unwrap().canary.clone().unwrap();
        if hangs {
            world.hung.insert(canary, world.now);
        } else {
            let index = world.observed.containers.iter().position(|seen| seen.id == canary).unwrap();
            world.exit(index, 1, false);
        }
        world.wait(10);
        world.rest();
        is_rolled_back(&world);
    }
}

#[test]
fn a_canary_that_crashed_keeps_its_address_while_the_proxy_may_use_it() {
    let mut world = with_canary();
    world.front.as_mut().unwrap().takes = Duration::from_secs(1);
    let canary = world.front.as_ref().unwrap().canary.clone().unwrap();
    let index = world.observed.containers.iter().position(|seen| seen.id == canary).unwrap();
    world.exit(index, 1, false);
    let exists = |world: &World| world.observed.containers.iter().any(|seen| seen.id == canary);
    for _ in 0..5 {
        world.wait_millis(100);
        assert_eq!(world.front.as_ref().unwrap().canary.as_ref(), Some(&canary));
        assert!(exists(&world), "{world:#?}");
    }
    world.rest();
    assert!(!exists(&world), "{world:#?}");
    is_rolled_back(&world);
}

#[test]
fn an_operator_promotes_or_aborts_a_canary() {
    let mut world = with_canary();
    order(&mut world, CanaryDecision::Promote);
    world.rest();
    assert!(world.is_ready_with(2), "{world:#?}");
    assert!(is_early(&world, "alice promoted it: too slow"), "{world:#?}");

    let mut world = with_canary();
    order(&mut world, CanaryDecision::Abort);
    world.rest();
    is_rolled_back(&world);
    let message = &world.intent.bad[0].message;
    assert!(message.contains("it was aborted by alice: too slow ("), "{message}");
}

#[test]
fn an_order_for_another_generation_says_nothing() {
    let mut world = with_canary();
    order(&mut world, CanaryDecision::Abort);
    world.intent.canary_order.as_mut().unwrap().generation = Generation(1);
    world.wait(5);
    assert_eq!(state(&world), CanaryState::UnderWay);
}

#[test]
fn a_version_that_is_requested_again_after_its_failure_gets_another_canary() {
    let mut world = with_canary();
    order(&mut world, CanaryDecision::Abort);
    world.rest();
    world.set(2);
    world.wait(15);
    assert_eq!(serving(&world), (1, Some(2)), "{world:#?}");
    world.rest();
    assert!(world.is_ready_with(2), "{world:#?}");
}

#[test]
fn a_newer_version_replaces_a_canary_and_begins_with_the_full_time() {
    let mut world = with_canary();
    world.wait(10);
    world.set(3);
    world.wait(20);
    assert_eq!(serving(&world), (1, Some(3)), "{world:#?}");
    let canary = world.memory.canary.clone().unwrap();
    assert!(canary.served_millis < 15_000, "{canary:?}");
    world.rest();
    assert!(world.is_ready_with(3), "{world:#?}");
}

#[test]
fn rollbacks_and_repairs_never_wait_for_a_canary() {
    let mut world = with_canary();
    world.record_again(world.history[0].clone(), world.now);
    world.intent.entry.origin = Some(Origin::Rollback);
    world.wait(1);
    assert_eq!(world.front.as_ref().unwrap().canary, None, "{world:#?}");
    world.rest();
    assert!(world.is_ready_with(1), "{world:#?}");

    world.set(2);
    world.intent.entry.origin = Some(Origin::Rollback);
    world.wait(20);
    assert!(world.is_ready_with(2), "{world:#?}");

    // Its container is lost, and made again.
    world.always_served = false;
    world.observed.containers.clear();
    world.wait(20);
    assert!(world.is_ready_with(2), "{world:#?}");
}

#[test]
fn an_edit_of_options_and_a_version_after_a_crash_take_over_at_once() {
    let mut world = world();
    world.edit(|options| options.init = false);
    world.wait(20);
    assert!(world.is_ready_with(1), "{world:#?}");
    assert_eq!(world.memory.canary, None);

    world.always_served = false;
    world.program(1, Program::crashes_after(1));
    world.exit(0, 1, false);
    world.wait(30);
    world.set(2);
    world.wait(20);
    assert_eq!(world.front.as_ref().unwrap().canary, None);
}

#[test]
fn a_hold_pauses_a_canary_and_resume_continues_it() {
    let mut world = with_canary();
    world.wait(5);
    let served = world.memory.canary.clone().unwrap().served_millis;
    world.hold();
    let held = world.history[0].clone();
    (world.intent.entry, world.intent.hold.as_mut().unwrap().generation) =
        (held.clone(), Some(held.generation));
    world.wait(300);
    assert_eq!(serving(&world), (1, None), "{world:#?}");
    let paused = world.memory.canary.clone().unwrap();
    assert!(paused.is_under_way() && paused.served_millis <= served + 1000, "{paused:?}");
    world.resume();
    world.wait(15);
    assert_eq!(serving(&world), (1, Some(2)), "{world:#?}");
    assert!(world.memory.canary.clone().unwrap().served_millis >= served);
    world.rest();
    assert!(world.is_ready_with(2), "{world:#?}");
}

#[test]
fn the_old_container_is_healed_beside_a_canary() {
    let mut world = with_canary();
    let old = world.front.as_ref().unwrap().serves.clone();
    let index = world.observed.containers.iter().position(|seen| Some(&seen.id) == old.as_ref()).unwrap();
    world.always_served = false;
    world.exit(index, 137, false);
    world.wait(5);
    assert_eq!(serving(&world), (1, Some(2)), "{world:#?}");
    world.rest();
    assert!(world.is_ready_with(2), "{world:#?}");
}

#[test]
fn a_canary_takes_over_early_if_the_old_version_does_not_last() {
    let mut world = with_canary();
    world.always_served = false;
    world.program(1, Program::crashes_after(1));
    let old = world.front.as_ref().unwrap().serves.clone();
    let index = world.observed.containers.iter().position(|seen| Some(&seen.id) == old.as_ref()).unwrap();
    world.exit(index, 1, false);
    world.wait(10);
    world.rest();
    assert!(world.is_ready_with(2), "{world:#?}");
    assert!(is_early(&world, "the old version crashes"), "{world:#?}");
}

#[test]
fn a_canary_survives_restarts_of_the_daemon() {
    let mut world = with_canary();
    world.wait(10);
    let before = world.memory.canary.clone().unwrap();
    world.restart_daemon();
    world.wait(2);
    assert_eq!(serving(&world), (1, Some(2)), "{world:#?}");
    let after = world.memory.canary.clone().unwrap();
    assert!(after.count().requests >= before.count().requests, "{after:?}");
    assert!(after.served_millis >= before.served_millis, "{after:?}");
    assert_eq!(after.container, before.container);
    world.rest();
    assert!(world.is_ready_with(2), "{world:#?}");
}

#[test]
fn a_daemon_that_is_killed_at_any_step_of_a_canary_loses_no_request() {
    for fails in [false, true] {
        for step in 0..14 {
            let mut world = world();
            world.forgets = true;
            world.front.as_mut().unwrap().fails = fails;
            world.killed_before = Some(step);
            world.set(2);
            world.wait(120);
            world.rest();
            let expected = if fails { 1 } else { 2 };
            assert_eq!(serving(&world), (expected, None), "killed before step {step}: {world:#?}");
        }
    }
}

#[test]
fn the_decision_about_a_canary_is_stored_before_it_is_carried_out() {
    let mut world = with_canary();
    let before = world.memory.clone();
    order(&mut world, CanaryDecision::Promote);
    let plan = world.plan();
    assert_eq!(plan.serving.as_ref(), before.canary.as_ref().map(|canary| &canary.container));
    assert!(must_be_stored(&before, &plan.memory));
}

#[test]
fn a_canary_that_is_no_longer_declared_takes_over() {
    let mut world = with_canary();
    world.intent.canary = None;
    world.rest();
    assert!(world.is_ready_with(2), "{world:#?}");
    assert!(is_early(&world, "no longer declares"), "{world:#?}");
}

#[test]
fn without_a_second_container_a_version_takes_over_with_a_warning() {
    let mut world = world();
    world.always_served = false;
    world.intent.update = Some(crate::model::spec::Update::StopFirst);
    world.set(2);
    world.rest();
    assert!(world.is_ready_with(2), "{world:#?}");
    assert_eq!(world.memory.canary, None);
    let warnings = world.plan().warnings;
    assert!(warnings.iter().any(|warning| warning.contains("without a canary")), "{warnings:?}");
}

#[test]
fn the_first_version_is_no_canary() {
    let mut world = World::empty();
    world.enter(Mode::Front);
    world.intent.canary = Some(declared());
    world.set(1);
    world.rest();
    assert!(world.is_ready_with(1), "{world:#?}");
    assert_eq!(world.memory.canary, None);
    let creates = world.done.iter().filter(|step| matches!(step, Step::Create { .. })).count();
    assert_eq!(creates, 1);
}
