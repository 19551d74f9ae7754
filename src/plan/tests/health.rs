//! Readiness: awaited, lost, and unjudged containers.

use super::world::{Program, World, digest};
use crate::model::desired::Outcome;
use crate::model::name::Generation;
use crate::model::spec::Probe;
use crate::model::status::{Condition, Reason};

fn status(world: &World) -> (Condition, Reason) {
    let verdict = world.plan().verdict;
    (verdict.condition, verdict.reason)
}

#[test]
fn a_first_container_that_never_answers_is_degraded_and_kept() {
    let mut world = World::empty();
    world.program(1, Program::NeverAnswers);
    world.set(1);
    world.wait(29);
    assert_eq!(status(&world), (Condition::Progressing, Reason::AwaitingHealth));
    world.wait(2);
    let plan = world.plan();
    assert_eq!(status(&world), (Condition::Degraded, Reason::NeverReady));
    assert!(plan.verdict.message.contains("was not ready within 30s of its start: refused"), "{plan:#?}");
    assert!(matches!(plan.outcome, Some((Generation(1), Outcome::Failed(_)))));
    assert_eq!(world.observed.containers.len(), 1);
}

#[test]
fn a_hung_container_is_restarted_and_the_reason_reported() {
    let mut world = World::running(1);
    world.hang();
    let plan = world.pass();
    assert_eq!((plan.verdict.condition, plan.verdict.reason), (Condition::Degraded, Reason::Unhealthy));
    assert!(plan.verdict.message.contains("failed 5 probes in a row: refused"), "{plan:#?}");
    assert!(plan.requeue_at.is_some(), "a wait for it is not over");
    let plan = world.pass();
    assert!(plan.verdict.message.contains("which was stopped because it failed 5 probes"), "{plan:#?}");
    world.rest();
    assert_eq!(world.take_done(), ["stop", "start"]);
    assert!(world.is_ready_with(1));
    assert_eq!((world.memory.crashes.count, world.memory.crashes.restarts), (1, 1));
}

#[test]
fn a_repeatedly_hanging_container_is_restarted_with_backoff() {
    let mut world = World::running(1);
    let mut restarts = Vec::new();
    for _ in 0..14 {
        world.hang();
        let began = world.now;
        while world.done.is_empty() {
            world.wait(1);
            assert!(world.done.is_empty() || world.done.len() == 2, "stopped and not started: {world:?}");
        }
        restarts.push(world.now.since(began).as_secs());
        world.done.clear();
        world.wait(3);
    }
    assert_eq!(restarts[0], 1, "at once: {restarts:?}");
    assert!(restarts.windows(2).all(|pair| pair[0] <= pair[1]), "{restarts:?}");
    assert!((250..=301).contains(&restarts[13]), "{restarts:?}");
}

/// A container that hangs for the ninth time, and is not restarted at once any more.
fn hanging_again_and_again() -> World {
    let mut world = World::running(1);
    for _ in 0..8 {
        world.hang();
        world.wait(60);
    }
    world.done.clear();
    world.hang();
    world
}

#[test]
fn a_container_that_recovers_before_its_restart_is_due_is_left_alone() {
    let mut world = hanging_again_and_again();
    world.wait(1);
    assert_eq!(status(&world), (Condition::Degraded, Reason::Unhealthy));
    world.hung.clear();
    world.rest();
    assert!(world.is_ready_with(1));
    assert!(world.done.is_empty());
}

#[test]
fn an_unreachable_container_is_reconnected_instead_of_restarted() {
    let mut world = World::running(1);
    world.remove_network();
    world.hang();
    world.pass();
    assert_eq!(world.take_done(), ["network", "connect"]);
    world.hung.clear();
    world.rest();
    assert!(world.is_ready_with(1));
}

#[test]
fn sync_restarts_a_hung_container_immediately_and_only_once() {
    let mut world = hanging_again_and_again();
    world.wait(0);
    assert!(world.done.is_empty());
    world.sync();
    world.wait(0);
    assert_eq!(world.take_done(), ["stop", "start"]);
    world.hang();
    world.wait(1);
    assert!(world.done.is_empty());
}

#[test]
fn a_version_that_hangs_three_times_within_ten_minutes_is_given_up() {
    let mut world = World::running(1);
    world.set(2);
    world.rest();
    for _ in 0..3 {
        world.hang();
        world.wait(30);
    }
    let plan = world.rest();
    assert_eq!(plan.verdict.condition, Condition::RolledBack, "{plan:#?}");
    assert!(
        plan.verdict.message.contains("the last time it was stopped because it failed 5 probes"),
        "{plan:#?}"
    );
    assert_eq!(world.only().image, Some(digest(1)));
}

#[test]
fn a_container_not_ready_after_a_restart_is_restarted_again() {
    let mut world = World::running(1);
    world.program(1, Program::NeverAnswers);
    world.exit(0, 1, false);
    world.wait(29);
    assert_eq!(status(&world), (Condition::Progressing, Reason::AwaitingHealth));
    world.done.clear();
    world.wait(5);
    assert_eq!(world.take_done(), ["stop", "start"]);
    let acts = world.wait(3600);
    assert!((20..60).contains(&acts), "{acts} acts in an hour");
}

#[test]
fn a_hung_container_whose_update_is_blocked_is_restarted() {
    let mut world = World::running(1);
    world.memory.volumes.insert("uploads".to_owned());
    world.edit(|options| options.volumes.push(super::world::mount("uploads")));
    world.hang();
    world.rest();
    assert_eq!(world.take_done(), ["stop", "start"]);
    assert_eq!(world.serving().len(), 1);
}

#[test]
fn a_ready_container_stays_ready_across_a_daemon_restart() {
    let mut world = World::running(1);
    world.restart_daemon();
    assert!(world.seen().probes.is_empty());
    assert_eq!(status(&world), (Condition::Ready, Reason::AsRecorded));
}

#[test]
fn a_daemon_restart_reprobes_a_replacement_past_its_deadline() {
    let mut world = World::running(1);
    world.set(2);
    world.wait(5);
    world.now = world.now.after(std::time::Duration::from_secs(60));
    world.restart_daemon();
    world.rest();
    assert!(world.is_ready_with(2));
}

#[test]
fn a_replacement_that_never_answers_fails_despite_a_daemon_restart() {
    let mut world = World::running(1);
    world.program(2, Program::NeverAnswers);
    world.set(2);
    world.wait(5);
    world.now = world.now.after(std::time::Duration::from_secs(60));
    world.restart_daemon();
    world.wait(60);
    assert_eq!(world.only().image, Some(digest(1)));
    assert_eq!(status(&world), (Condition::RolledBack, Reason::RolledBack));
}

#[test]
fn a_restarted_container_is_ready_at_its_first_answer() {
    let mut world = World::running(1);
    world.exit(0, 1, false);
    world.wait(0);
    assert_eq!(status(&world), (Condition::Progressing, Reason::AwaitingHealth));
    world.wait(2);
    assert_eq!(status(&world), (Condition::Ready, Reason::AsRecorded));
}

#[test]
fn without_a_probe_running_is_ready() {
    let mut world = World::empty();
    world.intent.health.probe = Probe::None;
    world.set(1);
    world.wait(0);
    assert_eq!(status(&world), (Condition::Ready, Reason::AsRecorded));
}
