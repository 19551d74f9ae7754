//! The checkout of a build.

use std::path::Path;

use super::work::ActiveBuild;
use super::{BuildError, blocking};
use crate::context::tree as files;
use crate::model::name::{BranchName, CommitId};
use crate::model::spec::ExtraCheckout;
use crate::model::status::Reason;
use crate::source::{Remote, SourceError, Tree};

impl ActiveBuild<'_> {
    /// Checks out the commit and applies the manifest's changes to the tree.
    pub(super) async fn check_out(&mut self, tree: &Path) -> Result<(), BuildError> {
        let task = self.task;
        self.report(&format!("checking out {}", task.revision));
        let remote = self.builder.remote(&task.url)?;
        let mirror = self.builder.mirror(remote.clone()).again(remote).with_lfs(task.spec.lfs);
        match mirror.ensure(&task.revision, Some(&task.branch)).await {
            // A user may have chosen a commit of another branch, or the branch may be deleted.
            Err(SourceError::NoSuchCommit { .. } | SourceError::NoSuchBranch { .. }) => {
                mirror.ensure(&task.revision, None).await?;
            }
            done => done?,
        }
        let checked_out = mirror.check_out(&task.revision, tree).await?;
        self.commit_time = checked_out.commit_time;
        self.log.line(&format!(
            "{} files, {} bytes: {} ({})",
            checked_out.files, checked_out.bytes, checked_out.subject, checked_out.author
        ));
        self.warn_of_pointers(&checked_out);
        self.submodules(tree, &mirror, checked_out).await?;
        for path in &task.spec.remove {
            self.report(&format!("removing {path}"));
            let (root, path) = (tree.to_owned(), path.clone());
            blocking("removing", move || files::remove(&root, &path)).await?;
        }
        for overlay in &task.spec.overlay {
            self.report(&format!("copying {} over the checkout", overlay.to));
            let (root, overlay) = (tree.to_owned(), overlay.clone());
            blocking("overlay", move || files::overlay(&root, &overlay.from, &overlay.to)).await?;
        }
        for checkout in &task.spec.checkout {
            self.check_out_beside(tree, checkout).await?;
        }
        if task.spec.git {
            self.report("copying the history into .git");
            let (revision, branch) = (&task.revision, &task.branch);
            self.tags = mirror.write_history(revision, branch, tree, self.commit_time).await?;
        }
        Ok(())
    }

    /// Warns about Git LFS files whose content is missing.
    fn warn_of_pointers(&mut self, checked_out: &Tree) {
        if checked_out.lfs_pointers == 0 {
            return;
        }
        let paths = checked_out.lfs_paths.iter().map(|path| path.display().to_string());
        let named = named(paths, usize::try_from(checked_out.lfs_pointers).unwrap_or(usize::MAX));
        let remedy = match self.task.spec.lfs {
            true => "although `lfs` is set: their .gitattributes does not put them into Git LFS",
            false => "so the image gets their pointers: set `lfs = true` in `build`",
        };
        self.warn(format!("the content of files in Git LFS is not fetched ({named}), {remedy}"));
    }

    /// Writes the warning to the log, and keeps it for the status.
    pub(super) fn warn(&mut self, message: String) {
        self.log.line(&format!("warning: {message}"));
        self.warnings.push(message);
    }

    async fn check_out_beside(&mut self, tree: &Path, checkout: &ExtraCheckout) -> Result<(), BuildError> {
        let remote = self.builder.remote(&checkout.url)?;
        self.report(&format!("checking out {remote} at {} into {}", checkout.revision, checkout.to));
        let commit = resolve(&remote, &checkout.revision).await?;
        self.checkouts.push(format!("{remote}@{commit}"));
        let mirror = self.builder.mirror(remote);
        let (root, to) = (tree.to_owned(), checkout.to.clone());
        let into = blocking("creating the directory of the checkout", move || {
            files::remove(&root, &to)?;
            let place = files::place(&root, &to)?;
            if let Some(parent) = place.parent() {
                std::fs::create_dir_all(parent).map_err(crate::context::ContextError::write(parent))?;
            }
            Ok(place)
        })
        .await?;
        mirror.check_out(&commit, &into).await?;
        Ok(())
    }
}

/// Returns the first few of `all` names, and the number of the remaining ones.
pub(super) fn named(first: impl Iterator<Item = String>, all: usize) -> String {
    const SHOWN: usize = 3;
    let first: Vec<String> = first.take(SHOWN).collect();
    match all.saturating_sub(first.len()) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

/// Resolves a branch to its head, or returns the commit itself.
async fn resolve(remote: &Remote, revision: &str) -> Result<CommitId, BuildError> {
    if let Ok(commit) = CommitId::new(revision) {
        return Ok(commit);
    }
    let branch = BranchName::new(revision).map_err(|error| BuildError::failed(error.to_string()))?;
    let head = remote.head(&branch).await?;
    head.ok_or_else(|| {
        BuildError::Unavailable(Reason::SourceUnavailable, format!("{remote} has no branch `{branch}`"))
    })
}
