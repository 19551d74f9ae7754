//! The branch heads of one repository.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tracing::info;

use super::Tools;
use super::paths::{self, Paths};
use super::poll_state::PollFailure;
use super::results::unrecorded;
use crate::controller::clock::now;
use crate::controller::jobs::remote::remote;
use crate::model::error::chain;
use crate::model::name::{BranchName, CommitId, EnvironmentName, RepositoryName};
use crate::model::poll::QueryPeriod;
use crate::model::spec::{Manifest, NeededChecks, RepositorySpec, Supply};
use crate::model::status::Reason;
use crate::source::SourceError;

/// The tracked branches of one repository.
#[derive(Clone, PartialEq)]
pub(super) struct Branches {
    pub(super) repository: RepositoryName,
    pub(super) spec: RepositorySpec,
    /// The environments, each with its branch.
    pub(super) tracking: Vec<(EnvironmentName, BranchName)>,
    /// The patterns of those whose build declares paths.
    pub(super) paths: BTreeMap<EnvironmentName, Vec<String>>,
    /// The checks of those that deploy only green commits.
    pub(super) checks: BTreeMap<EnvironmentName, NeededChecks>,
}

/// The tracked branches of every repository.
pub(super) fn all(manifest: &Manifest) -> HashMap<RepositoryName, Branches> {
    let mut all: HashMap<RepositoryName, Branches> = HashMap::new();
    for (environment, declared) in &manifest.environments {
        let Supply::Branch { repository, branch } = &declared.supply else { continue };
        let Some(spec) = manifest.repositories.get(repository) else { continue };
        let branches = all.entry(repository.clone()).or_insert_with(|| Branches {
            repository: repository.clone(),
            spec: spec.clone(),
            tracking: Vec::new(),
            paths: BTreeMap::new(),
            checks: BTreeMap::new(),
        });
        let patterns = declared.build.as_ref().map(paths::patterns).unwrap_or_default();
        if !patterns.is_empty() {
            branches.paths.insert(environment.clone(), patterns);
        }
        branches.checks.extend(declared.checks.clone().map(|checks| (environment.clone(), checks)));
        branches.tracking.push((environment.clone(), branch.clone()));
    }
    all
}

impl Branches {
    /// Asks for all heads at once and records them. Returns whether all of them are known now.
    pub(super) async fn ask(&self, tools: &Tools, paths: Option<&Paths>, pause: Duration) -> bool {
        let from = now();
        let heads = self.heads(tools).await;
        let asked = QueryPeriod { from, to: now() };
        let mut all_known = true;
        for (environment, branch) in &self.tracking {
            let found = match &heads {
                Ok(heads) => self.record(environment, branch, heads, asked, tools, paths).await,
                Err(why) => Err(why.clone()),
            };
            all_known &= tools.findings.note(environment, asked, found, pause).await;
        }
        all_known
    }

    async fn heads(&self, tools: &Tools) -> Result<BTreeMap<String, CommitId>, PollFailure> {
        let _slot = tools.git.acquire(self.repository.as_str()).await;
        let found = match remote(&self.spec.url, self.spec.login.as_ref()) {
            Ok(remote) => remote.heads().await,
            Err(error) => Err(error),
        };
        found.map_err(|error| PollFailure {
            reason: reason(&error),
            message: format!("repository {}: {}", self.repository, chain(&error)),
            is_answer: false,
        })
    }

    /// Applies the head of one environment's branch to the record.
    async fn record(
        &self,
        environment: &EnvironmentName,
        branch: &BranchName,
        heads: &BTreeMap<String, CommitId>,
        asked: QueryPeriod,
        tools: &Tools,
        paths: Option<&Paths>,
    ) -> Result<(), PollFailure> {
        let head = heads.get(branch.as_str()).ok_or_else(|| PollFailure {
            reason: Reason::BranchMissing,
            message: format!("repository {} has no branch `{branch}`", self.repository),
            is_answer: true,
        })?;
        let resolver = &tools.findings.resolver;
        let concerns = match paths {
            Some(paths) => paths.concern(environment, branch, head).await,
            None => Ok(true),
        };
        if !concerns.map_err(|why| self.not_compared(&why))? {
            let passed = resolver.pass_over(environment, head, asked).await;
            if passed.map_err(|error| unrecorded(&error))? {
                info!(%environment, revision = %head, "the commit changes none of the build's `paths`");
            }
            return Ok(());
        }
        if let (Some(needed), Some(paths)) = (self.checks.get(environment), paths) {
            return self.record_green(environment, (branch, head), needed, asked, tools, paths).await;
        }
        let moved = resolver.advance_head(environment, head, asked).await;
        if let Some(generation) = moved.map_err(|error| unrecorded(&error))? {
            info!(%environment, %generation, revision = %head, "branch updated");
        }
        Ok(())
    }

    /// The result for a head that cannot be compared with the previous commit.
    pub(super) fn not_compared(&self, why: &str) -> PollFailure {
        let message = format!("repository {}: {why}", self.repository);
        PollFailure { reason: Reason::SourceUnreachable, message, is_answer: false }
    }
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
