//! Watches how much memory and how many processes a program uses.
//!
//! No control group is used: a daemon without root has none that it may divide.

use std::fs;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

use super::{Limit, ScriptOrder, ScriptReport};

/// How often it looks.
const EVERY: Duration = Duration::from_millis(100);
/// The process that watches, which does not count.
const OWN: u32 = 1;

/// The lines of a process's status that count as its memory.
const MEMORY: [&str; 3] = ["RssAnon:", "RssShmem:", "VmSwap:"];

/// What all processes of the namespace use.
#[derive(Debug, Default, PartialEq, Eq)]
struct Use {
    /// Bytes that belong to no file, swapped ones included.
    memory: u64,
    tasks: u64,
}

/// Reports the first limit that is exceeded.
pub(super) fn watch(order: &ScriptOrder, sender: &Sender<Option<ScriptReport>>) {
    loop {
        if let Some(limit) = exceeded(order) {
            let _ = sender.send(Some(ScriptReport::Exceeded(limit)));
            return;
        }
        thread::sleep(EVERY);
    }
}

/// The limit that is exceeded now.
pub(super) fn exceeded(order: &ScriptOrder) -> Option<Limit> {
    let processes = processes();
    // Cheap, and soon true of a program that starts others without end.
    if processes.len() as u64 > u64::from(order.pids) {
        return Some(Limit::Pids);
    }
    let used = used(&processes, status);
    if used.tasks > u64::from(order.pids) {
        return Some(Limit::Pids);
    }
    // The quick sum counts the shared memory of a fork twice, so only the slow one is a reason to end it.
    if used.memory > order.memory && processes.iter().filter_map(|id| share(*id)).sum::<u64>() > order.memory
    {
        return Some(Limit::Memory);
    }
    None
}

fn processes() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter(|id| *id != OWN).collect()
}

fn status(id: u32) -> Option<String> {
    // A process may have any bytes for a name.
    let text = fs::read(format!("/proc/{id}/status")).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// A process that has ended since counts for nothing.
fn used(processes: &[u32], status: impl Fn(u32) -> Option<String>) -> Use {
    let mut used = Use::default();
    for text in processes.iter().filter_map(|id| status(*id)) {
        used.tasks += number(&text, "Threads:").unwrap_or(1);
        used.memory += kilobytes(&text, &MEMORY);
    }
    used
}

/// The memory of a process, of what it shares with others its part.
fn share(id: u32) -> Option<u64> {
    match fs::read_to_string(format!("/proc/{id}/smaps_rollup")) {
        Ok(text) if text.contains("Pss_Anon:") => {
            Some(kilobytes(&text, &["Pss_Anon:", "Pss_Shmem:", "SwapPss:"]))
        }
        _ => status(id).map(|text| kilobytes(&text, &MEMORY)),
    }
}

/// The sum of lines in kB, in bytes.
fn kilobytes(text: &str, names: &[&str]) -> u64 {
    names.iter().filter_map(|name| number(text, name)).sum::<u64>().saturating_mul(1024)
}

fn number(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_live_processes_is_summed() {
        let status = |id| {
            match id {
            2 => Some("Name:\tnode\nRssAnon:\t    1024 kB\nRssShmem:\t    1024 kB\nVmSwap:\t  1024 kB\nThreads:\t11\n".to_owned()),
            3 => Some("Name:\tzombie\nThreads:\t1\n".to_owned()),
            _ => None,
        }
        };
        assert_eq!(used(&[2, 3, 4], status), Use { memory: 3 << 20, tasks: 12 });
    }
}
