//! A checkout's tree: paths that stay in it, removals and overlays.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use tempfile::NamedTempFile;

use super::error::ContextError;
use super::ignore::clean;
use super::write::Hashing;

/// The number of links that Linux itself follows in one path.
const MOST_LINKS: u32 = 40;

/// Resolves the declared `relative` path in `root` for reading. Links are followed as long as they stay in
/// `root`, so the part of the result below `root` contains no link. Missing parts stay as declared; `.` is
/// `root`.
///
/// # Errors
/// Returns an error if the path is absolute or leaves `root` (directly or by a link), or if a part cannot be
/// inspected.
pub fn inside(root: &Path, relative: &str) -> Result<PathBuf, ContextError> {
    Ok(root.join(resolve(root, relative)?))
}

/// Resolves the declared `relative` path in `root` for writing. Only its last part may be a link, and it must
/// not be `root` itself.
///
/// # Errors
/// Returns an error if the path is absolute, leaves `root`, is `root`, or goes through a link or a file.
pub fn place(root: &Path, relative: &str) -> Result<PathBuf, ContextError> {
    let declared = declared(relative)?;
    let Some(parent) = declared.parent() else {
        return Err(ContextError::WholeTree { path: relative.into() });
    };
    let mut at = root.to_path_buf();
    for part in parent {
        at.push(part);
        match lstat(&at)? {
            None => break,
            Some(found) if found.is_symlink() => {
                return Err(ContextError::ThroughLink {
                    path: declared.clone(),
                    link: relative_to(root, &at),
                });
            }
            Some(found) if !found.is_dir() => {
                return Err(ContextError::NotADirectory { path: relative_to(root, &at) });
            }
            Some(_) => {}
        }
    }
    Ok(root.join(declared))
}

/// Removes the entry at `relative`: a file, a directory with its content, or a link without its target. A
/// missing entry is not an error.
///
/// # Errors
/// Returns the errors of [`place`], and an error if the entry cannot be removed.
pub fn remove(root: &Path, relative: &str) -> Result<(), ContextError> {
    let path = match place(root, relative) {
        // A file has no entries below it.
        Err(ContextError::NotADirectory { .. }) => return Ok(()),
        other => other?,
    };
    let removed = match lstat(&path)? {
        None => return Ok(()),
        Some(found) if found.is_dir() => fs::remove_dir_all(&path),
        Some(_) => fs::remove_file(&path),
    };
    removed.map_err(ContextError::write(&path))
}

/// Copies the file `from` of this host to `to` in the tree, and replaces a file or link at that path. Missing
/// parents are created. The copy has the source's time and executable bit, and is readable for all, because
/// it goes into an image.
///
/// # Errors
/// Returns the errors of [`place`], and an error if `from` is not a regular file or cannot be read, or if
/// `to` is a directory.
pub fn overlay(root: &Path, from: &Path, to: &str) -> Result<(), ContextError> {
    let (mut source, found) = open_file(from, OFlags::empty())?;
    let path = place(root, to)?;
    if lstat(&path)?.is_some_and(|at| at.is_dir()) {
        return Err(ContextError::NotAFile { path: relative_to(root, &path) });
    }
    let failed = || ContextError::write(&path);
    let parent = path.parent().unwrap_or(root);
    fs::create_dir_all(parent).map_err(failed())?;
    // Renaming a new file replaces a link instead of writing through it.
    let mut copy = NamedTempFile::new_in(parent).map_err(failed())?;
    io::copy(&mut source, &mut copy).map_err(failed())?;
    let copied = copy.as_file();
    copied.set_permissions(Permissions::from_mode(file_mode(&found))).map_err(failed())?;
    copied.set_modified(found.modified().map_err(ContextError::read(from))?).map_err(failed())?;
    copy.persist(&path).map_err(|e| failed()(e.error))?;
    Ok(())
}

/// The SHA-256 of the content of a file of this host, as lower-case hex digits.
///
/// # Errors
/// Returns an error if it is not a regular file or cannot be read.
pub fn fingerprint(path: &Path) -> Result<String, ContextError> {
    let (mut file, _) = open_file(path, OFlags::empty())?;
    let mut hash = Hashing::new(io::sink());
    io::copy(&mut file, &mut hash).map_err(ContextError::read(path))?;
    Ok(hash.digest())
}

/// Opens a regular file; `flags` may forbid following a link. A FIFO does not block this.
pub(super) fn open_file(path: &Path, flags: OFlags) -> Result<(File, Metadata), ContextError> {
    let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let descriptor = rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from);
    let file = File::from(descriptor.map_err(ContextError::read(path))?);
    let found = file.metadata().map_err(ContextError::read(path))?;
    if found.is_file() { Ok((file, found)) } else { Err(ContextError::NotAFile { path: path.into() }) }
}

/// 0755 if the owner may execute it, else 0644: the only modes of git, independent of the umask.
pub(super) fn file_mode(of: &Metadata) -> u32 {
    if of.permissions().mode() & 0o100 == 0 { 0o644 } else { 0o755 }
}

/// Like [`inside`], but relative to `root`; empty for `root` itself.
pub(super) fn resolve(root: &Path, relative: &str) -> Result<PathBuf, ContextError> {
    let outside = || ContextError::OutsideTree { path: relative.into() };
    let mut ahead = parts_backwards(&declared(relative)?);
    let mut at = PathBuf::new();
    let mut links = 0;
    while let Some(part) = ahead.pop() {
        if part == ".." {
            if !at.pop() {
                return Err(outside());
            }
            continue;
        }
        let next = root.join(&at).join(&part);
        if !lstat(&next)?.is_some_and(|found| found.is_symlink()) {
            at.push(part);
            continue;
        }
        links += 1;
        let target = fs::read_link(&next).map_err(ContextError::read(&next))?;
        if links > MOST_LINKS || target.is_absolute() {
            return Err(outside());
        }
        ahead.extend(parts_backwards(&target));
    }
    Ok(at)
}

/// Cleans a declared path by its text; empty for the tree itself.
fn declared(relative: &str) -> Result<PathBuf, ContextError> {
    let cleaned = clean(relative);
    let path = Path::new(if cleaned == "." { "" } else { &cleaned });
    if path.is_absolute() || path.starts_with("..") {
        return Err(ContextError::OutsideTree { path: relative.into() });
    }
    Ok(path.to_path_buf())
}

/// The parts of the path in reverse order, so that the next part is last.
fn parts_backwards(path: &Path) -> Vec<OsString> {
    let parts = path.components().rev().filter(|part| *part != Component::CurDir);
    parts.map(|part| part.as_os_str().to_owned()).collect()
}

/// The metadata of `path` itself, without following a link; `None` if it does not exist.
pub(super) fn lstat(path: &Path) -> Result<Option<Metadata>, ContextError> {
    match fs::symlink_metadata(path) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            Err(ContextError::NotADirectory { path: path.parent().unwrap_or(path).into() })
        }
        Err(error) => Err(ContextError::read(path)(error)),
    }
}

fn relative_to(root: &Path, path: &Path) -> PathBuf {
    path.strip_prefix(root).unwrap_or(path).to_path_buf()
}

/// A path's bytes as text for the ignore rules. Each byte that is not UTF-8 counts as one character, as in
/// Docker.
pub(super) fn rule_text(path: &Path) -> String {
    let mut text = String::new();
    for chunk in OsStr::as_bytes(path.as_os_str()).utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    text
}

#[cfg(test)]
mod tests;
