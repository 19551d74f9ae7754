//! The view of an environment, computed from manifest, record and status. Pure.
//!
//! This is the one place that decides whether a status is still valid. A status describes what a
//! reconcile saw; the record, the manifest or the branch may have changed since. Every view is
//! computed here.

use std::time::Duration;

use super::agent::Presence;
use crate::model::checks::UncheckedHead;
use crate::model::desired::{Desired, Maintenance};
use crate::model::name::{AgentName, CommitId, EnvironmentName};
use crate::model::poll::{PollStatus, SourceTrouble};
use crate::model::spec::{EnvironmentSpec, Supply};
use crate::model::status::{Condition, Reason, Status};
use crate::model::time::Timestamp;
use crate::model::view::{BuildProgress, CanaryView, EnvironmentView};

/// The known facts about an environment.
pub(super) struct EnvironmentFacts<'a> {
    /// Its declaration; `None` if it is no longer in the manifest.
    pub(super) spec: Option<&'a EnvironmentSpec>,
    /// The fingerprint of that declaration.
    pub(super) mark: Option<String>,
    pub(super) desired: Desired,
    pub(super) status: Option<Status>,
    /// The presence of the agent that runs it, if any.
    pub(super) presence: Option<Presence>,
    /// The known head of the branch or tag that it tracks; `None` without a daemon.
    pub(super) look: Option<PollStatus>,
}

/// The condition, the reason, the message, its start, and the time of the next attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StatusView {
    pub(super) condition: Condition,
    pub(super) reason: Reason,
    pub(super) message: String,
    pub(super) since: Option<Timestamp>,
    pub(super) next_retry: Option<Timestamp>,
    /// Whether it describes the branch or tag because nothing was recorded from it yet.
    pub(super) is_of_source: bool,
}

/// Returns the view of an environment.
pub(super) fn environment(facts: EnvironmentFacts<'_>) -> EnvironmentView {
    let settled = facts.settled();
    let warnings = facts.warnings(&settled);
    let shown = facts.unless_watched(facts.with_head(settled));
    let EnvironmentFacts { spec, mark: _, desired, status, presence, look: _ } = facts;
    let Desired { environment, entry, hold, maintenance, sync, .. } = desired;
    let is_held = hold.is_some();
    let canary = status.as_ref().and_then(|status| status.canary.as_ref());
    let canary = canary.map(|canary| CanaryView::of(canary, is_held));
    EnvironmentView {
        environment,
        group: spec.and_then(|spec| spec.group.clone()),
        needs: spec.map(|spec| spec.needs.clone()).unwrap_or_default(),
        container: spec.map(|spec| spec.container.to_string()),
        port: spec.and_then(|spec| spec.publish.map(|publish| publish.port).or(spec.port)),
        host: spec.and_then(|spec| spec.host.as_ref()).map(ToString::to_string),
        last_seen: presence.and_then(|presence| presence.last_seen),
        generation: entry.generation,
        observed_generation: status.as_ref().map(|status| status.observed_generation),
        status: shown.condition,
        reason: shown.reason,
        message: shown.message,
        since: shown.since,
        origin: entry.origin,
        revision: entry.revision,
        image: entry.image,
        held: hold,
        maintenance,
        next_retry: shown.next_retry,
        sync,
        observed_sync: status.as_ref().and_then(|status| status.observed_sync),
        volumes: status.as_ref().map(|status| status.volumes.clone()).unwrap_or_default(),
        nodes: status.as_ref().map(|status| status.nodes.clone()).unwrap_or_default(),
        certificate_expires: status.as_ref().and_then(|status| status.certificate_until),
        running: status.and_then(|status| status.running),
        build: None,
        forgetting: Vec::new(),
        canary,
        waiting: None,
        warnings,
    }
}

/// Returns the view of an environment with a running `build` and its duration at `now`.
pub(super) fn with_build(
    view: EnvironmentView,
    build: Option<BuildProgress>,
    now: Timestamp,
) -> EnvironmentView {
    let Some(build) = build.filter(|_| view.reason == Reason::Building) else { return view };
    let length = |seconds| humantime::format_duration(Duration::from_secs(seconds));
    let taken = length(now.since(build.started).as_secs());
    let message = format!("{} ({taken} of at most {})", view.message, length(build.timeout_seconds));
    EnvironmentView { message, build: Some(build), ..view }
}

/// Returns the view of an environment with an unreadable document; `why` is a sentence.
pub(super) fn unreadable(
    spec: Option<&EnvironmentSpec>,
    name: EnvironmentName,
    why: String,
) -> EnvironmentView {
    let desired = Desired::empty(name);
    let facts = EnvironmentFacts { spec, mark: None, desired, status: None, presence: None, look: None };
    let view = environment(facts);
    EnvironmentView { status: Condition::Blocked, reason: Reason::Unknown, message: why, ..view }
}

impl StatusView {
    fn progressing(reason: Reason, message: String, since: Option<Timestamp>) -> Self {
        let condition = Condition::Progressing;
        Self { condition, reason, message, since, next_retry: None, is_of_source: false }
    }

    fn of_status(status: &Status) -> Self {
        Self {
            condition: status.condition,
            reason: status.reason,
            message: status.message.clone(),
            since: Some(status.since),
            next_retry: status.next_retry,
            is_of_source: false,
        }
    }

    /// The view for a disconnected agent: the state of the environment is unknown, so it is not
    /// Ready.
    fn of_the_away(self, host: &AgentName, last_seen: Option<Timestamp>) -> Self {
        let (condition, message) = match last_seen {
            // Any other status does not come from this agent.
            None => (
                Condition::Blocked,
                format!(
                    "the agent {host} has never connected: run `abide agent` on its host, with a token \
                    from `abide token create --agent {host}`"
                ),
            ),
            Some(at) => {
                let message = format!(
                    "the agent {host} is disconnected, last seen {at}; last reported: {}",
                    self.message
                );
                let is_ready = self.condition == Condition::Ready;
                (if is_ready { Condition::Degraded } else { self.condition }, message)
            }
        };
        // The reported status ended when the agent was last seen, not when it began.
        let since = last_seen.or(self.since);
        Self { condition, reason: Reason::AgentAway, message, since, next_retry: None, ..self }
    }
}

impl EnvironmentFacts<'_> {
    /// The status without regard to a head that is still unknown.
    pub(super) fn settled(&self) -> StatusView {
        let host = self.host();
        if let (Some(host), Some(Presence { connected: false, last_seen })) = (host, self.presence) {
            return self.of_status().of_the_away(host, last_seen);
        }
        let shown = self.of_status();
        if let Some(why) = self.look.as_ref().and_then(|look| look.unrecorded.as_ref()) {
            let message = format!("its state cannot be recorded: {why}; last recorded: {}", shown.message);
            let (condition, reason) = (Condition::Degraded, Reason::Unknown);
            return StatusView { condition, reason, message, since: None, next_retry: None, ..shown };
        }
        match self.trouble() {
            Some(trouble) if shown.reason == Reason::NothingRecorded && self.desired.hold.is_none() => {
                StatusView {
                    condition: Condition::Degraded,
                    reason: trouble.reason,
                    message: trouble.message.clone(),
                    since: Some(trouble.since),
                    next_retry: Some(trouble.next_retry),
                    is_of_source: true,
                }
            }
            _ => shown,
        }
    }

    fn of_status(&self) -> StatusView {
        let is_reported = |status: &Status| status.reason == Reason::NotInManifest;
        if self.spec.is_none() && !self.status.as_ref().is_some_and(is_reported) {
            return self.undeclared();
        }
        let Some(status) = &self.status else {
            let message = match self.host() {
                Some(host) => format!("the agent {host} has not reported it yet"),
                None => "not reconciled yet".to_owned(),
            };
            return StatusView::progressing(Reason::Unknown, message, None);
        };
        match self.moved_since(status) {
            Some((reason, message, since)) => StatusView::progressing(reason, message, since),
            None => StatusView::of_status(status),
        }
    }

    /// The status of an environment that left the manifest, unless the controller has reported its containers.
    fn undeclared(&self) -> StatusView {
        let name = &self.desired.environment;
        StatusView {
            condition: Condition::Blocked,
            reason: Reason::NotInManifest,
            message: format!(
                "{name} is no longer in the manifest, and abide changes nothing of it. `abide forget {name}` removes it \
                 from the record"
            ),
            since: None,
            next_retry: None,
            is_of_source: false,
        }
    }

    /// Returns why a status is outdated and since when, or `None` if it is valid. A status of work
    /// in progress stays valid, because it is not final. An engine that does not answer is valid
    /// for every generation.
    fn moved_since(&self, status: &Status) -> Option<(Reason, String, Option<Timestamp>)> {
        if status.reason == Reason::EngineUnavailable || self.spec.is_none() {
            return None;
        }
        let (desired, seer) = (&self.desired, self.seer());
        let is_at_rest = status.condition != Condition::Progressing;
        let updating = |message: String, since| Some((Reason::Updating, message, since));
        let (recorded, seen) = (desired.entry.generation, status.observed_generation);
        if is_at_rest && desired.wanted_generation().is_some_and(|wanted| wanted > seen) {
            let message = format!(
                "generation {recorded} is recorded; {seer} has not processed it yet \
                (last: {seen})"
            );
            return updating(message, Some(desired.entry.at));
        }
        match (&desired.hold, status.condition) {
            (Some(hold), Condition::Ready) => {
                return updating(format!("it is held; {seer} has not reconciled it since"), Some(hold.since));
            }
            (None, Condition::Held) => {
                return updating(format!("its hold has ended; {seer} has not reconciled it since"), None);
            }
            (Some(_), _) => return None,
            (None, _) => {}
        }
        if is_at_rest && desired.sync > status.observed_sync {
            return updating(format!("sync was requested; {seer} has not reconciled it since"), desired.sync);
        }
        let is_edited = self.mark.is_some()
            && status.observed_declaration.is_some()
            && self.mark != status.observed_declaration;
        if is_at_rest && is_edited {
            return updating(format!("the manifest was edited; {seer} has not reconciled it since"), None);
        }
        let is_unseen = self.host().is_none() && self.look.as_ref().is_some_and(|look| !look.is_observed);
        (status.condition == Condition::Ready && is_unseen).then(|| {
            let message = format!("not reconciled since the daemon started; before that: {}", status.message);
            (Reason::Unknown, message, None)
        })
    }

    /// Adjusts the status while the answer to an announced push or to a query is pending. A held
    /// environment keeps its status, because the answer would not be applied.
    fn with_head(&self, settled: StatusView) -> StatusView {
        let Some((what, since)) = self.unanswered().filter(|_| self.desired.hold.is_none()) else {
            return self.with_checks(settled);
        };
        if settled.reason == Reason::AgentAway {
            return settled;
        }
        let trouble = self.trouble();
        let is_bad = matches!(settled.condition, Condition::Degraded | Condition::Blocked);
        if is_bad && trouble.is_some() {
            return settled;
        }
        let why = trouble.map_or_else(String::new, |trouble| format!(" ({})", trouble.message));
        let message = format!("{what}{why}; until then: {}", settled.message);
        let next_retry = trouble.map(|trouble| trouble.next_retry);
        StatusView { next_retry, ..StatusView::progressing(Reason::HeadUnknown, message, Some(since)) }
    }

    /// Adjusts the status while a newer commit waits for its checks. A held environment keeps its status, and so
    /// does one with a problem.
    fn with_checks(&self, settled: StatusView) -> StatusView {
        let Some(unchecked) = self.unchecked().filter(|_| self.desired.hold.is_none()) else {
            return settled;
        };
        let is_nothing = settled.reason == Reason::NothingRecorded;
        let is_calm = matches!(settled.condition, Condition::Ready | Condition::RolledBack) || is_nothing;
        if !is_calm || !(unchecked.is_pending || is_nothing) {
            return settled;
        }
        let message = match is_nothing {
            true => unchecked.sentence.clone(),
            false => format!("{}; until then: {}", unchecked.sentence, settled.message),
        };
        if unchecked.is_pending {
            return StatusView::progressing(Reason::WaitingForChecks, message, Some(unchecked.since));
        }
        let (condition, reason, since) = (Condition::Degraded, Reason::ChecksFailed, Some(unchecked.since));
        StatusView { condition, reason, message, since, next_retry: None, is_of_source: true }
    }

    /// The head whose checks have not passed.
    fn unchecked(&self) -> Option<&UncheckedHead> {
        self.spec?.checks.as_ref()?;
        self.look.as_ref()?.unchecked.as_ref()
    }

    /// Adjusts the status if no daemon runs: it is only the last one that a daemon saw.
    fn unless_watched(&self, shown: StatusView) -> StatusView {
        if self.look.is_some() {
            return shown;
        }
        let message = format!("no daemon runs, so nothing watches it; last seen: {}", shown.message);
        match shown.condition {
            Condition::Ready => StatusView::progressing(Reason::Unknown, message, shown.since),
            _ => StatusView { message, next_retry: None, ..shown },
        }
    }

    /// The pending query to git or the registry, as a clause, and its start.
    pub(super) fn unanswered(&self) -> Option<(String, Timestamp)> {
        let desired = &self.desired;
        let (who, hinted) = match &self.spec?.supply {
            Supply::Branch { .. } => {
                let hint = desired.hint.as_ref();
                let words = |revision: &CommitId| format!("commit {} was announced", revision.short());
                ("git", hint.map(|hint| (format!("{} by {}", words(&hint.revision), hint.by), hint.at)))
            }
            Supply::Tag { .. } => {
                let hint = desired.tag_hint.as_ref();
                let words = |hint: &crate::model::desired::TagHint| {
                    format!("image {} was announced by {}", hint.digest.short(), hint.by)
                };
                ("the registry", hint.map(|hint| (words(hint), hint.at)))
            }
            Supply::Promotion { .. } | Supply::Manual => return None,
        };
        let asked = || desired.asked.map(|at| (format!("{who} is being queried"), at));
        let answered = self.look.as_ref().and_then(|look| look.answered);
        let is_late = hinted.as_ref().is_some_and(|(_, since)| answered >= Some(*since));
        let state = if is_late { "does not show it yet" } else { "has not answered yet" };
        let (what, since) = hinted.or_else(asked)?;
        Some((format!("{what}, and {who} {state}"), since))
    }

    /// The problem with the branch or tag that it tracks.
    pub(super) fn trouble(&self) -> Option<&SourceTrouble> {
        let follows = matches!(self.spec?.supply, Supply::Branch { .. } | Supply::Tag { .. });
        self.look.as_ref().filter(|_| follows)?.trouble.as_ref()
    }

    /// Warnings beyond the status.
    fn warnings(&self, settled: &StatusView) -> Vec<String> {
        let trouble = self.trouble().filter(|_| !settled.is_of_source);
        let of_source = trouble.map(|trouble| {
            format!("{}; environments that track it keep their current version", trouble.message)
        });
        let of_checks = self
            .unchecked()
            .filter(|unchecked| !unchecked.is_pending && settled.reason != Reason::NothingRecorded);
        let of_checks =
            of_checks.map(|unchecked| format!("{}; the current version keeps serving", unchecked.sentence));
        let of_status = self.status.iter().flat_map(|status| status.warnings.iter().cloned());
        let maintenance = self.desired.maintenance.as_ref().map(maintenance_words);
        maintenance.into_iter().chain(of_source).chain(of_checks).chain(of_status).collect()
    }

    fn host(&self) -> Option<&AgentName> {
        self.spec?.host.as_ref()
    }

    /// The name of the process that reconciles it.
    fn seer(&self) -> String {
        self.host().map_or_else(|| "the controller".to_owned(), |host| format!("the agent {host}"))
    }
}

fn maintenance_words(maintenance: &Maintenance) -> String {
    let Maintenance { reason, by, since } = maintenance;
    let why = reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    format!("maintenance{why}: the proxy answers 503 since {since}, by {by}")
}

#[cfg(test)]
mod tests;
