//! A changing record: first deployment, updates, failed updates, superseded ones.

use std::time::Duration;

use super::world::{NAME, Program, World, digest, mount};
use crate::model::build::Acquisition;
use crate::model::container::Secret;
use crate::model::desired::Outcome;
use crate::model::memory::Memory;
use crate::model::name::{CommitId, Digest, Generation};
use crate::model::observed::{ContainerState, Observed, RegistryPresence};
use crate::model::reference::ImageRepository;
use crate::model::status::{Condition, Reason};
use crate::model::time::Timestamp;
use crate::plan::{Need, Step, SupplyKind, need, plan};

const UPDATE: [&str; 6] = ["create", "stop", "start", "remove", "rename", ""];

fn status(world: &World) -> (Condition, Reason) {
    let verdict = world.plan().verdict;
    (verdict.condition, verdict.reason)
}

#[test]
fn the_first_deployment_builds_records_and_starts() {
    let mut world = World::empty();
    world.push(1);
    let plan = world.rest();
    assert!(world.is_ready_with(1), "{plan:#?}");
    assert_eq!(world.take_done(), ["acquire", "record", "network", "volume", "create", "start"]);
    assert_eq!(plan.outcome, Some((Generation(1), Outcome::Ready)));
    assert_eq!(world.memory.good.as_ref().map(|good| good.generation), Some(Generation(1)));
}

#[test]
fn an_empty_record_yields_an_empty_plan() {
    let world = World::empty();
    let plan = world.plan();
    assert!(plan.steps.is_empty(), "{plan:#?}");
    assert_eq!(status(&world), (Condition::Blocked, Reason::NothingRecorded));
}

#[test]
fn an_update_removes_the_old_container_once_the_new_one_is_ready() {
    let mut world = World::running(1);
    let old = world.only().id.clone();
    world.set(2);
    world.wait(5);
    assert_eq!(status(&world), (Condition::Progressing, Reason::AwaitingHealth));
    assert!(world.observed.containers.iter().any(|container| container.id == old), "removed too early");
    let plan = world.rest();
    assert!(world.is_ready_with(2), "{plan:#?}");
    assert_eq!(world.take_done(), UPDATE[..5]);
    assert_eq!(plan.outcome, Some((Generation(2), Outcome::Ready)));
}

#[test]
fn a_new_generation_with_the_same_image_and_options_changes_nothing() {
    let mut world = World::running(1);
    world.set(1);
    let plan = world.rest();
    assert!(world.done.is_empty(), "{:?}", world.done);
    assert_eq!(plan.outcome, Some((Generation(2), Outcome::Ready)));
}

fn fails_and_rolls_back(program: Program) -> World {
    let mut world = World::running(1);
    world.program(2, program);
    world.set(2);
    world.wait(300);
    assert_eq!(world.only().name, NAME);
    assert_eq!(world.only().image, Some(digest(1)));
    assert_eq!(world.serving().len(), 1);
    let plan = world.plan();
    assert!(plan.steps.is_empty(), "{plan:#?}");
    assert_eq!(status(&world), (Condition::RolledBack, Reason::RolledBack));
    assert!(plan.verdict.message.contains("rolled back to generation 3, which is serving"), "{plan:#?}");
    assert_eq!(plan.outcome, Some((Generation(3), Outcome::Ready)));
    world
}

#[test]
fn an_update_that_the_engine_cannot_start_is_rolled_back() {
    let world = fails_and_rolls_back(Program::RefusesToStart);
    assert_eq!(world.intent.bad[0].reason, Reason::StartFailed);
    assert!(world.plan().verdict.message.contains("exec format error"));
}

#[test]
fn an_update_stopped_by_a_full_disk_is_retried_without_a_rollback() {
    let mut world = World::running(1);
    let before = world.intent.entry.generation;
    world.disk_is_full = true;
    world.set(2);
    let wanted = world.intent.entry.generation;
    world.wait(60);
    assert_eq!((world.only().image.clone(), world.serving().len()), (Some(digest(1)), 1));
    let plan = world.plan();
    assert_eq!(status(&world), (Condition::Degraded, Reason::StartFailed));
    assert!(plan.verdict.message.contains("no space left on device"), "{plan:#?}");
    assert!(plan.outcome.as_ref().is_none_or(|(of, _)| *of == before), "{:?}", plan.outcome);
    assert_eq!(world.intent.entry.generation, wanted, "the record went back");
    assert!(world.intent.bad.is_empty());
    world.disk_is_full = false;
    world.wait(400);
    assert!(world.is_ready_with(2), "{world:#?}");
}

#[test]
fn a_crashing_update_is_rolled_back_and_its_output_redacted() {
    let world = fails_and_rolls_back(Program::crashes_after(3));
    assert_eq!(world.intent.bad[0].reason, Reason::StartFailed);
    let message = world.plan().verdict.message;
    assert!(message.contains("exited with code 1"), "{message}");
    assert!(message.contains("cannot log in with [redacted]"), "{message}");
}

#[test]
fn an_update_that_never_becomes_ready_is_rolled_back() {
    let world = fails_and_rolls_back(Program::NeverAnswers);
    assert_eq!(world.intent.bad[0].reason, Reason::NeverReady);
}

#[test]
fn a_failed_update_is_not_retried_until_requested() {
    let mut world = fails_and_rolls_back(Program::NeverAnswers);
    world.done.clear();
    assert_eq!(world.wait(24 * 3600), 0, "{:?}", world.take_done());
    world.program(2, Program::Good);
    world.set(2);
    world.rest();
    assert!(world.is_ready_with(2));
}

#[test]
fn a_new_generation_of_the_same_image_retries_a_failed_update() {
    let mut world = fails_and_rolls_back(Program::RefusesToStart);
    world.program(2, Program::Good);
    world.set(2);
    world.rest();
    assert!(world.is_ready_with(2));
}

#[test]
fn a_rollback_survives_removal_of_the_old_container() {
    let mut world = fails_and_rolls_back(Program::NeverAnswers);
    world.observed.containers.clear();
    let plan = world.rest();
    assert_eq!(plan.verdict.condition, Condition::RolledBack);
    assert_eq!(world.only().image, Some(digest(1)));
    world.restart_daemon();
    world.wait(300);
    assert_eq!(status(&world), (Condition::RolledBack, Reason::RolledBack));
}

#[test]
fn a_generation_recorded_during_an_update_supersedes_it() {
    let mut world = World::running(1);
    world.program(2, Program::NeverAnswers);
    world.set(2);
    world.wait(5);
    world.set(3);
    world.rest();
    assert!(world.is_ready_with(3));
    let second = |step: &Step| matches!(step, Step::Create { spec, .. } if spec.image == digest(2));
    assert_eq!(world.done.iter().filter(|step| second(step)).count(), 1);
}

#[test]
fn a_rollback_during_an_update_restarts_the_old_container() {
    let mut world = World::running(1);
    let old = world.only().id.clone();
    world.set(2);
    world.wait(5);
    world.set(1);
    world.rest();
    assert!(world.is_ready_with(1));
    assert_eq!(world.only().id, old);
}

#[test]
fn while_a_new_image_is_being_built_the_old_one_serves_and_heals() {
    let mut world = World::running(1);
    world.push(2);
    world.wait(5);
    world.exit(0, 137, false);
    world.wait(1);
    assert_eq!(world.serving().len(), 1);
    let verdict = world.plan().verdict;
    assert_eq!((verdict.condition, verdict.reason), (Condition::Progressing, Reason::Building));
    world.rest();
    assert!(world.is_ready_with(2));
}

#[test]
fn a_failed_build_is_reported_and_not_repeated_until_sync() {
    let mut world = World::running(1);
    world.program(2, Program::DoesNotBuild);
    world.push(2);
    world.wait(3600);
    assert_eq!(status(&world), (Condition::Degraded, Reason::BuildFailed));
    assert_eq!((world.jobs_begun, world.serving().len()), (1, 1));
    world.program(2, Program::Good);
    world.sync();
    world.rest();
    assert!(world.is_ready_with(2));
}

#[test]
fn a_burst_of_a_thousand_generations_costs_at_most_two_builds() {
    for apart in [0, 1, 50, 100, 900, 2_900] {
        let mut world = World::empty();
        for push in 0..1000_u32 {
            world.push(u8::try_from(push % 200).unwrap());
            world.pass();
            world.pass();
            world.advance(world.now.after(Duration::from_millis(apart)));
        }
        world.rest();
        assert!(world.jobs_begun <= 2, "{} builds at {apart} ms", world.jobs_begun);
        assert!(world.is_ready_with(199));
    }
}

#[test]
fn a_missing_promoted_image_is_reported_and_the_old_one_keeps_serving() {
    let mut world = World::running(1);
    world.promote(2);
    let plan = world.rest();
    assert!(world.done.is_empty());
    assert_eq!((plan.verdict.condition, plan.verdict.reason), (Condition::Degraded, Reason::ImageNotFound));
    assert!(plan.verdict.message.contains("keeps serving"), "{plan:#?}");
    world.observed.images.insert(digest(2));
    world.rest();
    assert!(world.is_ready_with(2));
}

#[test]
fn a_digest_missing_in_the_registry_is_pulled_again_later() {
    let mut world = World::running(1);
    world.promote(2);
    let repository: ImageRepository = "localhost:5000/shop/app".parse().unwrap();
    let image = world.intent.entry.image.clone().unwrap();
    world.intent.entry.image = Some(image.pushed(&repository, &Digest::of_sha256(&[7; 32])));
    let failed = |reason, ago| {
        let at = Timestamp::from_millis(world.now.as_millis() - ago);
        let message = "the registry has no such image".to_owned();
        let seen = Observed { acquisition: Acquisition::Failed { reason, message, at }, ..world.seen() };
        plan(&world.intent, &seen, &world.memory, world.now)
    };
    let early = failed(Reason::ImageNotFound, 299_000);
    assert_eq!((early.verdict.reason, early.steps.len()), (Reason::ImageNotFound, 0), "{early:#?}");
    assert_eq!(early.requeue_at, Some(world.now.after(Duration::from_secs(1))));
    let later = failed(Reason::ImageNotFound, 300_000);
    assert!(matches!(later.steps[0].step, Step::Acquire(Need::Pull { .. })), "{later:#?}");
    let build = failed(Reason::BuildFailed, 300_000);
    assert_eq!((build.steps.len(), build.requeue_at), (0, None), "the same inputs fail again");
}

#[test]
fn a_missing_promoted_image_blocks_if_nothing_serves() {
    let mut world = World::empty();
    world.promote(2);
    assert_eq!(status(&world), (Condition::Blocked, Reason::ImageNotFound));
}

#[test]
fn an_image_removed_from_under_a_running_container_is_built_again() {
    let mut world = World::empty();
    world.push(1);
    world.rest();
    world.observed.images.clear();
    world.rest();
    assert_eq!((world.jobs_begun, world.observed.images.len()), (2, 1));
    assert!(world.is_ready_with(1));
    assert_eq!(world.intent.entry.generation, Generation(1));
}

#[test]
fn a_rebuild_yielding_another_image_creates_a_generation() {
    let mut world = World::empty();
    world.irreproducible = true;
    world.push(1);
    world.rest();
    world.observed.images.clear();
    world.rest();
    assert!(world.is_ready_with(101), "{world:?}");
    assert_eq!(world.intent.entry.generation, Generation(2));
}

#[test]
fn a_bad_update_of_a_removed_container_restores_the_good_image() {
    for program in [Program::NeverAnswers, Program::crashes_after(3), Program::RefusesToStart] {
        let mut world = World::running(1);
        world.observed.containers.clear();
        world.program(2, program);
        world.set(2);
        world.wait(120);
        assert_eq!(world.only().image, Some(digest(1)), "{world:?}");
        assert_eq!(world.plan().verdict.condition, Condition::RolledBack);
        assert_eq!(world.only().name, NAME);
    }
}

#[test]
fn a_failure_of_an_earlier_generation_does_not_fail_the_new_one() {
    let mut world = World::running(1);
    world.set(2);
    world.wait(5);
    world.exit(1, 137, false);
    world.set(2);
    world.rest();
    assert!(world.is_ready_with(2), "{world:?}");
}

#[test]
fn an_unobtainable_image_of_a_running_container_is_reported() {
    let mut world = World::running(1);
    world.observed.images.clear();
    let plan = world.rest();
    assert!(world.done.is_empty());
    assert_eq!((plan.verdict.condition, plan.verdict.reason), (Condition::Degraded, Reason::ImageNotFound));
    let (intent, observed) = (&world.intent, &world.observed);
    let need = need(intent, &observed.images, &observed.registry_presence, None);
    assert_ne!(need, Need::Nothing);
}

#[test]
fn an_image_lost_by_the_registry_is_pushed_or_rebuilt() {
    let mut world = World::running(1);
    let repository: ImageRepository = "localhost:5000/shop/app".parse().unwrap();
    let id = world.intent.entry.image.as_ref().unwrap().id.clone().unwrap();
    let revision = CommitId::new("1".repeat(40)).unwrap();
    world.intent.supply = SupplyKind::Build;
    world.intent.entry.revision = Some(revision.clone());
    world.intent.entry.image =
        Some(world.intent.entry.image.clone().unwrap().pushed(&repository, &Digest::of_sha256(&[7; 32])));
    let asked = |world: &World| {
        let (intent, observed) = (&world.intent, &world.observed);
        need(intent, &observed.images, &observed.registry_presence, None)
    };
    assert_eq!(asked(&world), Need::Nothing);
    world.observed.registry_presence = RegistryPresence { is_lost: true, push_to: Some(repository.clone()) };
    assert_eq!(asked(&world), Need::Push { id, repository });
    world.observed.images.clear();
    assert_eq!(asked(&world), Need::Build { revision });
    // Without a build, only the registry could have it.
    world.intent.supply = SupplyKind::Named;
    assert!(matches!(asked(&world), Need::Pull { .. }));
}

#[test]
fn a_held_environment_heals_but_applies_no_new_generation() {
    let mut world = World::running(1);
    world.hold();
    world.set(2);
    world.exit(0, 1, false);
    let plan = world.rest();
    assert_eq!((plan.verdict.condition, plan.verdict.reason), (Condition::Held, Reason::HeldByPerson));
    assert_eq!(world.take_done(), ["start"]);
    assert_eq!(world.only().image, Some(digest(1)));
    world.resume();
    world.rest();
    assert!(world.is_ready_with(2));
}

#[test]
fn a_held_environment_without_a_record_stays_empty() {
    let mut world = World::empty();
    world.hold();
    world.set(1);
    let plan = world.rest();
    assert!(world.observed.containers.is_empty());
    assert_eq!(plan.verdict.condition, Condition::Held);
}

#[test]
fn an_option_edit_reports_the_variable_name_but_not_its_value() {
    let mut world = World::running(1);
    world.edit(|options| {
        options.env.insert("PASSWORD".to_owned(), Secret::new("battery-staple-horse"));
    });
    let plan = world.plan();
    assert_eq!(plan.differences, ["the environment variable PASSWORD has a different value"]);
    assert!(!format!("{plan:?}").contains("battery-staple"), "{plan:?}");
    world.rest();
    assert!(world.is_ready_with(1));
}

#[test]
fn a_never_started_container_is_not_a_rollback_target() {
    let mut world = World::empty();
    world.program(1, Program::RefusesToStart);
    world.set(1);
    world.pass();
    assert_eq!(world.only().state, ContainerState::Created);
    world.program(2, Program::RefusesToStart);
    world.set(2);
    world.wait(60);
    assert_eq!(status(&world), (Condition::Degraded, Reason::StartFailed));
    assert_eq!(world.only().image, Some(digest(2)), "an older wish came back");
}

#[test]
fn a_leftover_replacement_is_removed_before_the_next_one_is_created() {
    let mut world = World::running(1);
    world.killed_before = Some(1);
    world.set(2);
    world.pass();
    assert_eq!(world.take_done(), ["create"]);
    world.set(3);
    world.rest();
    assert_eq!(world.take_done()[..2], ["remove", "create"]);
    assert!(world.is_ready_with(3));
}

#[test]
fn a_new_declared_volume_is_created() {
    let mut world = World::running(1);
    world.edit(|options| options.volumes.push(mount("uploads")));
    world.rest();
    assert!(world.observed.volumes.contains("uploads"));
    assert!(world.is_ready_with(1));
    assert_eq!(world.memory, Memory { ..world.plan().memory });
}

#[test]
fn a_replacement_whose_name_is_taken_serves_and_reports_the_conflict() {
    let mut world = World::running(1);
    world.set(2);
    world.wait(5);
    world.observed.containers.remove(0);
    world.foreign_takes_name();
    let plan = world.rest();
    assert_eq!((plan.verdict.condition, plan.verdict.reason), (Condition::Blocked, Reason::NameConflict));
    assert_eq!(world.serving().len(), 1);
    world.observed.name_holder = None;
    world.rest();
    assert!(world.is_ready_with(2));
}

#[test]
fn an_unstartable_good_image_does_not_alternate_with_the_failed_one() {
    let mut world = World::running(1);
    world.program(2, Program::NeverAnswers);
    world.observed.containers.clear();
    world.set(2);
    world.wait(20);
    world.program(1, Program::RefusesToStart);
    let acts = world.wait(3600);
    assert!(acts < 40, "{acts} acts: {world:?}");
    let starts = |step: &&Step| matches!(step, Step::Create { spec, .. } if spec.image == digest(2));
    assert_eq!(world.done.iter().filter(starts).count(), 1);
}
