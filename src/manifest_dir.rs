//! The desired-state folder: reads its manifest, and detects cheaply whether it may have changed.
//!
//! It also checks facts outside the text: every secret is readable and every overlay exists. These
//! problems are reported together with those of the text, by file and line.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::durable;
use crate::model::container::Secret;
use crate::model::env_file::EnvFile;
use crate::model::followed::UnreadBranch;
use crate::model::manifest::{ParsedManifest, Problem, Problems, SourceFile, parse_with_places};
use crate::model::name::CommitId;
use crate::model::spec::{FollowedManifest, FrontSpec, Manifest, SecretRef};
use crate::secret::{self, SecretError};
use crate::tls::PublicKey;

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

/// The folder, in a desired-state folder, of a followed branch's manifest.
const FOLLOWED: &str = ".manifest";
/// The link to the manifest in force, in that folder.
const CURRENT: &str = "current";
/// The file about the refused commit, in that folder.
const REFUSED: &str = "refused";
/// The file about a branch that cannot be read, in that folder.
const UNREAD: &str = "unread.json";
/// The file that [`follow`] writes.
const BOOTSTRAP: &str = "bootstrap.toml";

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
    /// The manifest is on a branch that was not fetched yet.
    #[error(
        "the manifest is on a branch of another repository, which was not fetched yet: start `abide daemon` \
        with the folder {}",
        folder.display()
    )]
    NotFetched {
        /// The folder.
        folder: PathBuf,
    },
    /// A branch whose manifest names a branch.
    #[error("the manifest on the branch has `[manifest]`, which belongs only into the folder of the host")]
    Followed,
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
    let (mut parsed, stamp, folder) = read_folder(folder)?;
    let mut found = key_problems(&mut parsed, &folder);
    found.extend(secret_problems(&parsed, read_secret));
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
    let (mut parsed, _, folder) = read_folder(folder)?;
    // A key that cannot be read only closes its gate.
    let _problems = key_problems(&mut parsed, &folder);
    Ok(parsed.manifest)
}

/// Reads the manifest, from the branch that the folder follows if it follows one. Returns the folder that has the
/// files.
fn read_folder(folder: &Path) -> Result<(ParsedManifest, FolderStamp, PathBuf), LoadError> {
    // Taken first, so that an edit during the read changes the next stamp.
    let stamp = stamp(folder);
    let parsed = read_files(folder)?;
    let Some(followed) = parsed.manifest.followed else { return Ok((parsed, stamp, folder.to_owned())) };
    let current = followed_dir(folder).join(CURRENT);
    if !current.exists() {
        return Err(LoadError::NotFetched { folder: folder.to_owned() });
    }
    let mut of_branch = read_files(&current)?;
    if of_branch.manifest.followed.is_some() {
        return Err(LoadError::Followed);
    }
    of_branch.manifest.followed = Some(followed);
    Ok((of_branch, stamp, current))
}

/// The branch that a folder follows; `None`: the folder itself has the manifest.
///
/// # Errors
/// [`LoadError`], if the folder has no readable manifest.
pub fn followed(folder: &Path) -> Result<Option<FollowedManifest>, LoadError> {
    Ok(read_files(folder)?.manifest.followed)
}

/// Checks the manifest of a commit in its folder.
///
/// # Errors
/// [`LoadError`], with all problems at once.
pub fn check_commit(folder: &Path) -> Result<(), LoadError> {
    match followed(folder)? {
        Some(_) => Err(LoadError::Followed),
        None => load(folder).map(drop),
    }
}

/// The folder of the followed branch's manifest.
pub fn followed_dir(folder: &Path) -> PathBuf {
    folder.join(FOLLOWED)
}

/// The target of the link to the manifest in force, relative to [`followed_dir`]; `None`: there is no link yet.
pub fn in_force(folder: &Path) -> Option<PathBuf> {
    std::fs::read_link(followed_dir(folder).join(CURRENT)).ok()
}

/// Puts the manifest at `place`, relative to [`followed_dir`], in force. Readers see either the previous one or this
/// one.
///
/// # Errors
/// The link cannot be written.
pub fn put_in_force(folder: &Path, place: &Path) -> std::io::Result<()> {
    let dir = followed_dir(folder);
    let fresh = dir.join(format!("{CURRENT}.new"));
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::os::unix::fs::symlink(place, &fresh)?;
    std::fs::rename(&fresh, dir.join(CURRENT))?;
    std::fs::File::open(&dir)?.sync_all()
}

/// Stores why the newest commit is not in force; `None`: it is.
///
/// # Errors
/// The file cannot be written.
pub fn set_refusal(folder: &Path, why: Option<&str>) -> std::io::Result<()> {
    put_or_remove(&followed_dir(folder).join(REFUSED), why)
}

/// Why the newest commit of the followed branch is not in force.
pub fn refusal(folder: &Path) -> Option<String> {
    std::fs::read_to_string(followed_dir(folder).join(REFUSED)).ok()
}

/// The commit whose manifest is in force; `None`: the folder follows no branch, or nothing was fetched yet.
pub fn commit_in_force(folder: &Path) -> Option<CommitId> {
    CommitId::new(in_force(folder)?.components().next()?.as_os_str().to_str()?).ok()
}

/// Stores why the followed branch cannot be read; `None`: it can.
///
/// # Errors
/// The file cannot be written.
pub fn set_unread(folder: &Path, unread: Option<&UnreadBranch>) -> std::io::Result<()> {
    let text = unread.map(serde_json::to_string).transpose()?;
    put_or_remove(&followed_dir(folder).join(UNREAD), text.as_deref())
}

/// Why the followed branch cannot be read.
pub fn unread(folder: &Path) -> Option<UnreadBranch> {
    serde_json::from_slice(&std::fs::read(followed_dir(folder).join(UNREAD)).ok()?).ok()
}

fn put_or_remove(file: &Path, text: Option<&str>) -> std::io::Result<()> {
    match text {
        Some(text) => durable::replace(file, durable::SHARED, text.as_bytes()),
        None => match std::fs::remove_file(file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        },
    }
}

/// Makes a folder follow a branch: `URL#BRANCH:PATH`. Does nothing if it follows that branch already.
///
/// # Errors
/// A sentence, if the text is invalid or the folder has another manifest.
pub fn follow(folder: &Path, text: &str) -> Result<(), String> {
    let (url, rest) = text.rsplit_once('#').unwrap_or((text, ""));
    let (branch, path) = rest.split_once(':').unwrap_or((rest, ""));
    let keys = [("url", url), ("branch", branch), ("path", path)];
    let keys = keys.iter().filter(|(_, value)| !value.is_empty());
    // A JSON text is a TOML text too.
    let lines = keys.map(|(key, value)| format!("{key} = {}\n", serde_json::Value::from(*value)));
    let text = format!("[manifest]\n{}", lines.collect::<String>());
    let name = BOOTSTRAP.to_owned();
    let wanted = parse_with_places(&[SourceFile { name, text: text.clone() }], None);
    let wanted = wanted.map_err(|problems| format!("--manifest: {problems}"))?.manifest.followed;
    match followed(folder) {
        Err(LoadError::NoFolder { .. } | LoadError::NoManifest { .. }) => {
            let written = std::fs::create_dir_all(folder)
                .and_then(|()| durable::replace(&folder.join(BOOTSTRAP), durable::SHARED, text.as_bytes()));
            written.map_err(|error| format!("cannot write {}: {error}", folder.join(BOOTSTRAP).display()))
        }
        Ok(Some(known)) if wanted.as_ref().is_some_and(|wanted| is_same_branch(&known, wanted)) => Ok(()),
        _ => Err(format!(
            "the folder {} has another manifest: remove its *.toml files, or leave out --manifest",
            folder.display()
        )),
    }
}

fn is_same_branch(one: &FollowedManifest, other: &FollowedManifest) -> bool {
    (&one.repository.url, &one.branch, &one.path) == (&other.repository.url, &other.branch, &other.path)
}

/// Reads the manifest files of one folder.
fn read_files(folder: &Path) -> Result<ParsedManifest, LoadError> {
    let names = manifest_files(folder).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => LoadError::NoFolder { folder: folder.to_owned() },
        _ => LoadError::Folder { folder: folder.to_owned(), source },
    })?;
    if names.is_empty() {
        return Err(LoadError::NoManifest { folder: folder.to_owned() });
    }
    read_all(folder, &names).map_err(LoadError::Invalid)
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

/// Reads the public keys of gates into the manifest. Returns those that cannot be used.
fn key_problems(parsed: &mut ParsedManifest, folder: &Path) -> Vec<Problem> {
    let mut found = Vec::new();
    for (name, spec) in &mut parsed.manifest.environments {
        let Some(key) = &mut spec.gates.signed_by else { continue };
        let path = folder.join(&key.file);
        let read = read_file(&path).map_err(|problem| format!("{} {}", path.display(), problem.message));
        let read = read.and_then(|pem| match PublicKey::from_pem(&pem) {
            Ok(_) => Ok(pem),
            Err(why) => Err(format!("{} cannot be used: {why}", path.display())),
        });
        match read {
            Ok(pem) => key.pem = Some(pem),
            Err(why) => {
                let place = format!("environment.{name}.promote.signed_by");
                found.push(parsed.places.problem(&place, format!("`signed_by`: {why}")));
            }
        }
    }
    found
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
    for (name, spec) in &parsed.manifest.channels {
        let named = spec.channel.secret();
        let secret = named.and_then(|named| Some((named, read_secret(named).ok()?)));
        if let Some((named, problem)) =
            secret.and_then(|(named, secret)| Some((named, spec.secret_problem(secret.expose())?)))
        {
            let message = format!("the secret in {} {problem}", place_of(named));
            found.push(parsed.places.problem(&format!("notify.{name}"), message));
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
    let followed = followed_dir(folder);
    let current = followed.join(CURRENT);
    let mut files = stamps_of(folder, manifest_files(folder).unwrap_or_default());
    files.extend(stamps_of(&current, manifest_files(&current).unwrap_or_default()));
    files.extend(stamps_of(&followed, vec![REFUSED.into(), UNREAD.into()]));
    FolderStamp(files)
}

fn stamps_of(folder: &Path, names: Vec<OsString>) -> Vec<FileStamp> {
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
    names.into_iter().filter_map(stamp_of).collect()
}

#[cfg(test)]
mod tests;
