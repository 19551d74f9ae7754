//! The link to the controller: dialled by this host, kept, and made anew when it breaks.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::answers::Answers;
use super::assign::Assigner;
use super::lines::Lines;
use super::reporter::{ReportError, Reporter};
use super::server::{AskError, Asker, Server};
use crate::controller::Grant;
use crate::model::error::chain;
use crate::model::link::{Assignment, Hello, ToAgent, VERSION};
use crate::record::RecordError;

/// The first pause after a break; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// Where the controller says no, it will in a second too: a person has to do something.
const PAUSE_AFTER_NO: Duration = Duration::from_secs(8);
/// Another agent with our token is there: we look now and then whether it still is.
const PAUSE_AFTER_OUTRANKED: Duration = Duration::from_secs(20);
/// The controller says something every 15 s. After three of them nobody is there.
const SILENCE: Duration = Duration::from_secs(45);

/// Keeps the link.
pub(super) struct Link {
    pub(super) server: Server,
    pub(super) instance: String,
    /// The number of the first session.
    pub(super) epoch: u64,
    /// Who can be asked, while the link is up.
    pub(super) up: watch::Sender<Option<Asker>>,
    pub(super) assigner: Assigner,
    pub(super) reporter: Arc<Reporter>,
    pub(super) answers: Answers,
    pub(super) told: Told,
    /// Lets the record be acted upon once the controller was heard.
    pub(super) grant: Grant,
}

/// Why there is no link, as it was told last: the same is not told again with every attempt, while
/// another reason, such as the controller's new key after its restart, is.
#[derive(Debug, Default)]
pub(super) struct Told(Option<String>);

impl Told {
    fn is_news(&mut self, why: &str, failures: u32) -> bool {
        let last = self.0.replace(why.to_owned());
        failures <= 1 || last.as_deref() != Some(why)
    }
}

/// How a session ended.
#[derive(Debug, thiserror::Error)]
enum End {
    /// No connection could be made.
    #[error("the controller cannot be reached")]
    Unreachable(#[source] io::Error),
    /// It broke.
    #[error("the link broke")]
    Broken(#[source] io::Error),
    /// The controller ended it, or says nothing any more.
    #[error("{0}")]
    Over(&'static str),
    /// The controller refused it.
    #[error("the controller does not let this agent in")]
    Refused(#[source] AskError),
    /// Another agent with the same token is there, and stays.
    #[error(
        "another agent with the same token is connected to the controller: give each host a token of its own"
    )]
    Outranked,
    /// What was assigned cannot be kept.
    #[error("what is assigned cannot be recorded")]
    Record(#[from] RecordError),
    /// What is known cannot be told.
    #[error("what is known cannot be reported")]
    Report(#[source] ReportError),
}

impl Link {
    /// Keeps the link until stopped.
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

    /// Says how a session ended, and how long to wait before the next.
    fn after(&mut self, end: &End, failures: u32) -> Duration {
        let why = chain(end);
        let is_news = self.told.is_news(&why, failures);
        let pause = match end {
            End::Outranked => jittered(PAUSE_AFTER_OUTRANKED),
            End::Refused(AskError::Refused { status, .. }) if status.is_client_error() => {
                jittered(PAUSE_AFTER_NO)
            }
            _ => jittered(pause_after(failures)),
        };
        if matches!(end, End::Outranked | End::Refused(_) | End::Record(_)) {
            error!(%why, again_in = ?pause, "not connected; what runs here goes on");
        } else if is_news {
            warn!(%why, again_in = ?pause, "the controller is away; what runs here goes on");
        }
        // An agent that is outranked keeps its number, so that it does not throw the other one out
        // in turn. Any other session takes over from what may be left of the one before.
        if !matches!(end, End::Outranked) {
            self.epoch += 1;
        }
        pause
    }

    /// One session, from dialling to its end; also whether it stood.
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
            end = self.listen(Lines::new(response.into_body()), &line.asker) => end,
            error = reporting => End::Report(error),
        };
        (end, true)
    }

    /// Does what the controller says, until it says no more.
    async fn listen(&self, mut lines: Lines<hyper::body::Incoming>, asker: &Asker) -> End {
        loop {
            let line = match tokio::time::timeout(SILENCE, lines.next()).await {
                Ok(Ok(Some(line))) => line,
                Ok(Ok(None)) => return End::Over("the controller ended the session"),
                Ok(Err(error)) => return End::Broken(error),
                Err(_) => return End::Over("the controller says nothing any more"),
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
                // A newer controller may say more than this agent knows.
                Err(error) => warn!(%error, "a word of the controller is not understood"),
            }
        }
    }

    async fn take(&self, assignment: Assignment) -> Result<(), RecordError> {
        self.reporter.assigned(&assignment);
        self.assigner.take(assignment).await?;
        self.grant.give();
        self.reporter.ring();
        Ok(())
    }
}

/// Doubles with every failure.
fn pause_after(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    (FIRST_PAUSE * 2_u32.pow(doublings)).min(LONGEST_PAUSE)
}

/// Between half of it and all of it, so that a thousand agents do not come back at once.
fn jittered(pause: Duration) -> Duration {
    let [random, ..] = uuid::Uuid::new_v4().into_bytes();
    pause / 2 + pause.mul_f64(f64::from(random) / 510.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_told_once_and_so_is_the_next() {
        let mut told = Told::default();
        assert!(told.is_news("the controller ended the session", 1));
        assert!(told.is_news("another key", 2));
        assert!(!told.is_news("another key", 3));
        assert!(told.is_news("refused", 4));
        assert!(told.is_news("refused", 1), "it stood meanwhile");
    }

    #[test]
    fn pauses_double_from_a_tenth_of_a_second_to_eight_and_no_further() {
        let millis: Vec<_> = (1..=9).map(|failures| pause_after(failures).as_millis()).collect();
        assert_eq!(millis, [100, 200, 400, 800, 1600, 3200, 6400, 8000, 8000]);
        assert_eq!(pause_after(u32::MAX), LONGEST_PAUSE);
        for _ in 0..100 {
            let pause = jittered(LONGEST_PAUSE);
            assert!(pause >= LONGEST_PAUSE / 2 && pause <= LONGEST_PAUSE, "{pause:?}");
        }
    }
}
