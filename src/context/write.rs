//! Writes a listing as a tar stream, and hashes it.
//!
//! Names and link targets are written byte for byte: the `tar` crate's method for long names requires UTF-8
//! and changes the targets of links.

use std::io::{self, Read as _, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::OFlags;
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use super::error::ContextError;
use super::pack::Packed;
use super::tree;
use super::walk::{EntryKind, TreeEntries, TreeEntry};

/// The space for a name in a tar header. A longer name gets its own entry before the header.
const NAME_ROOM: usize = 100;

/// Writes all of `listing` to `out`.
///
/// # Errors
/// Returns an error if a file can no longer be read or shrank, or if `out` cannot be written.
pub(super) fn write(listing: &TreeEntries, out: impl Write) -> Result<Packed, ContextError> {
    let mut tar = Builder::new(Hashing::new(out));
    let newest = listing.newest();
    for (path, entry) in &listing.entries {
        append(&mut tar, path, entry, newest)?;
    }
    let written = tar.into_inner().and_then(|mut all| all.flush().map(|()| all)).map_err(output)?;
    Ok(Packed { files: listing.entries.len(), bytes: written.bytes, digest: written.digest() })
}

/// The SHA-256 of the content of `listing`, without times and a repository's own `.git`.
///
/// # Errors
/// Returns an error if a file can no longer be read or shrank.
pub(super) fn fingerprint(listing: &TreeEntries) -> Result<String, ContextError> {
    let mut hash = Hashing::new(io::sink());
    for (path, entry) in listing.entries.iter().filter(|(path, _)| !path.starts_with(".git")) {
        match &entry.kind {
            EntryKind::Directory => describe(&mut hash, "directory", path, 0)?,
            EntryKind::Link { target } => {
                describe(&mut hash, "link", path, 0)?;
                describe(&mut hash, "to", target, 0)?;
            }
            EntryKind::File { source, size, mode } => {
                describe(&mut hash, if mode & 0o100 == 0 { "file" } else { "program" }, path, *size)?;
                let (file, _) = tree::open_file(source, OFlags::NOFOLLOW)?;
                let mut content = file.take(*size);
                io::copy(&mut content, &mut hash).map_err(ContextError::read(source))?;
                if content.limit() != 0 {
                    return Err(ContextError::Changed { path: source.into() });
                }
            }
        }
    }
    Ok(hash.digest())
}

/// Writes a prefix of each content, so that different listings never give the same bytes.
fn describe(out: &mut impl Write, kind: &str, path: &Path, size: u64) -> Result<(), ContextError> {
    let path = path.as_os_str().as_bytes();
    let written = write!(out, "{kind} {} {size} ", path.len()).and_then(|()| out.write_all(path));
    written.map_err(output)
}

fn append<W: Write>(
    tar: &mut Builder<W>,
    path: &Path,
    entry: &TreeEntry,
    newest: u64,
) -> Result<(), ContextError> {
    let name = path.as_os_str().as_bytes();
    let mut header = Header::new_gnu();
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    header.set_mtime(entry.modified.unwrap_or(newest));
    match &entry.kind {
        EntryKind::Directory => {
            header.set_entry_type(EntryType::Directory);
            header.set_mode(0o755);
            append_named(tar, &mut header, &[name, b"/"].concat(), io::empty()).map_err(output)
        }
        EntryKind::Link { target } => {
            header.set_entry_type(EntryType::Symlink);
            header.set_mode(0o777);
            let target = target.as_os_str().as_bytes();
            set_link(tar, &mut header, target).map_err(output)?;
            append_named(tar, &mut header, name, io::empty()).map_err(output)
        }
        EntryKind::File { source, size, mode } => {
            header.set_entry_type(EntryType::Regular);
            header.set_mode(*mode);
            header.set_size(*size);
            append_file(tar, &mut header, name, source, *size)
        }
    }
}

fn append_file<W: Write>(
    tar: &mut Builder<W>,
    header: &mut Header,
    name: &[u8],
    source: &Path,
    size: u64,
) -> Result<(), ContextError> {
    let (file, _) = tree::open_file(source, OFlags::NOFOLLOW)?;
    let mut content = file.take(size);
    append_named(tar, header, name, &mut content).map_err(output)?;
    if content.limit() == 0 { Ok(()) } else { Err(ContextError::Changed { path: source.into() }) }
}

fn append_named<W: Write>(
    tar: &mut Builder<W>,
    header: &mut Header,
    name: &[u8],
    content: impl io::Read,
) -> io::Result<()> {
    if name.len() > NAME_ROOM {
        append_long(tar, EntryType::GNULongName, name)?;
    }
    fill(&mut header.as_old_mut().name, name);
    header.set_cksum();
    tar.append(header, content)
}

fn set_link<W: Write>(tar: &mut Builder<W>, header: &mut Header, target: &[u8]) -> io::Result<()> {
    if target.len() > NAME_ROOM {
        append_long(tar, EntryType::GNULongLink, target)?;
    }
    fill(&mut header.as_old_mut().linkname, target);
    Ok(())
}

/// The GNU tar entry with a name that is too long for the next header.
fn append_long<W: Write>(tar: &mut Builder<W>, kind: EntryType, text: &[u8]) -> io::Result<()> {
    let terminated = [text, b"\0"].concat();
    let mut header = Header::new_gnu();
    fill(&mut header.as_old_mut().name, b"././@LongLink");
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(u64::try_from(terminated.len()).unwrap_or(u64::MAX));
    header.set_cksum();
    tar.append(&header, terminated.as_slice())
}

/// Copies as much of `text` as fits.
fn fill(room: &mut [u8], text: &[u8]) {
    for (to, from) in room.iter_mut().zip(text) {
        *to = *from;
    }
}

fn output(source: io::Error) -> ContextError {
    ContextError::Output { source }
}

/// Counts and hashes the bytes that pass through.
pub(super) struct Hashing<W> {
    out: W,
    hash: Sha256,
    bytes: u64,
}

impl<W> Hashing<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, hash: Sha256::new(), bytes: 0 }
    }

    /// The SHA-256 of these bytes, as lower-case hex digits.
    pub(super) fn digest(self) -> String {
        hex::encode(self.hash.finalize())
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let taken = self.out.write(buffer)?;
        self.hash.update(buffer.get(..taken).unwrap_or_default());
        self.bytes = self.bytes.saturating_add(u64::try_from(taken).unwrap_or(u64::MAX));
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
