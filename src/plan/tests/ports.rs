//! Environments of one host that exchange their host ports.

use std::time::Duration;

use proptest::prelude::*;

use super::world::{Mode, World};
use crate::model::name::EnvironmentName;
use crate::model::observed::{ContainerState, Neighbour, ObservedContainer};
use crate::model::ports::{PortMapping, Publish};
use crate::model::status::{Condition, Reason};
use crate::plan::Step;

fn name(place: usize) -> EnvironmentName {
    EnvironmentName::new(["a", "b", "c"][place]).unwrap()
}

fn publish(world: &mut World, port: u16) {
    world.edit(|options| options.publish = Some(Publish { address: None, port }));
}

fn wanted(world: &World) -> Vec<PortMapping> {
    world.intent.options.as_ref().unwrap().ports().collect()
}

/// Environments, of which each serves on its own port, and whether each reported that it waits for a port.
struct Host(Vec<World>, Vec<bool>);

impl Host {
    fn new(mode: Mode, count: usize) -> Self {
        let world = |place: usize| {
            let mut world = World::running_in(mode, 1);
            world.intent.environment = name(place);
            publish(&mut world, 9000 + u16::try_from(place).unwrap());
            world.rest();
            world.done.clear();
            world
        };
        Self((0..count).map(world).collect(), vec![false; count])
    }

    /// Each needs the port of the next one.
    fn rotate(&mut self) {
        let count = self.0.len();
        for (place, world) in self.0.iter_mut().enumerate() {
            publish(world, 9000 + u16::try_from((place + 1) % count).unwrap());
        }
    }

    /// One reconcile of one environment, which takes a moment.
    fn look(&mut self, place: usize) {
        let is_other = |(other, world): (usize, &World)| {
            let up = |seen: &&ObservedContainer| seen.state == ContainerState::Running;
            let seen = world.observed.containers.iter().chain(&world.observed.holders).filter(up);
            let publishes = seen.flat_map(|seen| seen.published.clone()).collect();
            let wants = world.intent.hold.is_none().then(|| wanted(world));
            let is_waiting = self.1[other];
            (other != place).then(|| (name(other), Neighbour { publishes, wants, is_waiting }))
        };
        let neighbours: std::collections::BTreeMap<_, _> =
            self.0.iter().enumerate().filter_map(is_other).collect();
        let world = &mut self.0[place];
        let taken: std::collections::BTreeSet<String> =
            neighbours.values().flat_map(|neighbour| neighbour.publishes.clone()).collect();
        let is_taken = |port: &PortMapping| taken.iter().any(|taken| port.conflicts(&taken.parse().unwrap()));
        world.foreign_has_port = wanted(world).iter().any(is_taken);
        world.observed.ports_of_others = taken;
        world.observed.neighbours = neighbours;
        self.1[place] = world.pass().verdict.reason == Reason::AwaitingPort;
        assert!(world.memory.refused.is_none(), "it tried a port that another one has: {world:?}");
        for world in &mut self.0 {
            world.advance(world.now.after(Duration::from_millis(100)));
        }
    }

    fn serving(&self) -> usize {
        let serves = |world: &&World| {
            world.observed.containers.iter().any(|seen| seen.state == ContainerState::Running)
        };
        self.0.iter().filter(serves).count()
    }

    fn rest(&mut self) {
        for round in 0..600 {
            self.look(round % self.0.len());
        }
        for world in &mut self.0 {
            world.observed.neighbours.clear();
            assert!(world.is_ready_with(1), "{world:?}");
        }
    }
}

proptest! {
    #[test]
    fn exchanged_ports_change_hands_in_any_order_of_reconciles_without_a_failure(
        is_plain in any::<bool>(),
        count in 2_usize..=3,
        order in prop::collection::vec(0_usize..3, 0..40),
    ) {
        let mut host = Host::new(if is_plain { Mode::Plain } else { Mode::Holder }, count);
        host.rotate();
        for place in order {
            host.look(place % count);
            prop_assert!(host.serving() + 1 >= count, "two are down at once");
        }
        host.rest();
        for world in &host.0 {
            let stops = world.done.iter().filter(|step| matches!(step, Step::Stop { .. })).count();
            let most = if is_plain { 1 } else { 2 };
            prop_assert!(stops <= most, "it stopped more than its container and sandbox: {world:?}");
        }
    }
}

#[test]
fn the_environment_with_the_last_name_stops_first() {
    let mut host = Host::new(Mode::Holder, 2);
    host.rotate();
    host.look(0);
    assert!(host.0[0].done.is_empty(), "{:?}", host.0[0]);
    let verdict = host.0[0].plan().verdict;
    assert_eq!((verdict.condition, verdict.reason), (Condition::Progressing, Reason::AwaitingPort));
    assert_eq!(verdict.message, "waiting for port 9001, which b still publishes");
    host.look(1);
    assert_eq!(host.serving(), 1);
    assert_eq!(host.0[1].plan().verdict.reason, Reason::AwaitingPort);
    host.look(0);
    host.look(1);
    assert_eq!(host.serving(), 2, "{:?}", host.0);
    host.rest();
}

#[test]
fn a_stopped_environment_starts_again_if_its_port_does_not_become_free() {
    let mut host = Host::new(Mode::Plain, 2);
    host.rotate();
    host.look(1);
    assert_eq!(host.serving(), 2, "the other one may not be able to move");
    host.look(0);
    host.look(1);
    assert_eq!(host.serving(), 1);
    let world = &mut host.0[1];
    world.advance(world.now.after(Duration::from_secs(31)));
    world.pass();
    assert!(world.memory.refused.as_ref().is_some_and(|refused| refused.of_the_host), "{world:?}");
    world.foreign_has_port = false;
    world.pass();
    assert_eq!(host.serving(), 2, "it serves on its former port: {:?}", host.0);
}

#[test]
fn a_port_of_a_held_environment_is_waited_for_without_a_stop() {
    let mut host = Host::new(Mode::Holder, 2);
    host.0[0].hold();
    publish(&mut host.0[1], 9000);
    for _ in 0..5 {
        host.look(1);
    }
    assert!(host.0[1].done.is_empty(), "{:?}", host.0[1]);
    let verdict = host.0[1].plan().verdict;
    assert_eq!((verdict.condition, verdict.reason), (Condition::Degraded, Reason::AwaitingPort));
    assert!(verdict.message.contains("because it is held"), "{verdict:?}");
}

#[test]
fn a_port_that_another_environment_leaves_is_waited_for() {
    let mut host = Host::new(Mode::Holder, 2);
    publish(&mut host.0[1], 9000);
    host.look(1);
    assert!(host.0[1].done.is_empty(), "{:?}", host.0[1]);
    publish(&mut host.0[0], 9005);
    host.look(0);
    host.look(1);
    host.rest();
}
