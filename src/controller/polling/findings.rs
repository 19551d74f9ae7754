//! Records the results of polling branches and tags for each environment.

use std::time::Duration;

use tracing::{info, warn};

use super::looks::{PollChange, PollFailure, PollState};
use super::schedule::next_recheck;
use crate::controller::clock::now;
use crate::model::error::chain;
use crate::model::event::EventKind;
use crate::model::look::QueryPeriod;
use crate::model::name::EnvironmentName;
use crate::model::status::Reason;
use crate::model::time::Timestamp;
use crate::record::{DesiredReader, RecordError, Resolver, StatusWriter};

/// Records the results of polling.
#[derive(Clone)]
pub(in crate::controller) struct PollResults {
    pub(in crate::controller) looks: PollState,
    pub(in crate::controller) desired: DesiredReader,
    pub(in crate::controller) resolver: Resolver,
    pub(in crate::controller) writer: StatusWriter,
}

impl PollResults {
    /// Records whether the head or digest of an environment is known. If not, it is asked for again after
    /// `pause`. Returns whether it is known.
    pub(super) async fn note(
        &self,
        environment: &EnvironmentName,
        asked: QueryPeriod,
        found: Result<(), PollFailure>,
        pause: Duration,
    ) -> bool {
        match &found {
            Ok(()) => self.known(environment, asked).await,
            Err(why) => self.unknown(environment, asked, why, asked.to.after(pause)).await,
        }
        found.is_ok()
    }

    async fn known(&self, environment: &EnvironmentName, asked: QueryPeriod) {
        let news = self.looks.answered(environment, asked);
        if news.of_trouble {
            info!(%environment, "the tracked branch or tag is reachable again");
            self.tell(environment, "the tracked branch or tag is reachable again").await;
        }
        self.ring(environment, news);
    }

    /// Records why the head or digest is unknown. Requests that wait for the answer see it.
    async fn unknown(
        &self,
        environment: &EnvironmentName,
        asked: QueryPeriod,
        why: &PollFailure,
        next_retry: Timestamp,
    ) {
        let news = self.looks.unknown(environment, asked, why, next_retry);
        if news.of_trouble {
            warn!(%environment, why = %why.message, "the head of the tracked branch or tag is unknown");
            self.tell(environment, &why.message).await;
        }
        if let Err(error) = self.resolver.no_head(environment, asked, why.is_answer).await {
            warn!(%environment, error = %chain(&error), "failed to record the unknown branch head");
        }
        self.ring(environment, news);
    }

    /// Returns when to ask again for announced pushes that the remote does not show yet; `None`: there are
    /// none.
    pub(super) fn recheck<'a>(
        &self,
        environments: impl Iterator<Item = &'a EnvironmentName>,
    ) -> Option<Duration> {
        let now = now();
        let desired = environments.filter_map(|environment| self.desired.get(environment).ok());
        let hints = desired.flat_map(|desired| {
            let of_tag = desired.tag_hint.map(|hint| hint.at);
            desired.hint.map(|hint| hint.at).into_iter().chain(of_tag)
        });
        hints.filter_map(|at| next_recheck(now.since(at))).min()
    }

    fn ring(&self, environment: &EnvironmentName, news: PollChange) {
        if news.of_trouble || news.is_awaited {
            self.writer.ring(environment);
        }
    }

    async fn tell(&self, environment: &EnvironmentName, message: &str) {
        // If the event cannot be stored, a log line has it as well.
        let _ = self.writer.event(environment, EventKind::System, message, now()).await;
    }
}

/// The result for an answer that could not be recorded: unknown.
pub(super) fn unrecorded(error: &RecordError) -> PollFailure {
    PollFailure { reason: Reason::SourceUnreachable, message: chain(error), is_answer: false }
}
