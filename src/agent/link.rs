//! The link to the controller: this host opens it, maintains it, and reopens it when it breaks.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::StatusCode;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::answers::Answers;
use super::assign::Assigner;
use super::lines::LineReader;
use super::reporter::{ReportError, Reporter};
use super::server::{AskError, ControllerClient, ControllerServer};
use crate::controller::{Controller, Grant};
use crate::model::error::chain;
use crate::model::link::{Assignment, Hello, ReportCursor, ReportedProxy, ToAgent, VERSION};
use crate::model::name::EnvironmentName;
use crate::record::RecordError;

/// The first pause after a break; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// Pause after the controller refuses the session. Retrying sooner is pointless: an operator has to act
/// first.
const PAUSE_AFTER_NO: Duration = Duration::from_secs(8);
/// Pause while another agent with the same token is connected, before checking again.
const PAUSE_AFTER_OUTRANKED: Duration = Duration::from_secs(20);
/// The controller sends something every 15 s. After three missing messages it counts as unreachable.
const SILENCE: Duration = Duration::from_secs(45);

/// Maintains the link.
pub(super) struct ControllerLink {
    pub(super) server: ControllerServer,
    pub(super) instance: String,
    /// The number of the first session.
    pub(super) epoch: u64,
    /// Sends requests to the controller, while the link is up.
    pub(super) up: watch::Sender<Option<ControllerClient>>,
    pub(super) assigner: Assigner,
    pub(super) reporter: Arc<Reporter>,
    pub(super) answers: Answers,
    pub(super) controller: Controller,
    pub(super) last_reported: LastReported,
    /// Allows acting on the record once the controller has answered.
    pub(super) grant: Grant,
    /// The environments whose events have been compared with the received ones.
    pub(super) renumbered: Mutex<BTreeSet<EnvironmentName>>,
}

/// The last logged reason for a missing link. A repeated reason is not logged with every attempt; a new
/// reason is, such as the controller's new key after its restart.
#[derive(Debug, Default)]
pub(super) struct LastReported(Option<String>);

impl LastReported {
    fn is_new(&mut self, why: &str, failures: u32) -> bool {
        let last = self.0.replace(why.to_owned());
        failures <= 1 || last.as_deref() != Some(why)
    }
}

/// The reason for the end of a session.
#[derive(Debug, thiserror::Error)]
enum End {
    /// The connection failed.
    #[error("cannot reach the controller")]
    Unreachable(#[source] io::Error),
    /// The connection broke.
    #[error("the link was interrupted")]
    Broken(#[source] io::Error),
    /// The controller ended the session, or no longer sends anything.
    #[error("{0}")]
    Over(&'static str),
    /// The controller refused it.
    #[error("the controller rejected this agent")]
    Refused(#[source] AskError),
    /// Another agent with the same token is connected, and stays connected.
    #[error("another agent with the same token is connected to the controller: give each host its own token")]
    Outranked,
    /// The assignment cannot be stored.
    #[error("failed to record the assignment")]
    Record(#[from] RecordError),
    /// The report cannot be sent.
    #[error("failed to send the report")]
    Report(#[source] ReportError),
}

impl ControllerLink {
    /// Maintains the link until stopped.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut failures = 0;
        while let Some((end, stood)) = stop.run_until_cancelled(self.session()).await {
            self.up.send_replace(None);
            failures = if stood { 1 } else { failures + 1 };
            let pause = self.after(&end, failures);
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                break;
            }
        }
        self.up.send_replace(None);
    }

    /// Logs how a session ended, and returns how long to wait before the next.
    fn after(&mut self, end: &End, failures: u32) -> Duration {
        let why = chain(end);
        let is_new = self.last_reported.is_new(&why, failures);
        let pause = match end {
            End::Outranked => jittered(PAUSE_AFTER_OUTRANKED),
            End::Refused(AskError::Refused { status, .. }) if status.is_client_error() => {
                jittered(PAUSE_AFTER_NO)
            }
            _ => jittered(pause_after(failures)),
        };
        if matches!(end, End::Outranked | End::Refused(_) | End::Record(_)) {
            error!(%why, again_in = ?pause, "not connected; local containers keep running");
        } else if is_new {
            warn!(%why, again_in = ?pause, "controller unreachable; local containers keep running");
        }
        // An outranked agent keeps its number, so that it does not displace the other one in turn. Any other
        // session takes over from the remains of the previous one.
        if !matches!(end, End::Outranked) {
            self.epoch += 1;
        }
        pause
    }

    /// Runs one session, from connecting to its end; also returns whether it was established.
    async fn session(&mut self) -> (End, bool) {
        let line = match self.server.dial().await {
            Ok(line) => line,
            Err(error) => return (End::Unreachable(error), false),
        };
        let hello = Hello {
            version: VERSION,
            instance: self.instance.clone(),
            epoch: self.epoch,
            software: concat!("abide ", env!("CARGO_PKG_VERSION")).to_owned(),
            engine: self.controller.engine_version().await,
            proxy: Some(ReportedProxy::of(self.assigner.policy.front())),
        };
        let response = match line.asker.post("/api/v1/agent/session", &hello).await {
            Ok(response) => response,
            Err(AskError::Refused { status: StatusCode::CONFLICT, .. }) => return (End::Outranked, false),
            Err(error @ AskError::Refused { .. }) => return (End::Refused(error), false),
            Err(error) => return (End::Unreachable(io::Error::other(error)), false),
        };
        info!(controller = self.server.url(), epoch = self.epoch, "connected");
        self.reporter.begin();
        self.up.send_replace(Some(line.asker.clone()));
        let reporting = Arc::clone(&self.reporter).run(line.asker.clone(), self.epoch);
        let end = tokio::select! {
            end = self.listen(LineReader::new(response.into_body()), &line.asker) => end,
            error = reporting => End::Report(error),
        };
        (end, true)
    }

    /// Handles the controller's messages until the stream ends.
    async fn listen(&self, mut lines: LineReader<hyper::body::Incoming>, asker: &ControllerClient) -> End {
        loop {
            let line = match tokio::time::timeout(SILENCE, lines.next()).await {
                Ok(Ok(Some(line))) => line,
                Ok(Ok(None)) => return End::Over("the controller ended the session"),
                Ok(Err(error)) => return End::Broken(error),
                Err(_) => return End::Over("the controller stopped sending"),
            };
            if line.is_empty() {
                continue;
            }
            match serde_json::from_slice::<ToAgent>(&line) {
                Ok(ToAgent::Assignment(assignment)) => {
                    if let Err(error) = self.take(*assignment).await {
                        return error.into();
                    }
                }
                Ok(ToAgent::Ask(ask)) => self.answers.begin(asker.clone(), ask),
                Ok(ToAgent::Superseded) => return End::Outranked,
                // A newer controller may send messages that this agent does not know.
                Err(error) => warn!(%error, "ignored an unknown message of the controller"),
            }
        }
    }

    /// Continues after a restore of this agent's folder from an older copy, once for each environment: the controller
    /// has received reports that this record does not know of.
    async fn renumber(&self, assignment: &Assignment) -> Result<(), RecordError> {
        let mut received = received(assignment, &self.instance);
        received.retain(|(environment, _)| !self.renumbered().contains(environment));
        if received.is_empty() {
            return Ok(());
        }
        let environments: Vec<_> = received.iter().map(|(environment, _)| environment.clone()).collect();
        let renumbered = self.assigner.replica.renumber(received).await?;
        if renumbered > 0 {
            warn!(
                events = renumbered,
                "this record is older than its last report to the controller, such as a restored copy: the events \
                 since then are reported under new numbers"
            );
        }
        self.renumbered().extend(environments);
        Ok(())
    }

    fn renumbered(&self) -> MutexGuard<'_, BTreeSet<EnvironmentName>> {
        self.renumbered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn take(&self, assignment: Assignment) -> Result<(), RecordError> {
        self.renumber(&assignment).await?;
        self.reporter.assigned(&assignment);
        self.assigner.take(assignment).await?;
        self.grant.give();
        self.reporter.settled();
        self.reporter.request_report();
        Ok(())
    }
}

/// Returns the reports of this instance that the controller has received, by environment.
fn received(assignment: &Assignment, instance: &str) -> Vec<(EnvironmentName, ReportCursor)> {
    let cursors = assignment.environments.iter().filter_map(|one| {
        let cursor = one.heard.clone().filter(|cursor| cursor.instance == instance)?;
        Some((one.desired.environment.clone(), cursor))
    });
    cursors.collect()
}

/// Doubles with each failure.
fn pause_after(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    (FIRST_PAUSE * 2_u32.pow(doublings)).min(LONGEST_PAUSE)
}

/// Returns between half and all of the pause, so that a thousand agents do not reconnect at once.
fn jittered(pause: Duration) -> Duration {
    let [random, ..] = uuid::Uuid::new_v4().into_bytes();
    pause / 2 + pause.mul_f64(f64::from(random) / 510.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disconnect_reason_is_logged_once_until_it_changes() {
        let mut last_reported = LastReported::default();
        assert!(last_reported.is_new("the controller ended the session", 1));
        assert!(last_reported.is_new("another key", 2));
        assert!(!last_reported.is_new("another key", 3));
        assert!(last_reported.is_new("refused", 4));
        assert!(last_reported.is_new("refused", 1), "it stood meanwhile");
    }

    #[test]
    fn reconnect_pauses_double_from_100_ms_to_8_s() {
        let millis: Vec<_> = (1..=9).map(|failures| pause_after(failures).as_millis()).collect();
        assert_eq!(millis, [100, 200, 400, 800, 1600, 3200, 6400, 8000, 8000]);
        assert_eq!(pause_after(u32::MAX), LONGEST_PAUSE);
        for _ in 0..100 {
            let pause = jittered(LONGEST_PAUSE);
            assert!(pause >= LONGEST_PAUSE / 2 && pause <= LONGEST_PAUSE, "{pause:?}");
        }
    }
}
