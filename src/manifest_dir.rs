//! The desired-state folder: reads its manifest, and detects cheaply whether it may have changed.
//!
//! It also checks facts outside the text: every secret is readable and every overlay exists. These
//! problems are reported together with those of the text, by file and line.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::model::container::Secret;
use crate::model::env_file::EnvFile;
use crate::model::manifest::{ParsedManifest, Problem, Problems, SourceFile, parse_with_places};
use crate::model::spec::{FrontSpec, Manifest, SecretRef};
use crate::secret::{self, SecretError};

/// The largest manifest file that is read, in bytes.
const LARGEST_FILE: u64 = 1024 * 1024;

/// The minimum length of a webhook's secret, in bytes; a shorter one could be guessed.
const SHORTEST_WEBHOOK_SECRET: usize = 16;

/// Secrets published in manuals, in lower case. Attackers who scan for webhooks try them first.
const SAMPLE_SECRETS: [&str; 12] = [
    "a_random_webhook_secret",
    "changeme",
    "change-me",
    "change_me",
    "it's a secret to everybody",
    "my-webhook-secret",
    "secret",
    "your-secret-token",
    "your-webhook-secret",
    "your_webhook_secret",
    "yourwebhooksecret",
    "webhook-secret",
];

/// A valid manifest.
#[derive(Debug)]
pub struct Loaded {
    /// The declarations.
    pub manifest: Manifest,
    /// The folder's state just before it was read.
    pub stamp: FolderStamp,
}

/// Why a desired-state folder has no usable manifest.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The folder does not exist.
    #[error(
        "the folder {} does not exist: create it and write a manifest into it, or choose another folder \
        with --desired-state or ABIDE_DESIRED_STATE",
        folder.display()
    )]
    NoFolder {
        /// The folder.
        folder: PathBuf,
    },
    /// The folder cannot be listed.
    #[error("cannot list the desired-state folder {}", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The folder contains no manifest.
    #[error(
        "the desired-state folder {} has no *.toml file: write one (its README.md explains every field), \
        or choose another folder with --desired-state",
        folder.display()
    )]
    NoManifest {
        /// The folder.
        folder: PathBuf,
    },
    /// The manifest is invalid, or a file or secret that it names is.
    #[error("invalid manifest")]
    Invalid(#[source] Problems),
}

/// Reads the manifest of `folder`: every `*.toml` file that is neither hidden nor an editor's
/// backup, ordered by name; subfolders are ignored. Blocks on the disk.
///
/// # Errors
/// [`LoadError`], with all problems at once if a manifest exists.
pub fn load(folder: &Path) -> Result<Loaded, LoadError> {
    load_with(folder, &secret::read)
}

/// As [`load`], with secrets from `read_secret`.
///
/// # Errors
/// [`LoadError`], with all problems at once if a manifest exists.
pub fn load_with(
    folder: &Path,
    read_secret: &dyn Fn(&SecretRef) -> Result<Secret, SecretError>,
) -> Result<Loaded, LoadError> {
    let (parsed, stamp) = read_folder(folder)?;
    let mut found = secret_problems(&parsed, read_secret);
    found.extend(env_file_problems(&parsed));
    found.extend(overlay_problems(&parsed));
    found.extend(certificate_problems(&parsed));
    if found.is_empty() {
        Ok(Loaded { manifest: parsed.manifest, stamp })
    } else {
        Err(LoadError::Invalid(Problems::new(found)))
    }
}

/// As [`load`], but without checking secrets and overlays: a user who only reads or updates the
/// record often has no access to those of the daemon.
///
/// # Errors
/// [`LoadError`], with all problems at once if a manifest exists.
pub fn load_text(folder: &Path) -> Result<Manifest, LoadError> {
    read_folder(folder).map(|(parsed, _)| parsed.manifest)
}

fn read_folder(folder: &Path) -> Result<(ParsedManifest, FolderStamp), LoadError> {
    // Taken first, so that an edit during the read changes the next stamp.
    let stamp = stamp(folder);
    let names = manifest_files(folder).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => LoadError::NoFolder { folder: folder.to_owned() },
        _ => LoadError::Folder { folder: folder.to_owned(), source },
    })?;
    if names.is_empty() {
        return Err(LoadError::NoManifest { folder: folder.to_owned() });
    }
    let parsed = read_all(folder, &names).map_err(LoadError::Invalid)?;
    Ok((parsed, stamp))
}

fn read_all(folder: &Path, names: &[OsString]) -> Result<ParsedManifest, Problems> {
    let (mut files, mut unread) = (Vec::new(), Vec::new());
    for name in names {
        match read_file(&folder.join(name)) {
            Ok(text) => files.push(SourceFile { name: shown(name), text }),
            Err(problem) => unread.push(Problem { file: shown(name), ..problem }),
        }
    }
    if !unread.is_empty() {
        // The declarations of an unreadable file would seem to be missing in the others.
        return Err(Problems::new(unread));
    }
    let folder = std::path::absolute(folder).ok();
    parse_with_places(&files, folder.as_deref().and_then(Path::to_str))
}

fn shown(name: &OsString) -> String {
    name.to_string_lossy().into_owned()
}

/// The names of the manifest's files, sorted.
fn manifest_files(folder: &Path) -> std::io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        // Links are followed, because configuration is often linked into place. A broken link is
        // kept, so that reading it reports the problem.
        let is_folder = std::fs::metadata(folder.join(&name)).is_ok_and(|found| found.is_dir());
        if is_manifest_name(&name) && !is_folder {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn is_manifest_name(name: &OsString) -> bool {
    let name = name.as_encoded_bytes();
    name.ends_with(b".toml") && !name.starts_with(b".") && !name.starts_with(b"#")
}

/// Returns the text of a manifest file; the problem has no file name yet.
fn read_file(path: &Path) -> Result<String, Problem> {
    let problem = |line, message: String| Problem::new("", line, message);
    let unreadable = |error: std::io::Error| problem(None, format!("cannot be read: {error}"));
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(problem(None, "is not a regular file".to_owned()));
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    // One byte beyond the limit detects a file that is too large, even if it grows during the read.
    file.take(LARGEST_FILE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(problem(None, "is larger than 1 MiB".to_owned()));
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + good.iter().filter(|byte| **byte == b'\n').count();
        problem(Some(line), "is not UTF-8 text".to_owned())
    })
}

fn secret_problems(
    parsed: &ParsedManifest,
    read_secret: &dyn Fn(&SecretRef) -> Result<Secret, SecretError>,
) -> Vec<Problem> {
    let mut found = Vec::new();
    for (path, named) in parsed.manifest.secrets() {
        if let Err(error) = read_secret(&named) {
            found.push(parsed.places.problem(&path, error.to_string()));
        }
    }
    for (path, named) in parsed.manifest.webhook_secrets() {
        if let Some(weakness) = read_secret(&named).ok().and_then(|secret| weakness(&secret)) {
            let message = format!("the webhook's secret in {} {weakness}", place_of(&named));
            found.push(parsed.places.problem(&path, message));
        }
    }
    found
}

fn env_file_problems(parsed: &ParsedManifest) -> Vec<Problem> {
    let problem = |(place, file): (String, EnvFile)| {
        let error = secret::read_env_file(&file, &mut BTreeMap::new()).err()?;
        Some(parsed.places.problem(&place, error.to_string()))
    };
    parsed.manifest.env_files().into_iter().filter_map(problem).collect()
}

/// Returns why a webhook's secret is too weak.
fn weakness(secret: &Secret) -> Option<&'static str> {
    let text = secret.expose().trim().trim_end_matches(['.', '!']).to_lowercase();
    if SAMPLE_SECRETS.contains(&text.as_str()) {
        return Some("is a published example: create a new one with `openssl rand -hex 32`");
    }
    let short = secret.expose().len() < SHORTEST_WEBHOOK_SECRET;
    short.then_some("is shorter than 16 bytes: create a new one with `openssl rand -hex 32`")
}

fn place_of(named: &SecretRef) -> String {
    match named {
        SecretRef::SecretEnv(name) => name.clone(),
        SecretRef::SecretFile(path) => path.display().to_string(),
    }
}

fn overlay_problems(parsed: &ParsedManifest) -> Vec<Problem> {
    let mut found = Vec::new();
    for (path, overlay) in parsed.manifest.overlays() {
        let from = overlay.from.display();
        let message = match std::fs::metadata(&overlay.from) {
            Ok(metadata) if metadata.is_file() => continue,
            Ok(_) => format!("the overlay {from} is not a regular file"),
            Err(error) => format!("cannot read the overlay {from}: {}", error.kind()),
        };
        found.push(parsed.places.problem(&path, message));
    }
    found
}

fn certificate_problems(parsed: &ParsedManifest) -> Vec<Problem> {
    let all = parsed.manifest.front.iter().flat_map(FrontSpec::certificate_files);
    let files = all.flat_map(|(table, certificate, files)| {
        let key = format!("{table}.key");
        [(format!("{table}.{certificate}"), "certificate", &files.certificate), (key, "key", &files.key)]
    });
    let problem = |(place, key, path): (String, &str, &PathBuf)| {
        // The file type is checked first, because opening a FIFO would block.
        let readable = |metadata: std::fs::Metadata| match metadata.is_file() {
            true => std::fs::File::open(path).map(|_| true),
            false => Ok(false),
        };
        let message = match std::fs::metadata(path).and_then(readable) {
            Ok(true) => return None,
            Ok(false) => format!("the {key} {} is not a regular file", path.display()),
            Err(error) => format!("cannot read the {key} {}: {}", path.display(), error.kind()),
        };
        Some(parsed.places.problem(&place, message))
    };
    files.filter_map(problem).collect()
}

/// The metadata of a folder's manifest files. A different stamp means that the manifest may have
/// changed; a stamp is cheap enough to take every few seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FolderStamp(Vec<FileStamp>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct FileStamp {
    name: OsString,
    size: u64,
    /// The last change of the content, in seconds and nanoseconds.
    modified: (i64, i64),
    /// The inode and its last change: an editor that replaces a file may keep its modification
    /// time.
    inode: u64,
    changed: (i64, i64),
}

/// Returns the state of `folder`'s manifest files. A folder or file that cannot be inspected counts
/// as absent; [`load`] reports the reason.
pub fn stamp(folder: &Path) -> FolderStamp {
    let names = manifest_files(folder).unwrap_or_default();
    let stamp_of = |name: OsString| {
        let found = std::fs::metadata(folder.join(&name)).ok()?;
        Some(FileStamp {
            name,
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            inode: found.ino(),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    };
    FolderStamp(names.into_iter().filter_map(stamp_of).collect())
}

#[cfg(test)]
mod tests;
