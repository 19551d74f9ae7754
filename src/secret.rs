//! Reads named secrets from the environment and from files.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::model::container::Secret;
use crate::model::env_file::{self, EnvFile, InvalidEnvFile};
use crate::model::spec::{EnvValue, SecretRef};

/// The longest secret file that is read, in bytes.
const LONGEST_SECRET_FILE: u64 = 64 * 1024;

/// Why a secret is unavailable. Names its location, never its value.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The environment variable is not set.
    #[error("the environment variable {0}, which should contain a secret, is not set")]
    NoVariable(String),
    /// The variable or file is empty.
    #[error("the secret in {0} is empty")]
    Empty(String),
    /// The file is not a regular file, or larger than any secret.
    #[error("secret file {0} must be a regular file of at most 64 KiB")]
    NoRegularFile(String),
    /// The file cannot be read.
    #[error("cannot read {path}: {}", reason(*kind))]
    Unreadable {
        /// The path.
        path: String,
        /// The kind of error.
        kind: ErrorKind,
    },
    /// The file does not hold environment variables.
    #[error("the file of variables {path} is not understood: {problem}")]
    NoVariables {
        /// The path.
        path: String,
        /// The problem, with its line.
        problem: InvalidEnvFile,
    },
    /// The file is not UTF-8 text.
    #[error("the secret in {0} is not UTF-8 text")]
    NoText(String),
}

fn reason(kind: ErrorKind) -> String {
    match kind {
        ErrorKind::NotFound => "it does not exist".to_owned(),
        kind => kind.to_string(),
    }
}

/// Reads the secret that `named` points to. One trailing line break of a file is removed.
///
/// # Errors
/// [`SecretError`] if it is missing, empty or not text.
pub fn read(named: &SecretRef) -> Result<Secret, SecretError> {
    let (value, place) = match named {
        SecretRef::SecretEnv(name) => {
            let value = std::env::var_os(name).ok_or_else(|| SecretError::NoVariable(name.clone()))?;
            let value = value.into_string().map_err(|_| SecretError::NoText(name.clone()))?;
            (value, name.clone())
        }
        SecretRef::SecretFile(path) => (read_file(path)?, path.display().to_string()),
    };
    if value.trim().is_empty() {
        return Err(SecretError::Empty(place));
    }
    Ok(Secret::new(value))
}

/// Adds the variables of a file to `all`. A file that may be missing then adds none.
///
/// # Errors
/// [`SecretError`] if it is missing, too large, not text, or not a file of variables.
pub fn read_env_file(file: &EnvFile, all: &mut BTreeMap<String, Secret>) -> Result<(), SecretError> {
    let text = match read_file(&file.path) {
        Err(SecretError::Unreadable { kind: ErrorKind::NotFound, .. }) if !file.required => return Ok(()),
        read => read?,
    };
    let shown = || file.path.display().to_string();
    env_file::read(&text, all).map_err(|problem| SecretError::NoVariables { path: shown(), problem })
}

fn read_file(path: &Path) -> Result<String, SecretError> {
    let shown = || path.display().to_string();
    let unreadable = |error: std::io::Error| SecretError::Unreadable { path: shown(), kind: error.kind() };
    // Opening a FIFO would block for ever, so the file type is checked first.
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() || metadata.len() > LONGEST_SECRET_FILE {
        return Err(SecretError::NoRegularFile(shown()));
    }
    let bytes = std::fs::read(path).map_err(unreadable)?;
    let mut text = String::from_utf8(bytes).map_err(|_| SecretError::NoText(shown()))?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

/// Returns a sentence if the mode of a secret file gives access to others than its owner and group.
/// `None` if the mode is fine or the file is missing.
pub fn exposure(path: &Path) -> Option<String> {
    const OTHERS: u32 = 0o006;
    let mode = std::fs::metadata(path).ok()?.permissions().mode();
    let shown = path.display();
    (mode & OTHERS != 0)
        .then(|| format!("every user of this host can use the token in {shown}: run `chmod o-rw {shown}`"))
}

/// Returns the value of an environment variable of a container or script.
///
/// # Errors
/// [`SecretError`] if it is a secret that is unavailable.
pub fn value(of: &EnvValue) -> Result<Secret, SecretError> {
    match of {
        EnvValue::Plain(text) => Ok(Secret::new(text.clone())),
        EnvValue::Secret(named) => read(named),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_trailing_line_break_is_stripped_from_a_secret_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        std::fs::write(&path, "top secret\n\n").unwrap();
        let secret = read(&SecretRef::SecretFile(path)).unwrap();
        assert_eq!(secret.expose(), "top secret\n");
        assert_eq!(format!("{secret:?}"), "[redacted]");
    }

    #[test]
    fn a_world_readable_secret_file_is_detected() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "x").unwrap();
        for (mode, is_exposed) in [(0o600, false), (0o640, false), (0o644, true), (0o602, true)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(exposure(&path).is_some(), is_exposed, "{mode:o}");
        }
        assert_eq!(exposure(&dir.path().join("missing")), None);
    }

    #[test]
    fn a_missing_or_empty_secret_is_reported_by_its_location() {
        let error = read(&SecretRef::SecretEnv("ABIDE_NO_SUCH_VARIABLE".into())).unwrap_err();
        assert!(error.to_string().contains("ABIDE_NO_SUCH_VARIABLE"));
        let dir = tempfile::tempdir().unwrap();
        let missing = EnvFile { path: dir.path().join("missing.env"), required: true };
        let error = read_env_file(&missing, &mut BTreeMap::new()).unwrap_err().to_string();
        assert_eq!(error, format!("cannot read {}: it does not exist", missing.path.display()));
        let path = dir.path().join("empty");
        std::fs::write(&path, "\n").unwrap();
        assert!(matches!(read(&SecretRef::SecretFile(path)), Err(SecretError::Empty(_))));
        assert!(matches!(
            read(&SecretRef::SecretFile(dir.path().into())),
            Err(SecretError::NoRegularFile(_))
        ));
    }
}
