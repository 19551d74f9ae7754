//! Readiness: what is awaited, what is lost, and what is no verdict.

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
    assert!(plan.verdict.message.contains("was not ready 30s after its start: refused"), "{plan:#?}");
    assert!(matches!(plan.outcome, Some((Generation(1), Outcome::Failed(_)))));
    assert_eq!(world.observed.containers.len(), 1);
}

#[test]
fn a_container_that_stops_answering_is_unhealthy_and_recovers() {
    let mut world = World::running(1);
    world.hung.insert(world.only().id.clone(), world.now);
    let plan = world.rest();
    assert!(world.done.is_empty());
    assert_eq!((plan.verdict.condition, plan.verdict.reason), (Condition::Degraded, Reason::Unhealthy));
    assert!(plan.verdict.message.contains("refused"), "{plan:#?}");
    world.hung.clear();
    world.rest();
    assert!(world.is_ready_with(1));
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
    assert_eq!(said(&world), (Condition::Degraded, Reason::NeverReady));
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
