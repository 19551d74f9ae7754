//! Submodules: the repositories that a commit names, and which of them may be fetched.
//!
//! Anyone who pushes chooses their URLs. So they may lead only to hosts in the manifest, by a transport that
//! the manifest uses for that host. They never lead into this host's own files, except to repositories that
//! are declared or lie beside the one that names them.

use std::collections::BTreeMap;
use std::path::Path;

use super::error::SourceError;
use super::mirror::GitMirror;
use super::remote::Remote;
use crate::model::name::CommitId;
use crate::model::remote_url::{GitTransport, RemoteUrl};

/// A commit of another repository in a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gitlink {
    /// Its path in the tree.
    pub path: String,
    /// The commit.
    pub commit: CommitId,
}

impl Gitlink {
    /// Parses an entry of a listing; `None` for a path that cannot be a file name of this host.
    pub(super) fn parse(path: &[u8], object: &[u8]) -> Option<Self> {
        let path = std::str::from_utf8(path).ok()?.to_owned();
        let commit = CommitId::new(std::str::from_utf8(object).ok()?).ok()?;
        Some(Self { path, commit })
    }
}

/// The URLs of the submodules of one commit, by path, from its `.gitmodules`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Submodules(BTreeMap<String, String>);

impl Submodules {
    /// Parses the output of `git config --list -z` for a `.gitmodules`.
    fn parse(listed: &[u8]) -> Self {
        let (mut paths, mut urls) = (BTreeMap::new(), BTreeMap::new());
        let text = String::from_utf8_lossy(listed);
        for entry in text.split('\0') {
            let Some((key, value)) = entry.split_once('\n') else { continue };
            let Some((name, variable)) = key.strip_prefix("submodule.").and_then(|key| key.rsplit_once('.'))
            else {
                continue;
            };
            match variable {
                "path" => paths.insert(name.to_owned(), value.trim_end_matches('/').to_owned()),
                "url" => urls.insert(name.to_owned(), value.to_owned()),
                _ => None,
            };
        }
        let places = paths.into_iter().filter_map(|(name, path)| Some((path, urls.remove(&name)?)));
        Self(places.collect())
    }

    /// The remote of a submodule of the repository at `parent`, if it may be fetched. `declared` are the
    /// repositories in the manifest.
    ///
    /// # Errors
    /// Returns [`SourceError::Submodule`], which names the missing declaration.
    pub fn remote(
        &self,
        link: &Gitlink,
        parent: &Remote,
        declared: &[Remote],
    ) -> Result<Remote, SourceError> {
        let refused = |why: String| SourceError::Submodule { path: link.path.clone(), why };
        let written =
            self.0.get(&link.path).ok_or_else(|| refused("has no URL in .gitmodules".to_owned()))?;
        let is_relative = written.starts_with("./") || written.starts_with("../");
        let url = if is_relative { join(&parent.url.git, written) } else { written.clone() };
        let remote = Remote::new(&url).map_err(|error| refused(format!("has an invalid URL: {error}")))?;
        if is_allowed(&remote.url, is_relative, &parent.url, declared) {
            let same = declared.iter().find(|known| known.url.git == remote.url.git);
            return Ok(remote.with_login_of(same.unwrap_or(parent)));
        }
        Err(refused(format!(
            "is at {remote}, which is not trusted: submodules come only from hosts of declared \
            repositories, and from declared paths of this host; declare it as a [repository] to trust it"
        )))
    }
}

fn is_allowed(url: &RemoteUrl, is_relative: bool, parent: &RemoteUrl, declared: &[Remote]) -> bool {
    let is_declared = declared.iter().any(|known| known.url.git == url.git);
    match url.transport {
        GitTransport::File => {
            let folder = |url: &RemoteUrl| Path::new(&url.git).parent().map(Path::to_owned);
            let is_beside =
                is_relative && parent.transport == GitTransport::File && folder(url) == folder(parent);
            is_declared || is_beside
        }
        // Plain HTTP is allowed only if the manifest itself uses it for that host.
        GitTransport::Http => all(parent, declared)
            .any(|known| known.transport == GitTransport::Http && known.host() == url.host()),
        GitTransport::Https | GitTransport::Ssh => all(parent, declared)
            .any(|known| known.transport != GitTransport::File && known.host() == url.host()),
    }
}

fn all<'a>(parent: &'a RemoteUrl, declared: &'a [Remote]) -> impl Iterator<Item = &'a RemoteUrl> {
    declared.iter().map(|remote| &remote.url).chain([parent])
}

/// Joins a relative URL to that of the repository that names it, as git does.
fn join(parent: &str, relative: &str) -> String {
    let mut base = parent.trim_end_matches('/').to_owned();
    let mut rest = relative;
    loop {
        if let Some(after) = rest.strip_prefix("../") {
            let end = base.rfind(['/', ':']).unwrap_or(0);
            let keeps_colon = base[end..].starts_with(':');
            base.truncate(end + usize::from(keeps_colon));
            rest = after;
        } else if let Some(after) = rest.strip_prefix("./") {
            rest = after;
        } else {
            break;
        }
    }
    let separator = if base.ends_with(':') { "" } else { "/" };
    format!("{base}{separator}{rest}")
}

impl GitMirror {
    /// The `.gitmodules` of a commit that the mirror has.
    ///
    /// # Errors
    /// Returns [`SourceError`] if git cannot be run.
    pub async fn submodules(&self, commit: &CommitId) -> Result<Submodules, SourceError> {
        let blob = format!("--blob={commit}:.gitmodules");
        let list = self.git("read .gitmodules").args(["config", &blob, "-z", "--list"]);
        Ok(list.run().await?.answer().map(|listed| Submodules::parse(&listed)).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "https://git.example.com/shop/app.git";

    /// The URL that is fetched for a submodule at `url` of a repository at `parent`, or the error.
    fn fetched_from(url: &str, parent: &str, declared: &[&str]) -> Result<String, String> {
        let listed = format!("submodule.a.b.path\nlibs/x\0submodule.a.b.url\n{url}\0core.bare\ntrue\0");
        let link = Gitlink { path: "libs/x".to_owned(), commit: CommitId::new("1".repeat(40)).unwrap() };
        let declared: Vec<Remote> = declared.iter().map(|url| Remote::new(url).unwrap()).collect();
        let remote =
            Submodules::parse(listed.as_bytes()).remote(&link, &Remote::new(parent).unwrap(), &declared);
        remote.map(|remote| remote.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn submodules_are_fetched_only_from_hosts_in_the_manifest() {
        for (url, place) in [
            ("../lib.git", "https://git.example.com/shop/lib.git"),
            ("./lib", "https://git.example.com/shop/app.git/lib"),
            ("../../other/lib", "https://git.example.com/other/lib"),
            ("https://git.example.com:443/x", "https://git.example.com:443/x"),
            ("git@git.example.com:shop/lib.git", "git@git.example.com:shop/lib.git"),
            ("https://declared.example.com/y", "https://declared.example.com/y"),
        ] {
            let found = fetched_from(url, PARENT, &["https://declared.example.com/else"]);
            assert_eq!(found.as_deref(), Ok(place), "{url}");
        }
        let scp = fetched_from("../lib.git", "git@h:shop/app.git", &[]);
        assert_eq!(scp.as_deref(), Ok("git@h:shop/lib.git"));
        let scp = fetched_from("../../lib.git", "git@h:shop/app.git", &[]);
        assert_eq!(scp.as_deref(), Ok("git@h:lib.git"));
    }

    #[test]
    fn other_submodule_urls_are_rejected() {
        for url in [
            "https://evil.example.com/x",
            "http://git.example.com/x",
            "https://git.example.com:8443/x",
            "https://git.example.com@evil.example.com/x",
            "file:///etc",
            "/srv/git/secret.git",
            "ext::sh -c touch% /tmp/x",
            "--upload-pack=touch /tmp/x",
            "-u",
            "../../../evil.example.com/x",
            "../../../../../etc",
        ] {
            let error = fetched_from(url, PARENT, &["/srv/git/app.git"]).unwrap_err();
            assert!(error.starts_with("submodule \"libs/x\" "), "{url}: {error}");
        }
        let error = fetched_from("https://user:secret@evil.example.com/x", PARENT, &[]).unwrap_err();
        assert!(!error.contains("secret"), "{error}");
    }

    #[test]
    fn local_submodules_must_be_beside_the_repository_or_declared() {
        let parent = "/srv/git/app.git";
        assert!(fetched_from("../lib.git", parent, &[]).is_ok());
        assert!(fetched_from("/srv/other/lib.git", parent, &["/srv/other/lib.git"]).is_ok());
        for url in ["/srv/git/lib.git", "../../other/lib.git", "../sub/lib.git", "file:///srv/git/lib.git"] {
            assert!(fetched_from(url, parent, &[]).is_err(), "{url}");
        }
    }
}
