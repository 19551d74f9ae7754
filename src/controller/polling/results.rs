//! Records the results of polling branches and tags for each environment.

use std::time::Duration;

use tracing::{info, warn};

use super::poll_state::{PollChange, PollFailure, PollState};
use super::schedule::next_recheck;
use crate::controller::clock::now;
use crate::model::checks::UncheckedHead;
use crate::model::error::chain;
use crate::model::event::EventKind;
use crate::model::name::EnvironmentName;
use crate::model::poll::QueryPeriod;
use crate::model::status::Reason;
use crate::model::time::Timestamp;
use crate::record::{DesiredReader, RecordError, Resolver, StatusWriter};

/// Records the results of polling.
#[derive(Clone)]
pub(in crate::controller) struct PollResults {
    pub(in crate::controller) poll_state: PollState,
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
        let change = self.poll_state.answered(environment, asked);
        if change.of_trouble {
            info!(%environment, "the tracked branch or tag is reachable again");
            self.record_event(environment, "the tracked branch or tag is reachable again").await;
        }
        self.notify(environment, change);
    }

    /// Records why the head or digest is unknown. Requests that wait for the answer see it.
    async fn unknown(
        &self,
        environment: &EnvironmentName,
        asked: QueryPeriod,
        why: &PollFailure,
        next_retry: Timestamp,
    ) {
        let change = self.poll_state.unknown(environment, asked, why, next_retry);
        if change.of_trouble {
            warn!(%environment, why = %why.message, "the head of the tracked branch or tag is unknown");
            self.record_event(environment, &why.message).await;
        }
        if let Err(error) = self.resolver.no_head(environment, asked, why.is_answer).await {
            warn!(%environment, error = %chain(&error), "failed to record the unknown branch head");
        }
        self.notify(environment, change);
    }

    /// Returns when to ask again for announced pushes that the remote does not show yet, and for checks that
    /// have not passed; `None`: there are none.
    pub(super) fn recheck<'a>(
        &self,
        environments: impl Iterator<Item = &'a EnvironmentName>,
    ) -> Option<Duration> {
        let now = now();
        let mut soonest: Option<Duration> = None;
        for environment in environments {
            let unchecked = self.poll_state.of(environment).unchecked;
            soonest = soonest.into_iter().chain(unchecked.map(|head| head.recheck_at.since(now))).min();
            let Ok(desired) = self.desired.get(environment) else { continue };
            let hints = [desired.hint.map(|hint| hint.at), desired.tag_hint.map(|hint| hint.at)];
            let due = hints.into_iter().flatten().filter_map(|at| next_recheck(now.since(at)));
            soonest = soonest.into_iter().chain(due).min();
        }
        soonest
    }

    /// Notes the head of a branch whose checks have not passed; `None`: they have, or none are needed.
    pub(super) async fn unchecked(&self, environment: &EnvironmentName, unchecked: Option<UncheckedHead>) {
        let sentence = unchecked.as_ref().map(|unchecked| unchecked.sentence.clone());
        if !self.poll_state.unchecked(environment, unchecked) {
            return;
        }
        if let Some(sentence) = sentence {
            info!(%environment, "{sentence}");
            self.record_event(environment, &sentence).await;
        }
        self.writer.notify(environment);
    }

    fn notify(&self, environment: &EnvironmentName, change: PollChange) {
        if change.of_trouble || change.is_awaited {
            self.writer.notify(environment);
        }
    }

    async fn record_event(&self, environment: &EnvironmentName, message: &str) {
        // If the event cannot be stored, a log line has it as well.
        let _ = self.writer.event(environment, EventKind::System, message, now()).await;
    }
}

/// The result for an answer that could not be recorded: unknown.
pub(super) fn unrecorded(error: &RecordError) -> PollFailure {
    PollFailure { reason: Reason::SourceUnreachable, message: chain(error), is_answer: false }
}
