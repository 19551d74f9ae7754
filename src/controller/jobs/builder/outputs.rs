//! The outputs of build steps, cached by the key of their inputs. A build that was interrupted, or that
//! differs elsewhere, reuses them. Losing the cache only costs time.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tracing::warn;

use crate::model::build::BuildKey;

/// The number of files to keep.
const KEPT: usize = 32;
/// The limit for all files together, in bytes.
const KEPT_BYTES: u64 = 8 << 30;

/// The folder of the cache.
pub(super) struct Outputs {
    pub(super) dir: PathBuf,
}

impl Outputs {
    /// Copies the output for these inputs to `to`. Returns `false` if the cache has none.
    pub(super) fn take(&self, key: &BuildKey, to: &Path) -> bool {
        let kept = self.dir.join(&key.0);
        let is_taken = fs::hard_link(&kept, to).or_else(|_| fs::copy(&kept, to).map(drop)).is_ok();
        if is_taken && let Ok(file) = fs::File::open(&kept) {
            // The least recently used files are removed first.
            let _ = file.set_modified(SystemTime::now());
        }
        is_taken
    }

    /// Caches the output for these inputs, and removes files beyond the limits. If a file cannot be cached,
    /// the next build makes it again.
    pub(super) fn keep(&self, key: &BuildKey, made: &Path) {
        if let Err(error) = self.try_keep(key, made) {
            warn!(%error, "cannot store the output of a build step");
        }
    }

    fn try_keep(&self, key: &BuildKey, made: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        let place = self.dir.join(&key.0);
        // If two builds have the same inputs, the first one counts.
        match fs::hard_link(made, &place) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        self.prune(KEPT, KEPT_BYTES)
    }

    fn prune(&self, files: usize, bytes: u64) -> io::Result<()> {
        let mut kept = Vec::new();
        for file in fs::read_dir(&self.dir)? {
            let file = file?;
            let found = file.metadata()?;
            kept.push((found.modified()?, found.len(), file.path()));
        }
        kept.sort();
        let (mut count, mut total) = (0, 0_u64);
        for (_, length, path) in kept.into_iter().rev() {
            (count, total) = (count + 1, total.saturating_add(length));
            if count > files || total > bytes {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_output_is_evicted_first() {
        let dir = tempfile::tempdir().unwrap();
        let outputs = Outputs { dir: dir.path().join("outputs") };
        let key = |name: &str| BuildKey(name.to_owned());
        for (seconds, name) in ["a", "b", "c"].into_iter().enumerate() {
            let made = dir.path().join(name);
            fs::write(&made, name).unwrap();
            let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds as u64);
            fs::File::open(&made).unwrap().set_modified(at).unwrap();
            outputs.keep(&key(name), &made);
        }
        assert!(outputs.take(&key("a"), &dir.path().join("taken")));
        assert_eq!(fs::read_to_string(dir.path().join("taken")).unwrap(), "a");
        outputs.prune(2, 100).unwrap();
        let kept = |name| outputs.dir.join(name).exists();
        assert!(kept("a") && !kept("b") && kept("c"));
        outputs.prune(2, 1).unwrap();
        assert!(kept("a") && !kept("c"));
        assert!(!outputs.take(&key("b"), &dir.path().join("none")));
    }
}
