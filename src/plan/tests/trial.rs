//! Options that the engine rejects only at a start: nothing is stopped for them.

use super::world::{Mode, NAME, World, kind};
use crate::model::observed::ContainerState;
use crate::model::options::Settings;
use crate::model::spec::Publish;
use crate::model::status::{Condition, Reason};
use crate::plan::Step;

const MODES: [Mode; 2] = [Mode::Plain, Mode::Holder];

fn with_device(world: &mut World) {
    let settings = serde_json::json!({ "devices": ["/dev/none"] });
    world.edit(|options| options.run.settings = serde_json::from_value::<Settings>(settings).unwrap());
}

fn move_port(world: &mut World, port: u16) {
    world.edit(|options| options.publish = Some(Publish { address: None, port }));
}

/// Asserts that the container of before serves, and that nothing was ever stopped.
fn assert_untouched(world: &World, id: &str) {
    assert_eq!((world.only().id.as_str(), &world.only().state), (id, &ContainerState::Running), "{world:?}");
    let stops = world.done.iter().filter(|step| matches!(step, Step::Stop { .. } | Step::Restart { .. }));
    assert_eq!(stops.count(), 0, "{world:?}");
}

#[test]
fn a_host_port_of_a_foreign_program_never_stops_the_serving_container() {
    for mode in MODES {
        let mut world = World::running_in(mode, 1);
        let id = world.only().id.clone();
        world.foreign_has_port = true;
        move_port(&mut world, 9000);
        world.wait(3600);
        assert_untouched(&world, &id);
        let plan = world.plan();
        assert_eq!((plan.verdict.condition, plan.verdict.reason), (Condition::Degraded, Reason::StartFailed));
        assert!(plan.verdict.message.contains("port is already allocated"), "{plan:?}");
        world.foreign_has_port = false;
        world.wait(600);
        assert!(world.is_ready_with(1) && world.only().id != id, "it is tried again by itself: {world:?}");
    }
}

#[test]
fn options_that_the_engine_rejects_at_a_start_never_stop_the_serving_container() {
    for mode in MODES {
        let mut world = World::running_in(mode, 1);
        let id = world.only().id.clone();
        world.rejects_options = true;
        with_device(&mut world);
        world.wait(3600);
        assert_untouched(&world, &id);
        assert_eq!(world.plan().verdict.reason, Reason::OptionRefused, "{world:?}");
        world.edit(|options| options.run.settings = Settings::default());
        world.rest();
        assert!(world.is_ready_with(1), "{world:?}");
        assert_untouched(&world, &id);
    }
}

#[test]
fn a_trial_is_only_needed_for_edited_options_of_a_serving_container() {
    let tries = |world: &World| world.done.iter().filter(|step| kind(step) == "try").count();
    for mode in MODES {
        let mut world = World::running_in(mode, 1);
        world.set(2);
        world.rest();
        assert_eq!(tries(&world), 0, "another image with the same options: {world:?}");
        world.exit(0, 1, false);
        world.rest();
        assert_eq!(tries(&world), 0, "{world:?}");
        with_device(&mut world);
        world.rest();
        assert_eq!(tries(&world), 1, "{world:?}");
    }
    let mut world = World::running_in(Mode::Front, 1);
    with_device(&mut world);
    world.rest();
    assert_eq!(tries(&world), 0, "nothing is stopped before: {world:?}");
}

/// The law that a trial takes none of the environment's own ports is checked by the world.
#[test]
fn a_trial_runs_nothing_and_takes_nothing_of_the_serving_container() {
    let mut world = World::running_in(Mode::Holder, 1);
    with_device(&mut world);
    world.edit(|options| options.run.ports = vec!["9001:1".parse().unwrap(), "9002:2".parse().unwrap()]);
    world.observed.ports_of_others.insert("127.0.0.1:9002:80/tcp".to_owned());
    let plan = world.plan();
    let trial = plan.steps.iter().find_map(|planned| match &planned.step {
        Step::TryOptions { spec, .. } => Some(&spec.options),
        _ => None,
    });
    let trial = trial.unwrap();
    assert_eq!(trial.ports().map(|port| port.to_string()).collect::<Vec<_>>(), ["9001:1/tcp"]);
    assert!(trial.env.is_empty() && trial.command.is_none() && trial.name.as_str() != NAME, "{trial:?}");
}

#[test]
fn limits_that_cannot_be_changed_in_place_replace_the_container() {
    for mode in [Mode::Plain, Mode::Holder, Mode::Front] {
        let mut world = World::running_in(mode, 1);
        let id = world.only().id.clone();
        world.refuses_limits = true;
        world.edit(|options| options.memory = Some(8 << 20));
        world.rest();
        assert!(world.is_ready_with(1), "{world:?}");
        assert!(world.only().id != id && world.only().memory == Some(8 << 20), "{world:?}");
        let adjusts = world.done.iter().filter(|step| kind(step) == "adjust").count();
        assert_eq!(adjusts, 0, "{world:?}");
        let steps = world.wait(3600);
        assert_eq!(steps, 0, "{world:?}");
    }
}

#[test]
fn a_container_whose_replacement_needs_more_memory_keeps_its_limit() {
    let mut world = World::running_in(Mode::Plain, 1);
    let id = world.only().id.clone();
    world.refuses_limits = true;
    world.rejects_options = true;
    world.edit(|options| options.memory = Some(1));
    world.wait(3600);
    assert_untouched(&world, &id);
    assert_eq!(world.plan().verdict.reason, Reason::OptionRefused, "{world:?}");
    // The limit of before needs no step.
    world.edit(|options| options.memory = Some(512 << 20));
    world.rest();
    assert!(world.is_ready_with(1), "{world:?}");
    assert_untouched(&world, &id);
}
