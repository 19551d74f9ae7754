//! The hashes of overlay files, which every pass needs. A file is read again only after it changed.

use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::context::{ContextError, tree};
use crate::model::spec::Overlay;

/// A file that changed less than this ago may change again without a new timestamp, because clocks of file
/// systems are that coarse.
const SETTLED: Duration = Duration::from_secs(2);

/// Identifies a state of a file without reading its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OverlayStamp {
    inode: (u64, u64),
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Hashes of overlay files, by path. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Overlays {
    known: Arc<Mutex<HashMap<PathBuf, (OverlayStamp, String)>>>,
}

impl Overlays {
    /// Returns the SHA-256 of each overlay's content, in the given order.
    ///
    /// # Errors
    /// Returns an error if an overlay is not a regular file or cannot be read.
    pub(super) fn fingerprints(&self, overlays: &[Overlay]) -> Result<Vec<String>, ContextError> {
        overlays.iter().map(|overlay| self.fingerprint(&overlay.from)).collect()
    }

    fn fingerprint(&self, path: &Path) -> Result<String, ContextError> {
        let stamp = std::fs::metadata(path).ok().as_ref().map(stamp);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(stamp), Some((before, hash))) = (stamp, known.get(path))
            && stamp == *before
        {
            return Ok(hash.clone());
        }
        let hash = tree::fingerprint(path)?;
        match stamp.filter(is_settled) {
            Some(stamp) => known.insert(path.to_owned(), (stamp, hash.clone())),
            None => known.remove(path),
        };
        Ok(hash)
    }
}

fn stamp(found: &Metadata) -> OverlayStamp {
    OverlayStamp {
        inode: (found.dev(), found.ino()),
        length: found.len(),
        modified: (found.mtime(), found.mtime_nsec()),
        changed: (found.ctime(), found.ctime_nsec()),
    }
}

fn is_settled(stamp: &OverlayStamp) -> bool {
    let changed = u64::try_from(stamp.changed.0).unwrap_or(0);
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    now.saturating_sub(Duration::from_secs(changed)) > SETTLED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_overlay_is_read_again_and_a_missing_one_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("config");
        let overlays = [Overlay { from: from.clone(), to: "config".to_owned() }];
        let known = Overlays::default();
        std::fs::write(&from, "one").unwrap();
        let first = known.fingerprints(&overlays).unwrap();
        assert_eq!(known.fingerprints(&overlays).unwrap(), first);
        std::fs::write(&from, "two").unwrap();
        assert_ne!(known.fingerprints(&overlays).unwrap(), first);
        std::fs::remove_file(&from).unwrap();
        assert!(known.fingerprints(&overlays).is_err());
    }
}
