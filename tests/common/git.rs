//! A repository with a working copy to push from.

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
    /// The example site, whose images have the label of `space`. `dev` and `master` point to the
    /// same commit.
    pub(crate) fn example(space: &Space) -> Self {
        Self::named(space, "git")
    }

    /// The same in a folder of this name.
    pub(crate) fn named(space: &Space, folder: &str) -> Self {
        let made = repository::create(&space.dir().join(folder), super::site()).unwrap();
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

    /// The value of `url` in a manifest.
    pub(crate) fn url(&self) -> &str {
        self.bare.to_str().unwrap()
    }

    /// The working copy.
    pub(crate) fn work(&self) -> &Path {
        &self.work
    }

    /// Commits `files` (path and content) to `branch`, pushes it, and returns the commit's ID. A
    /// new branch starts at the one that is checked out. Without files, the commit is empty.
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

    /// Merges `from` into `into`, pushes the result, and returns its head.
    pub(crate) fn merge(&self, from: &str, into: &str) -> String {
        self.git(&["checkout", "--quiet", into]);
        self.git(&["merge", "--quiet", "--no-edit", from]);
        self.push(into)
    }

    /// Sets `branch` to `commit` with a forced push.
    pub(crate) fn force(&self, branch: &str, commit: &str) {
        self.git(&["push", "--quiet", "--force", "origin", &format!("{commit}:refs/heads/{branch}")]);
    }

    /// Returns the commit of `branch` in the bare repository.
    pub(crate) fn head(&self, branch: &str) -> String {
        let bare = format!("--git-dir={}", self.bare.display());
        self.git(&[&bare, "rev-parse", &format!("refs/heads/{branch}")])
    }

    /// Runs git in the working copy and returns its trimmed output.
    ///
    /// # Panics
    /// The command fails.
    pub(crate) fn git(&self, arguments: &[&str]) -> String {
        self.try_git(arguments).unwrap_or_else(|stderr| panic!("git {}: {stderr}", arguments.join(" ")))
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
