//! Sandboxes, which keep the address, and replacing a container behind the proxy.

use std::time::Duration;

use proptest::prelude::*;

use super::world::{Mode, NAME, Program, World, digest, image};
use crate::model::memory::Memory;
use crate::model::observed::ContainerState;
use crate::model::spec::Publish;
use crate::model::status::{Condition, Reason};
use crate::plan::Step;

fn held() -> World {
    World::running_in(Mode::Holder, 1)
}

fn fronted() -> World {
    World::running_in(Mode::Front, 1)
}

#[test]
fn the_first_container_joins_a_previously_created_sandbox() {
    let mut world = World::empty();
    world.enter(Mode::Holder);
    world.set(1);
    world.rest();
    let steps = ["network", "volume", "load holder", "create holder", "create", "start holder", "start"];
    assert_eq!(world.take_done(), steps);
    assert!(world.is_ready_with(1));
}

#[test]
fn a_crash_restarts_only_the_container_not_the_sandbox() {
    let mut world = held();
    world.exit(0, 137, false);
    world.rest();
    assert_eq!(world.take_done(), ["start"]);
    assert!(world.is_ready_with(1));
}

#[test]
fn a_removed_container_is_recreated_in_the_same_namespace() {
    let mut world = held();
    let holder = world.observed.holders[0].id.clone();
    world.observed.containers.clear();
    world.rest();
    assert_eq!(world.take_done(), ["create", "start"]);
    assert_eq!(world.observed.holders[0].id, holder);
    assert!(world.is_ready_with(1));
}

#[test]
fn an_update_replaces_the_container_in_the_same_namespace() {
    let mut world = held();
    let holder = world.observed.holders[0].id.clone();
    world.set(2);
    world.rest();
    assert_eq!(world.take_done(), ["create", "stop", "start", "remove", "rename"]);
    assert_eq!(world.observed.holders[0].id, holder);
    assert!(world.is_ready_with(2));
}

#[test]
fn a_port_change_replaces_the_sandbox() {
    let mut world = held();
    world.edit(|options| options.publish = Some(Publish { address: None, port: 9000 }));
    world.rest();
    let steps = [
        "try",
        "create holder",
        "create",
        "stop",
        "stop",
        "start holder",
        "start",
        "remove",
        "rename",
        "remove",
    ];
    assert_eq!(world.take_done(), steps);
    assert!(world.is_ready_with(1));
}

#[test]
fn an_occupied_new_port_leaves_the_old_container_serving() {
    let mut world = held();
    world.foreign_has_port = true;
    world.edit(|options| options.publish = Some(Publish { address: None, port: 9000 }));
    world.pass();
    world.foreign_has_port = false;
    world.wait(60);
    assert_eq!(world.serving().len(), 1);
    assert_eq!(world.plan().verdict.condition, Condition::Degraded);
    assert!(world.only().published.is_empty(), "the one before serves on its own port");
    assert_eq!(world.observed.holders.len(), 1);
    world.rest();
    assert!(world.is_ready_with(1), "it is tried again by itself: {world:?}");
}

#[test]
fn a_stopped_sandbox_is_restarted_before_its_container() {
    let mut world = held();
    world.exit_holder(0);
    world.rest();
    assert_eq!(world.take_done(), ["start holder", "restart"]);
    assert!(world.is_ready_with(1));
}

#[test]
fn a_sandbox_that_exits_while_starting_is_restarted_despite_a_backoff() {
    let mut world = held();
    world.exit_holder(0);
    world.failing.insert(1);
    world.pass();
    world.exit_holder(0);
    world.exit(0, 143, false);
    world.rest();
    assert!(world.is_ready_with(1), "{world:?}");
}

#[test]
fn an_externally_restarted_sandbox_gets_its_container_restarted() {
    let mut world = held();
    let now = world.now;
    world.observed.holders[0].started_at = Some(now);
    world.rest();
    assert_eq!(world.take_done(), ["restart"]);
    assert!(world.is_ready_with(1));
}

#[test]
fn a_removed_sandbox_is_recreated_together_with_its_container() {
    let mut world = held();
    world.remove_holder(0);
    world.rest();
    assert_eq!(world.take_done(), ["stop", "remove", "create holder", "create", "start holder", "start"]);
    assert!(world.is_ready_with(1));
}

#[test]
fn containers_get_their_own_namespace_if_sandboxes_cannot_run() {
    let mut world = World::empty();
    world.enter(Mode::Holder);
    world.refuses_holders = true;
    world.set(1);
    world.rest();
    assert!(world.is_ready_with(1), "{world:?}");
    assert!(world.only().joined.is_none());
    assert!(world.observed.holders.is_empty());
    let message = world.plan().verdict.message;
    assert!(message.contains("exec format error"), "{message}");
}

#[test]
fn sandboxes_that_failed_are_retried_at_the_next_deployment() {
    let mut world = World::empty();
    world.enter(Mode::Holder);
    world.refuses_holders = true;
    world.set(1);
    world.rest();
    assert!(world.only().joined.is_none(), "{world:?}");
    world.refuses_holders = false;
    world.take_done();
    world.wait(900);
    assert!(world.take_done().is_empty(), "what serves is left as it is");
    world.set(2);
    world.rest();
    assert!(world.is_ready_with(2), "{world:?}");
    assert!(world.only().joined.is_some(), "{world:?}");
}

#[test]
fn a_full_disk_does_not_disable_sandboxes() {
    let mut world = World::empty();
    world.enter(Mode::Holder);
    world.disk_is_full = true;
    world.set(1);
    world.wait(60);
    assert!(world.serving().is_empty(), "{world:?}");
    world.disk_is_full = false;
    world.wait(400);
    assert!(world.is_ready_with(1), "{world:?}");
    assert!(world.only().joined.is_some(), "{world:?}");
}

#[test]
fn a_container_without_a_sandbox_is_unchanged_until_its_next_update() {
    let mut world = World::running(1);
    world.enter(Mode::Holder);
    assert!(world.plan().steps.is_empty());
    world.set(2);
    world.rest();
    assert!(world.is_ready_with(2));
    assert!(world.only().joined.is_some());
}

#[test]
fn behind_a_proxy_the_old_container_serves_until_the_new_one_is_ready() {
    let mut world = fronted();
    world.always_served = true;
    world.set(2);
    world.wait(12);
    assert_eq!(
        world.take_done(),
        ["connect", "announce", "create", "start", "rename", "rename"],
        "the new version joins the spare"
    );
    let verdict = world.plan().verdict;
    assert_eq!(verdict.condition, Condition::Ready, "{verdict:?}");
    let names: Vec<_> = world.observed.containers.iter().map(|seen| seen.name.as_str()).collect();
    assert_eq!(names, ["dev-server.old-000002", NAME]);
    world.rest();
    assert_eq!(
        world.take_done(),
        ["stop", "remove", "stop", "remove", "create holder", "start holder", "disconnect"],
        "the old one and its holder, and then another spare"
    );
    assert!(world.is_ready_with(2));
}

#[test]
fn a_spare_that_ended_or_was_connected_is_replaced() {
    let breaks: [fn(&mut World); 3] = [
        |world| world.exit_holder(1),
        |world| world.remove_holder(1),
        |world| {
            let id = world.observed.holders[1].id.clone();
            world.connect(&id).unwrap();
        },
    ];
    for breaks in breaks {
        let mut world = fronted();
        let serving = world.only().joined.as_ref().unwrap().holder.clone();
        breaks(&mut world);
        world.rest();
        assert!(world.is_ready_with(1), "{world:?}");
        assert_eq!(world.only().joined.as_ref().unwrap().holder, serving, "{world:?}");
    }
}

#[test]
fn a_held_environment_gets_no_spare_and_keeps_the_one_it_has() {
    let mut world = fronted();
    world.hold();
    world.rest();
    assert_eq!(world.spares(), 1, "{world:?}");
    world.remove_holder(1);
    world.rest();
    assert_eq!(world.spares(), 0, "{world:?}");
    world.resume();
    world.rest();
    assert_eq!(world.spares(), 1, "{world:?}");
}

#[test]
fn without_spares_a_new_version_gets_a_new_sandbox() {
    let mut world = fronted();
    world.intent.spare = false;
    world.rest();
    assert_eq!(world.take_done(), ["stop", "remove"], "the spare");
    world.set(2);
    world.wait(12);
    let steps = ["create holder", "start holder", "announce", "create", "start", "rename", "rename"];
    assert_eq!(world.take_done(), steps);
}

#[test]
fn the_proxy_never_serves_a_version_that_is_never_ready() {
    let mut world = fronted();
    world.always_served = true;
    world.program(2, Program::NeverAnswers);
    world.set(2);
    world.rest();
    assert_eq!(world.plan().verdict.reason, Reason::RolledBack);
    assert_eq!(world.only().image, Some(digest(1)));
    let is_stop = |step: &&Step| matches!(step, Step::Stop { id } if *id == world.only().id);
    assert_eq!(world.done.iter().filter(is_stop).count(), 0, "the good one was stopped");
}

#[test]
fn a_container_crashing_beside_its_replacement_is_restarted() {
    let mut world = fronted();
    world.set(2);
    world.pass();
    world.exit(0, 137, false);
    world.pass();
    assert_eq!(world.observed.containers[0].state, ContainerState::Running);
    world.rest();
    assert!(world.is_ready_with(2));
}

#[test]
fn a_third_version_takes_over_while_the_first_still_drains() {
    let mut world = fronted();
    world.always_served = true;
    world.set(2);
    world.wait(12);
    world.front.as_mut().unwrap().drained = world.now.after(Duration::from_secs(60));
    world.set(3);
    world.wait(12);
    let images: Vec<_> = world.observed.containers.iter().map(|seen| seen.image.clone()).collect();
    assert_eq!(images, [1, 2, 3].map(|number| Some(digest(number))));
    world.rest();
    assert!(world.is_ready_with(3));
}

#[test]
fn an_unavailable_proxy_stops_no_container() {
    let mut world = fronted();
    world.front = None;
    world.set(2);
    world.wait(60);
    assert_eq!(world.serving().len(), 2, "nothing takes over before the front was switched");
    assert_eq!(world.plan().serving, Some(world.observed.containers[1].id.clone()));
}

#[test]
fn containers_do_not_accumulate_while_the_proxy_is_unavailable() {
    let mut world = fronted();
    world.front = None;
    for number in 2..=6 {
        world.set(number);
        world.wait(60);
    }
    assert_eq!(world.serving().len(), 2);
    assert_eq!(world.plan().verdict.reason, Reason::FrontUnavailable);
}

/// A world where image 2 has become ready and the proxy takes a second to switch the traffic.
fn switching() -> World {
    let mut world = fronted();
    world.always_served = true;
    world.front.as_mut().unwrap().takes = Duration::from_secs(1);
    world.set(2);
    world.wait(11);
    assert_eq!(world.plan().serving, Some(world.observed.containers[1].id.clone()));
    assert_ne!(world.front.as_ref().unwrap().serves, world.plan().serving, "it is switched already");
    world.done.clear();
    world
}

#[test]
fn a_push_during_a_switch_stops_no_container_in_use_by_the_proxy() {
    let mut world = switching();
    world.set(3);
    world.pass();
    world.pass();
    let is_stop = |step: &&Step| matches!(step, Step::Stop { .. } | Step::Remove { .. });
    assert_eq!(world.done.iter().filter(is_stop).count(), 0, "{world:?}");
    world.rest();
    assert!(world.is_ready_with(3), "{world:?}");
}

#[test]
fn a_rollback_during_a_proxy_switch_drops_no_request() {
    let mut world = switching();
    world.set(1);
    world.rest();
    assert!(world.is_ready_with(1), "{world:?}");
}

#[test]
fn readiness_survives_a_daemon_kill_during_a_proxy_switch() {
    for is_pushed in [false, true] {
        let mut world = switching();
        world.forgets = true;
        world.killed_before = Some(0);
        world.front.as_mut().unwrap().takes = Duration::ZERO;
        world.wait(1);
        let serves = world.front.as_ref().unwrap().serves.clone();
        world.restart_daemon();
        if is_pushed {
            world.set(3);
        }
        world.pass();
        world.advance(world.now.after(Duration::from_millis(300)));
        world.pass();
        let good = world.memory.good.as_ref().map(|good| good.container.clone());
        assert_eq!(good, serves, "what serves had become ready: {world:?}");
        world.rest();
        assert!(world.is_ready_with(if is_pushed { 3 } else { 2 }), "{world:?}");
    }
}

#[test]
fn a_container_stopped_by_abide_does_not_count_as_failed() {
    // An older record stops the container that a newer one had started, and receives the newer one only
    // then.
    let mut world = held();
    world.set(2);
    world.rest();
    let entry = world.intent.entry.clone();
    world.set(1);
    world.wait(1);
    world.restart_daemon();
    assert!(world.observed.containers.iter().any(|seen| seen.image == Some(digest(2))), "{world:?}");
    let at = world.now;
    world.record_again(entry, at);
    world.rest();
    assert!(world.is_ready_with(2), "{world:?}");
    assert!(world.intent.bad.is_empty());
}

#[test]
fn a_possibly_outdated_record_keeps_and_heals_the_running_container() {
    let mut world = held();
    let old = world.intent.entry.clone();
    world.set(2);
    world.rest();
    world.take_done();
    world.intent.keeps_what_runs = true;
    world.intent.entry = old;
    world.memory = Memory::default();
    let plan = world.rest();
    assert_eq!((world.take_done().len(), plan.verdict.reason), (0, Reason::RecordBehind), "{plan:#?}");
    world.exit(0, 137, false);
    world.rest();
    assert_eq!(world.take_done(), ["start"], "it is healed");
    assert_eq!(world.only().image, Some(digest(2)));
    // A container that runs as recorded is maintained as usual.
    world.intent.entry = world.latest.clone();
    world.rest();
    assert!(world.is_ready_with(2), "{world:?}");
    world.intent.keeps_what_runs = false;
    world.rest();
    assert!(world.is_ready_with(2), "{world:?}");
}

#[test]
fn an_unknown_recorded_image_never_causes_a_downgrade() {
    let mut world = held();
    let old = world.memory.clone();
    world.set(2);
    world.rest();
    let serving = world.only().id.clone();
    world.take_done();
    // The notes are those of an old copy, and the recorded image is not here under the name that they know.
    world.memory = old.clone();
    let entry = world.intent.entry.clone();
    world.intent.entry.image = Some(image(9));
    let plan = world.rest();
    assert_eq!(world.take_done(), Vec::<&str>::new(), "{plan:#?}");
    assert_eq!(plan.verdict.reason, Reason::ImageNotFound, "{plan:#?}");
    world.intent.entry = entry;
    world.rest();
    assert!(world.is_ready_with(2), "{world:?}");
    assert_eq!(world.only().id, serving);

    // A version that does not answer does not serve, so the good one is better.
    world.memory = old;
    world.intent.entry.image = Some(image(9));
    world.hang();
    world.take_done();
    world.wait(5);
    let mut running =
        world.observed.containers.iter().filter(|container| container.state == ContainerState::Running);
    assert_eq!(running.next().and_then(|container| container.image.clone()), Some(digest(1)), "{world:?}");
}

/// An event while versions follow each other.
#[derive(Clone, Debug)]
enum Move {
    Set(u8),
    Edit(bool),
    Kill(usize),
    Restart,
    Pass,
    Millis(u64),
}

fn moves() -> impl Strategy<Value = Move> {
    prop_oneof![
        3 => (1..5_u8).prop_map(Move::Set),
        1 => any::<bool>().prop_map(Move::Edit),
        2 => (0..6_usize).prop_map(Move::Kill),
        2 => Just(Move::Restart),
        4 => Just(Move::Pass),
        6 => (0..15_000_u64).prop_map(Move::Millis),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, failure_persistence: None, ..ProptestConfig::default() })]

    /// The law of availability: the proxy never passes traffic to a container that does not answer. It holds
    /// at each step of any sequence of good and bad deployments, with the daemon killed anywhere in between.
    #[test]
    fn the_proxy_never_sends_traffic_to_an_unresponsive_container(
        takes in 0..3_000_u64,
        moves in prop::collection::vec((10..16_u8, 0..4_usize, 0..50_u64, prop::option::of(0..8_usize)), 1..12),
    ) {
        let programs = [Program::Good, Program::NeverAnswers, Program::crashes_after(3), Program::RefusesToStart];
        let mut world = fronted();
        world.always_served = true;
        world.front.as_mut().unwrap().takes = Duration::from_millis(takes);
        for (number, program, seconds, killed) in moves {
            if !world.programs.contains_key(&digest(number)) {
                world.program(number, programs[program]);
            }
            world.killed_before = killed;
            world.set(number);
            world.wait(seconds);
        }
        world.rest();
        prop_assert_eq!(world.serving().len(), 1);
        prop_assert_eq!((world.observed.holders.len(), world.spares()), (2, 1));
    }
    /// The law of the serving container: no container that may have requests is stopped
    /// (`World::may_leave`), and the container with the proxy's traffic always answers. It holds for any
    /// interleaving, with the daemon killed and its newest notes lost, and with a slow proxy.
    #[test]
    fn a_container_in_use_is_never_stopped_before_another_serves(
        has_front in any::<bool>(),
        forgets in any::<bool>(),
        takes in 0..3_000_u64,
        moves in prop::collection::vec(moves(), 1..40),
    ) {
        let mut world = if has_front { fronted() } else { held() };
        world.always_served = has_front;
        world.forgets = forgets;
        world.front.iter_mut().for_each(|front| front.takes = Duration::from_millis(takes));
        for next in moves {
            match next {
                Move::Set(number) => world.set(number),
                Move::Edit(init) => world.edit(|options| options.init = init),
                Move::Kill(step) => world.killed_before = Some(step),
                Move::Restart => world.restart_daemon(),
                Move::Pass => drop(world.pass()),
                Move::Millis(millis) => world.wait_millis(millis),
            }
        }
        world.killed_before = None;
        let wanted = world.intent.entry.image.clone();
        world.rest();
        prop_assert_eq!(world.serving().len(), 1, "{:?}", world);
        prop_assert_eq!(&world.only().image, &wanted.unwrap().id);
    }
}
