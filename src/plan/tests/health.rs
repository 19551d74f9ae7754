//! Readiness: awaited, lost, and unjudged containers.

use super::world::{Program, World, digest};
use crate::model::desired::Outcome;
use crate::model::name::Generation;
use crate::model::spec::Probe;
use crate::model::status::{Condition, Reason};

fn said(world: &World) -> (Condition, Reason) {
    let verdict = world.plan().verdict;
    (verdict.condition, verdict.reason)
}

#[test]
fn a_first_container_that_never_answers_is_degraded_after_its_deadline_and_kept() {
    let mut world = World::empty();
    world.program(1, Program::NeverAnswers);
    world.set(1);
    world.wait(29);
    assert_eq!(said(&world), (Condition::Progressing, Reason::AwaitingHealth));
    world.wait(2);
    let plan = world.plan();
    assert_eq!(said(&world), (Condition::Degraded, Reason::NeverReady));
    assert!(plan.verdict.message.contains("was not ready within 30s of its start: refused"), "{plan:#?}");
    assert!(matches!(plan.outcome, Some((Generation(1), Outcome::Failed(_)))));
    assert_eq!(world.observed.containers.len(), 1);
}

#[test]
fn a_container_that_stops_answering_is_restarted_and_it_is_said_why() {
    let mut world = World::running(1);
    world.hang();
    let plan = world.pass();
    assert_eq!((plan.verdict.condition, plan.verdict.reason), (Condition::Degraded, Reason::Unhealthy));
    assert!(plan.verdict.message.contains("failed 5 probes in a row: refused"), "{plan:#?}");
    assert!(plan.look_again.is_some(), "a wait for it is not over");
    let plan = world.pass();
    assert!(plan.verdict.message.contains("which was stopped because it failed 5 probes"), "{plan:#?}");
    world.rest();
    assert_eq!(world.take_done(), ["stop", "start"]);
    assert!(world.is_ready_with(1));
    assert_eq!((world.memory.crashes.count, world.memory.crashes.restarts), (1, 1));
}

#[test]
fn a_container_that_hangs_again_and_again_is_restarted_ever_more_rarely_and_runs_meanwhile() {
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

#[test]
fn a_container_that_recovers_before_its_restart_is_due_is_left_alone() {
    let mut world = World::running(1);
    for _ in 0..8 {
        world.hang();
        world.wait(60);
    }
    world.done.clear();
    world.hang();
    world.wait(1);
    assert_eq!(said(&world), (Condition::Degraded, Reason::Unhealthy));
    world.hung.clear();
    world.rest();
    assert!(world.is_ready_with(1));
    assert!(world.done.is_empty());
}

#[test]
fn a_container_that_cannot_be_reached_is_connected_and_not_restarted() {
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
fn sync_restarts_a_container_that_answers_no_more_at_once_and_only_once() {
    let mut world = World::running(1);
    for _ in 0..8 {
        world.hang();
        world.wait(60);
    }
    world.done.clear();
    world.hang();
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
fn a_version_that_hangs_three_times_within_ten_minutes_of_becoming_ready_is_given_up() {
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
fn a_container_that_was_ready_and_is_not_again_after_a_restart_is_restarted() {
    let mut world = World::running(1);
    world.program(1, Program::NeverAnswers);
    world.exit(0, 1, false);
    world.wait(29);
    assert_eq!(said(&world), (Condition::Progressing, Reason::AwaitingHealth));
    world.done.clear();
    world.wait(5);
    assert_eq!(world.take_done(), ["stop", "start"]);
    let acts = world.wait(3600);
    assert!((20..60).contains(&acts), "{acts} acts in an hour");
}

#[test]
fn a_container_that_is_kept_and_answers_no_more_is_restarted() {
    let mut world = World::running(1);
    world.memory.volumes.insert("uploads".to_owned());
    world.edit(|options| options.volumes.push(super::world::mount("uploads")));
    world.hang();
    world.rest();
    assert_eq!(world.take_done(), ["stop", "start"]);
    assert_eq!(world.serving().len(), 1);
}

#[test]
fn after_a_restart_of_the_daemon_what_was_ready_is_ready_without_a_probe() {
    let mut world = World::running(1);
    world.restart_daemon();
    assert!(world.seen().probes.is_empty());
    assert_eq!(said(&world), (Condition::Ready, Reason::AsRecorded));
}

#[test]
fn after_a_restart_of_the_daemon_a_replacement_past_its_deadline_is_asked_before_it_is_judged() {
    let mut world = World::running(1);
    world.set(2);
    world.wait(5);
    world.now = world.now.after(std::time::Duration::from_secs(60));
    world.restart_daemon();
    world.rest();
    assert!(world.is_ready_with(2));
}

#[test]
fn after_a_restart_of_the_daemon_a_replacement_that_never_answers_is_still_refused() {
    let mut world = World::running(1);
    world.program(2, Program::NeverAnswers);
    world.set(2);
    world.wait(5);
    world.now = world.now.after(std::time::Duration::from_secs(60));
    world.restart_daemon();
    world.wait(60);
    assert_eq!(world.only().image, Some(digest(1)));
    assert_eq!(said(&world), (Condition::RolledBack, Reason::RolledBack));
}

#[test]
fn a_restarted_container_is_ready_at_its_first_answer() {
    let mut world = World::running(1);
    world.exit(0, 1, false);
    world.wait(0);
    assert_eq!(said(&world), (Condition::Progressing, Reason::AwaitingHealth));
    world.wait(2);
    assert_eq!(said(&world), (Condition::Ready, Reason::AsRecorded));
}

#[test]
fn without_a_probe_running_is_ready() {
    let mut world = World::empty();
    world.intent.health.probe = Probe::None;
    world.set(1);
    world.wait(0);
    assert_eq!(said(&world), (Condition::Ready, Reason::AsRecorded));
}
