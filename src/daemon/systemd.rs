//! Signals, and what systemd wants to hear (`Type=notify`, `WatchdogSec=`).

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::error;

use crate::record::DesiredReader;

/// The signals that ask for the end. While this lives none of them is lost, whether anyone waits
/// for it at that moment or not.
pub(crate) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// From now on the signals no longer end the process by themselves.
    pub(crate) fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next SIGTERM or SIGINT and gives its name.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Says that the daemon runs. Without systemd nobody listens, which is fine.
pub(crate) fn ready() {
    let _ = sd_notify::notify(&[NotifyState::Ready]);
}

/// Says that the daemon is stopping.
pub(crate) fn stopping() {
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
}

/// Tells the watchdog, twice as often as it wants, that the daemon lives: that tasks are run and
/// that the record can be read and written. A full disk is none of its business: a restart mends nothing
/// there. Ends at once where no watchdog was asked for.
pub(crate) async fn keep_alive(desired: DesiredReader) {
    let Some(patience) = sd_notify::watchdog_enabled() else { return };
    let mut interval = tokio::time::interval(patience.max(Duration::from_millis(2)) / 2);
    loop {
        interval.tick().await;
        if let Err(error) = desired.all() {
            error!(%error, "the record cannot be read; the watchdog is not told to wait");
            continue;
        }
        match desired.try_write().await {
            Err(error) if !error.is_full => {
                error!(%error, "the record cannot be written; the watchdog is not told to wait");
            }
            _ => drop(sd_notify::notify(&[NotifyState::Watchdog])),
        }
    }
}
