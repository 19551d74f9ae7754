//! Polling branches: one task for each repository asks git for the heads, when a push was announced and at
//! intervals, and records the answers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tracing::{info, warn};

use super::clock::now;
use super::looks::{Looks, News, Unknown};
use super::paths::Paths;
use super::remote::remote;
use crate::model::error::chain;
use crate::model::event::EventKind;
use crate::model::look::Asked;
use crate::model::name::{BranchName, CommitId, EnvironmentName, RepositoryName};
use crate::model::spec::Login;
use crate::model::status::Reason;
use crate::model::time::Timestamp;
use crate::plan::backoff;
use crate::record::{DesiredReader, RecordError, Resolver, StatusWriter};
use crate::source::SourceError;

/// The minimum interval between requests to git, however often pushes are announced.
const AT_LEAST_BETWEEN: Duration = Duration::from_millis(200);

/// When an announced push that the remote does not show yet is requested again, by its age. The last request
/// settles it, see [`Asked::settles`].
const RECHECKED_AT: [Duration; 5] = [
    Duration::from_millis(500),
    Duration::from_millis(1_500),
    Duration::from_millis(3_500),
    Duration::from_millis(7_500),
    Duration::from_millis(15_500),
];

/// The errors that keep registries from being used, by source, in sentences.
pub(crate) type FollowTrouble = Arc<Mutex<BTreeMap<String, String>>>;

/// The poller of one repository.
#[derive(Clone)]
pub(crate) struct Follower {
    pub(crate) repository: RepositoryName,
    pub(crate) url: String,
    /// The git credentials.
    pub(crate) login: Option<Login>,
    pub(crate) poll: Duration,
    pub(crate) followers: Vec<(EnvironmentName, BranchName)>,
    /// Decides which commits concern which environment.
    pub(crate) paths: Arc<Paths>,
    /// Notified when a push was announced.
    pub(crate) announced: Arc<Notify>,
    pub(crate) findings: Findings,
}

/// Records the results of polling branches and tags for each environment.
#[derive(Clone)]
pub(crate) struct Findings {
    pub(crate) looks: Looks,
    pub(crate) desired: DesiredReader,
    pub(crate) resolver: Resolver,
    pub(crate) writer: StatusWriter,
}

impl Findings {
    /// Records that the head or digest is known, and that an earlier problem has passed.
    pub(crate) async fn known(&self, environment: &EnvironmentName, asked: Asked) {
        let news = self.looks.answered(environment, asked);
        if news.of_trouble {
            info!(%environment, "the tracked branch or tag is reachable again");
            self.tell(environment, "the tracked branch or tag is reachable again").await;
        }
        self.ring(environment, news);
    }

    /// Records why the head or digest is unknown. Requests that wait for the answer see it.
    pub(crate) async fn unknown(
        &self,
        environment: &EnvironmentName,
        asked: Asked,
        why: &Unknown,
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
    pub(crate) fn recheck<'a>(
        &self,
        environments: impl Iterator<Item = &'a EnvironmentName>,
    ) -> Option<Duration> {
        let now = now();
        let hints =
            environments.filter_map(|environment| self.desired.get(environment).ok()).flat_map(|desired| {
                let of_tag = desired.tag_hint.map(|hint| hint.at);
                desired.hint.map(|hint| hint.at).into_iter().chain(of_tag)
            });
        hints.filter_map(|at| next_recheck(now.since(at))).min()
    }

    fn ring(&self, environment: &EnvironmentName, news: News) {
        if news.of_trouble || news.is_awaited {
            self.writer.ring(environment);
        }
    }

    async fn tell(&self, environment: &EnvironmentName, message: &str) {
        // If the event cannot be stored, a log line has it as well.
        let _ = self.writer.event(environment, EventKind::System, message, now()).await;
    }
}

/// The time of the next request after so many failures in a row.
pub(super) fn next_ask(poll: Duration, failures: u32, seed: &str) -> Duration {
    let retry = backoff(failures + 1, seed);
    if poll.is_zero() { retry } else { retry.min(poll) }
}

/// The time until a push that was announced this long ago is requested again; `None`: its last request is
/// over.
pub(super) fn next_recheck(age: Duration) -> Option<Duration> {
    RECHECKED_AT.into_iter().find(|due| *due > age).map(|due| due - age)
}

/// Waits until the next poll. After failures that is sooner, because an announced push must be applied soon
/// after the other side answers again. An announced push that the remote does not show yet is requested again
/// after `recheck`. Waits forever if there is none, nothing failed and polling is off.
pub(super) async fn until_next_poll(poll: Duration, failures: u32, recheck: Option<Duration>, seed: &str) {
    let regular = match failures {
        0 => Some(poll).filter(|poll| !poll.is_zero()),
        failures => return tokio::time::sleep(next_ask(poll, failures, seed)).await,
    };
    match recheck.into_iter().chain(regular).min() {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}

impl Follower {
    /// Polls until dropped.
    pub(crate) async fn run(self) {
        let mut failures = 0;
        loop {
            failures = if self.ask(failures).await { 0 } else { failures + 1 };
            tokio::time::sleep(AT_LEAST_BETWEEN).await;
            let recheck = self.findings.recheck(self.followers.iter().map(|(environment, _)| environment));
            tokio::select! {
                () = self.announced.notified() => {}
                () = until_next_poll(self.poll, failures, recheck, self.repository.as_str()) => {}
            }
        }
    }

    /// Requests all heads at once. Returns whether all of them are known now.
    async fn ask(&self, failures: u32) -> bool {
        let from = now();
        let heads = self.heads().await;
        let asked = Asked { from, to: now() };
        let next_retry = asked.to.after(next_ask(self.poll, failures + 1, self.repository.as_str()));
        let mut all_known = true;
        for (environment, branch) in &self.followers {
            let found = match &heads {
                Ok(heads) => self.take(environment, branch, heads, asked).await,
                Err(why) => Err(why.clone()),
            };
            match found {
                Ok(()) => self.findings.known(environment, asked).await,
                Err(why) => {
                    all_known = false;
                    self.findings.unknown(environment, asked, &why, next_retry).await;
                }
            }
        }
        all_known
    }

    async fn heads(&self) -> Result<BTreeMap<String, CommitId>, Unknown> {
        let found = match remote(&self.url, self.login.as_ref()) {
            Ok(remote) => remote.heads().await,
            Err(error) => Err(error),
        };
        found.map_err(|error| Unknown {
            reason: reason(&error),
            message: format!("repository {}: {}", self.repository, chain(&error)),
            is_answer: false,
        })
    }

    /// Applies the head of one environment's branch to the record.
    async fn take(
        &self,
        environment: &EnvironmentName,
        branch: &BranchName,
        heads: &BTreeMap<String, CommitId>,
        asked: Asked,
    ) -> Result<(), Unknown> {
        let head = heads.get(branch.as_str()).ok_or_else(|| Unknown {
            reason: Reason::BranchMissing,
            message: format!("repository {} has no branch `{branch}`", self.repository),
            is_answer: true,
        })?;
        let resolver = &self.findings.resolver;
        let concerns = self.paths.concern(environment, branch, head).await;
        if !concerns.map_err(|why| not_compared(&self.repository, &why))? {
            let passed = resolver.pass_over(environment, head, asked).await;
            if passed.map_err(|error| unrecorded(&error))? {
                info!(%environment, revision = %head, "the commit changes none of the build's `paths`");
            }
            return Ok(());
        }
        let moved = resolver.advance_head(environment, head, asked).await;
        if let Some(generation) = moved.map_err(|error| unrecorded(&error))? {
            info!(%environment, %generation, revision = %head, "branch updated");
        }
        Ok(())
    }
}

/// The result for a head that cannot be compared with the previous commit.
fn not_compared(repository: &RepositoryName, why: &str) -> Unknown {
    let message = format!("repository {repository}: {why}");
    Unknown { reason: Reason::SourceUnreachable, message, is_answer: false }
}

/// The result for an answer that could not be recorded: unknown.
pub(super) fn unrecorded(error: &RecordError) -> Unknown {
    Unknown { reason: Reason::SourceUnreachable, message: chain(error), is_answer: false }
}

/// The reason why git returned no heads, in one word.
fn reason(error: &SourceError) -> Reason {
    match error {
        SourceError::Denied { .. } | SourceError::Password { .. } | SourceError::NotTrusted { .. } => {
            Reason::SourceDenied
        }
        SourceError::InvalidUrl(_) | SourceError::NotARepository { .. } | SourceError::NotFound { .. } => {
            Reason::SourceMissing
        }
        SourceError::NoSuchBranch { .. } => Reason::BranchMissing,
        SourceError::NoSuchCommit { .. }
        | SourceError::TooLarge { .. }
        | SourceError::Unusable { .. }
        | SourceError::Refused { .. }
        | SourceError::Unreachable { .. }
        | SourceError::TimedOut { .. }
        | SourceError::DiskFull { .. }
        | SourceError::Git { .. }
        | SourceError::NoGit(_)
        | SourceError::NoLfs
        | SourceError::Submodule { .. }
        | SourceError::NotEmpty(_)
        | SourceError::Io { .. } => Reason::SourceUnreachable,
    }
}
