//! The owner of the record's files. Root may use the record of a service that runs as another user, and must
//! not leave a file behind that the service cannot open.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, lchown};
use std::path::{Path, PathBuf};

use super::error::OpenError;

/// On drop, gives the files that were created meanwhile to the owner of the record's folder.
pub(super) struct OwnershipGuard {
    dir: PathBuf,
}

impl OwnershipGuard {
    /// Gives away the files created so far; the drop gives away the rest.
    pub(super) fn of(dir: &Path) -> Self {
        let owner = Self { dir: dir.to_owned() };
        owner.give();
        owner
    }

    fn give(&self) {
        if rustix::process::geteuid().is_root()
            && let Ok(folder) = fs::metadata(&self.dir)
        {
            for path in foreign(&self.dir, folder.uid()) {
                if let Err(error) = lchown(&path, Some(folder.uid()), Some(folder.gid())) {
                    let path = path.display();
                    tracing::warn!(%path, %error, "cannot change the owner of a file of the record");
                }
            }
        }
    }
}

impl Drop for OwnershipGuard {
    fn drop(&mut self) {
        self.give();
    }
}

/// Returns the same error, or, if the user may not use a file, an error that names the file and the remedy.
pub(super) fn explain(dir: &Path, error: OpenError) -> OpenError {
    let OpenError::Io { path, source, .. } = &error else { return error };
    if source.kind() != io::ErrorKind::PermissionDenied {
        return error;
    }
    let owner = fs::metadata(dir).map(|folder| folder.uid());
    let found = owner.ok().and_then(|owner| foreign(dir, owner).into_iter().next());
    OpenError::Denied { path: found.unwrap_or_else(|| path.clone()), dir: dir.to_owned() }
}

/// The files of the record that belong to another user, except for copies of repositories and logs.
fn foreign(dir: &Path, owner: u32) -> Vec<PathBuf> {
    let is_big = |name: &str| matches!(name, "mirrors" | "work" | "logs");
    let mut found = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            let is_record = folder != dir || !entry.file_name().to_str().is_some_and(is_big);
            if metadata.uid() != owner && is_record {
                found.push(entry.path());
            }
            if metadata.is_dir() && is_record {
                folders.push(entry.path());
            }
        }
    }
    found
}
