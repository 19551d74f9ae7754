//! Writes files in abide's own folders. Such a folder may come from a checkout, an archive or an earlier owner, so it
//! may have a symbolic link at the place of a file that root is about to write. These functions follow no link there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

/// The mode of a file that only its owner can read.
pub(crate) const PRIVATE: u32 = 0o600;
/// The mode of a file that every user of this host can read.
pub(crate) const SHARED: u32 = 0o644;

/// Replaces a file atomically: a crash leaves the old content or the new one. It is on disk when this returns.
///
/// # Errors
/// The file cannot be written; it is unchanged then.
pub(crate) fn replace(path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    let mut draft = DraftFile::create(path, mode)?;
    draft.file.write_all(content)?;
    draft.commit()
}

/// As [`replace`], but without waiting for the disk. For files that the next start writes again.
///
/// # Errors
/// The file cannot be written; it is unchanged then.
pub(crate) fn replace_unsynced(path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    let mut draft = DraftFile::create(path, mode)?;
    draft.file.write_all(content)?;
    draft.rename()
}

/// The new content of a file, beside it until [`DraftFile::commit`]. A crash may leave the draft; the next one replaces
/// it.
#[derive(Debug)]
pub(crate) struct DraftFile {
    /// The file, open for writing.
    pub(crate) file: File,
    draft: PathBuf,
    path: PathBuf,
}

impl DraftFile {
    /// Begins the new content of `path`.
    ///
    /// # Errors
    /// The draft cannot be created.
    pub(crate) fn create(path: &Path, mode: u32) -> io::Result<Self> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        // Hidden, because some folders are read as a whole.
        let draft = path.with_file_name(format!(".{}.new", name.to_string_lossy()));
        Ok(Self { file: create(&draft, mode)?, draft, path: path.to_owned() })
    }

    /// Puts the content in the file's place. Both are on disk when this returns.
    ///
    /// # Errors
    /// The content or the folder cannot be written.
    pub(crate) fn commit(self) -> io::Result<()> {
        self.file.sync_all()?;
        let folder = folder_of(&self.path).to_owned();
        self.rename()?;
        File::open(folder)?.sync_all()
    }

    fn rename(self) -> io::Result<()> {
        fs::rename(&self.draft, &self.path)
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Creates an empty file for writing, in place of the file or link that is there.
///
/// # Errors
/// The present file cannot be removed, or the new one cannot be created.
pub(crate) fn create(path: &Path, mode: u32) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // With `create_new`, open(2) follows no link.
    OpenOptions::new().write(true).create_new(true).mode(mode).open(path)
}

/// Opens a file with `options`, unless it is a symbolic link.
///
/// # Errors
/// The file cannot be opened; the error names a link as the cause.
pub(crate) fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let opened = options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed()).open(path);
    opened.map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::LOOP) => link_error(),
        _ => error,
    })
}

/// Rejects a symbolic link, for files that a library opens. A missing file is accepted.
///
/// # Errors
/// It is a link, or cannot be inspected.
pub(crate) fn reject_link(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_symlink() => Err(link_error()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn link_error() -> io::Error {
    io::Error::other("it is a symbolic link, which abide does not follow: remove the link")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    /// A folder with the file `victim`, and a link to it at each of the given names.
    fn folder(links: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("victim"), "unchanged").unwrap();
        for link in links {
            symlink("victim", dir.path().join(link)).unwrap();
        }
        dir
    }

    fn read(dir: &tempfile::TempDir, name: &str) -> String {
        fs::read_to_string(dir.path().join(name)).unwrap()
    }

    #[test]
    fn replacing_a_file_follows_no_link_and_keeps_the_mode() {
        for write in [replace, replace_unsynced] {
            let dir = folder(&["file", ".file.new"]);
            let path = dir.path().join("file");
            write(&path, PRIVATE, b"one").unwrap();
            write(&path, PRIVATE, b"two").unwrap();
            assert_eq!((read(&dir, "file"), read(&dir, "victim")), ("two".into(), "unchanged".into()));
            let found = fs::symlink_metadata(&path).unwrap();
            assert_eq!((found.is_file(), found.permissions().mode() & 0o777), (true, 0o600));
            assert!(fs::symlink_metadata(dir.path().join(".file.new")).is_err());
        }
    }

    #[test]
    fn a_stale_draft_is_replaced() {
        let dir = folder(&[]);
        fs::write(dir.path().join(".file.new"), "a longer text that a crash has left").unwrap();
        replace(&dir.path().join("file"), SHARED, b"new").unwrap();
        assert_eq!(read(&dir, "file"), "new");
    }

    #[test]
    fn creating_a_file_removes_a_link() {
        let dir = folder(&["file"]);
        create(&dir.path().join("file"), PRIVATE).unwrap().write_all(b"new").unwrap();
        assert_eq!((read(&dir, "file"), read(&dir, "victim")), ("new".into(), "unchanged".into()));
    }

    #[test]
    fn opening_a_link_fails_and_names_the_cause() {
        let dir = folder(&["link"]);
        fs::remove_file(dir.path().join("victim")).unwrap();
        let link = dir.path().join("link");
        let ways: [fn(&mut OpenOptions) -> &mut OpenOptions; 2] =
            [|options| options.append(true), |options| options.write(true).create(true)];
        for way in ways {
            let error = open(&link, way(&mut OpenOptions::new())).unwrap_err();
            assert!(error.to_string().contains("symbolic link"), "{error}");
        }
        assert!(!dir.path().join("victim").exists());
        assert!(reject_link(&link).is_err());
        reject_link(&dir.path().join("victim")).unwrap();
        assert!(open(&dir.path().join("file"), OpenOptions::new().write(true).create(true)).is_ok());
    }
}
