//! Tells a verb when to look again.
//!
//! The daemon's stream of events is a bell and no message: whoever hears it reads the state
//! afresh. So nothing is missed where the stream breaks, and a daemon that restarts is found again.

use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use super::client::{Client, ClientError, Watch};
use super::output::console::Console;
use crate::model::name::EnvironmentName;

/// How often to look while the stream is open: only for what the stream might not tell.
const BESIDE_THE_STREAM: Duration = Duration::from_secs(5);
/// How often to look without a stream.
const WITHOUT_STREAM: Duration = Duration::from_secs(1);
/// One pass rings several times; they are answered together.
const BURST: Duration = Duration::from_millis(150);

/// Rings when something may have changed.
pub(crate) struct Doorbell<'a> {
    client: &'a Client,
    only: Option<&'a EnvironmentName>,
    watch: Option<Watch>,
}

impl<'a> Doorbell<'a> {
    /// A bell for one environment, or for all.
    pub(crate) fn new(client: &'a Client, only: Option<&'a EnvironmentName>) -> Self {
        Self { client, only, watch: None }
    }

    /// Waits until it rings, or until it is time to look anyway.
    pub(crate) async fn wait(&mut self) {
        let patience = if self.watch.is_some() { BESIDE_THE_STREAM } else { WITHOUT_STREAM };
        if timeout(patience, self.ring()).await.is_ok() {
            let end = Instant::now() + BURST;
            while let Ok(true) = timeout_at(end, self.hear()).await {}
        }
    }

    /// Never ends where there is no stream: the caller's patience does.
    async fn ring(&mut self) {
        if self.watch.is_none() {
            self.watch = self.client.watch().await.ok();
        }
        if !self.hear().await {
            std::future::pending::<()>().await;
        }
    }

    /// Whether something was told of what is watched; `false` once the stream is gone.
    async fn hear(&mut self) -> bool {
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

/// Bears a daemon that restarts, once it has answered at all, and says so once.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    answered: bool,
    lost: Option<ClientError>,
}

impl Patience {
    /// The answer; `None` where the daemon is away for the moment.
    ///
    /// # Errors
    /// [`ClientError`] where it never answered, or where asking again cannot help.
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

    /// Why the daemon is away, where it is.
    pub(crate) fn into_lost(self) -> Option<ClientError> {
        self.lost
    }
}
