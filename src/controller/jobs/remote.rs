//! Git remotes with their credentials.

use crate::model::spec::{Login, Manifest};
use crate::secret;
use crate::source::{Remote, SourceError};

/// The remote at `url`. Its password is read again each time, so a new one needs no restart.
///
/// # Errors
/// Fails if the URL is invalid, or the password cannot be read.
pub(in crate::controller) fn remote(url: &str, login: Option<&Login>) -> Result<Remote, SourceError> {
    let remote = Remote::new(url)?;
    let Some(Login { username, password }) = login else { return Ok(remote) };
    let read = secret::read(password);
    let read =
        read.map_err(|why| SourceError::Password { remote: remote.to_string(), why: why.to_string() })?;
    Ok(remote.with_login(username.clone(), read))
}

/// The credentials for `url`, if a repository of the manifest declares it.
pub(in crate::controller) fn login_at(manifest: &Manifest, url: &str) -> Option<Login> {
    manifest.repositories.values().find(|repository| repository.url == url)?.login.clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::manifest::{SourceFile, parse};

    #[test]
    fn a_git_login_is_sent_only_to_its_url_with_a_fresh_password() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = format!(
            "[repository.r]\nurl = \"https://h/r\"\nusername = \"u\"\nsecret_file = {:?}\n\
             [repository.open]\nurl = \"https://h/open\"\n\
             [environment.dev]\ncontainer = \"dev\"\nport = 1\n",
            file.path()
        );
        let manifest = parse(&[SourceFile { name: "m.toml".to_owned(), text }]).unwrap();
        assert_eq!(login_at(&manifest, "https://h/open"), None);
        assert_eq!(login_at(&manifest, "https://h/other"), None);
        let login = login_at(&manifest, "https://h/r");
        assert_eq!(login.as_ref().unwrap().username, "u");
        std::fs::write(file.path(), "canary").unwrap();
        assert_eq!(remote("https://h/r", login.as_ref()).unwrap().to_string(), "https://h/r");
        file.close().unwrap();
        let error = remote("https://h/r", login.as_ref()).unwrap_err();
        assert!(
            error.is_transient()
                && error.to_string().starts_with(
                    "cannot read the password for \
                https://h/r: "
                ),
            "{error}"
        );
    }
}
