//! A stable record in an unstable environment: crashes, drift, things that vanish.

use std::time::Duration;

use super::world::{NAME, Program, World, digest, mount};
use crate::model::container::Exit;
use crate::model::observed::ContainerState;
use crate::model::status::{Condition, Reason};
use crate::model::time::Timestamp;
use crate::plan::{Step, backoff};

fn starts(world: &World) -> usize {
    world.done.iter().filter(|step| matches!(step, Step::Start { .. })).count()
}

/// The times at which the only container was started, over so many seconds.
fn started_at(world: &mut World, seconds: u64) -> Vec<Timestamp> {
    let mut moments = vec![world.only().started_at.unwrap()];
    for _ in 0..seconds * 4 {
        world.wait(0);
        world.advance(world.now.after(Duration::from_millis(250)));
        world.wait(0);
        let started = world.only().started_at.unwrap();
        if moments.last() != Some(&started) {
            moments.push(started);
        }
    }
    moments
}

#[test]
fn the_first_crash_restarts_at_once_and_later_ones_back_off_to_five_minutes() {
    let mut world = World::running(1);
    world.program(1, Program::crashes_after(2));
    world.exit(0, 1, false);
    let moments = started_at(&mut world, 3600);
    let gaps: Vec<_> = moments.windows(2).map(|pair| pair[1].since(pair[0]).as_secs_f64()).collect();
    // The container runs for two seconds each time; jitter makes a wait up to a quarter longer.
    for (gap, wait) in gaps.iter().skip(1).zip([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0]) {
        assert!((wait + 2.0..=wait * 1.25 + 2.6).contains(gap), "{gap} for {wait} in {gaps:?}");
    }
    assert!(gaps.iter().all(|gap| *gap <= 303.0), "{gaps:?}");
    let verdict = world.plan().verdict;
    assert_eq!((verdict.condition, verdict.reason), (Condition::Degraded, Reason::CrashLoop));
}

#[test]
fn ten_healthy_minutes_reset_the_crash_count() {
    let mut world = World::running(1);
    for _ in 0..4 {
        world.exit(0, 1, false);
        world.wait(30);
    }
    assert_eq!(world.memory.crashes.count, 4);
    world.wait(601);
    world.exit(0, 1, false);
    let moment = world.now;
    world.wait(0);
    assert_eq!(world.memory.crashes.count, 1);
    assert_eq!(world.only().started_at, Some(moment), "restarted at once");
}

#[test]
fn sync_gets_through_a_backoff() {
    let mut world = World::running(1);
    world.program(1, Program::crashes_after(1));
    world.exit(0, 1, false);
    world.wait(600);
    assert!(matches!(world.only().state, ContainerState::Exited(_)), "{:#?}", world.only());
    world.program(1, Program::Good);
    world.sync();
    world.wait(0);
    assert_eq!(world.only().state, ContainerState::Running);
}

#[test]
fn sync_retries_a_failing_start_only_once() {
    let mut world = World::running(1);
    world.exit(0, 1, false);
    world.foreign_has_port = true;
    world.wait(60);
    world.sync();
    world.done.clear();
    world.wait(0);
    assert_eq!(world.done.len(), 0);
    let plan = world.plan();
    assert_eq!((plan.verdict.condition, plan.verdict.reason), (Condition::Degraded, Reason::StartFailed));
    assert!(plan.steps.is_empty(), "a hot loop: {plan:#?}");
    world.foreign_has_port = false;
    world.wait(600);
    assert!(world.is_ready_with(1));
}

#[test]
fn a_replacement_starts_with_a_zero_crash_count() {
    let mut world = World::running(1);
    for _ in 0..6 {
        world.exit(0, 1, false);
        world.wait(60);
    }
    world.set(2);
    world.rest();
    assert!(world.is_ready_with(2));
    assert_eq!((world.memory.crashes.count, world.memory.crashes.restarts), (0, 0));
}

#[test]
fn a_container_that_exits_cleanly_is_restarted() {
    let mut world = World::running(1);
    world.exit(0, 0, false);
    let plan = world.pass();
    assert_eq!(
        plan.verdict.message,
        "restarting generation 1, which exited with code 0, but a service must keep running"
    );
    world.rest();
    assert!(world.is_ready_with(1));
}

#[test]
fn an_out_of_memory_kill_is_reported() {
    let mut world = World::running(1);
    world.exit(0, 137, true);
    world.pass();
    world.exit(0, 137, true);
    let verdict = world.plan().verdict;
    assert_eq!(verdict.reason, Reason::CrashLoop);
    assert!(verdict.message.contains("was killed because it ran out of memory"), "{}", verdict.message);
}

#[test]
fn a_renamed_container_gets_its_name_back() {
    let mut world = World::running(1);
    world.rename(0, "something-else");
    world.rest();
    assert_eq!(world.take_done(), ["rename"]);
    assert!(world.is_ready_with(1));
}

#[test]
fn a_paused_container_is_unpaused() {
    let mut world = World::running(1);
    world.pause(0);
    world.rest();
    assert_eq!(world.take_done(), ["unpause"]);
}

#[test]
fn limits_that_drift_are_set_in_place() {
    let mut world = World::running(1);
    world.observed.containers[0].memory = Some(1);
    world.observed.containers[0].restart_policy = "always".to_owned();
    world.rest();
    assert_eq!(world.take_done(), ["adjust"]);
    assert!(world.is_ready_with(1));
}

#[test]
fn an_undeclared_limit_is_removed_by_a_new_container() {
    let mut world = World::running(1);
    world.observed.containers[0].pids = Some(10);
    world.rest();
    assert!(world.is_ready_with(1));
    assert_eq!(world.only().pids, None);
}

#[test]
fn a_failing_replacement_for_drift_leaves_the_old_container_serving() {
    let mut world = World::running(1);
    let before = world.only().id.clone();
    world.observed.containers[0].pids = Some(10);
    world.program(1, Program::NeverAnswers);
    world.wait(120);
    assert_eq!(world.only().id, before);
    assert_eq!(world.only().state, ContainerState::Running);
    // The previous container has the same image, which no longer answers.
    let verdict = world.plan().verdict;
    assert_eq!((verdict.condition, verdict.reason), (Condition::Degraded, Reason::Unhealthy));
}

#[test]
fn a_missing_volume_that_held_data_is_never_recreated() {
    let mut world = World::running(1);
    world.observed.containers.clear();
    world.observed.volumes.clear();
    let plan = world.rest();
    assert!(world.done.is_empty(), "{:?}", world.done);
    assert_eq!((plan.verdict.condition, plan.verdict.reason), (Condition::Blocked, Reason::VolumeMissing));
    world.observed.volumes.insert("data".to_owned());
    world.rest();
    assert!(world.is_ready_with(1));
}

#[test]
fn a_missing_volume_of_new_options_does_not_stop_healing() {
    let mut world = World::running(1);
    world.memory.volumes.insert("uploads".to_owned());
    world.edit(|options| options.volumes.push(mount("uploads")));
    world.exit(0, 1, false);
    let plan = world.rest();
    assert_eq!((plan.verdict.condition, plan.verdict.reason), (Condition::Blocked, Reason::VolumeMissing));
    assert_eq!(world.serving().len(), 1);
}

#[test]
fn an_unreadable_secret_does_not_stop_healing() {
    let mut world = World::running(1);
    let options = std::mem::replace(&mut world.intent.options, Err("$PASSWORD is not set".to_owned()));
    world.exit(0, 1, false);
    let stopped = world.plan().verdict.message;
    assert!(stopped.ends_with("the current container stays unchanged"), "{stopped}");
    let plan = world.rest();
    assert!(plan.verdict.message.ends_with("the current container keeps running unchanged"), "{plan:?}");
    assert_eq!((plan.verdict.condition, plan.verdict.reason), (Condition::Blocked, Reason::SecretMissing));
    assert!(plan.verdict.message.starts_with("$PASSWORD is not set"), "{}", plan.verdict.message);
    assert_eq!(world.serving().len(), 1);
    world.intent.options = options;
    world.rest();
    assert!(world.is_ready_with(1));
}

#[test]
fn a_secret_lost_during_an_update_restores_the_old_container() {
    let mut world = World::running(1);
    let old = world.only().id.clone();
    world.set(2);
    world.wait(5);
    let options = std::mem::replace(&mut world.intent.options, Err("$PASSWORD is not set".to_owned()));
    world.rest();
    assert_eq!(world.only().id, old);
    assert_eq!(world.serving().len(), 1);
    world.intent.options = options;
    world.rest();
    assert!(world.is_ready_with(2), "the update was not refused for being cut short");
}

#[test]
fn a_removed_container_is_recreated() {
    let mut world = World::running(1);
    world.observed.containers.clear();
    world.rest();
    assert_eq!(world.take_done(), ["create", "start"]);
    assert!(world.is_ready_with(1));
}

#[test]
fn a_removed_network_is_recreated_and_joined_by_a_stopped_container() {
    let mut world = World::running(1);
    world.remove_network();
    world.exit(0, 1, false);
    world.rest();
    assert_eq!(world.take_done(), ["network", "connect", "start"]);
    assert!(world.is_ready_with(1));
}

#[test]
fn an_unmanaged_container_with_the_name_is_reported_and_kept() {
    let mut world = World::running(1);
    world.observed.containers.clear();
    world.foreign_takes_name();
    let plan = world.rest();
    assert!(world.done.is_empty());
    assert_eq!((plan.verdict.condition, plan.verdict.reason), (Condition::Blocked, Reason::NameConflict));
    world.observed.name_holder = None;
    world.rest();
    assert!(world.is_ready_with(1));
}

#[test]
fn a_renamed_container_keeps_healing_if_its_name_is_taken() {
    let mut world = World::running(1);
    world.rename(0, "something-else");
    world.foreign_takes_name();
    world.exit(0, 1, false);
    world.set(2);
    let plan = world.rest();
    assert_eq!((plan.verdict.condition, plan.verdict.reason), (Condition::Blocked, Reason::NameConflict));
    assert_eq!(world.serving().len(), 1);
    assert_eq!(world.take_done(), ["start"]);
}

#[test]
fn a_dead_container_is_removed_and_recreated() {
    let mut world = World::running(1);
    world.observed.containers[0].state = ContainerState::Dead;
    world.rest();
    assert_eq!(world.take_done(), ["remove", "create", "start"]);
    assert!(world.is_ready_with(1));
}

#[test]
fn restart_policies_are_removed_even_during_a_restart() {
    for state in [ContainerState::Running, ContainerState::InTransit] {
        let mut world = World::running(1);
        world.observed.containers[0].state = state;
        world.observed.containers[0].restart_policy = "always".to_owned();
        world.observed.holders.iter_mut().for_each(|holder| holder.restart_policy = "always".to_owned());
        let plan = world.pass();
        let adjusted =
            plan.steps.iter().filter(|planned| matches!(planned.step, Step::Adjust { .. })).count();
        assert_eq!(adjusted, 1 + world.observed.holders.len(), "{plan:#?}");
        let all = world.observed.containers.iter().chain(&world.observed.holders);
        assert!(all.into_iter().all(|seen| seen.restart_policy == "no"));
    }
}

#[test]
fn a_dead_container_does_not_fail_the_stopped_one_beside_it() {
    let mut world = World::running(1);
    let mut dead = world.only().clone();
    (dead.id, dead.state) = ("dead".to_owned(), ContainerState::Dead);
    let exit = Exit { code: 1, out_of_memory: false, at: world.now };
    world.observed.containers[0].name = format!("{NAME}.next");
    world.observed.containers[0].state = ContainerState::Exited(exit);
    world.observed.containers.push(dead);
    world.memory.good = None;
    world.rest();
    assert!(world.is_ready_with(1));
    assert_eq!(world.memory.refused, None);
}

#[test]
fn a_container_in_transit_is_inspected_again_before_an_update() {
    let mut world = World::running(1);
    world.observed.containers[0].state = ContainerState::InTransit;
    world.set(2);
    let plan = world.plan();
    assert!(plan.steps.is_empty(), "{plan:#?}");
    assert!(plan.requeue_at > Some(world.now), "{plan:#?}");
}

#[test]
fn swapped_container_names_do_not_keep_the_bad_container() {
    let mut world = World::running(1);
    world.program(2, Program::NeverAnswers);
    world.set(2);
    world.wait(5);
    let old = world.observed.containers.iter().position(|c| c.image == Some(digest(1))).unwrap();
    world.rename(old, "something-else");
    world.rename(1 - old, NAME);
    world.wait(120);
    assert_eq!(world.only().image, Some(digest(1)));
    assert_eq!(world.serving().len(), 1);
}

#[test]
fn backoff_starts_at_zero_never_shrinks_and_is_capped_at_5_min() {
    for seed in ["a", "b", "dev", "prod-server"] {
        assert_eq!((backoff(0, seed), backoff(1, seed)), (Duration::ZERO, Duration::ZERO));
        for count in 2..1000 {
            let (delay, next) = (backoff(count, seed), backoff(count + 1, seed));
            assert!(delay >= Duration::from_secs(1) && delay <= next, "{count}: {delay:?}, {next:?}");
            assert!(next <= Duration::from_secs(300));
        }
    }
    assert_eq!(backoff(u32::MAX, "a"), Duration::from_secs(300));
    assert_ne!(backoff(5, "a"), backoff(5, "b"), "what fails together does not come back together");
}

#[test]
fn a_crash_observed_twice_is_counted_once() {
    let mut world = World::running(1);
    world.exit(0, 1, false);
    world.pass();
    world.advance(world.now.after(Duration::from_millis(1)));
    world.exit(0, 1, false);
    for _ in 0..5 {
        world.pass();
    }
    assert_eq!(world.memory.crashes.count, 2);
    assert_eq!(starts(&world), 1);
}

#[test]
fn another_environments_container_is_renamed_if_its_name_is_needed() {
    let mut world = World::running(1);
    world.rename(0, "other-server");
    world.neighbour_has_name();
    world.rest();
    assert!(world.observed.name_holder.is_none(), "it was moved out of the way");
    assert!(world.is_ready_with(1));
    assert_eq!(world.observed.containers[0].name, NAME);
}

#[test]
fn a_replacement_gets_an_unused_name() {
    let mut world = World::running(1);
    world.others_take_names_beside();
    world.set(2);
    world.rest();
    assert!(world.is_ready_with(2));
    let mut made = world.done.iter().rev().filter_map(|step| match step {
        Step::Create { name, .. } => Some(name.to_string()),
        _ => None,
    });
    assert_eq!(made.next().as_deref(), Some("dev-server.next2"));
}
