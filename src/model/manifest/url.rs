//! The grammar of a repository's URL in the manifest.

use crate::model::remote_url::RemoteUrl;

/// The accepted URLs, for problems.
const KNOWN: &str =
    "must be an https://, http://, ssh:// or file:// URL, user@host:path, or an absolute path";

/// Parses a URL that can be passed to git.
///
/// A problem never repeats the URL, because it may contain a password.
pub(super) fn repository_url(text: &str) -> Result<String, String> {
    match RemoteUrl::parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(rule) => Err(advice(text).unwrap_or_else(|| format!("{KNOWN}; {rule}"))),
    }
}

/// The correct form, if it is known.
fn advice(text: &str) -> Option<String> {
    let scheme =
        text.split_once("://").map(|(scheme, rest)| (scheme, rest.split('/').next().unwrap_or(rest)));
    let words = match scheme {
        Some(("https" | "http", authority))
            if authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':')) =>
        {
            "must not contain a password: put it into `secret_env` or `secret_file`, beside a `username`"
        }
        Some(("file", _)) => "must have an absolute path: file:///srv/git/keepwork.git",
        None if text.starts_with(['~', '.']) => "must be absolute: abide does not expand ~ or relative paths",
        None if !text.contains([':', ' ']) && !text.is_empty() && !text.starts_with('-') => {
            "must be absolute: a relative path depends on where the daemon was started"
        }
        _ => return None,
    };
    Some(words.to_owned())
}
