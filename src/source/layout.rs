//! Checks out the tree of one commit as plain files.
//!
//! Git's own checkout writes them with a temporary index, so they equal those of a fresh clone on this host: `text`,
//! `eol` and `ident` attributes apply, while `export-ignore` and `export-subst`, which are for archives, do not. A
//! `filter` attribute only names a program. It runs if the daemon's user has configured a filter of that name, which is
//! how LFS content arrives. If LFS is neither configured nor requested, its pointers are written and counted.
//! Submodules stay empty directories, as in a clone: the repository chooses their URLs, and these have been used for
//! attacks. [`Submodules`](super::submodules::Submodules) decides which of them may be fetched.

use std::fs::{self, Permissions};
use std::io::{self, Read as _};
use std::ops::ControlFlow;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

use super::commit::Summary;
use super::error::SourceError;
use super::listing::TreeListing;
use super::mirror::{GitMirror, SCRATCH_PREFIX};
use super::submodules::Gitlink;
use crate::model::name::CommitId;
use crate::model::time::Timestamp;

/// The maximum number of LFS pointers that are reported by name.
const MOST_NAMED: usize = 3;

/// The maximum length of a commit object that is read, in bytes.
const LONGEST_COMMIT: usize = 64 << 10;

/// A checked-out tree, with its commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// Files and links.
    pub files: u64,
    /// Bytes of all files together.
    pub bytes: u64,
    /// Files that are LFS pointers, because LFS is not set up for the daemon's user.
    pub lfs_pointers: u64,
    /// The paths of the first few of them.
    pub lfs_paths: Vec<PathBuf>,
    /// Submodules, which are empty directories in the tree.
    pub submodules: Vec<Gitlink>,
    /// The time of the commit; also the modification time of everything in the tree.
    pub commit_time: Timestamp,
    /// The first line of its message, at most 200 characters, safe to print.
    pub subject: String,
    /// Its author's name, likewise.
    pub author: String,
}

impl GitMirror {
    /// Writes the tree of `commit` into `into`, which must be missing or empty. The commit is fetched first
    /// if the mirror does not have it. Files have mode 0644 or 0755 and the commit's time, independent of the
    /// user and the moment, so that Docker's cache stays valid. After an error (or if the future is dropped),
    /// an unfinished tree may remain, which the caller must remove.
    ///
    /// # Errors
    /// Returns [`SourceError::TooLarge`] and [`SourceError::Unusable`] before anything is written,
    /// [`SourceError::NotEmpty`], and all errors of [`GitMirror::ensure`].
    pub async fn check_out(&self, commit: &CommitId, into: &Path) -> Result<Tree, SourceError> {
        if self.lfs {
            self.require_lfs().await?;
        }
        let _turn = self.turn().await;
        self.ensure_or_repair(commit, None).await?;
        let into = in_background(into.to_owned(), |into| target(&into)).await?;
        match self.write_tree(commit, &into).await {
            Err(error) if self.is_damaged(&error).await => {
                self.wipe(&error).await?;
                self.ensure_or_repair(commit, None).await?;
                let into = in_background(into, |into| empty(&into).map(|()| into)).await?;
                self.write_tree(commit, &into).await
            }
            done => done,
        }
    }

    async fn summary(&self, commit: &CommitId) -> Result<Summary, SourceError> {
        let mut object = Vec::new();
        let read = self.git("read a commit").args(["cat-file", "commit", commit.as_str()]);
        let finished = read
            .stream(|chunk| {
                object.extend_from_slice(&chunk[..chunk.len().min(LONGEST_COMMIT)]);
                if object.len() < LONGEST_COMMIT { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })
            .await?;
        if object.len() < LONGEST_COMMIT {
            finished.success()?;
        }
        Ok(Summary::parse(&object))
    }

    async fn write_tree(&self, commit: &CommitId, into: &Path) -> Result<Tree, SourceError> {
        let summary = self.summary(commit).await?;
        let submodules = self.judge(commit, into).await?;
        self.write_files(commit, into).await?;
        if self.lfs {
            self.tidy_lfs().await;
        }
        let time = summary.time;
        let settled = in_background(into.to_owned(), move |root| settle(&root, time)).await?;
        if settled.bytes > self.limits.bytes {
            // Only a filter or a conversion can produce more bytes than were listed.
            let (limit, what) = (self.limits.bytes, "bytes");
            return Err(SourceError::TooLarge { commit: commit.clone(), limit, what });
        }
        let Summary { time, author, subject } = summary;
        let Settled { files, bytes, lfs_pointers, lfs_paths } = settled;
        Ok(Tree { files, bytes, lfs_pointers, lfs_paths, submodules, commit_time: time, subject, author })
    }

    async fn judge(&self, commit: &CommitId, into: &Path) -> Result<Vec<Gitlink>, SourceError> {
        let mut listing = TreeListing::new(self.limits, into.as_os_str().len());
        // With the directories: git walks those that hold nothing as well, and must not do so unseen.
        let list =
            self.git("list a tree").args(["ls-tree", "-r", "-t", "-l", "-z", "--full-tree", commit.as_str()]);
        let finished = list.stream(|chunk| listing.take(chunk)).await?;
        let gitlinks = std::mem::take(&mut listing.gitlinks);
        listing.verdict(commit)?;
        finished.success()?;
        Ok(gitlinks)
    }

    async fn write_files(&self, commit: &CommitId, into: &Path) -> Result<(), SourceError> {
        let scratch = tempfile::Builder::new().prefix(SCRATCH_PREFIX).tempdir_in(&self.dir);
        let scratch = scratch.map_err(SourceError::io("create a directory for the index"))?;
        let index = scratch.path().join("index");
        let read = self.git("read a tree").work_tree(into, &index);
        read.args(["read-tree", commit.as_str()]).run().await?.success()?;
        let write = self.git("write a tree").work_tree(into, &index);
        let write = if self.lfs { write.settings(self.lfs_settings()) } else { write };
        write.args(["checkout-index", "--all", "--force"]).run().await?.success().map(drop)
    }
}

/// Runs file work on a thread that may block.
pub(super) async fn in_background<T, F>(path: PathBuf, work: F) -> Result<T, SourceError>
where
    T: Send + 'static,
    F: FnOnce(PathBuf) -> Result<T, SourceError> + Send + 'static,
{
    let done = tokio::task::spawn_blocking(move || work(path)).await;
    done.map_err(|error| SourceError::Io { step: "check out a tree", source: io::Error::other(error) })?
}

/// Creates the directory, or checks that it is empty. Returns it as an absolute path without links.
fn target(into: &Path) -> Result<PathBuf, SourceError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(into);
    let found = made.and_then(|()| fs::canonicalize(into)).and_then(|dir| {
        let is_empty = fs::read_dir(&dir)?.next().is_none();
        Ok((dir, is_empty))
    });
    match found.map_err(SourceError::io("create the directory of a tree"))? {
        (dir, true) => Ok(dir),
        (dir, false) => Err(SourceError::NotEmpty(dir)),
    }
}

/// Removes the remains of an attempt.
fn empty(dir: &Path) -> Result<(), SourceError> {
    fs::remove_dir_all(dir)
        .and_then(|()| fs::create_dir(dir))
        .map_err(SourceError::io("remove an unfinished tree"))
}

#[derive(Debug, Default)]
pub(super) struct Settled {
    files: u64,
    bytes: u64,
    lfs_pointers: u64,
    lfs_paths: Vec<PathBuf>,
}

/// Sets the same modes and `time` on everything under `root`, and counts it. Never follows a link.
pub(super) fn settle(root: &Path, time: Timestamp) -> Result<Settled, SourceError> {
    settle_below(root, &stamps(time)).map_err(SourceError::io("set the times of a tree"))
}

fn settle_below(root: &Path, stamps: &Timestamps) -> io::Result<Settled> {
    let mut settled = Settled::default();
    let mut unseen = vec![root.to_owned()];
    while let Some(dir) = unseen.pop() {
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            let metadata = fs::symlink_metadata(&path)?;
            if metadata.is_dir() {
                unseen.push(path);
                continue;
            }
            settled.files += 1;
            if metadata.is_file() {
                settled.bytes = settled.bytes.saturating_add(metadata.len());
                if is_lfs_pointer(&path, metadata.len())? {
                    settled.lfs_pointers += 1;
                    if settled.lfs_paths.len() < MOST_NAMED {
                        settled.lfs_paths.extend(path.strip_prefix(root).ok().map(Path::to_owned));
                    }
                }
                let executable = metadata.permissions().mode() & 0o100 != 0;
                fs::set_permissions(&path, Permissions::from_mode(if executable { 0o755 } else { 0o644 }))?;
            }
            utimensat(CWD, &path, stamps, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        fs::set_permissions(&dir, Permissions::from_mode(0o755))?;
        // Nothing more is created in the directory, so its time stays.
        utimensat(CWD, &dir, stamps, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(settled)
}

fn stamps(time: Timestamp) -> Timestamps {
    let seconds = i64::try_from(time.as_millis() / 1000).unwrap_or(i64::MAX);
    // The limits of an archive's plain header.
    let at = Timespec { tv_sec: seconds.min((1 << 33) - 1), tv_nsec: 0 };
    Timestamps { last_access: at, last_modification: at }
}

/// Recognizes the first line that the LFS specification requires.
fn is_lfs_pointer(path: &Path, length: u64) -> io::Result<bool> {
    const FIRST_LINE: &[u8] = b"version https://git-lfs.github.com/spec/v1\n";
    if !(FIRST_LINE.len() as u64..1024).contains(&length) {
        return Ok(false);
    }
    let mut start = [0; FIRST_LINE.len()];
    fs::File::open(path)?.read_exact(&mut start)?;
    Ok(start == FIRST_LINE)
}
