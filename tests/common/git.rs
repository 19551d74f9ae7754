//! A repository to push to.

use std::path::{Path, PathBuf};
use std::process::Command;

use abide::demo::repository;

use super::docker::Space;

/// A bare repository, and a working copy that pushes to it.
pub(crate) struct GitRepo {
    bare: PathBuf,
    work: PathBuf,
}

impl GitRepo {
    /// The example site, whose images carry the label of `space`. `dev` and `master` are the same commit.
    pub(crate) fn example(space: &Space) -> Self {
        let made = repository::create(&space.dir().join("git"), super::site()).unwrap();
        let repo = Self { bare: made.bare, work: made.work };
        let labelled = ["Dockerfile", "Dockerfile.dist"].map(|name| {
            let text = std::fs::read_to_string(repo.work.join(name)).unwrap();
            (name, text.replace("FROM scratch", &format!("FROM scratch\nLABEL {}", space.label())))
        });
        let files = labelled.each_ref().map(|(name, text)| (*name, text.as_str()));
        repo.commit_and_push("dev", &files);
        repo.merge("dev", "master");
        repo
    }

    /// What a manifest names as its `url`.
    pub(crate) fn url(&self) -> &str {
        self.bare.to_str().unwrap()
    }

    /// The working copy.
    pub(crate) fn work(&self) -> &Path {
        &self.work
    }

    /// Commits `files` (path and content) to `branch`, which is made from the one that is checked out where
    /// it is new, pushes it, and gives the commit's id. No files: an empty commit.
    pub(crate) fn commit_and_push(&self, branch: &str, files: &[(&str, &str)]) -> String {
        if self.try_git(&["checkout", "--quiet", branch]).is_err() {
            self.git(&["checkout", "--quiet", "-b", branch]);
        }
        for (name, content) in files {
            let path = self.work.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        self.git(&["add", "--all", "."]);
        self.git(&["commit", "--quiet", "--allow-empty", "--message", "A change"]);
        self.push(branch)
    }

    /// Merges `from` into `into`, pushes that, and gives its head.
    pub(crate) fn merge(&self, from: &str, into: &str) -> String {
        self.git(&["checkout", "--quiet", into]);
        self.git(&["merge", "--quiet", "--no-edit", from]);
        self.push(into)
    }

    /// Moves `branch` to `commit`, whatever that takes, as a forced push does.
    pub(crate) fn force(&self, branch: &str, commit: &str) {
        self.git(&["push", "--quiet", "--force", "origin", &format!("{commit}:refs/heads/{branch}")]);
    }

    /// The commit that `branch` points to where it was pushed to.
    pub(crate) fn head(&self, branch: &str) -> String {
        let bare = format!("--git-dir={}", self.bare.display());
        self.git(&[&bare, "rev-parse", &format!("refs/heads/{branch}")])
    }

    /// Runs git in the working copy and gives what it wrote, without the white space around it.
    ///
    /// # Panics
    /// Where it fails.
    pub(crate) fn git(&self, arguments: &[&str]) -> String {
        self.try_git(arguments).unwrap_or_else(|said| panic!("git {}: {said}", arguments.join(" ")))
    }

    fn push(&self, branch: &str) -> String {
        self.git(&["push", "--quiet", "origin", &format!("HEAD:refs/heads/{branch}")]);
        self.head(branch)
    }

    fn try_git(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new("git");
        command.args(arguments).current_dir(&self.work);
        command.envs([("GIT_CONFIG_GLOBAL", "/dev/null"), ("GIT_CONFIG_NOSYSTEM", "1")]);
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }
}
