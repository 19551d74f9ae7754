//! Files in Git LFS: the `git-lfs` program fetches them while a tree is written.
//!
//! Their server follows from the repository's own URL. A repository may name another server in its
//! `.lfsconfig`. That would let anyone who pushes send the daemon, with its credentials, to any server.

use super::error::SourceError;
use super::git::Git;
use super::mirror::GitMirror;
use crate::model::remote_url::{GitTransport, RemoteUrl};

/// The maximum size in bytes of fetched files that are kept for the next build.
const KEPT: u64 = 4 << 30;

impl GitMirror {
    /// Reports that `git-lfs` is not installed. Git itself only reports an error about the first file.
    pub(super) async fn require_lfs(&self) -> Result<(), SourceError> {
        let version = Git::new("check for git-lfs", &self.remote).args(["lfs", "version"]).run().await?;
        version.answer().map(drop).ok_or(SourceError::NoLfs)
    }

    /// The settings with which git fetches LFS files while it writes a tree.
    pub(super) fn lfs_settings(&self) -> Vec<(String, String)> {
        let settings = [
            ("filter.lfs.smudge", "git-lfs smudge -- %f"),
            ("filter.lfs.process", "git-lfs filter-process"),
            ("filter.lfs.required", "true"),
            ("lfs.url", &endpoint(&self.remote.url)),
            ("lfs.basictransfersonly", "true"),
            ("lfs.skipdownloaderrors", "false"),
            ("lfs.fetchinclude", ""),
            ("lfs.fetchexclude", ""),
            ("lfs.activitytimeout", "60"),
        ];
        settings.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
    }

    /// Removes the fetched files if they exceed the limit. They are fetched again on demand.
    pub(super) async fn tidy_lfs(&self) {
        let dir = self.dir.join("lfs");
        let tidied = tokio::task::spawn_blocking(move || match size_of(&dir) {
            size if size > KEPT => std::fs::remove_dir_all(&dir),
            _ => Ok(()),
        });
        if let Ok(Err(error)) = tidied.await {
            tracing::warn!(remote = %self.remote, %error, "failed to remove fetched LFS files");
        }
    }
}

/// The LFS server of a repository, by the convention of git-lfs.
fn endpoint(url: &RemoteUrl) -> String {
    let git = url.git.trim_end_matches('/');
    match url.transport {
        GitTransport::Https | GitTransport::Http if git.ends_with(".git") => format!("{git}/info/lfs"),
        GitTransport::Https | GitTransport::Http => format!("{git}.git/info/lfs"),
        GitTransport::File if git.starts_with('/') => format!("file://{git}"),
        GitTransport::Ssh | GitTransport::File => git.to_owned(),
    }
}

fn size_of(dir: &std::path::Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(found) if found.is_dir() => size_of(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lfs_endpoint_is_derived_from_the_repository_url() {
        let of = |url: &str| endpoint(&RemoteUrl::parse(url).unwrap());
        assert_eq!(of("https://h/a/b"), "https://h/a/b.git/info/lfs");
        assert_eq!(of("https://h/a/b.git/"), "https://h/a/b.git/info/lfs");
        assert_eq!(of("git@h:a/b.git"), "git@h:a/b.git");
        assert_eq!(of("/srv/git/b.git"), "file:///srv/git/b.git");
    }
}
