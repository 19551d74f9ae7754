//! Versions that are given up, and the record that is rolled back.

use super::world::{NAME, Program, World, commit, digest, image, kind};
use crate::model::desired::{Desired, Origin, Outcome};
use crate::model::name::Generation;
use crate::model::status::{Condition, Reason};
use crate::plan::Step;

fn status(world: &World) -> (Condition, Reason) {
    let verdict = world.plan().verdict;
    (verdict.condition, verdict.reason)
}

fn rollbacks(world: &World) -> usize {
    let automatic = |origin: Option<Origin>| origin == Some(Origin::AutomaticRollback);
    world.history.iter().filter(|entry| automatic(entry.origin)).count()
}

fn makes(world: &World, number: u8) -> usize {
    let is_it = |step: &&Step| matches!(step, Step::Create { spec, .. } if spec.image == digest(number));
    world.done.iter().filter(is_it).count()
}

/// Whether the record was rolled back to image `number`, which runs alone, and the world is at rest.
fn is_rolled_back_to(world: &World, number: u8) -> bool {
    let plan = world.plan();
    let only = world.only();
    plan.steps.is_empty()
        && (plan.verdict.condition, plan.verdict.reason) == (Condition::RolledBack, Reason::RolledBack)
        && world.intent.entry.origin == Some(Origin::AutomaticRollback)
        && world.intent.entry.image == Some(image(number))
        && (only.name.as_str(), only.image.clone()) == (NAME, Some(digest(number)))
        && world.serving().len() == 1
}

/// Image 1 ran, and the image of the next push failed.
fn failed_push(program: Program) -> World {
    let mut world = World::running(1);
    world.program(2, program);
    world.push(2);
    world.rest();
    world
}

#[test]
fn a_failed_version_is_rolled_back_once_the_good_image_runs() {
    let mut world = failed_push(Program::NeverAnswers);
    assert!(is_rolled_back_to(&world, 1), "{world:?}");
    let steps = world.take_done();
    let done = ["acquire", "record", "create", "stop", "start", "stop", "start", "remove", "roll back"];
    assert_eq!(steps, done);
    let plan = world.plan();
    assert_eq!(plan.outcome, Some((Generation(3), Outcome::Ready)));
    let [bad] = world.intent.bad.as_slice() else { panic!("{:?}", world.intent.bad) };
    assert_eq!((bad.generation, &bad.image, &bad.revision), (Generation(2), &image(2), &Some(commit(2))));
    assert_eq!(bad.reason, Reason::NeverReady);
    assert!(plan.verdict.message.contains("was not ready within 30s of its start"), "{plan:#?}");
    assert!(plan.verdict.message.contains("rolled back to generation 3"), "{plan:#?}");
}

#[test]
fn a_rollback_reports_the_exit_and_the_last_output() {
    let world = failed_push(Program::Ends {
        after: std::time::Duration::from_secs(2),
        code: 137,
        out_of_memory: true,
    });
    assert!(is_rolled_back_to(&world, 1), "{world:?}");
    let message = world.plan().verdict.message;
    assert!(message.contains("generation 2 (commit"), "{message}");
    assert!(message.contains("was killed because it ran out of memory"), "{message}");
    assert!(message.contains("its last output: cannot log in with [redacted]"), "{message}");
}

#[test]
fn a_rollback_in_progress_is_never_reported_as_ready_or_failed() {
    let mut world = World::running(1);
    world.program(2, Program::NeverAnswers);
    world.set(2);
    while rollbacks(&world) == 0 {
        let verdict = world.pass().verdict;
        assert_eq!(verdict.condition, Condition::Progressing, "{verdict:?}");
        if world.plan().steps.is_empty() {
            world.wait(1);
        }
    }
    let verdict = world.plan().verdict;
    assert_eq!((verdict.condition, verdict.reason), (Condition::Progressing, Reason::RolledBack));
    assert!(verdict.message.contains("was not ready"), "{verdict:?}");
    world.rest();
    assert!(is_rolled_back_to(&world, 1));
}

#[test]
fn a_rollback_is_recorded_once_the_good_image_runs_again() {
    let mut world = World::running(1);
    world.program(2, Program::NeverAnswers);
    world.set(2);
    world.wait(5);
    let old = world.observed.containers.iter().position(|seen| seen.image == Some(digest(1))).unwrap();
    world.observed.containers.remove(old);
    world.program(1, Program::RefusesToStart);
    world.wait(600);
    assert_eq!(rollbacks(&world), 0);
    assert_eq!(status(&world), (Condition::Degraded, Reason::StartFailed));
    world.program(1, Program::Good);
    world.wait(600);
    assert!(is_rolled_back_to(&world, 1), "{world:?}");
}

#[test]
fn a_push_of_a_known_bad_image_is_rolled_back_without_trying_it() {
    let mut world = failed_push(Program::NeverAnswers);
    world.push(2);
    world.done.clear();
    world.rest();
    assert!(is_rolled_back_to(&world, 1), "{world:?}");
    assert_eq!(world.take_done(), ["record", "roll back"], "nothing that serves was touched");
    assert!(world.plan().verdict.message.contains("failed before, in generation 2"), "{:?}", world.plan());
    assert_eq!(world.intent.bad.len(), 1);
}

#[test]
fn a_good_push_ends_a_rollback() {
    let mut world = failed_push(Program::crashes_after(2));
    world.push(3);
    world.rest();
    assert!(world.is_ready_with(3), "{world:?}");
    assert_eq!(rollbacks(&world), 1);
}

#[test]
fn a_bad_image_set_explicitly_is_tried_again() {
    let mut world = failed_push(Program::NeverAnswers);
    world.done.clear();
    world.set(2);
    world.rest();
    assert_eq!(makes(&world, 2), 1);
    assert!(is_rolled_back_to(&world, 1), "it failed again");
    world.program(2, Program::Good);
    world.set(2);
    world.rest();
    assert!(world.is_ready_with(2));
    world.push(2);
    world.rest();
    assert!(world.is_ready_with(2), "it was lifted");
}

#[test]
fn sync_does_not_try_a_bad_image_again() {
    let mut world = failed_push(Program::NeverAnswers);
    world.program(2, Program::Good);
    world.done.clear();
    world.sync();
    world.wait(3600);
    assert!(is_rolled_back_to(&world, 1));
    assert!(world.done.is_empty(), "{:?}", world.take_done());
}

#[test]
fn a_failing_first_version_is_not_rolled_back() {
    for program in [Program::NeverAnswers, Program::crashes_after(2), Program::RefusesToStart] {
        let mut world = World::empty();
        world.program(1, program);
        world.set(1);
        world.wait(600);
        assert_eq!(status(&world).0, Condition::Degraded, "{program:?}");
        assert_eq!((rollbacks(&world), world.intent.bad.len()), (0, 0));
    }
}

#[test]
fn a_failed_build_causes_no_rollback() {
    let mut world = failed_push(Program::DoesNotBuild);
    assert_eq!(status(&world), (Condition::Degraded, Reason::BuildFailed));
    assert_eq!((rollbacks(&world), world.serving().len()), (0, 1));
    world.rest();
}

#[test]
fn a_failing_option_edit_causes_no_rollback_and_changes_no_outcome() {
    let mut world = World::running(1);
    world.foreign_has_port = true;
    world.edit(|options| options.init = false);
    world.pass();
    world.foreign_has_port = false;
    world.wait(60);
    assert_eq!(status(&world), (Condition::Degraded, Reason::StartFailed));
    assert_eq!((rollbacks(&world), world.intent.bad.len()), (0, 0));
    assert_eq!((world.plan().outcome, world.serving().len()), (None, 1));
}

#[test]
fn a_bad_image_is_rolled_back_but_the_edited_option_is_kept() {
    let mut world = World::running(1);
    world.program(2, Program::NeverAnswers);
    world.edit(|options| options.init = false);
    world.set(2);
    world.rest();
    assert!(is_rolled_back_to(&world, 1), "{world:?}");
    assert!(!world.only().init, "the option is the manifest's, whatever the record says");
}

#[test]
fn a_held_environment_is_not_rolled_back_until_it_is_resumed() {
    let mut world = World::running(1);
    world.program(2, Program::NeverAnswers);
    world.set(2);
    world.hold();
    world.rest();
    assert_eq!(status(&world), (Condition::Degraded, Reason::NeverReady));
    assert_eq!((rollbacks(&world), world.only().image.clone()), (0, Some(digest(1))));
    world.resume();
    world.rest();
    assert!(is_rolled_back_to(&world, 1));
}

#[test]
fn a_rolled_back_environment_can_be_held() {
    let mut world = failed_push(Program::NeverAnswers);
    world.hold();
    assert_eq!(status(&world), (Condition::Held, Reason::HeldByPerson));
    world.resume();
    assert!(is_rolled_back_to(&world, 1));
}

#[test]
fn an_unresponsive_engine_does_not_fail_a_replacement() {
    for failing in 0..6 {
        let mut world = World::running(1);
        world.is_silent = true;
        world.failing.insert(failing);
        world.set(2);
        world.rest();
        assert!(world.is_ready_with(2), "call {failing}: {world:?}");
        assert_eq!(rollbacks(&world), 0);
    }
}

/// Image 2 replaced image 1 and became ready.
fn replaced() -> World {
    let mut world = World::running(1);
    world.set(2);
    world.rest();
    assert!(world.is_ready_with(2));
    world.done.clear();
    world
}

fn crash(world: &mut World, times: usize) {
    for _ in 0..times {
        world.exit(0, 1, false);
        world.wait(20);
    }
}

#[test]
fn a_version_that_crashes_three_times_within_ten_minutes_is_given_up() {
    let mut world = replaced();
    crash(&mut world, 2);
    assert!(world.is_ready_with(2), "two crashes are healed");
    crash(&mut world, 1);
    world.rest();
    assert!(is_rolled_back_to(&world, 1), "{world:?}");
    let message = world.plan().verdict.message;
    let expected = "crashed 3 times within 10m of becoming ready; the last time it exited with code 1";
    assert!(message.contains(expected), "{message}");
    assert_eq!(world.intent.bad[0].reason, Reason::CrashLoop);
    world.push(3);
    world.rest();
    assert!(world.is_ready_with(3));
}

#[test]
fn the_good_image_runs_before_the_crashing_version_is_removed() {
    let mut world = replaced();
    crash(&mut world, 3);
    world.rest();
    let done: Vec<_> = world.done.iter().map(kind).skip_while(|step| *step == "start").collect();
    assert_eq!(done, ["create", "start", "roll back", "remove", "rename"]);
}

#[test]
fn a_version_that_crashes_later_is_healed_and_not_given_up() {
    let mut world = replaced();
    world.wait(580);
    crash(&mut world, 6);
    assert_eq!((rollbacks(&world), world.only().image.clone()), (0, Some(digest(2))));
}

#[test]
fn a_crashing_version_without_a_good_predecessor_backs_off() {
    let mut world = World::running(1);
    world.program(1, Program::crashes_after(1));
    world.exit(0, 1, false);
    world.wait(60);
    assert_eq!(status(&world), (Condition::Degraded, Reason::CrashLoop));
    assert_eq!(rollbacks(&world), 0);
}

#[test]
fn a_crashing_version_is_kept_if_the_good_image_is_missing() {
    let mut world = replaced();
    world.observed.images.remove(&digest(1));
    crash(&mut world, 4);
    assert_eq!((rollbacks(&world), world.only().image.clone()), (0, Some(digest(2))));
}

#[test]
fn a_restart_rejected_by_the_engine_does_not_count_as_a_crash() {
    let mut world = replaced();
    world.foreign_has_port = true;
    world.exit(0, 1, false);
    world.wait(300);
    assert!(world.memory.crashes.count > 3, "{:?}", world.memory.crashes);
    world.foreign_has_port = false;
    world.wait(300);
    assert!(world.is_ready_with(2));
    assert_eq!(rollbacks(&world), 0);
}

#[test]
fn a_rollback_that_crashes_is_never_rolled_back() {
    let mut world = failed_push(Program::NeverAnswers);
    world.program(1, Program::crashes_after(3));
    world.exit(0, 1, false);
    let generations = world.history.len();
    let acts = world.wait(3600);
    assert!(acts < 40, "{acts} acts in an hour");
    assert_eq!(status(&world), (Condition::Degraded, Reason::CrashLoop));
    assert_eq!((world.history.len(), world.only().image.clone()), (generations, Some(digest(1))));
}

#[test]
fn a_failing_rollback_target_does_not_cause_a_rollback_loop() {
    for program in [Program::NeverAnswers, Program::crashes_after(3), Program::RefusesToStart] {
        let mut world = replaced();
        world.program(1, program);
        crash(&mut world, 3);
        world.wait(3600);
        assert!(rollbacks(&world) <= 1, "{world:?}");
        assert_eq!(status(&world).0, Condition::Degraded, "{program:?}");
        let (generations, before) = (world.history.len(), makes(&world, 1) + makes(&world, 2));
        let acts = world.wait(3600);
        assert!(acts <= 60, "{program:?}: {acts} acts in an hour");
        assert_eq!((world.history.len(), makes(&world, 1) + makes(&world, 2)), (generations, before));
    }
}

#[test]
fn a_daemon_killed_before_any_step_of_a_rollback_completes_it() {
    let pushed = || {
        let mut world = World::running(1);
        world.program(2, Program::NeverAnswers);
        world.set(2);
        world.wait(20);
        world
    };
    let crashed = || {
        let mut world = replaced();
        crash(&mut world, 2);
        world.exit(0, 1, false);
        world
    };
    let stories: [fn() -> World; 2] = [pushed, crashed];
    for (number, story) in stories.into_iter().enumerate() {
        for step in 0..8 {
            let mut world = story();
            world.killed_before = Some(step);
            world.rest();
            assert!(is_rolled_back_to(&world, 1), "story {number}, before step {step}: {world:?}");
            assert_eq!(rollbacks(&world), 1);
        }
    }
}

#[test]
fn the_number_of_remembered_bad_images_is_limited() {
    let mut world = World::running(1);
    for number in 10..40 {
        world.program(number, Program::RefusesToStart);
        world.set(number);
        world.rest();
    }
    assert!(is_rolled_back_to(&world, 1));
    assert_eq!(world.intent.bad.len(), Desired::BAD_KEPT);
}
