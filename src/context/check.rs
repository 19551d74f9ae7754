//! Checks the output of a build step: an empty or broken archive must not become an image.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use rustix::fs::OFlags;

use super::archive;
use super::error::ContextError;
use super::pack::{PackLimits, Packing};
use super::tree;

/// The first bytes of every gzip stream.
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];

/// The length in bytes of the block of zeros that ends a tar.
const END_BLOCK: u64 = 512;

/// Checks the output file of a step. If its name ends in `.tar`, `.tar.gz` or `.tgz`, it must be a complete
/// archive with at least one entry, and unpack to no more than the default [`PackLimits`]. As with `ADD`, its
/// content decides whether it is compressed. Any other file must not be empty.
///
/// # Errors
/// Returns an error if it is not a regular file, or is empty, broken, truncated, or too large.
pub fn check_archive(path: &Path) -> Result<(), ContextError> {
    let (file, found) = tree::open_file(path, OFlags::NOFOLLOW)?;
    if found.len() == 0 {
        return Err(ContextError::Empty { path: path.into() });
    }
    if Packing::by_name(path)?.is_none() {
        return Ok(());
    }
    let mut archive = ZeroCounter { inner: unpacked(file).map_err(ContextError::read(path))?, zeros: 0 };
    let entries = read_through(&mut archive, PackLimits::default()).map_err(|e| broken(path, e))?;
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

/// Reads to the end of the file and not only of the tar: a checksum may follow.
fn read_through(archive: &mut ZeroCounter, limits: PackLimits) -> io::Result<usize> {
    let mut bounded = archive.take(limits.bytes);
    let entries = archive::count_entries(&mut bounded, limits.files)?;
    io::copy(&mut bounded, &mut io::sink())?;
    if bounded.limit() == 0 { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(entries) }
}

/// Counts the zeros at the end of the input. A tar that was truncated between two entries only lacks these
/// zeros.
struct ZeroCounter {
    inner: Box<dyn Read>,
    zeros: u64,
}

impl Read for ZeroCounter {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let taken = self.inner.read(buffer)?;
        let bytes = buffer.get(..taken).unwrap_or_default();
        let trailing = bytes.iter().rev().take_while(|b| **b == 0).count();
        let before = if trailing == taken { self.zeros } else { 0 };
        self.zeros = before.saturating_add(u64::try_from(trailing).unwrap_or(u64::MAX));
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::path::PathBuf;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use tempfile::TempDir;

    use super::*;

    fn tar(names: &[&str]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for name in names {
            let mut header = tar::Header::new_gnu();
            header.set_size(1000);
            tar.append_data(&mut header, name, [7; 1000].as_slice()).unwrap();
        }
        tar.into_inner().unwrap()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(bytes).unwrap();
        gzip.finish().unwrap()
    }

    fn file(name: &str, content: &[u8]) -> (TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(name);
        fs::write(&path, content).unwrap();
        (directory, path)
    }

    fn check(name: &str, content: &[u8]) -> Result<(), ContextError> {
        let (_directory, path) = file(name, content);
        check_archive(&path)
    }

    #[test]
    fn an_archive_passes_regardless_of_its_extension() {
        let plain = tar(&["a", "b"]);
        for name in ["x.tar", "x.tar.gz", "x.tgz"] {
            check(name, &plain).unwrap();
            check(name, &gzip(&plain)).unwrap();
        }
    }

    #[test]
    fn an_empty_output_fails_under_any_name() {
        for name in ["x.tar", "x.tar.gz", "x.bin"] {
            assert!(matches!(check(name, b""), Err(ContextError::Empty { .. })), "{name}");
        }
        check("x.bin", b"anything").unwrap();
    }

    #[test]
    fn an_archive_without_entries_fails() {
        assert!(matches!(check("x.tar", &tar(&[])), Err(ContextError::EmptyArchive { .. })));
        assert!(matches!(check("x.tgz", &gzip(&tar(&[]))), Err(ContextError::EmptyArchive { .. })));
    }

    #[test]
    fn a_file_that_is_not_an_archive_fails() {
        for content in [b"npm ERR! missing script".to_vec(), gzip(b"text"), gzip(b""), vec![b'x'; 4096]] {
            assert!(matches!(check("x.tar.gz", &content), Err(ContextError::BrokenArchive { .. })));
        }
    }

    #[test]
    fn a_truncated_archive_fails() {
        let plain = tar(&["a", "b"]);
        // Up to the final two blocks of zeros; one of them is enough.
        for length in (1..=plain.len() - 1024).step_by(64) {
            assert!(check("x.tar", &plain[..length]).is_err(), "{length}");
        }
        let packed = gzip(&plain);
        for length in 1..packed.len() {
            assert!(check("x.tar.gz", &packed[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn a_changed_byte_in_a_compressed_archive_is_noticed() {
        let mut packed = gzip(&tar(&["a"]));
        let checksum = packed.len() - 8;
        packed[checksum] ^= 1;
        assert!(matches!(check("x.tar.gz", &packed), Err(ContextError::BrokenArchive { .. })));
    }

    #[test]
    fn an_output_must_be_a_regular_file() {
        let (directory, path) = file("real.tar", &tar(&["a"]));
        let link = directory.path().join("x.tar");
        std::os::unix::fs::symlink(path, &link).unwrap();
        assert!(check_archive(&link).is_err());
        assert!(matches!(check_archive(directory.path()), Err(ContextError::NotAFile { .. })));
    }
}
