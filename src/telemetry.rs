//! The tracing subscriber.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Logs to standard error: as text on a terminal, otherwise as one JSON object per line. `RUST_LOG`
/// sets the level; without it, `verbosity` does, the number of `-v`.
///
/// A second call keeps the setup of the first.
pub fn start(verbosity: u8) {
    let level = match verbosity {
        0 => "warn,abide=info",
        1 => "info,abide=debug",
        2.. => "debug,abide=trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let is_terminal = std::io::stderr().is_terminal();
    let colours = is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    // A subscriber that is already set up stays.
    let _ = if is_terminal {
        builder.with_ansi(colours).with_target(false).try_init()
    } else {
        builder.json().flatten_event(true).try_init()
    };
}
