//! A bare copy of a remote on disk, which repairs itself.
//!
//! The copy has the whole history of the requested branches. A shallow copy would be smaller, but could not
//! determine whether a commit is on a branch. A server that stores forks together also returns a fork's
//! commit to anyone who names it. After the first time, a fetch transfers only new objects, which is less
//! than a shallow fetch would.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use tokio::sync::{Mutex, MutexGuard};

use super::error::SourceError;
use super::git::{Finished, Git};
use super::listing::TreeLimits;
use super::remote::Remote;
use crate::durable;
use crate::model::name::{BranchName, CommitId};

/// Records the remote and the object format of a mirror. It is written last: a mirror without this file is
/// incomplete.
const MARKER: &str = "abide-mirror";

/// The number of packs above which git gets slow, and they are merged.
const MOST_PACKS: usize = 50;

/// The prefix of abide's own temporary directories in a mirror.
pub(super) const SCRATCH_PREFIX: &str = "abide-scratch-";

/// A bare repository in its own directory. Each directory must have only one value of this type, or several
/// that were derived from one: the value ensures that only one operation runs at a time.
pub struct GitMirror {
    pub(super) dir: PathBuf,
    pub(super) remote: Remote,
    pub(super) limits: TreeLimits,
    /// Whether a checkout fetches files in Git LFS.
    pub(super) lfs: bool,
    turn: Arc<Mutex<()>>,
}

impl GitMirror {
    /// The mirror of `remote` in `dir`, an absolute path. Nothing is read or created before the first use.
    pub fn open(dir: PathBuf, remote: Remote) -> Self {
        Self { dir, remote, limits: TreeLimits::default(), lfs: false, turn: Arc::default() }
    }

    /// The same mirror with another password. Both share one lock.
    #[must_use]
    pub fn again(&self, remote: Remote) -> Self {
        let (limits, lfs) = (self.limits, self.lfs);
        Self { dir: self.dir.clone(), remote, limits, lfs, turn: Arc::clone(&self.turn) }
    }

    /// The same mirror with other limits on the trees that it checks out.
    #[must_use]
    pub fn with_limits(self, limits: TreeLimits) -> Self {
        Self { limits, ..self }
    }

    /// The same mirror. With `lfs`, it also fetches files in Git LFS, only from the repository's own host.
    #[must_use]
    pub fn with_lfs(self, lfs: bool) -> Self {
        Self { lfs, ..self }
    }

    /// The mirrored remote.
    pub fn remote(&self) -> &Remote {
        &self.remote
    }

    /// Ensures that the mirror has `commit` on `branch`, or on any branch if none is given. Fetches nothing
    /// if that is known already. A damaged mirror is recreated once.
    ///
    /// # Errors
    /// Returns [`SourceError::NoSuchCommit`] if the commit is not on the branch, and every other
    /// [`SourceError`] of a fetch.
    pub async fn ensure(&self, commit: &CommitId, branch: Option<&BranchName>) -> Result<(), SourceError> {
        let _turn = self.turn().await;
        self.ensure_or_repair(commit, branch).await
    }

    /// Whether `ancestor` is `commit` or one of its ancestors. A mirror has whole histories, so a commit that
    /// it does not have is not an ancestor.
    ///
    /// # Errors
    /// Returns the errors of [`GitMirror::ensure`] for `commit`, if the mirror does not have it yet.
    pub async fn contains(
        &self,
        commit: &CommitId,
        branch: &BranchName,
        ancestor: &CommitId,
    ) -> Result<bool, SourceError> {
        let _turn = self.turn().await;
        self.prepare(commit).await?;
        if !self.holds(commit, None).await? {
            self.ensure_or_repair(commit, Some(branch)).await?;
        }
        let kind = self.git("look up a commit").args(["cat-file", "-t", ancestor.as_str()]);
        if kind.run().await?.answer().is_none_or(|kind| kind != b"commit\n") {
            return Ok(false);
        }
        let compare = self.git("compare two commits");
        let compare = compare.args(["merge-base", "--is-ancestor", ancestor.as_str(), commit.as_str()]);
        Ok(compare.run().await?.answer().is_some())
    }

    pub(super) async fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Does the same as [`GitMirror::ensure`] for a caller that holds the lock.
    pub(super) async fn ensure_or_repair(
        &self,
        commit: &CommitId,
        branch: Option<&BranchName>,
    ) -> Result<(), SourceError> {
        match self.bring(commit, branch).await {
            Err(error) if self.is_damaged(&error).await => {
                self.wipe(&error).await?;
                self.bring(commit, branch).await
            }
            done => done,
        }
    }

    async fn bring(&self, commit: &CommitId, branch: Option<&BranchName>) -> Result<(), SourceError> {
        self.prepare(commit).await?;
        if self.holds(commit, branch).await? {
            return Ok(());
        }
        self.fetch(branch).await?;
        if self.holds(commit, branch).await? { Ok(()) } else { Err(self.no_such(commit)) }
    }

    fn no_such(&self, commit: &CommitId) -> SourceError {
        SourceError::NoSuchCommit { commit: commit.clone(), remote: self.remote.to_string() }
    }

    /// A call of git on this mirror.
    pub(super) fn git(&self, step: &'static str) -> Git {
        Git::new(step, &self.remote).repository(&self.dir)
    }

    /// Creates the repository if it is missing, or belongs to another remote or object format.
    async fn prepare(&self, commit: &CommitId) -> Result<(), SourceError> {
        let format = if commit.as_str().len() == 64 { "sha256" } else { "sha1" };
        let marker = format!("{format} {}\n", self.remote);
        let path = self.dir.join(MARKER);
        if tokio::fs::read_to_string(&path).await.is_ok_and(|found| found == marker) {
            return Ok(());
        }
        // Check before the copy is discarded or created: the remote can only have such a commit if its heads
        // have the same format.
        let heads = self.remote.heads().await?;
        if heads.values().all(|head| head.as_str().len() != commit.as_str().len()) {
            return Err(self.no_such(commit));
        }
        remove_all(&self.dir).await.map_err(SourceError::io("remove the old mirror"))?;
        make_private(&self.dir).await.map_err(SourceError::io("create the mirror's directory"))?;
        // Without a template, which would bring hooks.
        let init = self.git("create a mirror").args(["init", "--bare", "--quiet", "--template="]);
        let init = if format == "sha1" { init } else { init.arg("--object-format=sha256") };
        init.run().await?.success()?;
        let write = move || durable::replace(&path, durable::PRIVATE, marker.as_bytes());
        let written = tokio::task::spawn_blocking(write).await.map_err(io::Error::from);
        written.flatten().map_err(SourceError::io("mark the mirror"))
    }

    /// Whether the mirror has the commit with its whole history, on the branch as last fetched.
    async fn holds(&self, commit: &CommitId, branch: Option<&BranchName>) -> Result<bool, SourceError> {
        let kind = self.git("look up a commit").args(["cat-file", "-t", commit.as_str()]);
        if kind.run().await?.answer().is_none_or(|kind| kind != b"commit\n") {
            return Ok(false);
        }
        let refs = branch.map_or_else(|| "refs/".to_owned(), private_ref);
        let contains = format!("--contains={commit}");
        let find = self.git("find the branches of a commit");
        let find = find.args(["for-each-ref", "--count=1", "--format=x", &contains, &refs]);
        Ok(!find.run().await?.success()?.is_empty())
    }

    async fn fetch(&self, branch: Option<&BranchName>) -> Result<(), SourceError> {
        remove_leftovers(&self.dir)
            .await
            .map_err(SourceError::io("remove the remains of an earlier fetch"))?;
        let refspec = match branch {
            Some(branch) => format!("+refs/heads/{branch}:{}", private_ref(branch)),
            None => "+refs/heads/*:refs/heads/*".to_owned(),
        };
        let fetch = self.git("fetch").args(["fetch", "--quiet", "--no-tags", "--no-recurse-submodules"]);
        let fetch = fetch.args(["--no-write-fetch-head", "--update-shallow", "--refmap=", "--prune", "--"]);
        let fetched = fetch.args([Git::REMOTE, &refspec]).run().await?;
        match branch {
            Some(branch) if lacks_ref(&fetched) => {
                return Err(SourceError::NoSuchBranch {
                    branch: branch.clone(),
                    remote: self.remote.to_string(),
                });
            }
            _ => fetched.success()?,
        };
        self.tidy().await;
        Ok(())
    }

    /// Keeps a mirror fast over years of pushes. A failure is not an error, because the mirror works without
    /// this too.
    async fn tidy(&self) {
        let packs = count_packs(&self.dir).await.unwrap_or(0);
        if packs <= MOST_PACKS {
            return;
        }
        let tidied = self.git("clean up the mirror").args(["gc", "--quiet", "--prune=now"]).run().await;
        if let Err(error) = tidied.and_then(Finished::success) {
            tracing::warn!(remote = %self.remote, %error, packs, "failed to clean up the mirror");
        }
    }

    /// Whether `error` is caused by damage to the mirror. Git does not report damage separately, so this
    /// checks every object. The check is only worth its time if nothing else explains the error.
    pub(super) async fn is_damaged(&self, error: &SourceError) -> bool {
        if !matches!(error, SourceError::Git { .. }) {
            return false;
        }
        let check = self.git("check the mirror").args(["fsck", "--full", "--no-dangling", "--no-progress"]);
        check.run().await.is_ok_and(|checked| checked.success().is_err())
    }

    /// Removes the mirror, so that it is recreated.
    pub(super) async fn wipe(&self, because: &SourceError) -> Result<(), SourceError> {
        tracing::warn!(remote = %self.remote, error = %because, "the mirror is damaged; cloning it again");
        remove_all(&self.dir).await.map_err(SourceError::io("remove the damaged mirror"))
    }
}

impl fmt::Debug for GitMirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mirror").field("dir", &self.dir).field("remote", &self.remote).finish_non_exhaustive()
    }
}

/// The mirror's ref for a tracked branch. The name is hashed, because `x` and `x/y` cannot coexist, and a
/// remote may replace one with the other.
fn private_ref(branch: &BranchName) -> String {
    format!("refs/abide/{}", hex::encode(Sha256::digest(branch.as_str())))
}

fn lacks_ref(fetched: &Finished) -> bool {
    fetched.detail().contains("couldn't find remote ref")
}

async fn remove_all(dir: &Path) -> io::Result<()> {
    match tokio::fs::remove_dir_all(dir).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // Something else has replaced the directory, or the one that contains it.
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            let parent = dir.parent().filter(|parent| !parent.is_dir());
            tokio::fs::remove_file(parent.unwrap_or(dir)).await
        }
        done => done,
    }
}

/// Creates `dir` without access for other users: a mirror may contain private code.
async fn make_private(dir: &Path) -> io::Result<()> {
    if let Some(parent) = dir.parent() {
        tokio::fs::create_dir_all(parent).await?;
    }
    let mut builder = tokio::fs::DirBuilder::new();
    builder.mode(0o700).create(dir).await
}

/// Removes locks and incomplete packs. Only one operation runs on a mirror at a time, so they were left by a
/// killed git.
async fn remove_leftovers(dir: &Path) -> io::Result<()> {
    let mut unseen = vec![dir.to_owned()];
    while let Some(dir) = unseen.pop() {
        let mut entries = tokio::fs::read_dir(&dir).await?;
        while let Some(entry) = entries.next_entry().await? {
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type().await?.is_dir() {
                match name.starts_with(SCRATCH_PREFIX) {
                    true => tokio::fs::remove_dir_all(entry.path()).await?,
                    false => unseen.push(entry.path()),
                }
            } else if name.ends_with(".lock") || name.starts_with("tmp_") {
                tokio::fs::remove_file(entry.path()).await?;
            }
        }
    }
    Ok(())
}

async fn count_packs(dir: &Path) -> io::Result<usize> {
    let mut entries = tokio::fs::read_dir(dir.join("objects/pack")).await?;
    let mut packs = 0;
    while let Some(entry) = entries.next_entry().await? {
        packs += usize::from(entry.path().extension().is_some_and(|ending| ending == "pack"));
    }
    Ok(packs)
}
