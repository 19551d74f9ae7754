//! Needs: a new version waits for other members of its group.

use super::world::{World, digest};
use crate::model::container::{ContainerOptions, Exit, Secret};
use crate::model::declared::Declared;
use crate::model::group::{MemberState, NeedCondition};
use crate::model::manifest::{SourceFile, parse};
use crate::model::name::EnvironmentName;
use crate::model::observed::ContainerState;
use crate::model::status::{Condition, Reason};

fn db() -> EnvironmentName {
    EnvironmentName::new("shop-db").unwrap()
}

fn needing(condition: NeedCondition) -> World {
    let mut world = World::empty();
    world.intent.needs.insert(db(), condition);
    world
}

fn is(world: &mut World, is_started: bool, is_healthy: bool) {
    let state = MemberState { is_started, is_healthy, is_completed: false };
    world.observed.members.insert(db(), state);
}

#[test]
fn a_version_that_needs_a_complete_program_waits_until_it_has_ended() {
    let mut world = needing(NeedCondition::Completed);
    world.set(1);
    is(&mut world, true, true);
    let plan = world.rest();
    assert_eq!(plan.verdict.reason, Reason::AwaitingNeeds, "a running program is ready, and not complete");
    assert!(plan.verdict.message.ends_with("waits until shop-db is complete"), "{plan:?}");
    assert!(world.observed.containers.is_empty(), "{world:?}");
    let ended = MemberState { is_started: true, is_healthy: true, is_completed: true };
    world.observed.members.insert(db(), ended);
    world.rest();
    assert!(world.is_ready_with(1), "{world:?}");
}

#[test]
fn a_first_version_starts_once_what_it_needs_is_there() {
    for (condition, started, healthy) in
        [(NeedCondition::Started, true, false), (NeedCondition::Healthy, true, true)]
    {
        let mut world = needing(condition);
        world.release("migrate");
        world.set(1);
        let plan = world.rest();
        assert_eq!(
            (plan.verdict.condition, plan.verdict.reason),
            (Condition::Progressing, Reason::AwaitingNeeds)
        );
        assert!(plan.verdict.message.starts_with("generation 1 waits until shop-db"), "{plan:?}");
        assert!(world.observed.containers.is_empty() && world.commands_run.is_empty(), "{world:?}");
        is(&mut world, started, healthy);
        world.wait(1);
        assert!(world.is_command_running(), "the release command waits too, and runs now: {world:?}");
        world.end_command(0);
        world.rest();
        assert!(world.is_ready_with(1), "{world:?}");
    }
}

#[test]
fn a_new_version_waits_while_the_current_one_serves_and_is_healed() {
    let mut world = needing(NeedCondition::Healthy);
    is(&mut world, true, true);
    world.set(1);
    world.rest();
    assert!(world.is_ready_with(1), "{world:?}");
    is(&mut world, true, false);
    world.set(2);
    let plan = world.rest();
    assert_eq!(plan.verdict.reason, Reason::AwaitingNeeds);
    assert!(plan.verdict.message.contains("generation 1 keeps serving"), "{plan:?}");
    assert_eq!(world.only().image, Some(digest(1)));
    let at = world.now;
    world.observed.containers[0].state = ContainerState::Exited(Exit { code: 1, out_of_memory: false, at });
    world.rest();
    assert_eq!(
        (world.only().state.clone(), world.only().image.clone()),
        (ContainerState::Running, Some(digest(1)))
    );
    is(&mut world, true, true);
    world.rest();
    assert!(world.is_ready_with(2), "{world:?}");
}

#[test]
fn a_version_that_was_ready_is_made_again_without_waiting() {
    let mut world = needing(NeedCondition::Healthy);
    is(&mut world, true, true);
    world.set(1);
    world.rest();
    is(&mut world, false, false);
    world.observed.containers.clear();
    world.rest();
    assert!(world.is_ready_with(1), "{world:?}");
}

#[test]
fn an_edit_waits_while_the_container_of_before_serves_and_is_healed() {
    type Edit = fn(&mut ContainerOptions);
    let options: Edit = |options| options.init = !options.init;
    // The engine can change this one in place.
    let limit: Edit = |options| options.memory = Some(128 << 20);
    for edit in [options, limit] {
        let mut world = needing(NeedCondition::Healthy);
        is(&mut world, true, true);
        world.intent.declared = declared("128m");
        world.set(1);
        world.rest();
        let before = world.only().id.clone();
        is(&mut world, true, false);
        world.intent.declared = declared("256m");
        world.edit(edit);
        let plan = world.rest();
        assert_eq!(plan.verdict.reason, Reason::AwaitingNeeds, "{plan:?}");
        let message =
            "the edit of the manifest waits until shop-db is ready; the previous container keeps serving";
        assert_eq!(plan.verdict.message, message);
        world.exit(0, 1, false);
        world.rest();
        let kept = world.only();
        assert_eq!((&kept.id, &kept.state), (&before, &ContainerState::Running), "{world:?}");
        assert!(!is_as_edited(&world), "{world:?}");
        is(&mut world, true, true);
        world.rest();
        assert!(world.is_ready_with(1), "{world:?}");
        assert!(is_as_edited(&world), "{world:?}");
    }
}

#[test]
fn a_changed_secret_waits_while_the_container_of_before_serves_and_is_healed() {
    let mut world = needing(NeedCondition::Healthy);
    is(&mut world, true, true);
    let rotate = |world: &mut World, value: &str| {
        let secret = Secret::new(value);
        world.edit(|options| drop(options.env.insert("PASSWORD".to_owned(), secret)));
    };
    world.intent.declared = declared("128m");
    rotate(&mut world, "one");
    world.set(1);
    world.rest();
    let before = world.only().id.clone();
    is(&mut world, true, false);
    rotate(&mut world, "two");
    let plan = world.rest();
    assert_eq!(plan.verdict.reason, Reason::AwaitingNeeds, "{plan:?}");
    assert!(
        plan.verdict.message.starts_with("the changed value of a secret waits until shop-db"),
        "{plan:?}"
    );
    world.exit(0, 1, false);
    world.rest();
    let kept = world.only();
    assert_eq!((&kept.id, &kept.state), (&before, &ContainerState::Running), "{world:?}");
    is(&mut world, true, true);
    world.rest();
    assert!(world.is_ready_with(1), "{world:?}");
    assert!(world.only().has_secrets_of(world.intent.options.as_ref().unwrap()), "{world:?}");
    assert_ne!(world.only().id, before);
}

#[test]
fn a_declared_job_is_not_an_edit_that_waits() {
    let mut world = needing(NeedCondition::Healthy);
    is(&mut world, true, true);
    world.intent.declared = declared("128m");
    world.set(1);
    world.rest();
    // The store does not keep jobs.
    let stored = serde_json::to_vec(&world.memory).unwrap();
    world.memory = serde_json::from_slice(&stored).unwrap();
    is(&mut world, true, false);
    world.rest();
    assert!(world.is_ready_with(1), "{world:?}");
}

/// A declaration with a job.
fn declared(memory: &str) -> Option<Box<Declared>> {
    let text = format!(
        "[environment.dev]\ncontainer = \"dev\"\nport = 1\nmemory = \"{memory}\"\n\
         [job.clean]\nenvironment = \"dev\"\nschedule = \"0 3 * * *\"\ncommand = [\"clean\"]\n"
    );
    let manifest = parse(&[SourceFile { name: "m.toml".to_owned(), text }]).unwrap();
    Declared::now(&manifest, &EnvironmentName::new("dev").unwrap()).map(Box::new)
}

/// Whether the container has the declared options.
fn is_as_edited(world: &World) -> bool {
    let (options, seen) = (world.intent.options.as_ref().unwrap(), world.only());
    (options.init, options.memory) == (seen.init, seen.memory)
}
