//! The laws, checked against any external events in any order.

use std::time::Duration;

use proptest::prelude::*;

use super::world::{Mode, NAME, Program, World, digest, image, mount, options};
use crate::model::container::Secret;
use crate::model::desired::{Entry, Origin};
use crate::model::observed::{ContainerState, ObservedContainer};
use crate::model::status::Condition;
use crate::plan::{Step, plan};

/// An external event.
#[derive(Clone, Debug)]
enum Event {
    Push(u8),
    Set(u8),
    PromoteGone,
    Kill(usize),
    Stop(usize),
    RemoveContainer(usize),
    Pause(usize),
    Rename(usize, u8),
    RemoveImage(u8),
    Limit(usize, bool),
    Dead(usize),
    RemoveNetwork,
    Edit(u8),
    Hold,
    Resume,
    Sync,
    Foreign(bool),
    Neighbour,
    NamesBeside,
    ForeignPort(bool),
    Secret(bool),
    Hang,
    Spoil,
    KillHolder(usize),
    RemoveHolder(usize),
    PauseHolder(usize),
    RefuseHolders(bool),
    RestartDaemon,
    SlowFront(u64),
    Forget(bool),
    Canary(bool),
    Visitors(bool),
    Fail(usize),
    KillDaemonBefore(usize),
    Pass,
    Wait(u64),
}

/// The programs of images 1 to 6: half of them are bad, each in a different way.
fn programs(world: &mut World) {
    world.program(2, Program::NeverAnswers);
    world.program(4, Program::crashes_after(3));
    world.program(5, Program::RefusesToStart);
    world.program(6, Program::DoesNotBuild);
}

fn event() -> impl Strategy<Value = Event> {
    use Event::*;
    let container = 0..3_usize;
    prop_oneof![
        4 => (1..=6_u8).prop_map(Push),
        4 => (1..=5_u8).prop_map(Set),
        1 => Just(PromoteGone),
        2 => container.clone().prop_map(Kill),
        2 => container.clone().prop_map(Stop),
        2 => container.clone().prop_map(RemoveContainer),
        2 => container.clone().prop_map(Pause),
        2 => (container.clone(), 0..3_u8).prop_map(|(index, name)| Rename(index, name)),
        1 => (1..=5_u8).prop_map(RemoveImage),
        2 => (container.clone(), any::<bool>()).prop_map(|(index, declared)| Limit(index, declared)),
        1 => container.prop_map(Dead),
        1 => Just(RemoveNetwork),
        2 => (0..4_u8).prop_map(Edit),
        1 => Just(Hold),
        1 => Just(Resume),
        1 => Just(Sync),
        1 => any::<bool>().prop_map(Foreign),
        1 => Just(Neighbour),
        1 => Just(NamesBeside),
        1 => any::<bool>().prop_map(ForeignPort),
        1 => any::<bool>().prop_map(Secret),
        1 => Just(Hang),
        1 => Just(Spoil),
        2 => (0..2_usize).prop_map(KillHolder),
        2 => (0..2_usize).prop_map(RemoveHolder),
        1 => (0..2_usize).prop_map(PauseHolder),
        1 => any::<bool>().prop_map(RefuseHolders),
        2 => Just(RestartDaemon),
        2 => (0..3_000_u64).prop_map(SlowFront),
        1 => any::<bool>().prop_map(Forget),
        2 => any::<bool>().prop_map(Canary),
        1 => any::<bool>().prop_map(Visitors),
        3 => (0..8_usize).prop_map(Fail),
        3 => (0..8_usize).prop_map(KillDaemonBefore),
        6 => Just(Pass),
        6 => (0..60_u64).prop_map(Wait),
    ]
}

fn happen(world: &mut World, event: &Event) {
    match event {
        Event::Push(number) => world.push(*number),
        Event::Set(number) => world.set(*number),
        Event::PromoteGone => world.promote(77),
        Event::Kill(index) => world.exit(*index, 137, false),
        Event::Stop(index) => world.exit(*index, 143, false),
        Event::RemoveContainer(index) => drop_container(world, *index),
        Event::Pause(index) => world.pause(*index),
        Event::Rename(index, name) => {
            world.rename(*index, [NAME, "dev-server.next", "other"][*name as usize]);
        }
        Event::RemoveImage(number) => {
            world.observed.images.remove(&digest(*number));
        }
        Event::Limit(index, declared) => limit(world, *index, *declared),
        Event::Dead(index) => {
            if let Some(container) = world.observed.containers.get_mut(*index) {
                container.state = ContainerState::Dead;
            }
        }
        Event::RemoveNetwork => world.remove_network(),
        Event::Edit(number) => edit(world, *number),
        Event::Hold => world.hold(),
        Event::Resume => world.resume(),
        Event::Sync => world.sync(),
        Event::Foreign(true) => world.foreign_takes_name(),
        Event::Foreign(false) => world.observed.name_holder = None,
        Event::Neighbour => world.neighbour_has_name(),
        Event::NamesBeside => world.others_take_names_beside(),
        Event::ForeignPort(has) => world.foreign_has_port = *has && world.serving().is_empty(),
        Event::Secret(true) => edit(world, 0),
        Event::Secret(false) => world.intent.options = Err("$PASSWORD is not set".to_owned()),
        Event::Hang => world.hang(),
        Event::Spoil => world.program(1, Program::crashes_after(5)),
        Event::KillHolder(index) => world.exit_holder(*index),
        Event::RemoveHolder(index) => world.remove_holder(*index),
        Event::PauseHolder(index) => world.pause_holder(*index),
        Event::RefuseHolders(refuses) => world.refuses_holders = *refuses,
        Event::RestartDaemon => world.restart_daemon(),
        Event::SlowFront(millis) => {
            world.front.iter_mut().for_each(|front| front.takes = Duration::from_millis(*millis));
        }
        Event::Forget(forgets) => world.forgets = *forgets,
        Event::Canary(is_declared) => {
            world.intent.canary = is_declared.then(super::canary::declared);
        }
        Event::Visitors(fails) => world.front.iter_mut().for_each(|front| front.fails = *fails),
        Event::Fail(number) => {
            world.failing.insert(*number);
        }
        Event::KillDaemonBefore(number) => world.killed_before = Some(*number),
        Event::Pass => {
            world.pass();
        }
        Event::Wait(seconds) => {
            world.wait(*seconds);
        }
    }
}

fn drop_container(world: &mut World, index: usize) {
    if index < world.observed.containers.len() {
        world.observed.containers.remove(index);
    }
}

fn limit(world: &mut World, index: usize, declared: bool) {
    if let Some(container) = world.observed.containers.get_mut(index) {
        if declared {
            container.memory = Some(1);
        } else {
            container.pids = Some(9);
        }
    }
}

fn edit(world: &mut World, number: u8) {
    let mut options = options();
    match number {
        1 => options.init = false,
        2 => options.volumes.push(mount("uploads")),
        3 => {
            options.env = [("OTHER".to_owned(), Secret::new(super::world::SECRET))].into();
            options.secrets = ["OTHER".to_owned()].into();
        }
        _ => {}
    }
    options.publish = options.publish.filter(|_| world.front.is_none());
    world.intent.options = Ok(options);
}

/// Repairs everything that an operator could repair; the record stays.
fn set_right(world: &mut World) {
    world.resume();
    world.observed.name_holder = None;
    world.foreign_has_port = false;
    world.failing.clear();
    world.hung.clear();
    world.killed_before = None;
    world.refuses_holders = false;
    world.front.iter_mut().for_each(|front| front.fails = false);
    if world.intent.options.is_err() {
        edit(world, 0);
    }
}

fn story(length: usize) -> impl Strategy<Value = Vec<Event>> {
    prop::collection::vec(event(), 0..length)
}

fn mode() -> impl Strategy<Value = Mode> {
    prop_oneof![Just(Mode::Plain), Just(Mode::Holder), Just(Mode::Front)]
}

fn world_after(mode: Mode, events: &[Event]) -> World {
    let mut world = World::running_in(mode, 1);
    programs(&mut world);
    for event in events {
        happen(&mut world, event);
    }
    world
}

/// Found by the property below: the container that was to replace a candidate whose image is gone began to
/// serve beside it, and neither of the two was chosen.
#[test]
fn a_started_return_to_the_good_image_is_completed() {
    for edits in [vec![1], vec![1, 3]] {
        let begin = [Event::Set(3), Event::Pass, Event::RemoveContainer(0), Event::RemoveImage(3)];
        let mut world = world_after(Mode::Front, &begin);
        for number in edits {
            edit(&mut world, number);
            world.wait(1);
        }
        world.wait(7200);
        assert_eq!(world.serving().len(), 1, "{world:#?}");
        assert_eq!(world.serving()[0].image, Some(digest(1)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn after_any_history_a_good_generation_becomes_ready_and_converges(mode in mode(), events in story(40)) {
        let mut world = world_after(mode, &events);
        set_right(&mut world);
        world.set(3);
        world.rest();
        prop_assert!(world.is_ready_with(3), "{:#?}", world.plan());
        world.done.clear();
        prop_assert_eq!(world.wait(3600), 0);
        prop_assert!(world.is_ready_with(3), "{world:?}");
    }

    #[test]
    fn after_any_history_the_last_good_image_serves(mode in mode(), events in story(40)) {
        let mut world = world_after(mode, &events);
        set_right(&mut world);
        world.wait(7200);
        let Some(good) = world.memory.good.clone() else { return Ok(()) };
        let image = good.image.id.clone().unwrap();
        let is_here = world.observed.images.contains(&image);
        let is_good = !world.programs.contains_key(&image);
        prop_assert!(!(is_here && is_good) || world.serving().len() == 1, "{world:#?}\n{:#?}", world.plan());
    }

    #[test]
    fn after_any_history_the_number_of_steps_is_bounded(mode in mode(), events in story(40)) {
        let mut world = world_after(mode, &events);
        world.wait(600);
        let acts = world.wait(3600);
        prop_assert!(acts <= 150, "{acts} acts in an hour: {:#?}", world.plan());
        // A container that crashes repeatedly is ready in between.
        let is_running = |container: &ObservedContainer| container.state == ContainerState::Running;
        if world.plan().verdict.condition == Condition::Ready {
            prop_assert!(world.observed.containers.iter().any(is_running), "{:?}", world);
        }
    }

    #[test]
    fn after_any_history_the_record_settles_without_repeated_rollbacks(
        mode in mode(),
        events in story(40),
    ) {
        let mut world = world_after(mode, &events);
        set_right(&mut world);
        world.wait(7200);
        let generations = world.history.len();
        world.wait(7200);
        prop_assert_eq!(world.history.len(), generations, "{:?}", world);
        let is_rollback = |entry: &&Entry| entry.origin == Some(Origin::AutomaticRollback);
        let rollbacks = world.history.iter().filter(is_rollback).count();
        prop_assert!(rollbacks * 2 <= generations, "{rollbacks} of {generations}");
        if world.intent.entry.origin == Some(Origin::AutomaticRollback) {
            prop_assert_ne!(world.plan().verdict.condition, Condition::Ready);
        }
    }

    #[test]
    fn bad_images_are_tried_once_and_the_good_one_keeps_serving(
        mode in mode(),
        moves in prop::collection::vec((10..20_u8, 0..3_usize, 0..90_u64), 1..12),
    ) {
        let mut world = World::running_in(mode, 1);
        let bad = [Program::NeverAnswers, Program::crashes_after(3), Program::RefusesToStart];
        for (number, how, seconds) in moves {
            if !world.programs.contains_key(&digest(number)) {
                world.program(number, bad[how]);
            }
            world.push(number);
            world.wait(seconds);
        }
        world.wait(600);
        prop_assert_eq!(world.serving().len(), 1);
        prop_assert_eq!(&world.only().image, &Some(digest(1)));
        prop_assert_eq!(world.plan().verdict.condition, Condition::RolledBack);
        let given_up: Vec<_> = world.intent.bad.iter().map(|bad| bad.image.clone()).collect();
        prop_assert!(!given_up.is_empty());
        world.done.clear();
        for bad in given_up {
            let number = (0..=u8::MAX).find(|number| image(*number) == bad).unwrap();
            world.push(number);
            world.wait(60);
        }
        let touches = |step: &&Step| matches!(step, Step::Create { .. } | Step::Stop { .. });
        prop_assert_eq!(world.done.iter().filter(touches).count(), 0, "{:?}", world);
        prop_assert_eq!(world.serving().len(), 1);
    }

    #[test]
    fn the_plan_does_not_depend_on_container_order(
        mode in mode(),
        events in story(40),
        turn in 0..6_usize,
    ) {
        let world = world_after(mode, &events);
        let mut other = world.seen();
        let count = other.containers.len().max(1);
        other.containers.rotate_left(turn % count);
        if turn >= 3 {
            other.containers.reverse();
            other.holders.reverse();
        }
        let shuffled = plan(&world.intent, &other, &world.memory, world.now);
        prop_assert_eq!(world.plan(), shuffled);
    }

    #[test]
    fn a_held_environment_never_gets_another_generation(mode in mode(), events in story(10), number in 1..5_u8) {
        let mut world = world_after(mode, &events);
        set_right(&mut world);
        world.program(1, Program::Good);
        world.set(1);
        world.rest();
        world.hold();
        world.set(number + 10);
        world.done.clear();
        world.advance(world.now.after(Duration::from_secs(1)));
        world.wait(600);
        let is_new = |step: &Step| matches!(step, Step::Create { spec, .. } if spec.image == digest(number + 10));
        prop_assert!(!world.done.iter().any(is_new));
    }
}
