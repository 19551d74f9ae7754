//! Checks what a build step made: an empty or broken archive must not become an image.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use rustix::fs::OFlags;

use super::error::ContextError;
use super::pack::{Limits, Packing};
use super::tree;

/// How every gzip stream begins.
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];

/// The block of zeros that ends a tar, in bytes.
const END_BLOCK: u64 = 512;

/// Checks the file that a step made. Where its name ends in `.tar`, `.tar.gz` or `.tgz` it must be
/// a whole archive with at least one entry, unpacking to no more than the default [`Limits`]; as
/// with `ADD`, its content tells whether it is compressed. Any other file must not be empty.
///
/// # Errors
/// Where it is no regular file, empty, broken, cut off, or too much.
pub fn check_archive(path: &Path) -> Result<(), ContextError> {
    let (file, found) = tree::open_file(path, OFlags::NOFOLLOW)?;
    if found.len() == 0 {
        return Err(ContextError::Empty { path: path.into() });
    }
    if Packing::by_name(path)?.is_none() {
        return Ok(());
    }
    let mut archive = Watched { inner: unpacked(file).map_err(ContextError::read(path))?, zeros: 0 };
    let entries = read_through(&mut archive, Limits::default()).map_err(|e| broken(path, e))?;
    if archive.zeros < END_BLOCK {
        return Err(broken(path, io::ErrorKind::UnexpectedEof.into()));
    }
    if entries == 0 { Err(ContextError::EmptyArchive { path: path.into() }) } else { Ok(()) }
}

fn broken(path: &Path, source: io::Error) -> ContextError {
    ContextError::BrokenArchive { path: path.into(), source }
}

fn unpacked(file: File) -> io::Result<Box<dyn Read>> {
    let mut file = BufReader::with_capacity(1 << 16, file);
    if file.fill_buf()?.starts_with(GZIP_MAGIC) {
        return Ok(Box::new(MultiGzDecoder::new(file)));
    }
    Ok(Box::new(file))
}

/// Reads to the very end, not only to the tar's own: a checksum may come after it.
fn read_through(archive: &mut Watched, limits: Limits) -> io::Result<usize> {
    let mut bounded = archive.take(limits.bytes);
    let mut tar = tar::Archive::new(&mut bounded);
    let mut entries = 0;
    for entry in tar.entries()? {
        entry?;
        entries += 1;
        if entries > limits.files {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
    }
    io::copy(&mut bounded, &mut io::sink())?;
    if bounded.limit() == 0 { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(entries) }
}

/// Counts the zeros at the end of what was read: a tar that was cut off between two entries reads
/// as a whole one but for the zeros after the last.
struct Watched {
    inner: Box<dyn Read>,
    zeros: u64,
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let taken = self.inner.read(buffer)?;
        let bytes = buffer.get(..taken).unwrap_or_default();
        let trailing = bytes.iter().rev().take_while(|b| **b == 0).count();
        let before = if trailing == taken { self.zeros } else { 0 };
        self.zeros = before.saturating_add(u64::try_from(trailing).unwrap_or(u64::MAX));
        Ok(taken)
    }
}
