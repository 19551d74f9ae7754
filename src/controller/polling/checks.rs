//! Green commits only: which commit of a branch may be deployed, by the checks that its forge reports.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use tracing::info;

use super::Tools;
use super::branches::Branches;
use super::paths::Paths;
use super::poll_state::PollFailure;
use super::results::unrecorded;
use crate::controller::clock::now;
use crate::model::checks::{
    AwaitedCommit, ChecksQuery, ChecksUnknown, CommitChecks, NeededChecks, UncheckedHead,
};
use crate::model::error::chain;
use crate::model::name::{BranchName, CommitId, EnvironmentName};
use crate::model::outbox::commit::{CommitState, Phase};
use crate::model::poll::QueryPeriod;
use crate::model::status::Reason;
use crate::model::time::Timestamp;
use crate::plan::checks::{Judgement, Reading, judge};

/// The newest commits that are checked, along the first parents.
const MOST_COMMITS: usize = 10;
/// How long a reading is used again, however often checks are announced.
const FRESH: Duration = Duration::from_secs(2);
/// The interval of asking for checks that run, in case an announcement is lost.
const ASK_AGAIN: Duration = Duration::from_secs(30);
/// The same for a head that failed.
const ASK_AGAIN_IF_RED: Duration = Duration::from_secs(120);
/// The most commits that are remembered.
const MOST_REMEMBERED: usize = 500;

/// Reads the checks of a commit of a branch from a forge.
pub type ReadChecks =
    Arc<dyn Fn(ChecksQuery) -> BoxFuture<'static, Result<CommitChecks, ChecksUnknown>> + Send + Sync>;

/// The checks of commits, and their last answers.
#[derive(Clone)]
pub(in crate::controller) struct Checks {
    read: Option<ReadChecks>,
    seen: Arc<Mutex<HashMap<(String, CommitId), SeenCommit>>>,
}

/// The last answer about a commit.
#[derive(Clone)]
pub(in crate::controller) struct SeenCommit {
    checks: CommitChecks,
    first_seen: Timestamp,
    same_since: Timestamp,
    read_at: Timestamp,
}

/// A judgement on a commit.
pub(in crate::controller) struct Judged {
    judgement: Judgement,
    /// When the checks of the commit were read first.
    first_seen: Timestamp,
    /// Whether it rests on an earlier reading that is still fresh.
    is_reused: bool,
}

impl Checks {
    pub(in crate::controller) fn new(read: Option<ReadChecks>) -> Self {
        Self { read, seen: Arc::default() }
    }

    /// The judgement on a commit. `first_seen` is the time of its first reading, if the record has one.
    pub(in crate::controller) async fn judge(
        &self,
        query: ChecksQuery,
        needed: &NeededChecks,
        first_seen: Option<Timestamp>,
    ) -> Result<Judged, ChecksUnknown> {
        let (commit, asked) = (query.commit.clone(), now());
        let seen = self.seen(query).await?;
        let first_seen = first_seen.map_or(seen.first_seen, |first| first.min(seen.first_seen));
        let reading =
            Reading { commit: &commit, checks: &seen.checks, first_seen, same_since: seen.same_since };
        let judgement = judge(needed, &reading, now());
        Ok(Judged { judgement, first_seen, is_reused: seen.read_at < asked })
    }

    /// The checks of a commit.
    pub(in crate::controller) async fn read(
        &self,
        query: ChecksQuery,
    ) -> Result<CommitChecks, ChecksUnknown> {
        Ok(self.seen(query).await?.checks)
    }

    async fn seen(&self, query: ChecksQuery) -> Result<SeenCommit, ChecksUnknown> {
        let ChecksQuery { forge, branch, commit, with_required } = &query;
        let place = format!("{} {} {branch} {with_required}", forge.api, forge.repository);
        let key = (place, commit.clone());
        let before = self.all().get(&key).cloned();
        if let Some(seen) = before.as_ref().filter(|seen| now().since(seen.read_at) < FRESH) {
            return Ok(seen.clone());
        }
        let Some(read) = &self.read else {
            let why = "this process cannot ask a forge".to_owned();
            return Err(ChecksUnknown { why, is_denied: true, not_before: None });
        };
        let checks = read(query).await?;
        let at = now();
        let same_since = before.as_ref().filter(|before| before.checks == checks);
        let seen = SeenCommit {
            same_since: same_since.map_or(at, |before| before.same_since),
            first_seen: before.map_or(at, |before| before.first_seen),
            checks,
            read_at: at,
        };
        let mut all = self.all();
        if all.len() >= MOST_REMEMBERED
            && let Some(oldest) = all.iter().min_by_key(|(_, seen)| seen.read_at).map(|(key, _)| key.clone())
        {
            all.remove(&oldest);
        }
        all.insert(key, seen.clone());
        Ok(seen)
    }

    fn all(&self) -> MutexGuard<'_, HashMap<(String, CommitId), SeenCommit>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The states of the commits that are newer than the deployed one.
#[derive(Default)]
struct Waiting {
    /// The sentence about the head.
    head: Option<String>,
    /// The sentence about the newest commit with checks still to come.
    pending: Option<String>,
    /// When time alone changes one of the judgements.
    edge: Option<Timestamp>,
}

impl Waiting {
    fn add(&mut self, sentence: String, is_pending: bool, edge: Option<Timestamp>) {
        self.edge = self.edge.into_iter().chain(edge).min();
        if is_pending && self.pending.is_none() {
            self.pending = Some(sentence.clone());
        }
        self.head.get_or_insert(sentence);
    }

    /// The state of the head that did not pass; `None`: it passed.
    fn of(self, head: &CommitId) -> Option<UncheckedHead> {
        let of_head = self.head?;
        let is_pending = self.pending.is_some();
        let more = self.pending.filter(|pending| *pending != of_head);
        let sentence = more.map_or_else(|| of_head.clone(), |more| format!("{of_head}; {more}"));
        let at = now();
        let regular = at.after(if is_pending { ASK_AGAIN } else { ASK_AGAIN_IF_RED });
        // Not at once: an edge is a boundary, and clocks are not exact.
        let recheck_at = self.edge.map_or(regular, |edge| edge.min(regular).max(at.after(FRESH)));
        Some(UncheckedHead { head: head.clone(), sentence, is_pending, since: at, recheck_at })
    }
}

impl Branches {
    /// Records the newest commit of a branch whose checks passed, if it is newer than the last one that did.
    pub(super) async fn record_green(
        &self,
        environment: &EnvironmentName,
        (branch, head): (&BranchName, &CommitId),
        needed: &NeededChecks,
        asked: QueryPeriod,
        tools: &Tools,
        paths: &Paths,
    ) -> Result<(), PollFailure> {
        let resolver = &tools.findings.resolver;
        let desired = tools.desired.get(environment).map_err(|error| unrecorded(&error))?;
        // A commit that passed once stays accepted, even if somebody repeats its checks and they fail.
        if desired.head.as_ref() == Some(head) && desired.passed_over.is_none() {
            let settled = resolver.advance_head(environment, head, asked).await;
            settled.map_err(|error| unrecorded(&error))?;
            tools.findings.unchecked(environment, None).await;
            return Ok(());
        }
        resolver.await_checks(environment, head, asked).await.map_err(|error| unrecorded(&error))?;
        let Some(forge) = &self.spec.forge else {
            return Err(self.unread("its `forge` is not declared", Reason::ForgeDenied));
        };
        let commits =
            paths.newest(branch, head, MOST_COMMITS).await.map_err(|why| self.not_compared(&why))?;
        let known = tools.desired.awaited(environment).map_err(|error| unrecorded(&error))?;
        let mut waiting = Waiting::default();
        let mut awaited = Vec::new();
        for commit in commits.iter().take_while(|commit| desired.head.as_ref() != Some(*commit)) {
            let query = ChecksQuery {
                forge: forge.clone(),
                branch: branch.clone(),
                commit: commit.clone(),
                with_required: *needed == NeededChecks::OfBranch,
            };
            let before = known.iter().find(|known| known.revision == *commit);
            let judged = tools.checks.judge(query, needed, before.map(|known| known.first_seen)).await;
            let Judged { judgement, first_seen, is_reused } = judged.map_err(|error| self.unknown(&error))?;
            if is_reused {
                // Pushes that were announced meanwhile are not in it.
                waiting.edge = Some(now());
            }
            // The forge shows what became of new commits, and nothing of a history that failed long ago.
            let is_new = commit == head || before.is_some_and(|known| known.state.is_some());
            let (state, is_pending) = match judgement {
                Judgement::Green(names) => {
                    self.take(environment, (branch, commit), &names, asked, tools, paths).await?;
                    break;
                }
                Judgement::Pending(sentence, edge) => {
                    waiting.add(sentence.clone(), true, edge);
                    (CommitState::new(Phase::Pending, sentence), true)
                }
                Judgement::Red(sentence) => {
                    waiting.add(sentence.clone(), false, None);
                    (CommitState::new(Phase::Error, sentence), false)
                }
            };
            let is_shown = is_new || (is_pending && desired.head.is_some());
            let state = is_shown.then_some(state);
            awaited.push(AwaitedCommit { revision: commit.clone(), first_seen, state });
        }
        resolver.note_awaited(environment, awaited).await.map_err(|error| unrecorded(&error))?;
        tools.findings.unchecked(environment, waiting.of(head)).await;
        Ok(())
    }

    /// Records a commit whose checks passed.
    async fn take(
        &self,
        environment: &EnvironmentName,
        (branch, commit): (&BranchName, &CommitId),
        names: &[String],
        asked: QueryPeriod,
        tools: &Tools,
        paths: &Paths,
    ) -> Result<(), PollFailure> {
        let resolver = &tools.findings.resolver;
        let concerns = paths.concern(environment, branch, commit).await;
        if !concerns.map_err(|why| self.not_compared(&why))? {
            let passed = resolver.pass_over(environment, commit, asked).await;
            return passed.map(drop).map_err(|error| unrecorded(&error));
        }
        let moved = resolver.advance_checked(environment, commit, passed(names), asked).await;
        if let Some(generation) = moved.map_err(|error| unrecorded(&error))? {
            info!(%environment, %generation, revision = %commit, "the checks of a commit passed");
        }
        Ok(())
    }

    fn unknown(&self, error: &ChecksUnknown) -> PollFailure {
        let reason = if error.is_denied { Reason::ForgeDenied } else { Reason::ForgeUnavailable };
        self.unread(&chain(error), reason)
    }

    fn unread(&self, why: &str, reason: Reason) -> PollFailure {
        PollFailure { reason, message: format!("repository {}: {why}", self.repository), is_answer: false }
    }
}

/// The note of a generation, such as `passed ci/build, ci/test`.
fn passed(names: &[String]) -> String {
    const MOST: usize = 5;
    let shown = names.iter().take(MOST).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(MOST) {
        0 => format!("passed {shown}"),
        more => format!("passed {shown} and {more} more"),
    }
}
