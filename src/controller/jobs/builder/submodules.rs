//! The submodules of a checkout: fetched if the manifest requests it, otherwise only a warning.

use std::path::Path;

use super::tree::named;
use super::work::ActiveBuild;
use super::{BuildError, Builder, blocking};
use crate::context::tree as files;
use crate::model::name::CommitId;
use crate::source::{GitMirror, Gitlink, Remote, Tree, TreeLimits};

/// The limit of nesting.
const DEEPEST: usize = 8;
/// The limit for all submodules together.
const MOST: usize = 200;

/// A repository in the checkout whose submodules are still to be checked out.
struct SubmoduleLevel {
    /// Its path in the checkout.
    path: String,
    mirror: GitMirror,
    commit: CommitId,
    links: Vec<Gitlink>,
    depth: usize,
}

/// The remaining limits for all submodules together.
struct SubmoduleBudget {
    count: usize,
    limits: TreeLimits,
}

impl SubmoduleBudget {
    fn spend(&mut self, checked_out: &Tree) {
        self.limits.files = self.limits.files.saturating_sub(checked_out.files);
        self.limits.bytes = self.limits.bytes.saturating_sub(checked_out.bytes);
    }
}

impl ActiveBuild<'_> {
    /// Checks out the submodules of `checked_out`, the tree of the commit, or warns about them.
    pub(super) async fn submodules(
        &mut self,
        tree: &Path,
        mirror: &GitMirror,
        checked_out: Tree,
    ) -> Result<(), BuildError> {
        let mut budget = SubmoduleBudget { count: MOST, limits: TreeLimits::default() };
        budget.spend(&checked_out);
        let links: Vec<Gitlink> =
            checked_out.submodules.into_iter().filter(|link| !self.is_replaced(&link.path)).collect();
        if !self.task.spec.submodules {
            self.warn_of_submodules(&links);
            return Ok(());
        }
        let declared = self.builder.declared(self.task.spec.checkout.iter().map(|checkout| &checkout.url));
        let mirror = mirror.again(mirror.remote().clone());
        let commit = self.task.revision.clone();
        let mut ahead = vec![SubmoduleLevel { path: String::new(), mirror, commit, links, depth: 0 }];
        while let Some(level) = ahead.pop() {
            if level.links.is_empty() {
                continue;
            }
            if level.depth == DEEPEST {
                let message = format!("submodules are nested more than {DEEPEST} deep at {}", level.path);
                return Err(BuildError::failed(message));
            }
            let places = level.mirror.submodules(&level.commit).await?;
            for link in &level.links {
                let remote = places.remote(link, level.mirror.remote(), &declared)?;
                let path = format!("{}{}", level.path, link.path);
                let (mirror, checked_out) = self.submodule(tree, &path, remote, link, &mut budget).await?;
                let (commit, depth) = (link.commit.clone(), level.depth + 1);
                ahead.push(SubmoduleLevel {
                    path: format!("{path}/"),
                    mirror,
                    commit,
                    links: checked_out.submodules,
                    depth,
                });
            }
        }
        Ok(())
    }

    async fn submodule(
        &mut self,
        tree: &Path,
        path: &str,
        remote: Remote,
        link: &Gitlink,
        budget: &mut SubmoduleBudget,
    ) -> Result<(GitMirror, Tree), BuildError> {
        budget.count = budget
            .count
            .checked_sub(1)
            .ok_or_else(|| BuildError::failed(format!("there are more than {MOST} submodules")))?;
        self.report(&format!("checking out submodule {path} at {}", link.commit.short()));
        self.checkouts.push(format!("{remote}@{}", link.commit));
        let mirror = self.builder.mirror(remote.clone()).again(remote);
        let mirror = mirror.with_limits(budget.limits).with_lfs(self.task.spec.lfs);
        let (root, to) = (tree.to_owned(), path.to_owned());
        let into =
            blocking("creating the directory of a submodule", move || files::place(&root, &to)).await?;
        let checked_out = mirror.check_out(&link.commit, &into).await;
        let checked_out =
            checked_out.map_err(|error| BuildError::from(error).during(&format!("submodule {path}")))?;
        budget.spend(&checked_out);
        Ok((mirror, checked_out))
    }

    /// Returns whether the manifest removes or replaces the path in the checkout.
    fn is_replaced(&self, path: &str) -> bool {
        let spec = &self.task.spec;
        let mut others = spec.remove.iter().chain(spec.checkout.iter().map(|checkout| &checkout.to));
        others.any(|other| Path::new(path).starts_with(other))
    }

    fn warn_of_submodules(&mut self, links: &[Gitlink]) {
        if links.is_empty() {
            return;
        }
        let named = named(links.iter().map(|link| link.path.clone()), links.len());
        self.warn(format!(
            "submodules are not fetched ({named}), so the image gets empty directories: set `submodules \
            = true` in `build`"
        ));
    }
}

impl Builder {
    /// Returns the URLs of the repositories in the manifest.
    pub(super) fn declared_urls(&self) -> Vec<String> {
        let manifest = self.manifest.borrow();
        manifest.repositories.values().map(|repository| repository.url.clone()).collect()
    }

    /// Returns the repositories in the manifest, and those at `more`, except those whose password cannot be
    /// read now.
    fn declared<'u>(&self, more: impl Iterator<Item = &'u String>) -> Vec<Remote> {
        let mut urls = self.declared_urls();
        urls.extend(more.cloned());
        urls.iter().filter_map(|url| self.remote(url).ok()).collect()
    }
}
