//! Jobs, backups and restores of which any step is cut short.

use abide::failpoint::Point;
use serde_json::Value;

use super::around;
use crate::backup::{archives, declared, read, write};
use crate::commands::{runs, versioned};
use crate::common::{Daemon, Life, PATIENCE, Space, Spot, busybox, docker, eventually};

/// The steps of a job.
pub(super) const JOB: &[Point] = &[Point::CreateOneOff, Point::StartOneOff];
/// The steps of a backup.
pub(super) const BACKUP: &[Point] = &[Point::CreateOneOff, Point::Pause, Point::StartOneOff, Point::Unpause];
/// The steps of a restore.
pub(super) const RESTORE: &[Point] = &[Point::CreateOneOff, Point::Stop, Point::StartOneOff, Point::Start];

/// Lets a daemon die at a failpoint during a command, and returns the next daemon.
fn cut_short(spot: &Spot, failpoint: &str, arguments: &[&str]) -> Daemon {
    let doomed = Daemon::start_doomed(&spot.desired_state, failpoint, &[]);
    // The session ends with the daemon, unless the run ended just before.
    let _ = spot.abide(arguments);
    doomed.await_doom(failpoint);
    spot.daemon()
}

fn history(spot: &Spot) -> Vec<Value> {
    serde_json::from_str(&spot.abide(&["jobs", "history", "nightly", "-o", "json"]).stdout)
        .unwrap_or_default()
}

/// Waits until the newest run, the one with this number, has succeeded.
fn await_success(spot: &Spot, number: usize, failpoint: &str) {
    eventually(&format!("the run has succeeded after {failpoint}"), PATIENCE, || {
        let runs = history(spot);
        runs.len() == number && runs[0]["result"] == "succeeded"
    });
    spot.await_ready();
}

#[test]
fn a_job_runs_once_wherever_it_was_cut_short() {
    let Some(space) = Space::new() else { return };
    let Some(shell) = busybox(&space) else { return };
    let lines = format!(
        "volumes = [\"{}:/data\"]\n[job.nightly]\nenvironment = \"dev\"\nschedule = \"0 0 29 2 *\"\n\
         entrypoint = [\"/bin/sh\", \"-c\"]\ncommand = [\"echo ran $VERSION >> /data/runs\"]\n",
        space.name("data")
    );
    let spot = Spot::new(&space, &lines);
    let mut daemon = spot.daemon();
    assert_eq!(spot.set(&versioned(&space, &shell, "one", "")).code, 0);
    spot.await_ready();
    for (number, failpoint) in around(JOB).into_iter().enumerate() {
        daemon.kill();
        daemon = cut_short(&spot, &failpoint, &["jobs", "run", "nightly"]);
        await_success(&spot, number + 1, &failpoint);
        assert_eq!(runs(&spot.name, "one"), number + 1, "{failpoint}");
    }
}

#[test]
#[ignore = "slow: .ci/slow runs it"]
fn a_backup_and_a_restore_are_finished_wherever_they_were_cut_short() {
    let Some(space) = Space::new() else { return };
    let Some(shell) = busybox(&space) else { return };
    let folder = space.dir().join("archives");
    let spot = Spot::new(&space, &declared(&space, "dev", folder.to_str().unwrap(), ""));
    let mut daemon = spot.daemon();
    assert_eq!(spot.set(&versioned(&space, &shell, "one", "")).code, 0);
    spot.await_ready();
    write(&spot.name, "first", "precious");
    let life = Life::of(&spot.name).unwrap();
    let mut number = 0;
    for failpoint in around(BACKUP) {
        daemon.kill();
        daemon = cut_short(&spot, &failpoint, &["jobs", "run", "nightly"]);
        number += 1;
        await_success(&spot, number, &failpoint);
        assert_eq!(Life::of(&spot.name).as_ref(), Some(&life), "{failpoint}");
        assert_eq!(archives(&folder).len(), number, "{failpoint}");
    }
    for failpoint in around(RESTORE) {
        docker(&["exec", &spot.name, "rm", "/data/first"]);
        daemon.kill();
        daemon = cut_short(&spot, &failpoint, &["restore", "nightly", "--yes"]);
        number += 1;
        await_success(&spot, number, &failpoint);
        assert_eq!(read(&spot.name, "first").as_deref(), Some("precious"), "{failpoint}");
    }
    drop(daemon);
}
