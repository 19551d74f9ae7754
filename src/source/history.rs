//! A `.git` folder in a checked-out tree, for tools that read its history, such as `git describe`.

use std::path::Path;

use super::error::SourceError;
use super::git::Git;
use super::layout::{in_background, settle};
use super::mirror::GitMirror;
use super::remote::Remote;
use crate::model::name::{BranchName, CommitId};
use crate::model::time::Timestamp;

/// The maximum number of tags that are copied: the newest ones.
const MOST_TAGS: &str = "--count=1000";

impl GitMirror {
    /// Makes `tree/.git` a repository with the history of `commit` as the head of `branch`, and with the tags
    /// in that history. It has no remote, so neither a URL nor a credential gets into an image. Returns each
    /// tag with its object.
    ///
    /// # Errors
    /// Returns [`SourceError`] if the tags cannot be fetched or the history cannot be copied.
    pub async fn write_history(
        &self,
        commit: &CommitId,
        branch: &BranchName,
        tree: &Path,
        time: Timestamp,
    ) -> Result<Vec<String>, SourceError> {
        let _turn = self.turn().await;
        let tags = self.tags_of(commit).await?;
        let here = Remote::new(self.dir.to_str().ok_or(SourceError::InvalidUrl("it is not UTF-8"))?)?;
        let dir = tree.join(".git");
        let git = |step| Git::new(step, &here).repository(&dir).settings(own_settings());
        let init = git("create a repository").args(["init", "--quiet", "--template="]);
        let init = if commit.as_str().len() == 64 { init.arg("--object-format=sha256") } else { init };
        init.run().await?.success()?;
        let head = format!("{commit}:refs/heads/{branch}");
        let refs = tags.iter().filter_map(|tag| tag.split_once(' ')).map(|(tag, _)| format!("{tag}:{tag}"));
        let fetch = git("copy the history").args(["fetch", "--quiet", "--no-tags", "--no-write-fetch-head"]);
        // The initial branch of a new repository may be the one that is fetched.
        let fetch = fetch.args(["--update-head-ok", "--"]);
        fetch.arg(Git::REMOTE).arg(head).args(refs).run().await?.success()?;
        let of_branch = format!("refs/heads/{branch}");
        git("create the branch").args(["symbolic-ref", "HEAD", &of_branch]).run().await?.success()?;
        let read = git("list the files").work_tree(tree, &dir.join("index"));
        read.args(["read-tree", "HEAD"]).run().await?.success()?;
        in_background(dir, move |dir| settle(&dir, time)).await?;
        Ok(tags)
    }

    /// The tags in the history of `commit`, each as `refs/tags/NAME OBJECT`.
    async fn tags_of(&self, commit: &CommitId) -> Result<Vec<String>, SourceError> {
        let fetch = self.git("fetch the tags").args(["fetch", "--quiet", "--no-tags", "--prune"]);
        let fetch = fetch.args(["--no-recurse-submodules", "--no-write-fetch-head", "--refmap=", "--"]);
        fetch.args([Git::REMOTE, "+refs/tags/*:refs/tags/*"]).run().await?.success()?;
        let merged = format!("--merged={commit}");
        let list =
            self.git("list the tags").args(["for-each-ref", "--sort=-creatordate", MOST_TAGS, &merged]);
        let listed = list.args(["--format=%(refname) %(objectname)", "refs/tags/"]).run().await?.success()?;
        Ok(String::from_utf8_lossy(&listed).lines().map(str::to_owned).collect())
    }
}

/// Settings that differ from a mirror's: no user name is needed, and the objects were already checked.
fn own_settings() -> Vec<(String, String)> {
    let settings =
        [("core.logAllRefUpdates", "false"), ("fetch.fsckObjects", "false"), ("protocol.version", "2")];
    settings.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}
