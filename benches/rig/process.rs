//! The cost of a process, as counted by the kernel.

use std::fs;
use std::time::Duration;

/// Clock ticks per second in `/proc`: 100 on every Linux that Rust supports.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU time that the process has used so far, user and system, with a resolution of 10 ms.
pub(crate) fn cpu_time(process: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // The name in parentheses may contain spaces; the fields after it start with the third.
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks = |field: usize| fields.split_whitespace().nth(field - 3).unwrap().parse::<f64>().unwrap();
    Duration::from_secs_f64((ticks(14) + ticks(15)) / TICKS_PER_SECOND)
}

/// Resident memory in bytes: current and peak.
pub(crate) fn memory(process: u32) -> (u64, u64) {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let kilobytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    (kilobytes("VmRSS:") * 1024, kilobytes("VmHWM:") * 1024)
}
