//! Programs that are meant to end: `restart = "on-failure"`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::world::{Program, World, digest};
use crate::model::cause::EndedBy;
use crate::model::desired::{Origin, Outcome};
use crate::model::name::Generation;
use crate::model::observed::ContainerState;
use crate::model::spec::RestartMode;
use crate::model::status::{Condition, Reason};

fn ends(code: i64) -> Program {
    Program::Ends { after: Duration::from_secs(3), code, out_of_memory: false }
}

fn world() -> World {
    let mut world = World::empty();
    world.intent.restart = RestartMode::OnFailure;
    world
}

/// Image 1 ran once, and is complete.
fn complete() -> World {
    let mut world = world();
    world.program(1, ends(0));
    world.set(1);
    world.rest();
    world.wait(5);
    world.rest();
    assert_eq!(status_of(&world), (Condition::Ready, Reason::Completed), "{world:?}");
    world.done.clear();
    world
}

fn status_of(world: &World) -> (Condition, Reason) {
    let planned = world.plan().verdict;
    (planned.condition, planned.reason)
}

#[test]
fn exit_code_0_completes_the_generation_and_nothing_starts_it_again() {
    let mut world = world();
    world.program(1, ends(0));
    world.set(1);
    world.wait(2);
    assert_eq!(status_of(&world), (Condition::Progressing, Reason::AwaitingHealth));
    world.wait(2);
    assert_eq!(world.plan().outcome, Some((Generation(1), Outcome::Ready)));
    world.rest();
    world.done.clear();
    world.wait(24 * 60 * 60);
    assert_eq!(status_of(&world), (Condition::Ready, Reason::Completed));
    assert!(world.done.is_empty(), "{world:?}");
    assert_eq!(world.memory.crashes.exits, 0);
}

#[test]
fn a_failure_is_retried_with_backoff() {
    let mut world = world();
    world.program(1, ends(1));
    world.set(1);
    world.wait(60);
    let starts = world.take_done().iter().filter(|step| **step == "start").count();
    assert!((4..9).contains(&starts), "{starts} in a minute");
    world.program(1, ends(0));
    world.wait(600);
    assert_eq!(status_of(&world), (Condition::Ready, Reason::Completed), "{world:?}");
}

#[test]
fn a_stop_by_hand_is_no_end_by_itself() {
    let mut world = world();
    world.set(1);
    world.rest();
    world.wait(60);
    assert_eq!(status_of(&world), (Condition::Ready, Reason::AsRecorded));
    for (by, restarted) in [(EndedBy::Hand, true), (EndedBy::Absence, false)] {
        world.done.clear();
        world.exit(0, 0, false);
        let id = world.observed.containers[0].id.clone();
        world.observed.ended_by = BTreeMap::from([(id, by)]);
        world.wait(60);
        assert_eq!(!world.take_done().is_empty(), restarted, "{by:?}: {world:?}");
    }
    assert_eq!(status_of(&world), (Condition::Ready, Reason::Completed));
}

#[test]
fn the_cause_of_an_end_is_awaited() {
    let mut world = world();
    world.set(1);
    world.rest();
    world.wait(60);
    world.done.clear();
    world.exit(0, 0, false);
    let id = world.observed.containers[0].id.clone();
    world.observed.ended_by = BTreeMap::from([(id, EndedBy::Untold)]);
    let plan = world.plan();
    assert_eq!(plan.verdict.condition, Condition::Progressing);
    assert!(plan.steps.is_empty() && plan.requeue_at.is_some(), "{plan:#?}");
}

#[test]
fn a_new_version_replaces_the_complete_one() {
    let mut world = complete();
    world.program(2, ends(0));
    world.set(2);
    world.rest();
    world.wait(10);
    world.rest();
    assert_eq!(status_of(&world), (Condition::Ready, Reason::Completed), "{world:?}");
    assert_eq!(world.observed.containers.len(), 1);
    assert_eq!(world.observed.containers[0].image, Some(digest(2)));
}

#[test]
fn a_new_version_that_fails_three_times_is_given_up_and_the_complete_one_does_not_run_again() {
    let mut world = complete();
    world.program(2, ends(1));
    world.set(2);
    world.wait(120);
    assert_eq!(world.intent.entry.origin, Some(Origin::AutomaticRollback), "{world:?}");
    assert_eq!(status_of(&world).0, Condition::RolledBack, "{world:?}");
    assert_eq!(world.observed.containers.len(), 1);
    let first = &world.observed.containers[0];
    assert!(first.image == Some(digest(1)) && matches!(first.state, ContainerState::Exited(_)));
    let starts = world.take_done().iter().filter(|step| **step == "start").count();
    assert_eq!(starts, 3, "only those of the new version");
}
