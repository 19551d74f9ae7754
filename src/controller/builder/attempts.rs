//! Records build attempts in progress on disk. If a build kills the daemon itself, the next daemon recognizes
//! it by them.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use tracing::warn;

use crate::model::build::BuildKey;

/// A build is not attempted again after it killed this many daemons.
const MOST_ENDS: u32 = 2;
/// The number of attempts to keep on disk. Older ones belong to obsolete builds.
const KEPT: usize = 64;

/// The folder of the recorded attempts.
pub(super) struct Attempts {
    pub(super) dir: PathBuf,
}

/// An attempt in progress. Its file is removed on drop: an attempt that ends within this process, with
/// whatever result, did not kill it.
pub(super) struct Attempt {
    path: PathBuf,
    ends: u32,
}

/// Attempts that killed their daemons.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) count: u32,
    /// The step of the last such attempt.
    pub(super) step: String,
}

impl fmt::Display for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let step =
            if self.step.is_empty() { String::new() } else { format!(", most recently while {}", self.step) };
        write!(
            f,
            "abide was killed {} times during this build{step}; a new commit or `abide sync` retries it",
            self.count
        )
    }
}

impl Attempts {
    /// Records that a build of these inputs begins. The attempt continues even if this cannot be written.
    ///
    /// # Errors
    /// Returns the earlier attempts if they are too many. They are then forgotten, because the failure is
    /// recorded, and a user who requests another attempt gets it.
    pub(super) fn begin(&self, key: &BuildKey) -> Result<Attempt, Ends> {
        let path = self.dir.join(&key.0);
        let (ends, step) = read(&path);
        if ends >= MOST_ENDS {
            remove(&path);
            return Err(Ends { count: ends, step });
        }
        if let Err(error) = self.make_room() {
            warn!(%error, "cannot record build attempts");
        }
        let attempt = Attempt { path, ends };
        attempt.note("");
        Ok(attempt)
    }

    fn make_room(&self) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        let mut notes = Vec::new();
        for note in fs::read_dir(&self.dir)? {
            let note = note?;
            notes.push((note.metadata()?.modified()?, note.path()));
        }
        notes.sort();
        for (_, path) in notes.iter().rev().skip(KEPT) {
            fs::remove_file(path)?;
        }
        Ok(())
    }
}

impl Attempt {
    /// Records the current step. The number in front already counts this attempt as one that killed its
    /// daemon, which is true unless the file is removed.
    pub(super) fn note(&self, step: &str) {
        // A lost note only allows one more attempt.
        let _ = fs::write(&self.path, format!("{}\n{step}\n", self.ends + 1));
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

fn read(path: &Path) -> (u32, String) {
    let text = fs::read_to_string(path).unwrap_or_default();
    let mut lines = text.lines();
    let ends = lines.next().and_then(|count| count.parse().ok()).unwrap_or(0);
    (ends, lines.next().unwrap_or_default().to_owned())
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        warn!(%error, path = %path.display(), "cannot remove the record of a build attempt");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_that_ended_two_daemons_is_not_tried_a_third_time_until_someone_asks() {
        let dir = tempfile::tempdir().unwrap();
        let attempts = Attempts { dir: dir.path().join("attempts") };
        let [key, other] = ["a", "b"].map(|key| BuildKey(key.to_owned()));
        for _ in 0..5 {
            // An attempt that ends normally does not count.
            drop(attempts.begin(&key).ok().unwrap());
        }
        for _ in 0..2 {
            let attempt = attempts.begin(&key).ok().unwrap();
            attempt.note("step 1: checking");
            std::mem::forget(attempt);
        }
        let ends = Ends { count: 2, step: "step 1: checking".to_owned() };
        assert_eq!(attempts.begin(&key).err(), Some(ends));
        assert!(attempts.begin(&other).is_ok() && attempts.begin(&key).is_ok());
    }

    #[test]
    fn notes_of_builds_that_nobody_wants_go() {
        let dir = tempfile::tempdir().unwrap();
        let attempts = Attempts { dir: dir.path().to_owned() };
        for number in 0..KEPT + 10 {
            std::mem::forget(attempts.begin(&BuildKey(number.to_string())).ok().unwrap());
        }
        assert!(fs::read_dir(dir.path()).unwrap().count() <= KEPT + 1);
    }
}
