//! The limits of programs in a build, and the messages about them.

/// The assumed memory of a host that does not report it.
const UNKNOWN_HOST: u64 = 8 << 30;

/// Returns the memory limit of a program: the declared one, or three quarters of the host's memory.
pub(super) fn memory(declared: Option<u64>) -> u64 {
    declared.unwrap_or_else(|| host_memory().unwrap_or(UNKNOWN_HOST) / 4 * 3)
}

fn host_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(total.split_whitespace().next()?.parse::<u64>().ok()?.saturating_mul(1024))
}

pub(super) fn of_memory(what: &str, limit: u64) -> String {
    format!("{what} exceeded its memory limit of {} (`memory` of the build)", size(limit))
}

pub(super) fn of_pids(what: &str, limit: u32) -> String {
    format!("{what} exceeded its limit of {limit} processes and threads (`pids` of the build)")
}

/// Returns a hint for a program that reports that it cannot start another one.
pub(super) fn hint_of_pids(limit: u32) -> String {
    format!(" at its limit of {limit} processes and threads (`pids` of the build)")
}

pub(super) fn of_output(what: &str, limit: u64) -> String {
    format!("{what} exceeded its output limit of {} (`max_output` of the build)", size(limit))
}

/// Formats bytes for readers.
fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let fitting = UNITS.iter().find(|(_, unit)| bytes >= *unit);
    match fitting {
        Some((name, unit)) if bytes.is_multiple_of(*unit) => format!("{} {name}", bytes / unit),
        Some((name, unit)) => {
            let tenths = bytes / (unit / 10).max(1);
            format!("{}.{} {name}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_formatted_with_binary_units() {
        for (bytes, shown) in
            [(512, "512 bytes"), (64 << 20, "64 MiB"), (3 << 29, "1.5 GiB"), (8 << 30, "8 GiB")]
        {
            assert_eq!(size(bytes), shown);
        }
    }

    #[test]
    fn a_declared_memory_limit_overrides_the_hosts_memory() {
        assert!(memory(None) > 64 << 20);
        assert_eq!(memory(Some(5)), 5);
    }
}
