//! The forge of a repository, as declared in the manifest: `[repository.NAME] forge`.

use std::path::PathBuf;

use super::remote_url::{GitTransport, RemoteUrl};
use super::spec::SecretRef;

/// The forge to which abide reports the state of commits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForgeSpec {
    /// The software.
    pub kind: ForgeKind,
    /// The base of its API, without a slash at the end.
    pub api: String,
    /// The repository's name there: `owner/name`, on GitLab with all groups.
    pub repository: String,
    /// How abide proves who it is.
    pub token: ForgeToken,
    /// Whether commits get statuses.
    pub statuses: bool,
    /// Whether deployments are shown.
    pub deployments: bool,
    /// Whether the forge may have a private address.
    pub allow_private: bool,
}

/// The software of a forge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForgeKind {
    /// GitHub, also GitHub Enterprise Server.
    Github,
    /// GitLab.
    Gitlab,
    /// Gitea and Forgejo.
    Gitea,
    /// Bitbucket Cloud.
    Bitbucket,
    /// Bitbucket Data Center.
    BitbucketServer,
}

/// The credentials for a forge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForgeToken {
    /// A token; of Bitbucket Cloud, also `e-mail:token`.
    Token(SecretRef),
    /// A GitHub App.
    App {
        /// Its client id or app id.
        id: String,
        /// Its private key, PEM, an absolute path of this host.
        key_file: PathBuf,
    },
}

impl ForgeKind {
    /// The kinds by their names in the manifest.
    pub const NAMED: [(&str, Self); 6] = [
        ("github", Self::Github),
        ("gitlab", Self::Gitlab),
        ("gitea", Self::Gitea),
        ("forgejo", Self::Gitea),
        ("bitbucket", Self::Bitbucket),
        ("bitbucket-server", Self::BitbucketServer),
    ];

    /// Whether it has deployments.
    pub fn has_deployments(self) -> bool {
        matches!(self, Self::Github | Self::Gitlab)
    }

    /// The base of the API for a repository at `url`, if the URL determines it: only the public forges have
    /// names that can be known.
    pub fn api_of(self, url: &str) -> Option<&'static str> {
        let host = RemoteUrl::parse(url).ok()?.host()?;
        // The port of ssh is unrelated to the API's.
        match (self, host.split(':').next()?) {
            (Self::Github, "github.com" | "ssh.github.com") => Some("https://api.github.com"),
            (Self::Gitlab, "gitlab.com" | "altssh.gitlab.com") => Some("https://gitlab.com/api/v4"),
            (Self::Bitbucket, "bitbucket.org" | "altssh.bitbucket.org") => {
                Some("https://api.bitbucket.org/2.0")
            }
            (Self::Gitea, "codeberg.org") => Some("https://codeberg.org/api/v1"),
            _ => None,
        }
    }

    /// The repository's name in `url`; `None` if the URL does not determine it, because the forge may be below
    /// a path.
    pub fn repository_of(self, url: &str) -> Option<String> {
        let remote = RemoteUrl::parse(url).ok()?;
        if remote.transport == GitTransport::File {
            return None;
        }
        let path = match remote.git.split_once("://") {
            Some((_, rest)) => rest.split_once('/')?.1,
            None => remote.git.split_once(':')?.1,
        };
        let path = path.trim_matches('/');
        let path = path.strip_suffix(".git").unwrap_or(path).trim_end_matches('/');
        let parts: Vec<&str> = path.split('/').collect();
        let own = match (self, &parts[..]) {
            // Groups nest.
            (Self::Gitlab, parts) if parts.len() >= 2 => parts,
            // A context path may come before `scm`.
            (Self::BitbucketServer, [.., "scm", project, name]) => return Some(format!("{project}/{name}")),
            (Self::BitbucketServer, [project, name]) => return Some(format!("{project}/{name}")),
            (Self::BitbucketServer, _) => return None,
            // Gitea may be below a path.
            (_, [.., owner, name]) => return Some(format!("{owner}/{name}")),
            _ => return None,
        };
        Some(own.join("/"))
    }
}

impl ForgeSpec {
    /// The secret, if it is a token.
    pub fn secret(&self) -> Option<&SecretRef> {
        match &self.token {
            ForgeToken::Token(secret) => Some(secret),
            ForgeToken::App { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forge_api_and_repository_are_derived_from_the_url() {
        use ForgeKind::{Bitbucket, BitbucketServer, Gitea, Github, Gitlab};
        let cases = [
            (
                Github,
                "https://github.com/tatfook/wikicraft.git",
                Some("https://api.github.com"),
                "tatfook/wikicraft",
            ),
            (
                Github,
                "git@github.com:tatfook/wikicraft.git",
                Some("https://api.github.com"),
                "tatfook/wikicraft",
            ),
            (Github, "ssh://git@ssh.github.com:443/a/b.git", Some("https://api.github.com"), "a/b"),
            (Github, "https://ghe.example.com/a/b", None, "a/b"),
            (
                Gitlab,
                "https://gitlab.com/group/sub/app.git",
                Some("https://gitlab.com/api/v4"),
                "group/sub/app",
            ),
            (Gitea, "https://git.example.com/sub/owner/app.git", None, "owner/app"),
            (Bitbucket, "git@bitbucket.org:team/app.git", Some("https://api.bitbucket.org/2.0"), "team/app"),
            (BitbucketServer, "https://bb.example.com/ctx/scm/PROJ/app.git", None, "PROJ/app"),
            (BitbucketServer, "ssh://git@bb.example.com:7999/PROJ/app.git", None, "PROJ/app"),
        ];
        for (kind, url, api, repository) in cases {
            assert_eq!(
                (kind.api_of(url), kind.repository_of(url).as_deref()),
                (api, Some(repository)),
                "{url}"
            );
        }
        assert_eq!(Github.repository_of("/srv/git/app.git"), None);
    }
}
