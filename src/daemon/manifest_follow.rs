//! Follows a branch that has the manifest: a commit whose manifest passes all checks comes into force; any other is
//! refused, and the last good one stays in force. The secrets that a manifest names stay on this host.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::feedback;
use crate::manifest_dir::{self, LoadError};
use crate::model::error::chain;
use crate::model::followed::UnreadBranch;
use crate::model::name::CommitId;
use crate::model::outbox::commit::{CommitState, Phase};
use crate::model::spec::FollowedManifest;
use crate::secret;
use crate::source::{GitMirror, Remote};

/// The folder of the copy of the repository, beside those of commits.
const MIRROR: &str = "mirror";
/// The pause between two looks if polling is disabled and there is no webhook.
const LONGEST_POLL: Duration = Duration::from_secs(60);
/// The pause if polling is disabled and a webhook announces pushes.
const POLL_BESIDE_WEBHOOK: Duration = Duration::from_secs(3600);
/// The pauses after an announced push that git does not show yet: a git host may answer from a replica.
const RECHECKS: [Duration; 4] =
    [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(3), Duration::from_secs(10)];

/// The follower of a branch.
pub(super) struct ManifestFollower {
    /// The desired-state folder.
    folder: PathBuf,
    followed: FollowedManifest,
    mirror: GitMirror,
    /// The newest commit that was judged.
    judged: Option<CommitId>,
    /// A state that the forge does not show yet.
    untold: Option<(CommitId, CommitState)>,
}

impl ManifestFollower {
    /// The follower of a folder; `None` if the folder itself has the manifest.
    ///
    /// # Errors
    /// The folder has no readable manifest, or its URL is not one.
    pub(super) fn open(folder: &Path) -> anyhow::Result<Option<Self>> {
        let Some(followed) = manifest_dir::followed(folder).map_err(super::listed)? else { return Ok(None) };
        let folder = std::path::absolute(folder)?;
        let dir = manifest_dir::followed_dir(&folder).join(MIRROR);
        let mirror = GitMirror::open(dir, remote(&followed)?);
        let judged = manifest_dir::commit_in_force(&folder);
        Ok(Some(Self { folder, followed, mirror, judged, untold: None }))
    }

    /// Fetches the manifest if there is none in force yet.
    ///
    /// # Errors
    /// The branch cannot be fetched, or its manifest is invalid.
    pub(super) async fn begin(&mut self) -> anyhow::Result<()> {
        if self.judged.is_some() {
            return Ok(());
        }
        self.look().await.context("cannot fetch the manifest")?;
        match manifest_dir::refusal(&self.folder) {
            Some(why) if manifest_dir::in_force(&self.folder).is_none() => Err(anyhow::anyhow!(why)),
            _ => Ok(()),
        }
    }

    /// Checks the branch at intervals, and at once when a push is announced.
    pub(super) async fn run(mut self, announced: Arc<Notify>, stop: CancellationToken) {
        let poll = match (self.followed.repository.poll, &self.followed.repository.webhook) {
            (Duration::ZERO, None) => LONGEST_POLL,
            (Duration::ZERO, Some(_)) => POLL_BESIDE_WEBHOOK,
            (poll, _) => poll,
        };
        let mut trouble = None;
        let (mut rechecks, mut before) = ([].iter(), self.judged.clone());
        loop {
            let problem = self.look().await.err().map(|error| format!("{error:#}"));
            if let Some(problem) = problem.as_ref().filter(|problem| trouble.as_ref() != Some(*problem)) {
                warn!(%problem, "cannot look at the branch of the manifest; the last good one stays in force");
            }
            self.show_unread(problem.as_deref());
            trouble = problem;
            self.tell().await;
            if self.judged != before {
                (rechecks, before) = ([].iter(), self.judged.clone());
            }
            let pause = rechecks.next().map_or(poll, |pause| poll.min(*pause));
            tokio::select! {
                () = stop.cancelled() => return,
                () = announced.notified() => rechecks = RECHECKS.iter(),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Stores for all views whether the branch can be read, and since when it cannot.
    fn show_unread(&self, problem: Option<&str>) {
        let before = manifest_dir::unread(&self.folder);
        let since = before.as_ref().map_or_else(super::clock, |before| before.since);
        let unread = problem.map(|problem| UnreadBranch { since, problem: problem.to_owned() });
        if unread != before
            && let Err(error) = manifest_dir::set_unread(&self.folder, unread.as_ref())
        {
            warn!(%error, "cannot store the state of the manifest's branch");
        }
    }

    /// Judges the head of the branch, unless that was done.
    async fn look(&mut self) -> anyhow::Result<()> {
        let remote = remote(&self.followed)?;
        let branch = &self.followed.branch;
        let head = remote.head(branch).await?;
        let head = head.with_context(|| format!("the repository has no branch `{branch}`"))?;
        if self.judged.as_ref() == Some(&head) {
            return Ok(());
        }
        let name = head.to_string();
        let into = manifest_dir::followed_dir(&self.folder).join(&name);
        remove(&into)?;
        let mirror = self.mirror.again(remote);
        mirror.ensure(&head, Some(branch)).await?;
        mirror.check_out(&head, &into).await?;
        let (root, path) = (into.clone(), self.followed.path.clone());
        let checked = tokio::task::spawn_blocking(move || check(&root, &path)).await?;
        let state = match checked {
            Ok(()) => {
                manifest_dir::put_in_force(&self.folder, &Path::new(&name).join(&self.followed.path))?;
                manifest_dir::set_refusal(&self.folder, None)?;
                self.remove_others(&name);
                info!(commit = head.short(), "the manifest of this commit is in force");
                CommitState::new(Phase::Success, "the manifest is in force")
            }
            Err(problem) => {
                remove(&into)?;
                let why = format!("commit {} of the manifest is refused: {problem}", head.short());
                error!(commit = head.short(), %problem, "refused a commit of the manifest; the last good one stays in force");
                manifest_dir::set_refusal(&self.folder, Some(&why))?;
                CommitState::new(Phase::Failure, format!("refused: {problem}"))
            }
        };
        self.untold = Some((head.clone(), state));
        self.judged = Some(head);
        Ok(())
    }

    /// Reports the last judgement to the forge, until that succeeds.
    async fn tell(&mut self) {
        let (Some((commit, state)), Some(forge)) = (&self.untold, &self.followed.repository.forge) else {
            return;
        };
        match feedback::show_manifest(forge.clone(), commit.clone(), state.clone()).await {
            Ok(()) => self.untold = None,
            Err(problem) => {
                warn!(commit = commit.short(), %problem, "cannot report the state of the manifest");
            }
        }
    }

    /// Removes the commits that are no longer in force. The rest is removed the next time.
    fn remove_others(&self, in_force: &str) {
        let dir = manifest_dir::followed_dir(&self.folder);
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name != in_force && CommitId::new(name).is_ok() {
                let _ = remove(&entry.path());
            }
        }
    }
}

fn remote(followed: &FollowedManifest) -> anyhow::Result<Remote> {
    let remote = Remote::new(&followed.repository.url)?;
    let Some(login) = &followed.repository.login else { return Ok(remote) };
    let password = secret::read(&login.password).map_err(|error| anyhow::anyhow!(chain(&error)))?;
    Ok(remote.with_login(login.username.clone(), password))
}

/// Checks the manifest in `path` of a commit. The error is one line for each problem.
fn check(root: &Path, path: &str) -> Result<(), String> {
    let place = root.join(path);
    let is_within = |place: PathBuf| root.canonicalize().is_ok_and(|root| place.starts_with(root));
    if !place.is_dir() || !place.canonicalize().is_ok_and(is_within) {
        return Err(format!("the commit has no folder `{path}`"));
    }
    manifest_dir::check_commit(&place).map_err(|error| match error {
        LoadError::Invalid(problems) => problems.to_string(),
        LoadError::NoManifest { .. } => format!("the folder `{path}` of the commit has no *.toml file"),
        other => chain(&other),
    })
}

fn remove(folder: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
