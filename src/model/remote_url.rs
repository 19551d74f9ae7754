//! The grammar of a repository's URL, shared by the manifest and git access.
//!
//! Git itself accepts far more, such as `ext::`, which runs any program, and passes parts of a URL to ssh as
//! arguments. So this is an allow-list.

use std::path::Path;

const LONGEST: usize = 2048;

/// The transport of a remote. Git is allowed this transport only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GitTransport {
    Https,
    /// Only if the configured URL itself uses it.
    Http,
    Ssh,
    File,
}

/// A parsed URL.
#[derive(Clone)]
pub(crate) struct RemoteUrl {
    pub(crate) transport: GitTransport,
    /// For git.
    pub(crate) git: String,
    /// For people: without user and password. An ssh URL keeps its user, which is not secret.
    pub(crate) shown: String,
    /// `https://host:port`, the only server that may get a password; `None` if the remote takes none.
    pub(crate) base: Option<String>,
}

impl RemoteUrl {
    /// Parses a URL.
    ///
    /// # Errors
    /// Returns the broken rule as a clause. It never repeats the URL, which may contain a password.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let refuse = Err;
        if text.is_empty() || text.len() > LONGEST {
            return refuse("it must have 1 to 2048 characters");
        }
        if text.chars().any(|c| c.is_control() || c == '\u{2028}' || c == '\u{2029}') {
            return refuse("it contains control characters");
        }
        if text.starts_with('-') {
            return refuse("it must not begin with -");
        }
        match text.split_once("://") {
            Some(("https", rest)) => http(GitTransport::Https, "https", rest),
            Some(("http", rest)) => http(GitTransport::Http, "http", rest),
            Some(("ssh", rest)) => ssh(rest),
            Some(("file", path)) => local(text, path),
            _ if text.starts_with('/') => local(text, text),
            Some(_) => Err("its scheme must be https, http, ssh or file"),
            None if text.contains("::") => Err("remote helpers such as ext:: are not supported"),
            None => scp_like(text),
        }
    }
}

impl RemoteUrl {
    /// The host, in lower case, with its port if that is not the transport's own; `None`: this host.
    pub(crate) fn host(&self) -> Option<String> {
        let rest = self.git.split_once("://").map_or(self.git.as_str(), |(_, rest)| rest);
        let authority = match self.transport {
            GitTransport::File => return None,
            // `user@host:path`
            GitTransport::Ssh if !self.git.contains("://") => rest.split(':').next().unwrap_or_default(),
            _ => rest.split('/').next().unwrap_or_default(),
        };
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host).to_ascii_lowercase();
        let own = match self.transport {
            GitTransport::Https => ":443",
            GitTransport::Http => ":80",
            GitTransport::Ssh | GitTransport::File => ":22",
        };
        Some(host.strip_suffix(own).map_or(host.clone(), str::to_owned))
    }
}

type ParsedUrl = Result<RemoteUrl, &'static str>;

fn http(transport: GitTransport, scheme: &str, rest: &str) -> ParsedUrl {
    if rest.contains(['?', '#', ' ', '\\']) {
        return Err("it must not contain a query, fragment, space or backslash");
    }
    let (authority, path) = split_authority(rest)?;
    let (userinfo, host) = match authority.rsplit_once('@') {
        Some((userinfo, host)) => (Some(userinfo), host),
        None => (None, authority),
    };
    check_host(host)?;
    let base = format!("{scheme}://{host}");
    let shown = format!("{base}{path}");
    let git = match userinfo {
        None => shown.clone(),
        Some(user) if user.contains(':') => return Err("it must not contain a password"),
        // The user stays in the URL: it selects the password in a credential helper.
        Some(user) => {
            check_escapes(user)?;
            format!("{scheme}://{user}@{host}{path}")
        }
    };
    Ok(RemoteUrl { transport, git, shown, base: Some(base) })
}

fn ssh(rest: &str) -> ParsedUrl {
    let (authority, path) = split_authority(rest)?;
    if path.starts_with("/-") || path.contains(char::is_whitespace) {
        return Err("the path of an ssh URL must not begin with - or contain blanks");
    }
    if let Some((user, _)) = authority.rsplit_once('@') {
        check_ssh_user(user)?;
    }
    check_host(authority.rsplit_once('@').map_or(authority, |(_, host)| host))?;
    let git = format!("ssh://{authority}{path}");
    Ok(RemoteUrl { transport: GitTransport::Ssh, shown: git.clone(), git, base: None })
}

/// `user@host:path`, ssh without a scheme.
fn scp_like(text: &str) -> ParsedUrl {
    const RULE: &str = "it must be https://, http://, ssh://, user@host:path, file:// or an absolute path";
    let (user, rest) = text.split_once('@').ok_or(RULE)?;
    let (host, path) = rest.split_once(':').ok_or(RULE)?;
    check_ssh_user(user)?;
    check_host(host)?;
    if path.is_empty() || path.starts_with('-') || path.contains(char::is_whitespace) {
        return Err("the path of an ssh URL must not be empty, begin with - or contain blanks");
    }
    Ok(RemoteUrl { transport: GitTransport::Ssh, git: text.into(), shown: text.into(), base: None })
}

fn local(text: &str, path: &str) -> ParsedUrl {
    if !Path::new(path).is_absolute() {
        return Err("a path must be absolute (file:///path or /path)");
    }
    Ok(RemoteUrl { transport: GitTransport::File, git: text.into(), shown: text.into(), base: None })
}

fn split_authority(rest: &str) -> Result<(&str, &str), &'static str> {
    match rest.find('/') {
        Some(at) if at > 0 && at + 1 < rest.len() => Ok(rest.split_at(at)),
        _ => Err("it must have a host and a path"),
    }
}

/// A host name, an IPv4 address or `[IPv6]`, each with or without a port.
fn check_host(host: &str) -> Result<(), &'static str> {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or("its host has no closing ]")?;
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return Err("its host is not an IPv6 address");
            }
            ("v6", port.strip_prefix(':').or((!port.is_empty()).then_some("")))
        }
        None => match host.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, None),
        },
    };
    let first_is_plain = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if !first_is_plain || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
        return Err("its host must consist of A-Z a-z 0-9 . - _, beginning with a letter or digit");
    }
    match port.map(str::parse::<u16>) {
        None | Some(Ok(1..)) => Ok(()),
        Some(_) => Err("its port must be from 1 to 65535"),
    }
}

fn check_ssh_user(user: &str) -> Result<(), &'static str> {
    if user.contains(':') {
        return Err("it contains a password, which ssh does not use: use a key");
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._+".contains(&b);
    if user.is_empty() || user.starts_with('-') || !user.bytes().all(plain) {
        return Err("its user must consist of A-Z a-z 0-9 - . _ +, and not begin with -");
    }
    Ok(())
}

/// Rejects encoded line breaks: they would forge lines of git's credential protocol.
fn check_escapes(text: &str) -> Result<(), &'static str> {
    const RULE: &str = "its user has a broken % escape or an encoded control character";
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|b| char::from(b).to_digit(16));
        let (high, low) = digit().zip(digit()).ok_or(RULE)?;
        bytes.push(u8::try_from(high * 16 + low).map_err(|_| RULE)?);
    }
    let text = String::from_utf8(bytes).map_err(|_| RULE)?;
    if text.chars().any(char::is_control) { Err(RULE) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_git_or_ssh_would_misread_are_rejected() {
        for bad in [
            "",
            "ext::sh -c touch% /tmp/x",
            "ext::https://host/x",
            "fd::7",
            "-x",
            "--upload-pack=touch x;",
            "ssh://-oProxyCommand=touch/x",
            "ssh://git@-oProxyCommand=x/y",
            "ssh://-oX@host/y",
            "ssh://git:pw@host/y",
            "ssh://host/-x",
            "-oProxyCommand=x@host:y",
            "git@-host:y",
            "git@host:-y",
            "git://host/x",
            "ftp://host/x",
            "relative/path",
            "../up",
            "javascript:x",
            "https://h\\@evil/x",
            "host:path",
            "https://",
            "https:///path",
            "https://host",
            "https://host:0/x",
            "https://host:99999/x",
            "https://host/x?private_token=abc",
            "https://host/x y",
            "https://ho\nst/x",
            "https://user:password@host/x",
            "https://a%0ab@host/x",
            "https://%zz@host/x",
            "https://[::1/x",
            "https://[nothex]/x",
            "file://host/x",
            "file://relative",
            "/path\0x",
            "C:\\x",
        ] {
            assert!(RemoteUrl::parse(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn every_common_kind_of_git_url_is_accepted() {
        for (good, transport) in [
            ("https://github.com/tatfook/wikicraft.git", GitTransport::Https),
            ("https://host:8443/a/b", GitTransport::Https),
            ("http://127.0.0.1:3000/x.git", GitTransport::Http),
            ("http://[::1]:3000/x.git", GitTransport::Http),
            ("ssh://git@host:2222/a/b.git", GitTransport::Ssh),
            ("git@github.com:a/b.git", GitTransport::Ssh),
            ("file:///srv/git/a.git", GitTransport::File),
            ("/srv/git/with space/a.git", GitTransport::File),
        ] {
            let url = RemoteUrl::parse(good).unwrap_or_else(|e| panic!("{good}: {e}"));
            assert_eq!((url.transport, url.shown.as_str()), (transport, good));
        }
    }

    #[test]
    fn a_urls_user_goes_to_git_and_is_not_shown() {
        let url = RemoteUrl::parse("https://token@host:1/x").unwrap();
        assert_eq!((url.git.as_str(), url.shown.as_str()), ("https://token@host:1/x", "https://host:1/x"));
        assert_eq!(url.base.as_deref(), Some("https://host:1"));
        assert_eq!(RemoteUrl::parse("git@host:x").unwrap().base, None);
    }
}
