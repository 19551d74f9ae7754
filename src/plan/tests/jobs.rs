//! Jobs under a clock that changes, with daemons that are killed anywhere.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::world::World;
use crate::model::gates::Zone;
use crate::model::job::{JobMemory, JobRequest, JobResult, JobSpec, Overlap};
use crate::model::name::JobName;
use crate::model::observed::ContainerState;
use crate::model::one_off::CommandWords;
use crate::model::schedule::Schedule;
use crate::model::status::Condition;
use crate::model::time::Timestamp;
use crate::plan::serve::jobs::{ScheduleDecision, decide};

fn nightly() -> JobName {
    JobName::new("nightly").unwrap()
}

fn schedule(text: &str, zone: &str) -> Schedule {
    Schedule::new(text, Zone::named(zone).unwrap()).unwrap()
}

/// A world with a job that runs every ten minutes.
fn world(edit: impl FnOnce(&mut JobSpec)) -> World {
    let mut world = World::running(1);
    let mut spec = JobSpec {
        words: CommandWords { command: Some(vec!["clean".to_owned()]), entrypoint: None },
        backup: None,
        schedule: schedule("*/10 * * * *", "UTC"),
        timeout: Duration::from_secs(3600),
        overlap: Overlap::Forbid,
        retries: 0,
        catch_up: Duration::from_secs(3600),
    };
    edit(&mut spec);
    world.intent.jobs = BTreeMap::from([(nightly(), spec)]);
    world.wait(1);
    world.done.clear();
    world
}

fn state(world: &World) -> &JobMemory {
    &world.memory.jobs[&nightly()]
}

fn results(world: &World) -> Vec<JobResult> {
    state(world).runs.iter().map(|run| run.result).collect()
}

#[test]
fn a_job_runs_once_for_each_scheduled_time_and_leaves_the_service_alone() {
    let mut world = world(|_| {});
    let container = world.only().id.clone();
    for count in 1..4 {
        world.wait(600);
        assert_eq!(world.jobs_run.len(), count, "{world:?}");
        assert_eq!(world.plan().verdict.condition, Condition::Ready);
        world.end_command(0);
        world.wait(1);
    }
    assert_eq!(results(&world), [JobResult::Succeeded; 3]);
    assert_eq!(world.only().id, container);
    assert_eq!(world.observed.one_offs.len(), 1, "only the last container stays, for its output");
    assert!(world.plan().steps.is_empty(), "nothing is to be done at rest");
    let run = &state(&world).runs[2];
    assert_eq!((run.exit_code, run.at.as_millis() % 600_000), (Some(0), 0));
    assert!(!run.output.as_ref().unwrap().contains(super::world::SECRET), "{run:?}");
    assert_eq!((state(&world).successes, state(&world).failures), (3, 0));
}

#[test]
fn a_failed_run_is_repeated_as_often_as_declared() {
    let mut world = world(|spec| {
        (spec.retries, spec.schedule) = (2, schedule("0 * * * *", "UTC"));
    });
    world.wait(3600);
    for attempt in 1..=3 {
        assert_eq!(world.jobs_run.len(), attempt, "{world:?}");
        world.end_command(7);
        world.wait(120);
    }
    assert_eq!(results(&world), [JobResult::Failed; 3]);
    assert_eq!(state(&world).runs.iter().map(|run| run.attempt).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(state(&world).runs[2].why.as_ref().unwrap().contains("code 7"));
    assert_eq!(world.plan().verdict.condition, Condition::Ready, "the service is not at fault");
    world.wait(3600);
    assert_eq!(world.jobs_run.len(), 4, "the next scheduled time is a new run");
}

#[test]
fn overlapping_runs_are_skipped_allowed_or_replaced() {
    let mut forbidden = world(|_| {});
    forbidden.wait(1210);
    assert_eq!(forbidden.jobs_run.len(), 1);
    assert_eq!(results(&forbidden), [JobResult::Running, JobResult::Skipped]);
    let mut allowed = world(|spec| spec.overlap = Overlap::Allow);
    allowed.wait(1210);
    assert_eq!(results(&allowed), [JobResult::Running; 2]);
    let mut replaced = world(|spec| spec.overlap = Overlap::Replace);
    replaced.wait(1210);
    assert_eq!(results(&replaced), [JobResult::Failed, JobResult::Running]);
    assert!(state(&replaced).runs[0].why.as_ref().unwrap().starts_with("was replaced by the run of"));
    assert_eq!(replaced.jobs_run.len(), 2);
}

#[test]
fn a_job_run_that_times_out_is_stopped() {
    let mut world = world(|spec| {
        (spec.timeout, spec.schedule) = (Duration::from_secs(1800), schedule("0 * * * *", "UTC"));
    });
    world.wait(3600);
    assert_eq!(results(&world), [JobResult::Running]);
    world.wait(1500);
    assert_eq!(results(&world), [JobResult::Failed]);
    assert_eq!(state(&world).runs[0].why.as_deref(), Some("did not end within 30m"));
    assert!(!world.is_command_running(), "{world:?}");
}

#[test]
fn only_the_last_missed_time_is_caught_up_within_the_limit() {
    let mut late = world(|_| {});
    late.now = late.now.after(Duration::from_secs(45 * 60));
    late.wait(1);
    assert_eq!(late.jobs_run.len(), 1, "four times were missed");
    let mut too_late = world(|spec| spec.schedule = schedule("0 3 * * *", "UTC"));
    too_late.wait(1);
    let decided = state(&too_late).decided;
    let three = too_late.intent.jobs[&nightly()].schedule.next_after(decided).unwrap();
    too_late.now = three.after(Duration::from_secs(2 * 3600));
    too_late.wait(1);
    assert_eq!(results(&too_late), [JobResult::Missed], "{too_late:?}");
    assert_eq!(too_late.jobs_run.len(), 0);
}

#[test]
fn jobs_run_the_last_good_image_despite_a_hold_or_a_failed_rollout() {
    let mut world = world(|_| {});
    world.hold();
    world.wait(600);
    assert_eq!(world.jobs_run.len(), 1);
    world.end_command(0);
    world.wait(1);
    world.resume();
    world.program(2, super::world::Program::NeverAnswers);
    world.set(2);
    world.wait(600);
    assert_eq!(world.jobs_run.len(), 2, "{world:?}");
    let run = world
        .observed
        .one_offs
        .iter()
        .find(|seen| seen.id.as_str() == state(&world).runs[1].container.as_ref().unwrap());
    assert_eq!(run.unwrap().image, Some(super::world::digest(1)));
}

#[test]
fn a_manual_job_request_runs_or_is_recorded_as_skipped() {
    let mut world = world(|_| {});
    let request =
        JobRequest { at: world.now.after(Duration::from_millis(7)), by: "alice".to_owned(), restore: None };
    world.observed.job_requests.insert(nightly(), vec![request.clone()]);
    world.wait(1);
    assert_eq!(results(&world), [JobResult::Running]);
    assert_eq!(state(&world).runs[0].by.as_deref(), Some("alice"));
    let second = JobRequest { at: request.at.after(Duration::from_millis(1)), ..request };
    world.observed.job_requests.get_mut(&nightly()).unwrap().push(second);
    world.wait(1);
    assert_eq!(results(&world), [JobResult::Running, JobResult::Skipped]);
    world.end_command(0);
    world.wait(60);
    assert_eq!(world.jobs_run.len(), 1, "a request is one run: {world:?}");
}

#[test]
fn an_edited_or_removed_job_does_not_catch_up() {
    let mut world = world(|_| {});
    world.wait(600);
    let spec = world.intent.jobs.get_mut(&nightly()).unwrap();
    spec.schedule = schedule("*/10 * * * *", "Asia/Kathmandu");
    world.wait(2);
    assert_eq!(world.jobs_run.len(), 1, "{world:?}");
    world.intent.jobs.clear();
    world.wait(1);
    assert!(world.is_command_running(), "a removed job's run may end by itself");
    world.end_command(0);
    world.wait(1);
    assert!(world.observed.one_offs.is_empty() && world.memory.jobs.is_empty(), "{world:?}");
}

#[test]
fn a_removed_job_container_is_a_failed_run() {
    let mut world = world(|_| {});
    world.wait(600);
    world.observed.one_offs.clear();
    world.wait(60);
    assert_eq!(results(&world), [JobResult::Failed]);
    assert_eq!(world.jobs_run.len(), 1);
}

#[test]
fn an_image_that_cannot_run_the_command_fails_the_run() {
    let mut world = world(|_| {});
    world.program(1, super::world::Program::RefusesToStart);
    world.wait(610);
    assert_eq!(results(&world), [JobResult::Failed], "{world:?}");
    assert!(state(&world).runs[0].why.as_ref().unwrap().starts_with("cannot be run: "));
}

#[test]
fn each_job_runs_once_despite_a_daemon_kill_at_any_step() {
    for step in 0..4 {
        for forgets in [false, true] {
            let mut world = world(|spec| spec.schedule = schedule("0 * * * *", "UTC"));
            world.forgets = forgets;
            world.killed_before = Some(step);
            world.wait(3600);
            world.restart_daemon();
            world.wait(5);
            assert_eq!(world.jobs_run.len(), 1, "{step} {forgets}: {world:?}");
            world.end_command(0);
            world.killed_before = Some(0);
            world.wait(1);
            world.restart_daemon();
            world.wait(500);
            assert_eq!(results(&world), [JobResult::Succeeded], "{step} {forgets}: {world:?}");
        }
    }
}

#[test]
fn clock_changes_neither_repeat_job_runs_nor_stop_them() {
    let mut world = world(|_| {});
    world.wait(600);
    world.end_command(0);
    world.wait(1);
    world.set_clock_back(Duration::from_secs(300));
    world.wait(299);
    assert_eq!(world.jobs_run.len(), 1, "the same time again");
    world.memory.jobs.get_mut(&nightly()).unwrap().decided =
        world.now.after(Duration::from_secs(400 * 24 * 3600));
    world.wait(700);
    assert_eq!(world.jobs_run.len(), 2, "{world:?}");
}

#[test]
fn a_schedule_follows_the_wall_clock_while_the_daemon_runs_on() {
    let mut world = world(|_| {});
    world.wait(600);
    world.end_command(0);
    world.wait(1);
    assert_eq!(world.jobs_run.len(), 1);
    world.wall_clock_behind = Duration::from_secs(3600);
    let next = state(&world).decided.after(Duration::from_secs(600));
    world.wait(next.since(world.wall_clock()).as_secs() - 1);
    assert_eq!(world.jobs_run.len(), 1, "an hour comes again: {world:?}");
    world.wait(2);
    assert_eq!(state(&world).runs[1].at, next, "{world:?}");
    world.end_command(0);
    world.wall_clock_behind = Duration::ZERO;
    world.wait(1);
    assert_eq!(world.jobs_run.len(), 3, "the clock was set right: {world:?}");
}

#[test]
fn a_scheduled_time_that_comes_again_after_days_has_no_second_run() {
    let mut world = world(|spec| spec.schedule = schedule("0 3 * * *", "UTC"));
    let day = 24 * 3600;
    for days in 0..6 {
        if days == 1 {
            world.wall_clock_behind = Duration::from_secs(3 * day);
        }
        world.wait(day);
        world.end_command(0);
        world.wait(1);
    }
    let at: Vec<_> = state(&world).runs.iter().map(|run| run.at).collect();
    let once = at.iter().collect::<std::collections::BTreeSet<_>>();
    assert_eq!((once.len(), world.jobs_run.len()), (at.len(), at.len()), "{at:?}");
    assert!(at.windows(2).any(|pair| pair[1] < pair[0]), "the clock was set back: {at:?}");
}

const SCHEDULES: [&str; 6] =
    ["30 2 * * *", "0 * * * *", "*/20 2,3 * * *", "0 0 * * *", "*/7 */2 * * *", "15 3 1 * MON"];
const ZONES: [&str; 4] = ["UTC", "Europe/Berlin", "Australia/Lord_Howe", "America/Sao_Paulo"];

proptest! {
    /// A daemon that looks at random moments, with pauses, decides each time at most once and in order, and each
    /// one that it could still start is run unless a later one is.
    #[test]
    fn every_scheduled_time_is_decided_once_despite_clock_changes(
        which in 0..SCHEDULES.len(),
        zone in 0..ZONES.len(),
        // From 2015 to 2030.
        begin in 1_420_070_400_000_u64..1_893_456_000_000,
        pauses in prop::collection::vec(1_u64..200_000_000, 1..60),
        catch_up in 0_u64..200_000,
    ) {
        let schedule = schedule(SCHEDULES[which], ZONES[zone]);
        let catch_up = Duration::from_secs(catch_up);
        let late = catch_up.max(Duration::from_secs(60));
        let begin = Timestamp::from_millis(begin);
        let (mut decided, mut now) = (begin, begin);
        let mut ran = Vec::new();
        for pause in pauses {
            now = now.after(Duration::from_millis(pause));
            let before = decided;
            match decide(&schedule, decided, now, catch_up) {
                ScheduleDecision::Wait => {
                    prop_assert!(schedule.next_after(before).is_none_or(|next| next > now), "a due time was left");
                }
                ScheduleDecision::Run(at) => {
                    prop_assert!(at > before && at <= now && now.since(at) <= late);
                    prop_assert!(schedule.next_after(at).is_none_or(|next| next > now), "a later time was due");
                    ran.push(at);
                    decided = at;
                }
                ScheduleDecision::Missed(at) => {
                    prop_assert_eq!(schedule.next_after(before), Some(at));
                    let oldest = Timestamp::from_millis(now.as_millis() - u64::try_from(late.as_millis()).unwrap() - 1);
                    prop_assert!(schedule.next_after(oldest).is_none_or(|next| next > now), "it could still start");
                    decided = now;
                }
            }
            prop_assert_eq!(decide(&schedule, decided, now, catch_up), ScheduleDecision::Wait, "decided twice");
        }
        prop_assert!(ran.windows(2).all(|pair| pair[0] < pair[1]), "{:?}", ran);
    }
}

mod backups {
    //! Backups of volumes, and restores.

    use super::*;
    use crate::model::backup::{ArchiveName, BackupSpec};
    use crate::model::mount::AbsolutePath;

    /// A world with a backup every ten minutes, after a command if `dump` is one.
    fn backing_up(dump: Option<&str>) -> World {
        let words = |word: &str| CommandWords { command: Some(vec![word.to_owned()]), entrypoint: None };
        let backup = BackupSpec {
            volume: "data".parse().unwrap(),
            dump: dump.map(words).unwrap_or_default(),
            folder: AbsolutePath::parse("the folder", "/srv/backups").unwrap(),
            keep: 3,
        };
        world(|spec| {
            (spec.backup, spec.words) = (Some(backup), CommandWords::default());
            spec.timeout = Duration::from_secs(60);
        })
    }

    /// Until the first scheduled time, in seconds.
    const FIRST: u64 = 130;

    fn asked_to_restore(world: &mut World) {
        let archive = Some("dev-nightly-1.tar".parse::<ArchiveName>().unwrap());
        let at = world.now.after(Duration::from_millis(7));
        let request = JobRequest { at, by: "alice".to_owned(), restore: archive };
        world.observed.job_requests = BTreeMap::from([(nightly(), vec![request])]);
    }

    fn command_of(world: &World, index: usize) -> String {
        world.jobs_run[index].clone()
    }

    #[test]
    fn the_container_is_paused_as_long_as_its_volume_is_read() {
        let mut world = backing_up(None);
        world.wait(FIRST);
        assert_eq!(world.take_done(), ["create command", "pause", "start command"], "{world:?}");
        assert_eq!(world.only().state, ContainerState::Paused);
        let plan = world.plan();
        assert_eq!((plan.verdict.condition, plan.steps.len()), (Condition::Progressing, 0), "{plan:#?}");
        world.wait(30);
        assert_eq!(world.only().state, ContainerState::Paused);
        world.end_command(0);
        world.wait(1);
        assert_eq!(world.only().state, ContainerState::Running);
        assert_eq!(results(&world), [JobResult::Succeeded]);
        let archive = state(&world).runs[0].archive.clone().unwrap();
        assert!(archive.as_str().starts_with("dev-nightly-20"), "{archive:?}");
        assert!(world.is_ready_with(1));
    }

    #[test]
    fn a_backup_that_fails_or_takes_too_long_resumes_the_container() {
        for is_stuck in [true, false] {
            let mut world = backing_up(None);
            world.wait(FIRST);
            if is_stuck {
                world.wait(90);
            } else {
                world.end_command(1);
            }
            world.wait(1);
            assert_eq!(world.only().state, ContainerState::Running, "{world:?}");
            assert_eq!(results(&world)[0], JobResult::Failed);
            assert_eq!(state(&world).runs[0].archive, None);
        }
    }

    #[test]
    fn a_backup_of_a_container_that_did_not_stay_paused_has_failed() {
        for ended_first in [true, false] {
            let mut world = backing_up(None);
            world.wait(FIRST);
            world.observed.containers[0].state = ContainerState::Running;
            if ended_first {
                world.end_command(0);
            }
            world.wait(1);
            let run = &state(&world).runs[0];
            assert_eq!((run.result, &run.archive), (JobResult::Failed, &None), "{world:?}");
            assert!(run.why.as_ref().unwrap().contains("did not stay paused"));
        }
    }

    #[test]
    fn a_command_before_the_backup_pauses_nothing_and_its_failure_writes_no_archive() {
        let mut world = backing_up(Some("dump"));
        world.wait(FIRST);
        assert_eq!(world.jobs_run.len(), 1);
        world.end_command(0);
        world.wait(1);
        assert_eq!(world.jobs_run.len(), 2, "{world:?}");
        assert!(command_of(&world, 1).ends_with(" archive"), "{}", command_of(&world, 1));
        assert_eq!(world.only().state, ContainerState::Running);
        world.end_command(0);
        world.wait(1);
        assert_eq!(results(&world), [JobResult::Succeeded]);
        assert!(state(&world).runs[0].archive.is_some());
        world.wait(600);
        world.end_command(3);
        world.wait(1);
        assert_eq!(world.jobs_run.len(), 3, "no archive after a failed command");
        assert_eq!(results(&world), [JobResult::Succeeded, JobResult::Failed]);
    }

    #[test]
    fn a_restore_stops_the_container_until_it_has_ended() {
        for code in [0, 1] {
            let mut world = backing_up(None);
            asked_to_restore(&mut world);
            world.wait(5);
            assert!(matches!(world.only().state, ContainerState::Exited(_)), "{world:?}");
            assert!(command_of(&world, 0).ends_with(" restore"));
            let plan = world.plan();
            assert_eq!((plan.verdict.condition, plan.steps.len()), (Condition::Progressing, 0), "{plan:#?}");
            world.wait(30);
            assert!(matches!(world.only().state, ContainerState::Exited(_)), "{world:?}");
            world.end_command(code);
            world.wait(20);
            assert!(world.is_ready_with(1), "{world:?}");
            assert_eq!(world.memory.crashes.exits, 0);
            let expected = if code == 0 { JobResult::Succeeded } else { JobResult::Failed };
            assert_eq!(state(&world).runs[0].result, expected);
        }
    }

    #[test]
    fn a_volume_that_was_lost_is_made_again_for_its_restore_only() {
        let mut world = backing_up(None);
        world.observed.volumes.clear();
        world.wait(FIRST);
        assert_eq!(results(&world), [JobResult::Due], "{world:?}");
        assert!(state(&world).runs[0].why.as_ref().unwrap().contains("does not exist"));
        let mut world = backing_up(None);
        world.observed.volumes.clear();
        asked_to_restore(&mut world);
        world.wait(5);
        assert!(world.take_done().contains(&"volume"), "{world:?}");
        assert_eq!(world.jobs_run.len(), 1);
    }

    #[test]
    fn a_daemon_that_is_killed_before_any_step_finishes_a_backup_and_a_restore() {
        for restores in [false, true] {
            for step in 0..12 {
                let mut world = backing_up(None);
                world.forgets = true;
                world.killed_before = Some(step);
                if restores {
                    asked_to_restore(&mut world);
                }
                world.wait(if restores { 5 } else { FIRST });
                world.wait(20);
                world.end_command(0);
                world.wait(20);
                let first = state(&world).runs.iter().find(|run| run.restore == restores);
                assert_eq!(first.unwrap().result, JobResult::Succeeded, "{step}: {world:?}");
                assert!(world.is_ready_with(1), "{step}: {world:?}");
            }
        }
    }
}
