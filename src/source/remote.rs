//! A remote repository: its URL, and the heads of its branches.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::error::SourceError;
use super::git::Git;
use crate::model::container::Secret;
use crate::model::name::{BranchName, CommitId};
use crate::model::remote_url::RemoteUrl;

/// The timeouts of git.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// The timeout of listing the heads of a remote (default 30 s). Every poll lists them, and a late answer
    /// is as useless as none.
    pub list: Duration,
    /// The timeout of a fetch, and of each local step on a mirror (default 10 min). The first copy of a large
    /// repository over a slow line may take long.
    pub fetch: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { list: Duration::from_secs(30), fetch: Duration::from_secs(600) }
    }
}

/// The credentials for a remote.
#[derive(Clone)]
pub(super) struct GitLogin {
    pub(super) user: String,
    pub(super) password: Secret,
}

/// A repository of the manifest. It prints without credentials.
#[derive(Clone)]
pub struct Remote {
    pub(super) url: RemoteUrl,
    pub(super) login: Option<GitLogin>,
    pub(super) timeouts: Timeouts,
}

impl Remote {
    /// Parses `https://`, `http://`, `ssh://`, `user@host:path`, `file://` and absolute paths.
    ///
    /// # Errors
    /// Returns [`SourceError::InvalidUrl`], which states the broken rule and never repeats the URL.
    pub fn new(url: &str) -> Result<Self, SourceError> {
        let url = RemoteUrl::parse(url).map_err(SourceError::InvalidUrl)?;
        Ok(Self { url, login: None, timeouts: Timeouts::default() })
    }

    /// The same remote with a name and a password for its host. Only HTTP uses them.
    #[must_use]
    pub fn with_login(self, user: String, password: Secret) -> Self {
        Self { login: Some(GitLogin { user, password }), ..self }
    }

    /// The same remote with the name and password of `other`, if both have the same host.
    #[must_use]
    pub(super) fn with_login_of(self, other: &Self) -> Self {
        let is_there = self.url.base.is_some() && self.url.base == other.url.base;
        Self { login: other.login.clone().filter(|_| is_there), ..self }
    }

    /// The same remote with other timeouts.
    #[cfg(test)]
    #[must_use]
    pub fn with_timeouts(self, timeouts: Timeouts) -> Self {
        Self { timeouts, ..self }
    }

    /// A directory name that is unique to this remote and the same on every start. It reveals nothing about
    /// the URL.
    pub fn directory_name(&self) -> String {
        hex::encode(&Sha256::digest(&self.url.git)[..16])
    }

    /// The heads of all branches, by the branch's name without `refs/heads/`.
    ///
    /// # Errors
    /// Returns [`SourceError`] if the remote does not answer, denies access, or does not have the repository.
    pub async fn heads(&self) -> Result<BTreeMap<String, CommitId>, SourceError> {
        self.list(&["--heads", "--refs", "--", Git::REMOTE]).await
    }

    /// The head of `branch`; `None` if the branch does not exist.
    ///
    /// # Errors
    /// Returns the errors of [`Remote::heads`].
    pub async fn head(&self, branch: &BranchName) -> Result<Option<CommitId>, SourceError> {
        // Git matches the end of the name: a query for `refs/heads/dev` also lists
        // `refs/heads/x/refs/heads/dev`. The map below has exact names.
        let wanted = format!("refs/heads/{branch}");
        let mut heads = self.list(&["--refs", "--", Git::REMOTE, &wanted]).await?;
        Ok(heads.remove(branch.as_str()))
    }

    async fn list(&self, args: &[&str]) -> Result<BTreeMap<String, CommitId>, SourceError> {
        let git = Git::new("list the branches", self).arg("ls-remote").args(args);
        let listing = git.within(self.timeouts.list).run().await?.success()?;
        Ok(parse_heads(&listing))
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.url.shown)
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Remote({self})")
    }
}

/// Parses lines of `commit TAB refname`. Refs that are not branches, or whose name is not UTF-8, are left
/// out: a manifest cannot name them.
fn parse_heads(listing: &[u8]) -> BTreeMap<String, CommitId> {
    let head = |line: &[u8]| {
        let (commit, name) = std::str::from_utf8(line).ok()?.split_once('\t')?;
        let branch = name.strip_prefix("refs/heads/")?;
        Some((branch.to_owned(), CommitId::new(commit).ok()?))
    };
    listing.split(|b| *b == b'\n').filter_map(head).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remote_never_prints_its_credentials() {
        let remote = Remote::new("https://alice@host/x.git").unwrap();
        let remote = remote.with_login("alice".to_owned(), Secret::new("canary"));
        assert_eq!(format!("{remote} {remote:?}"), "https://host/x.git Remote(https://host/x.git)");
    }

    #[test]
    fn a_remotes_directory_name_is_unique_and_ignores_the_password() {
        let name = |url: &str| Remote::new(url).unwrap().directory_name();
        let known = Remote::new("https://host/x").unwrap().with_login("u".to_owned(), Secret::new("one"));
        assert_eq!(known.directory_name(), name("https://host/x"));
        assert_ne!(name("https://host/x"), name("https://host/y"));
        assert!(name("/srv/x").bytes().all(|b| b.is_ascii_hexdigit()));
    }

    #[test]
    fn a_remote_listing_yields_only_branches() {
        let id = "a".repeat(40);
        let listing = format!(
            "{id}\trefs/heads/x/dev\n{id}\trefs/tags/dev\n{id}\tHEAD\nshort\trefs/heads/dev\n\
             {zero}\trefs/heads/none\n{id} refs/heads/blank\n",
            zero = "0".repeat(40)
        );
        let heads = parse_heads(listing.as_bytes());
        assert_eq!(heads.keys().collect::<Vec<_>>(), ["x/dev"]);
    }
}
