//! The checkout that a build works on.

use std::path::Path;

use super::work::Work;
use super::{BuildError, blocking};
use crate::context::tree as files;
use crate::model::name::{BranchName, CommitId};
use crate::model::spec::ExtraCheckout;
use crate::model::status::Reason;
use crate::source::{Remote, SourceError};

impl Work<'_> {
    /// Lays out the commit and what the manifest lays over it.
    pub(super) async fn lay_out(&mut self, tree: &Path) -> Result<(), BuildError> {
        let task = self.task;
        self.say(&format!("checking out {}", task.revision));
        let remote = self.builder.remote(&task.url)?;
        let mirror = self.builder.mirror(remote);
        match mirror.ensure(&task.revision, Some(&task.branch)).await {
            // A person may have chosen a commit of another branch, or the branch is away.
            Err(SourceError::NoSuchCommit { .. } | SourceError::NoSuchBranch { .. }) => {
                mirror.ensure(&task.revision, None).await?;
            }
            done => done?,
        }
        let laid = mirror.lay_out(&task.revision, tree).await?;
        self.log
            .line(&format!("{} files, {} bytes: {} ({})", laid.files, laid.bytes, laid.subject, laid.author));
        for path in &task.spec.remove {
            self.say(&format!("removing {path}"));
            let (root, path) = (tree.to_owned(), path.clone());
            blocking("removing", move || files::remove(&root, &path)).await?;
        }
        for overlay in &task.spec.overlay {
            self.say(&format!("laying {} over the checkout", overlay.to));
            let (root, overlay) = (tree.to_owned(), overlay.clone());
            blocking("overlay", move || files::overlay(&root, &overlay.from, &overlay.to)).await?;
        }
        for checkout in &task.spec.checkout {
            self.lay_beside(tree, checkout).await?;
        }
        Ok(())
    }

    async fn lay_beside(&mut self, tree: &Path, checkout: &ExtraCheckout) -> Result<(), BuildError> {
        let remote = self.builder.remote(&checkout.url)?;
        self.say(&format!("checking out {remote} at {} into {}", checkout.revision, checkout.to));
        let commit = resolve(&remote, &checkout.revision).await?;
        self.checkouts.push(format!("{remote}@{commit}"));
        let mirror = self.builder.mirror(remote);
        let (root, to) = (tree.to_owned(), checkout.to.clone());
        let into = blocking("making room for a checkout", move || {
            files::remove(&root, &to)?;
            let place = files::place(&root, &to)?;
            if let Some(parent) = place.parent() {
                std::fs::create_dir_all(parent).map_err(crate::context::ContextError::write(parent))?;
            }
            Ok(place)
        })
        .await?;
        mirror.lay_out(&commit, &into).await?;
        Ok(())
    }
}

/// A branch's head, or the commit itself.
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
