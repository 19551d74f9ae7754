//! Commands that run once for each image, before and after a release.

use super::world::{NAME, Program, World, digest};
use crate::model::cause::EndedBy;
use crate::model::container::Secret;
use crate::model::desired::{Origin, Outcome};
use crate::model::name::Generation;
use crate::model::status::{Condition, Reason};
use crate::plan::PlannedStatus;

fn verdict(world: &World) -> (Condition, Reason) {
    let PlannedStatus { condition, reason, .. } = world.plan().verdict;
    (condition, reason)
}

/// Ends the running command well, and expects image `version` to serve.
fn finish(world: &mut World, version: u8) {
    world.end_command(0);
    world.rest();
    assert!(world.is_ready_with(version), "{world:?}");
}

/// Image 1 was released, and image 2 is recorded; its command runs.
fn releasing() -> World {
    let mut world = World::empty();
    world.release("migrate");
    world.set(1);
    world.wait(1);
    assert!(world.is_command_running());
    finish(&mut world, 1);
    world.set(2);
    world.done.clear();
    world.wait(1);
    world
}

#[test]
fn a_version_gets_its_container_only_after_its_release_command() {
    let mut world = releasing();
    assert_eq!(world.take_done(), ["remove", "create command", "start command"]);
    assert_eq!(world.only().image, Some(digest(1)), "the old version serves");
    assert_eq!(verdict(&world), (Condition::Progressing, Reason::Releasing));
    let message = world.plan().verdict.message;
    assert!(message.contains("the release command of generation 2 is running"), "{message}");
    assert!(message.contains("generation 1 keeps serving"), "{message}");
    finish(&mut world, 2);
    assert_eq!(world.commands_run, [digest(1), digest(2)]);
}

#[test]
fn a_failed_release_command_gives_up_the_version_until_it_is_set() {
    let mut world = releasing();
    world.done.clear();
    world.end_command(3);
    world.rest();
    let plan = world.plan();
    assert_eq!((plan.verdict.condition, plan.verdict.reason), (Condition::RolledBack, Reason::RolledBack));
    assert!(plan.verdict.message.contains("exited with code 3; its last output"), "{plan:?}");
    assert_eq!(world.take_done(), ["roll back"], "what serves is not touched");
    assert_eq!(world.intent.bad[0].reason, Reason::ReleaseFailed);
    world.record_again(world.history[1].clone(), world.now);
    world.intent.entry.origin = Some(Origin::Push);
    world.rest();
    assert_eq!(world.commands_run.len(), 2, "a push of the same image does not try it again");
    world.set(2);
    world.wait(1);
    assert_eq!(world.commands_run.len(), 3);
    finish(&mut world, 2);
}

#[test]
fn the_first_version_does_not_start_if_its_release_command_fails() {
    let mut world = World::empty();
    world.release("migrate");
    world.set(1);
    world.wait(1);
    world.end_command(1);
    let plan = world.rest();
    assert_eq!((plan.verdict.condition, plan.verdict.reason), (Condition::Degraded, Reason::ReleaseFailed));
    assert!(matches!(plan.outcome, Some((Generation(1), Outcome::Failed(_)))), "{plan:?}");
    assert!(world.observed.containers.is_empty());
    world.wait(3600);
    assert_eq!(world.commands_run.len(), 1, "it is not tried again by itself");
    world.sync();
    world.wait(1);
    assert_eq!(world.commands_run.len(), 2);
    finish(&mut world, 1);
}

#[test]
fn only_a_new_image_runs_the_release_command() {
    let mut world = releasing();
    world.end_command(0);
    world.rest();
    world.exit(0, 1, false);
    world.rest();
    world.observed.containers.clear();
    world.rest();
    world.edit(|options| drop(options.env.insert("A".to_owned(), Secret::new("b"))));
    world.rest();
    world.set(1);
    world.intent.entry.origin = Some(Origin::Rollback);
    world.rest();
    assert!(world.is_ready_with(1), "{world:?}");
    assert_eq!(world.commands_run.len(), 2);
    world.observed.one_offs.clear();
    world.set(2);
    world.rest();
    assert!(world.is_ready_with(2), "its container is not needed: {world:?}");
    assert_eq!(world.commands_run.len(), 2);
}

#[test]
fn an_edited_release_command_runs_once_beside_the_serving_version() {
    let mut world = releasing();
    world.end_command(0);
    world.rest();
    let container = world.only().id.clone();
    world.release("migrate --again");
    world.wait(1);
    assert_eq!(world.commands_run.len(), 3);
    world.end_command(1);
    world.rest();
    assert_eq!(verdict(&world), (Condition::Degraded, Reason::ReleaseFailed));
    assert_eq!(world.only().id, container, "what serves is not touched");
    world.intent.hooks.release = None;
    world.rest();
    assert!(world.is_ready_with(2) && world.observed.one_offs.is_empty(), "{world:?}");
}

#[test]
fn a_release_command_runs_once_despite_a_daemon_kill_at_any_step() {
    for step in 0..4 {
        for forgets in [false, true] {
            let mut world = World::running(1);
            world.forgets = forgets;
            world.release("migrate");
            world.wait(1);
            world.end_command(0);
            world.rest();
            world.set(2);
            world.killed_before = Some(step);
            world.wait(1);
            world.restart_daemon();
            world.end_command(0);
            world.rest();
            assert!(world.is_ready_with(2), "{step}: {world:?}");
            assert_eq!(world.commands_run, [digest(1), digest(2)], "{step}");
        }
    }
}

#[test]
fn an_interrupted_release_command_is_retried_unless_its_result_is_lost() {
    let mut world = releasing();
    world.interrupt_command(EndedBy::Absence);
    world.wait(1);
    assert_eq!(world.commands_run.len(), 3, "{world:?}");
    world.interrupt_command(EndedBy::Hand);
    world.pass();
    assert_eq!(verdict(&world), (Condition::Degraded, Reason::Interrupted));
    world.wait(3);
    assert_eq!(world.commands_run.len(), 4, "later, with backoff");
    world.observed.one_offs.clear();
    world.rest();
    assert_eq!(verdict(&world).1, Reason::ReleaseFailed);
    assert!(world.plan().verdict.message.contains("abide sync dev"), "{world:?}");
    assert_eq!(world.commands_run.len(), 4, "nobody knows whether it succeeded");
    assert!(world.intent.bad.is_empty());
    world.sync();
    world.wait(1);
    finish(&mut world, 2);
}

#[test]
fn a_release_command_that_times_out_is_stopped_and_fails() {
    let mut world = releasing();
    world.wait(598);
    assert!(world.is_command_running());
    world.wait(3);
    world.rest();
    assert!(!world.is_command_running());
    assert!(world.intent.bad[0].message.contains("did not end within 10m"), "{:?}", world.intent.bad);
    assert_eq!(world.only().image, Some(digest(1)));
}

#[test]
fn a_release_command_that_cannot_start_counts_as_failed() {
    let mut world = World::running(1);
    world.program(2, Program::RefusesToStart);
    world.release("migrate");
    world.wait(1);
    world.end_command(0);
    world.set(2);
    world.rest();
    assert!(world.intent.bad[0].message.contains("cannot be run: exec"), "{:?}", world.intent.bad);
    assert_eq!(world.only().image, Some(digest(1)));
}

#[test]
fn a_failing_after_command_leaves_the_version_serving() {
    let mut world = World::running(1);
    world.after_release("warm");
    world.set(2);
    world.wait(20);
    assert_eq!(world.only().image, Some(digest(2)));
    assert_eq!(verdict(&world), (Condition::Progressing, Reason::Releasing));
    assert_eq!(world.commands_run, [digest(2)]);
    world.end_command(7);
    world.rest();
    assert_eq!(verdict(&world), (Condition::Degraded, Reason::ReleaseFailed));
    assert_eq!((world.only().name.as_str(), &world.only().image), (NAME, &Some(digest(2))));
    world.sync();
    world.wait(1);
    finish(&mut world, 2);
}

#[test]
fn release_commands_of_two_versions_never_overlap() {
    let mut world = releasing();
    world.set(3);
    world.wait(1);
    assert_eq!(world.commands_run.len(), 2, "two commands would run at once");
    world.end_command(0);
    world.wait(1);
    assert_eq!(world.commands_run.len(), 3);
    finish(&mut world, 3);
}
