//! Signals, and notifications for systemd (`Type=notify`, `WatchdogSec=`).

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

use crate::record::DesiredReader;

/// The signals that request a stop. While this value lives, none of them is lost, even if no task
/// waits for one.
pub(crate) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// Installs the handlers: the signals no longer end the process.
    pub(crate) fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next SIGTERM or SIGINT and returns its name.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }

    /// Lets a process that has started run until a signal, then runs `stop`; a second signal ends it at once. Reports
    /// the state to systemd, if that started the process.
    pub(crate) async fn run_until_stopped(
        mut self,
        desired: DesiredReader,
        stop: impl Future<Output = anyhow::Result<()>>,
    ) -> anyhow::Result<()> {
        let _ = sd_notify::notify(&[NotifyState::Ready]);
        let watchdog = tokio::spawn(keep_alive(desired));
        let signal = self.next().await;
        info!(signal, "stopping; the containers keep running");
        let _ = sd_notify::notify(&[NotifyState::Stopping]);
        watchdog.abort();
        tokio::select! {
            stopped = stop => stopped,
            again = self.next() => {
                warn!(signal = again, "stopped immediately");
                Ok(())
            }
        }
    }
}

/// Notifies the watchdog, twice as often as required, that the daemon lives: tasks run, and the
/// record is readable and writable. A full disk does not count as a failure, because a restart
/// would not help. Returns immediately without a watchdog.
async fn keep_alive(desired: DesiredReader) {
    let Some(patience) = sd_notify::watchdog_enabled() else { return };
    let mut interval = tokio::time::interval(patience.max(Duration::from_millis(2)) / 2);
    loop {
        interval.tick().await;
        if let Err(error) = desired.all() {
            error!(%error, "cannot read the record; not notifying the watchdog");
            continue;
        }
        match desired.try_write().await {
            Err(error) if !error.is_full => {
                error!(%error, "cannot write the record; not notifying the watchdog");
            }
            _ => drop(sd_notify::notify(&[NotifyState::Watchdog])),
        }
    }
}
