//! Where a repository may be: the transports of git that take no code with them.

/// What a URL may be, for problems.
const KNOWN: &str =
    "must be an https://, http://, ssh:// or file:// URL, user@host:path, or an absolute path";

/// Takes a URL that can be handed to git.
///
/// A problem never repeats the URL: it may hold a password.
pub(super) fn repository_url(text: &str) -> Result<String, String> {
    if text.is_empty() || text.chars().any(|c| c.is_control() || c == ' ') {
        return Err(format!("{KNOWN}, without spaces"));
    }
    if text.starts_with('/') {
        return Ok(text.to_owned());
    }
    if text.starts_with(['~', '.']) {
        return Err("must be absolute: neither ~ nor a folder to start from is known".to_owned());
    }
    match text.split_once("://") {
        Some((scheme, rest)) => with_scheme(scheme, rest).map(|()| text.to_owned()),
        None => scp_like(text).map(|()| text.to_owned()),
    }
}

fn with_scheme(scheme: &str, rest: &str) -> Result<(), String> {
    match scheme {
        "file" if rest.starts_with('/') => Ok(()),
        "file" => Err("must have an absolute path: file:///srv/git/keepwork.git".to_owned()),
        "https" | "http" | "ssh" => host_of(rest),
        _ => Err(KNOWN.to_owned()),
    }
}

fn host_of(rest: &str) -> Result<(), String> {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if user.contains(':') {
        let words = "must not hold a password: name it by `secret_env` or `secret_file`, beside a `username`";
        return Err(words.to_owned());
    }
    // A host or user that begins with a dash would be an option of ssh.
    if host.is_empty() || host.starts_with([':', '-']) || user.starts_with('-') {
        return Err("must name a host after ://".to_owned());
    }
    Ok(())
}

/// `user@host:path` or `host:path`, as git and scp take it.
fn scp_like(text: &str) -> Result<(), String> {
    let Some((host, path)) = text.split_once(':') else {
        return Err("must be absolute: a relative path depends on where the daemon was started".to_owned());
    };
    // `ext::` and its like run a program.
    let plain = host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.@".contains(&b));
    let option = host.split('@').any(|part| part.is_empty() || part.starts_with('-'));
    if !plain || option || path.is_empty() || path.starts_with([':', '-']) {
        return Err(KNOWN.to_owned());
    }
    Ok(())
}
