//! Commits on pages. A commit never changes, so git's answer is remembered.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use tokio::time::Instant;

use crate::api::ControllerError;
use crate::model::commits::{CommitLine, Comparison};
use crate::model::name::{CommitId, EnvironmentName};
use crate::model::spec::Manifest;

/// How long a page waits for git. A later answer is on the next page.
const PATIENCE: Duration = Duration::from_millis(250);
/// How long a comparison may take that is the very content of a page.
const LONGEST: Duration = Duration::from_secs(5);
/// The most remembered commits and comparisons each; then all are forgotten. About 3 MB.
const REMEMBERED: usize = 10_000;
const COMPARED: usize = 500;
/// A commit that git did not have is asked for again after this time.
const ASK_AGAIN: Duration = Duration::from_secs(30);
/// The most commits in one question.
const MOST_ASKED: usize = 200;

/// The history of repositories, as far as this host has it.
pub trait CommitHistory: Send + Sync {
    /// Returns those of `commits` that the repository of an environment has here.
    fn lines(
        &self,
        environment: EnvironmentName,
        commits: Vec<CommitId>,
    ) -> BoxFuture<'static, Result<Vec<CommitLine>, ControllerError>>;

    /// Returns the commits that only one of two versions contains.
    fn compare(
        &self,
        environment: EnvironmentName,
        old: CommitId,
        new: CommitId,
    ) -> BoxFuture<'static, Result<Comparison, ControllerError>>;
}

/// The known commits. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct KnownCommits {
    source: Option<Arc<dyn CommitHistory>>,
    known: Arc<Mutex<CommitCache>>,
}

#[derive(Default)]
struct CommitCache {
    lines: HashMap<CommitId, CommitLine>,
    missing: HashMap<CommitId, Instant>,
    compared: HashMap<(CommitId, CommitId), Arc<Comparison>>,
}

impl fmt::Debug for KnownCommits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KnownCommits").finish_non_exhaustive()
    }
}

impl KnownCommits {
    pub(super) fn new(source: Arc<dyn CommitHistory>) -> Self {
        Self { source: Some(source), known: Arc::default() }
    }

    /// The knowledge of a commit.
    pub(super) fn line(&self, commit: &CommitId) -> Option<CommitLine> {
        self.known().lines.get(commit).cloned()
    }

    /// The knowledge of the difference between two versions.
    pub(super) fn compared(&self, old: &CommitId, new: &CommitId) -> Option<Arc<Comparison>> {
        self.known().compared.get(&(old.clone(), new.clone())).cloned()
    }

    /// Learns about the commits of environments, and about the differences of promotions `(to, old, new)`. Returns
    /// after a moment even if git is slow; it then continues in the background.
    pub(super) async fn learn(
        &self,
        manifest: &Manifest,
        commits: impl IntoIterator<Item = (EnvironmentName, CommitId)>,
        promotions: impl IntoIterator<Item = (EnvironmentName, CommitId, CommitId)>,
    ) {
        let Some(source) = self.source.clone() else { return };
        // One question for each repository.
        let mut asked: BTreeMap<String, (EnvironmentName, Vec<CommitId>)> = BTreeMap::new();
        for (environment, commit) in commits {
            let Some((url, _)) = manifest.built_from(&environment) else { continue };
            let commits = &mut asked.entry(url.to_owned()).or_insert_with(|| (environment, Vec::new())).1;
            if commits.len() < MOST_ASKED && !commits.contains(&commit) && self.is_worth_asking(&commit) {
                commits.push(commit);
            }
        }
        let lines = asked.into_values().filter(|(_, commits)| !commits.is_empty());
        let lines: Vec<_> = lines
            .map(|(environment, commits)| {
                let (this, source) = (self.clone(), Arc::clone(&source));
                async move { this.learn_lines(&*source, environment, commits).await }
            })
            .collect();
        let pairs = promotions.into_iter().filter(|(_, old, new)| self.compared(old, new).is_none());
        let pairs: Vec<_> = pairs
            .map(|(environment, old, new)| {
                let (this, source) = (self.clone(), Arc::clone(&source));
                async move { drop(this.compare_by(&*source, environment, old, new).await) }
            })
            .collect();
        if lines.is_empty() && pairs.is_empty() {
            return;
        }
        let learning = tokio::spawn(async move {
            join_all(lines).await;
            join_all(pairs).await;
        });
        let _ = tokio::time::timeout(PATIENCE, learning).await;
    }

    /// Compares two versions, for a page that is about them.
    ///
    /// # Errors
    /// Why they cannot be compared, as a clause.
    pub(super) async fn compare(
        &self,
        environment: &EnvironmentName,
        old: &CommitId,
        new: &CommitId,
    ) -> Result<Arc<Comparison>, String> {
        if let Some(known) = self.compared(old, new) {
            return Ok(known);
        }
        let source = self.source.clone().ok_or("no daemon runs")?;
        let asked = self.compare_by(&*source, environment.clone(), old.clone(), new.clone());
        let answer = tokio::time::timeout(LONGEST, asked).await;
        answer.map_err(|_| "git did not answer within five seconds".to_owned())?
    }

    async fn learn_lines(
        &self,
        source: &dyn CommitHistory,
        environment: EnvironmentName,
        commits: Vec<CommitId>,
    ) {
        let found = source.lines(environment, commits.clone()).await.unwrap_or_default();
        let mut known = self.known();
        if known.lines.len() + found.len() > REMEMBERED {
            known.lines.clear();
        }
        if known.missing.len() + commits.len() > REMEMBERED {
            known.missing.clear();
        }
        let now = Instant::now();
        for commit in commits {
            known.missing.insert(commit, now);
        }
        for line in found {
            known.missing.remove(&line.id);
            known.lines.insert(line.id.clone(), line);
        }
    }

    async fn compare_by(
        &self,
        source: &dyn CommitHistory,
        environment: EnvironmentName,
        old: CommitId,
        new: CommitId,
    ) -> Result<Arc<Comparison>, String> {
        let compared = source.compare(environment, old.clone(), new.clone()).await;
        let compared = Arc::new(compared.map_err(|error| error.0)?);
        let mut known = self.known();
        if known.compared.len() >= COMPARED {
            known.compared.clear();
        }
        known.compared.insert((old, new), Arc::clone(&compared));
        Ok(compared)
    }

    fn is_worth_asking(&self, commit: &CommitId) -> bool {
        let known = self.known();
        let is_missing = known.missing.get(commit).is_some_and(|at| at.elapsed() < ASK_AGAIN);
        !known.lines.contains_key(commit) && !is_missing
    }

    fn known(&self) -> MutexGuard<'_, CommitCache> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The page of a repository on the forge that hosts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ForgeWeb {
    base: String,
    pub(super) host: String,
    kind: ForgeWebKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ForgeWebKind {
    GithubLike,
    Gitlab,
    Bitbucket,
}

impl ForgeWeb {
    /// The forge of an environment's repository, by its webhook or by the name of its host. Only `https`.
    pub(super) fn of(manifest: &Manifest, environment: &EnvironmentName) -> Option<Self> {
        use crate::model::spec::Provider;
        let (url, _) = manifest.built_from(environment)?;
        let spec = manifest.repositories.values().find(|spec| spec.url == url)?;
        let parsed = crate::model::remote_url::RemoteUrl::parse(url).ok()?;
        let path =
            parsed.shown.strip_prefix("https://")?.trim_end_matches('/').trim_end_matches(".git").to_owned();
        let host = path.split('/').next()?.to_owned();
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.~/:".contains(c);
        if !path.chars().all(is_plain) {
            return None;
        }
        let named = |word: &str| host.split('.').any(|part| part == word);
        let kind = match spec.webhook.as_ref().map(|webhook| webhook.provider) {
            Some(Provider::Github | Provider::Gitea) => ForgeWebKind::GithubLike,
            Some(Provider::Gitlab) => ForgeWebKind::Gitlab,
            Some(Provider::Bitbucket) => ForgeWebKind::Bitbucket,
            None if named("github") || named("gitea") || named("codeberg") || named("forgejo") => {
                ForgeWebKind::GithubLike
            }
            None if named("gitlab") => ForgeWebKind::Gitlab,
            None if named("bitbucket") => ForgeWebKind::Bitbucket,
            None => return None,
        };
        Some(Self { base: format!("https://{path}"), host, kind })
    }

    /// The page of a commit.
    pub(super) fn commit(&self, commit: &CommitId) -> String {
        let base = &self.base;
        match self.kind {
            ForgeWebKind::GithubLike => format!("{base}/commit/{commit}"),
            ForgeWebKind::Gitlab => format!("{base}/-/commit/{commit}"),
            ForgeWebKind::Bitbucket => format!("{base}/commits/{commit}"),
        }
    }

    /// The page that compares two commits.
    pub(super) fn compare(&self, old: &CommitId, new: &CommitId) -> String {
        let base = &self.base;
        match self.kind {
            ForgeWebKind::GithubLike => format!("{base}/compare/{old}...{new}"),
            ForgeWebKind::Gitlab => format!("{base}/-/compare/{old}...{new}"),
            ForgeWebKind::Bitbucket => format!("{base}/branches/compare/{new}%0D{old}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::tests::{manifest, name};
    use crate::model::name::RepositoryName;
    use crate::model::spec::RepositorySpec;

    fn forge(url: &str) -> Option<ForgeWeb> {
        let mut manifest = manifest().manifest;
        let spec = RepositorySpec {
            url: url.to_owned(),
            login: None,
            webhook: None,
            poll: Duration::ZERO,
            forge: None,
        };
        manifest.repositories.insert(RepositoryName::new("keepwork").unwrap(), spec);
        ForgeWeb::of(&manifest, &name("prod"))
    }

    #[test]
    fn commits_link_to_the_forge_that_hosts_them() {
        let (old, new) = (CommitId::new("a".repeat(40)).unwrap(), CommitId::new("b".repeat(40)).unwrap());
        let github = forge("https://github.com/example/shop.git").unwrap();
        assert_eq!(github.commit(&old), format!("https://github.com/example/shop/commit/{old}"));
        assert_eq!(
            github.compare(&old, &new),
            format!("https://github.com/example/shop/compare/{old}...{new}")
        );
        let gitlab = forge("https://gitlab.example.com/a/b").unwrap();
        assert_eq!(gitlab.commit(&old), format!("https://gitlab.example.com/a/b/-/commit/{old}"));
        let bitbucket = forge("https://bitbucket.org/a/b.git").unwrap();
        assert!(bitbucket.compare(&old, &new).ends_with(&format!("/branches/compare/{new}%0D{old}")));
        for unknown in
            ["https://git.example.com/x.git", "http://github.com/x", "git@github.com:x/y.git", "/srv/x"]
        {
            assert_eq!(forge(unknown), None, "{unknown}");
        }
        assert!(!forge("https://user@github.com/x/y.git").unwrap().commit(&old).contains("user"));
    }
}
