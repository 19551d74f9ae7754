//! The git repository of a folder, as the `git` program knows it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::compose::Checkout;

/// The branch if there is no repository.
const BRANCH: &str = "main";

/// The repository of `dir`. Without one, the folder itself stands for it.
pub(super) fn checkout(dir: &Path) -> Checkout {
    let Some(root) = ask(dir, &["rev-parse", "--show-toplevel"]) else {
        return Checkout {
            root: dir.to_owned(),
            url: dir.display().to_string(),
            branch: BRANCH.to_owned(),
            is_known: false,
        };
    };
    let remote = ask(dir, &["remote", "get-url", "origin"]).map(|url| without_password(&url));
    let branch = ask(dir, &["symbolic-ref", "--short", "HEAD"]).unwrap_or_else(|| BRANCH.to_owned());
    Checkout {
        url: remote.unwrap_or_else(|| root.clone()),
        root: PathBuf::from(root),
        branch,
        is_known: true,
    }
}

fn ask(dir: &Path, arguments: &[&str]) -> Option<String> {
    let mut git = Command::new("git");
    let git = git.arg("-C").arg(dir).args(arguments).stdin(Stdio::null()).stderr(Stdio::null());
    let output = git.output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (!text.is_empty()).then_some(text)
}

/// The URL without a name and a password: a manifest must not hold a secret.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://").filter(|(scheme, _)| scheme.starts_with("http")) else {
        return url.to_owned();
    };
    let end = rest.find('/').unwrap_or(rest.len());
    let host = rest[..end].rsplit_once('@').map_or(&rest[..end], |(_, host)| host);
    format!("{scheme}://{host}{}", &rest[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_a_url_is_left_out() {
        assert_eq!(without_password("https://me:token@example.com/a@b.git"), "https://example.com/a@b.git");
        assert_eq!(without_password("git@example.com:a/b.git"), "git@example.com:a/b.git");
        assert_eq!(without_password("ssh://git@example.com/a.git"), "ssh://git@example.com/a.git");
    }
}
