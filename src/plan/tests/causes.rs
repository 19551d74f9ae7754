//! The cause of a failure: a version is only judged by failures that it causes itself.

use std::collections::BTreeMap;
use std::time::Duration;

use super::world::{Program, World, digest};
use crate::model::cause::{Cause, EndedBy};
use crate::model::desired::Origin;
use crate::model::observed::{ContainerState, Readiness};
use crate::model::spec::Probe;
use crate::model::status::{Condition, Reason};
use crate::plan::{Step, StepFailure, after_failure, plan};

/// An update to image 2, whose new container runs and is not ready yet.
fn on_trial() -> World {
    let mut world = World::running(1);
    world.set(2);
    world.wait(1);
    assert!(new_runs(&world), "{world:?}");
    world
}

fn new_runs(world: &World) -> bool {
    let is_it = |seen: &&crate::model::observed::ObservedContainer| seen.image == Some(digest(2));
    world.observed.containers.iter().find(is_it).is_some_and(|seen| seen.state == ContainerState::Running)
}

/// An external event ends the new container.
fn end(world: &mut World, by: EndedBy) {
    let is_it = |seen: &crate::model::observed::ObservedContainer| seen.image == Some(digest(2));
    let index = world.observed.containers.iter().position(is_it).unwrap();
    let id = world.observed.containers[index].id.clone();
    world.exit(index, 143, false);
    world.observed.ended_by = BTreeMap::from([(id, by)]);
}

fn is_judged(world: &World) -> bool {
    !world.intent.bad.is_empty() || world.intent.entry.origin == Some(Origin::AutomaticRollback)
}

#[test]
fn an_externally_stopped_new_container_is_restarted_at_once() {
    for by in [EndedBy::Absence, EndedBy::Hand, EndedBy::Host, EndedBy::Signal] {
        let mut world = on_trial();
        world.done.clear();
        end(&mut world, by);
        let plan = world.plan();
        assert_eq!(plan.verdict.condition, Condition::Progressing, "{by:?}: {plan:#?}");
        assert!(plan.verdict.message.contains("exit code 143"), "{by:?}: {plan:#?}");
        world.pass();
        assert_eq!(world.take_done(), ["start"], "{by:?}");
        world.rest();
        assert!(world.is_ready_with(2) && !is_judged(&world), "{by:?}: {world:?}");
        assert_eq!(world.memory.interrupted, None);
    }
}

#[test]
fn a_new_version_that_is_killed_repeatedly_is_never_judged() {
    let mut world = on_trial();
    for _ in 0..200 {
        if new_runs(&world) {
            end(&mut world, EndedBy::Hand);
        }
        world.wait(1);
    }
    assert!(!is_judged(&world), "{world:?}");
    let attempts = world.memory.interrupted.as_ref().unwrap().count;
    assert!((4..15).contains(&attempts), "{attempts} times in 200 s");
    if !new_runs(&world) {
        let verdict = world.plan().verdict;
        assert_eq!((verdict.condition, verdict.reason), (Condition::Degraded, Reason::Interrupted));
        assert_eq!(world.serving().len(), 1, "{world:?}");
    }
    world.rest();
    assert!(world.is_ready_with(2) && !is_judged(&world), "{world:?}");
}

#[test]
fn three_unexplained_signals_in_a_row_count_against_the_version() {
    let mut world = on_trial();
    for _ in 0..100 {
        if new_runs(&world) {
            end(&mut world, EndedBy::Signal);
        }
        world.wait(1);
    }
    world.rest();
    assert!(is_judged(&world), "{world:?}");
    assert!(world.intent.bad[0].message.contains("3 times in a row"), "{:?}", world.intent.bad);
}

#[test]
fn an_exit_without_a_reported_cause_is_waited_for() {
    let mut world = on_trial();
    end(&mut world, EndedBy::Untold);
    let plan = world.plan();
    assert!(plan.steps.is_empty() && plan.memory.refused.is_none(), "{plan:#?}");
    assert!(plan.requeue_at.is_some_and(|at| at <= world.now.after(Duration::from_secs(1))), "{plan:#?}");
    world.observed.ended_by.clear();
    world.rest();
    assert!(is_judged(&world), "{world:?}");
}

#[test]
fn external_kills_never_give_up_a_ready_version() {
    let mut world = World::running(1);
    world.set(2);
    world.rest();
    for _ in 0..6 {
        let id = world.only().id.clone();
        world.exit(0, 137, false);
        world.observed.ended_by = BTreeMap::from([(id, EndedBy::Hand)]);
        world.rest();
    }
    assert!(world.is_ready_with(2) && !is_judged(&world), "{world:?}");
}

#[test]
fn a_new_container_removed_from_its_network_is_reconnected() {
    let mut world = on_trial();
    world.done.clear();
    let new = world.observed.containers.iter_mut().find(|seen| seen.image == Some(digest(2))).unwrap();
    new.networks.clear();
    let plan = world.pass();
    assert_eq!(plan.verdict.condition, Condition::Progressing, "{plan:#?}");
    assert_eq!(world.take_done(), ["connect"]);
    world.rest();
    assert!(world.is_ready_with(2) && !is_judged(&world), "{world:?}");
}

/// The reconcile state after a replacement failed to start.
fn after(cause: Cause) -> crate::model::memory::Memory {
    let mut world = World::running(1);
    world.set(2);
    let plan = world.plan();
    let step = |planned: &&crate::plan::PlannedStep| matches!(planned.step, Step::Start { .. });
    let step = plan.steps.iter().find(step).unwrap().step.clone();
    after_failure(&plan, &step, StepFailure { cause, message: "words" }, &world.intent, world.now)
}

#[test]
fn a_start_failure_is_permanent_only_if_the_version_caused_it() {
    let refused = after(Cause::Version).refused.unwrap();
    assert!(!refused.of_the_host, "{refused:?}");
    for cause in [Cause::Host, Cause::Port, Cause::Unknown, Cause::Network] {
        let refused = after(cause).refused.unwrap();
        assert!(refused.of_the_host, "{cause:?}: {refused:?}");
    }
    for (cause, reason) in [(Cause::Hand, Reason::Interrupted), (Cause::Engine, Reason::EngineUnavailable)] {
        let memory = after(cause);
        assert_eq!(memory.refused, None, "{cause:?}");
        assert_eq!(memory.trouble.unwrap().reason, reason, "{cause:?}");
    }
}

#[test]
fn something_removed_between_two_steps_is_recreated_at_once() {
    let trouble = after(Cause::Hand).trouble.unwrap();
    assert_eq!(trouble.next_retry, trouble.at);
}

#[test]
fn a_healthcheck_is_not_judged_before_it_has_decided() {
    let mut world = on_trial();
    world.intent.health.probe = Probe::Docker;
    let (id, started) = {
        let new = world.observed.containers.iter().find(|seen| seen.image == Some(digest(2))).unwrap();
        (new.id.clone(), new.started_at.unwrap())
    };
    let status = |seconds: u64, seen: Readiness| {
        let mut observed = world.seen();
        observed.probes = BTreeMap::from([(id.clone(), seen)]);
        let at = started.after(Duration::from_secs(seconds));
        let plan = plan(&world.intent, &observed, &world.memory, at);
        (plan.verdict.condition, plan.verdict.reason, plan.memory.refused.is_some())
    };
    let needs = Duration::from_secs(180);
    let undecided = Readiness { needs, unknown: Some("no result yet".to_owned()), ..Readiness::default() };
    let awaited = (Condition::Progressing, Reason::AwaitingHealth, false);
    assert_eq!(
        status(31, undecided.clone()),
        awaited,
        "the start_deadline of 30 s is shorter than what it needs"
    );
    assert_eq!(status(179, undecided.clone()), awaited);
    assert_eq!(status(400, undecided), (Condition::Degraded, Reason::HealthUnknown, false));
    let bad = Readiness { needs, misses: 1, last_miss: Some("failed".to_owned()), ..Readiness::default() };
    assert_eq!(status(100, bad.clone()), awaited, "it may still recover");
    assert!(status(181, bad).2, "the engine has decided");
}

#[test]
fn an_inconclusive_probe_does_not_fail_the_version() {
    let mut world = World::running(1);
    world.program(2, Program::NeverAnswers);
    world.set(2);
    world.wait(1);
    let id = world.observed.containers.iter().find(|seen| seen.image == Some(digest(2))).unwrap().id.clone();
    let mut observed = world.seen();
    let unknown = Some("the container's address is not reachable from here".to_owned());
    observed.probes = BTreeMap::from([(id, Readiness { unknown, ..Readiness::default() })]);
    let plan = plan(&world.intent, &observed, &world.memory, world.now.after(Duration::from_secs(3600)));
    assert_eq!((plan.verdict.condition, plan.verdict.reason), (Condition::Degraded, Reason::HealthUnknown));
    assert!(plan.verdict.message.contains("not reachable from here"), "{plan:#?}");
    assert!(plan.memory.refused.is_none() && plan.steps.is_empty(), "{plan:#?}");
}

#[test]
fn a_worker_is_ready_once_it_has_kept_running() {
    let mut world = World::empty();
    world.edit(|options| (options.port, options.publish) = (None, None));
    world.intent.health.probe = Probe::Running;
    world.set(1);
    world.wait(9);
    assert_eq!(world.plan().verdict.reason, Reason::AwaitingHealth);
    world.wait(2);
    assert_eq!(world.plan().verdict.condition, Condition::Ready, "{world:?}");
    world.program(2, Program::crashes_after(5));
    world.set(2);
    world.rest();
    assert!(is_judged(&world), "one that ends before is no good: {world:?}");
}
