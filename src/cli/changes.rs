//! Wakes a command when the state may have changed.
//!
//! The daemon's stream of events only signals a change; the command then reads the current state.
//! So it misses nothing if the stream breaks, and it reconnects to a daemon that restarts.

use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use super::client::{ApiClient, ClientError, EventStream};
use super::output::console::Console;
use crate::model::name::EnvironmentName;

/// Polling interval while the stream is open, for changes that the stream does not report.
const BESIDE_THE_STREAM: Duration = Duration::from_secs(5);
/// Polling interval without a stream.
const WITHOUT_STREAM: Duration = Duration::from_secs(1);
/// One reconcile sends several events; the command handles them together.
const BURST: Duration = Duration::from_millis(150);

/// Resolves when the state may have changed.
pub(crate) struct ChangeWatcher<'a> {
    client: &'a ApiClient,
    only: Option<&'a EnvironmentName>,
    watch: Option<EventStream>,
}

impl<'a> ChangeWatcher<'a> {
    /// Watches `only`, or all environments.
    pub(crate) fn new(client: &'a ApiClient, only: Option<&'a EnvironmentName>) -> Self {
        Self { client, only, watch: None }
    }

    /// Waits for an event, or for the polling interval to pass.
    pub(crate) async fn wait(&mut self) {
        let patience = if self.watch.is_some() { BESIDE_THE_STREAM } else { WITHOUT_STREAM };
        if timeout(patience, self.first_change()).await.is_ok() {
            let end = Instant::now() + BURST;
            while let Ok(true) = timeout_at(end, self.next_change()).await {}
        }
    }

    /// Never returns without a stream; the caller's timeout ends the wait.
    async fn first_change(&mut self) {
        if self.watch.is_none() {
            self.watch = self.client.watch().await.ok();
        }
        if !self.next_change().await {
            std::future::pending::<()>().await;
        }
    }

    /// Waits for an event of a watched environment. Returns `false` once the stream is closed.
    async fn next_change(&mut self) -> bool {
        while let Some(watch) = &mut self.watch {
            match watch.next().await {
                Ok(Some(environment)) if self.only.is_none_or(|only| *only == environment) => return true,
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => self.watch = None,
            }
        }
        false
    }
}

/// Tolerates a restarting daemon once it has answered, and reports it once.
#[derive(Debug, Default)]
pub(crate) struct Reconnect {
    answered: bool,
    lost: Option<ClientError>,
}

impl Reconnect {
    /// Returns the answer, or `None` while the daemon is temporarily unreachable.
    ///
    /// # Errors
    /// [`ClientError`] if the daemon never answered, or if a retry cannot help.
    pub(crate) fn bear<T>(
        &mut self,
        answer: Result<T, ClientError>,
        console: &mut Console,
    ) -> Result<Option<T>, ClientError> {
        match answer {
            Ok(answer) => {
                self.answered = true;
                self.lost = None;
                Ok(Some(answer))
            }
            Err(error) if self.answered && error.is_passing() => {
                if self.lost.is_none() {
                    console.talk(&format!("{error}; asking again until it answers"));
                }
                self.lost = Some(error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Returns why the daemon is unreachable, if it is.
    pub(crate) fn into_lost(self) -> Option<ClientError> {
        self.lost
    }
}
