//! The end of processes that tests started. Nothing here panics: a second panic would hide the first.

use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long a process may take to stop before it is killed.
const PATIENCE: Duration = Duration::from_secs(30);
/// The number of log lines shown when a test fails.
const TAIL: usize = 60;

/// Whether a process has not ended yet.
pub(super) fn is_running(child: &mut Child) -> bool {
    matches!(child.try_wait(), Ok(None))
}

/// Lets a process stop, and kills it if it does not.
pub(super) fn stop(child: &mut Child) {
    if !is_running(child) {
        return;
    }
    let _ = kill_process(Pid::from_child(child), Signal::TERM);
    let asked = Instant::now();
    while is_running(child) && asked.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// Prints the end of the log of `whose`, if the test has failed.
pub(super) fn show_log_of_a_failure(whose: &str, log: &str) {
    if std::thread::panicking() {
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(TAIL)..];
        eprintln!("--- the end of the log of {whose}\n{}\n---", tail.join("\n"));
    }
}
