//! Signals, and notifications for systemd (`Type=notify`, `WatchdogSec=`).

use std::path::Path;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;
use tracing::{error, info, warn};

use crate::record::{self, DesiredReader, OpenError};

/// The pause between two attempts to start on a full disk.
const WAIT_FOR_SPACE: Duration = Duration::from_secs(2);
/// How much later systemd expects the start after such an attempt, in microseconds.
const START_LATER: u32 = 60_000_000;

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

    /// Runs `start`, and repeats it while the disk of the record in `dir` is so full that not even a copy can be opened.
    /// Returns `None` if a signal came meanwhile. The first start of all fails at once, because a person waits for it.
    pub(crate) async fn start_with_space<T, F>(
        &mut self,
        dir: &Path,
        start: impl Fn() -> F,
    ) -> anyhow::Result<Option<T>>
    where
        F: Future<Output = anyhow::Result<T>>,
    {
        let mut is_known = false;
        loop {
            let error = match start().await {
                Err(error) if needs_space(&error) && record::exists(dir) => error,
                started => return started.map(Some),
            };
            if !std::mem::replace(&mut is_known, true) {
                error!(error = format!("{error:#}"), "cannot start yet; waiting for space");
            }
            let _ = sd_notify::notify(&[
                NotifyState::Status("the disk of the record is full; waiting for space"),
                NotifyState::ExtendTimeoutUsec(START_LATER),
            ]);
            tokio::select! {
                () = sleep(WAIT_FOR_SPACE) => {}
                signal = self.next() => {
                    info!(signal, "stopped before the start");
                    return Ok(None);
                }
            }
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

fn needs_space(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(OpenError::DiskFull))
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
