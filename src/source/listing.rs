//! The listing of a commit's tree, checked against the limits before anything is written.

use std::ops::ControlFlow;

use super::commit::shown;
use super::error::SourceError;
use super::submodules::Gitlink;
use crate::model::name::CommitId;

/// The maximum size of a tree. A few kilobytes of packed objects can describe a billion files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeLimits {
    /// Files, links and submodules (default 200,000).
    pub files: u64,
    /// Directories (default 200,000). Git walks those that hold nothing as well.
    pub directories: u64,
    /// Bytes of all files together (default 4 GiB).
    pub bytes: u64,
    /// Nested directories (default 128).
    pub depth: usize,
}

impl Default for TreeLimits {
    fn default() -> Self {
        Self { files: 200_000, directories: 200_000, bytes: 4 << 30, depth: 128 }
    }
}

/// The longest path on Linux, including the final NUL.
const PATH_MAX: usize = 4096;

/// The longest name on nearly every Linux file system.
const NAME_MAX: usize = 255;

/// The reason why a tree is rejected.
#[derive(Debug, PartialEq, Eq)]
enum TreeRejection {
    TooLarge(u64, &'static str),
    Unusable(String, &'static str),
}

/// Parses the output of `git ls-tree -r -t -l -z` as it arrives.
#[derive(Debug)]
pub(super) struct TreeListing {
    limits: TreeLimits,
    /// The length in bytes of the path of the target directory.
    prefix: usize,
    pending: Vec<u8>,
    files: u64,
    directories: u64,
    bytes: u64,
    verdict: Option<TreeRejection>,
    /// Submodules: commits of other repositories.
    pub(super) gitlinks: Vec<Gitlink>,
}

impl TreeListing {
    pub(super) fn new(limits: TreeLimits, prefix: usize) -> Self {
        let (pending, gitlinks) = (Vec::new(), Vec::new());
        Self { limits, prefix, pending, files: 0, directories: 0, bytes: 0, verdict: None, gitlinks }
    }

    /// Parses a piece of the output. `Break` means that the result is known and no more input is needed.
    pub(super) fn take(&mut self, chunk: &[u8]) -> ControlFlow<()> {
        let mut pieces = chunk.split(|b| *b == 0);
        let last = pieces.next_back().unwrap_or_default();
        for piece in pieces {
            self.pending.extend_from_slice(piece);
            let entry = std::mem::take(&mut self.pending);
            self.verdict = self.judge(&entry);
            if self.verdict.is_some() {
                return ControlFlow::Break(());
            }
        }
        self.pending.extend_from_slice(last);
        // Git accepts paths of any length, so an entry without an end must be bounded.
        if self.pending.len() > 16 * PATH_MAX {
            self.verdict = Some(unusable(&self.pending, "is too long for this host"));
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    /// The rejection, if there was one.
    pub(super) fn verdict(self, commit: &CommitId) -> Result<(), SourceError> {
        let commit = commit.clone();
        match self.verdict {
            None => Ok(()),
            Some(TreeRejection::TooLarge(limit, what)) => Err(SourceError::TooLarge { commit, limit, what }),
            Some(TreeRejection::Unusable(path, rule)) => Err(SourceError::Unusable { commit, path, rule }),
        }
    }

    /// Checks one entry: `mode SP type SP object SP+ size TAB path`.
    fn judge(&mut self, entry: &[u8]) -> Option<TreeRejection> {
        let tab = entry.iter().position(|b| *b == b'\t')?;
        let (facts, path) = (&entry[..tab], &entry[tab + 1..]);
        let mut facts = facts.split(|b| *b == b' ').filter(|fact| !fact.is_empty());
        let mode = facts.next();
        if mode == Some(b"040000") {
            self.directories += 1;
            return match self.directories > self.limits.directories {
                true => Some(TreeRejection::TooLarge(self.limits.directories, "directories")),
                false => self.judge_path(path),
            };
        }
        let is_link = mode == Some(b"120000");
        let object = facts.nth(1);
        if mode == Some(b"160000") {
            self.gitlinks.extend(object.and_then(|object| Gitlink::parse(path, object)));
        }
        let size =
            facts.next().and_then(|size| std::str::from_utf8(size).ok()?.parse().ok()).unwrap_or(0_u64);
        self.files += 1;
        self.bytes = self.bytes.saturating_add(size);
        if self.files > self.limits.files {
            return Some(TreeRejection::TooLarge(self.limits.files, "files"));
        }
        if self.bytes > self.limits.bytes {
            return Some(TreeRejection::TooLarge(self.limits.bytes, "bytes"));
        }
        if is_link && !(1..PATH_MAX as u64).contains(&size) {
            return Some(unusable(path, "is a link whose target is empty or too long for this host"));
        }
        self.judge_path(path)
    }

    fn judge_path(&self, path: &[u8]) -> Option<TreeRejection> {
        let mut depth = 0;
        for name in path.split(|b| *b == b'/') {
            depth += 1;
            if name.is_empty() || name == b"." || name == b".." || name.eq_ignore_ascii_case(b".git") {
                return Some(unusable(path, "could write outside its own tree"));
            }
            if name.len() > NAME_MAX {
                return Some(unusable(path, "has a name too long for this host"));
            }
        }
        if depth > self.limits.depth {
            return Some(TreeRejection::TooLarge(self.limits.depth as u64, "directories one within another"));
        }
        // Plus one for the slash between the two.
        (self.prefix + 1 + path.len() >= PATH_MAX).then(|| unusable(path, "is too long for this host"))
    }
}

fn unusable(path: &[u8], rule: &'static str) -> TreeRejection {
    TreeRejection::Unusable(shown(&String::from_utf8_lossy(path)), rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(mode: &str, size: &str, path: &str) -> String {
        format!("{mode} blob {} {size:>7}\t{path}\0", "a".repeat(40))
    }

    fn judged(limits: TreeLimits, listing: &str, piece: usize) -> Option<TreeRejection> {
        let mut read = TreeListing::new(limits, 20);
        for chunk in listing.as_bytes().chunks(piece) {
            if read.take(chunk).is_break() {
                break;
            }
        }
        read.verdict
    }

    #[test]
    fn a_tree_listing_is_checked_alike_in_any_chunks() {
        let listing =
            entry("100644", "5", "a\nb") + &entry("160000", "-", "sub") + &entry("100755", "6", "c");
        let limits = TreeLimits { files: 3, directories: 0, bytes: 11, depth: 1 };
        for piece in 1..listing.len() {
            assert_eq!(judged(limits, &listing, piece), None);
            let less = TreeLimits { bytes: 10, ..limits };
            assert_eq!(judged(less, &listing, piece), Some(TreeRejection::TooLarge(10, "bytes")));
            let fewer = TreeLimits { files: 2, ..limits };
            assert_eq!(judged(fewer, &listing, piece), Some(TreeRejection::TooLarge(2, "files")));
        }
    }

    #[test]
    fn empty_directories_are_counted_and_limited() {
        let listing =
            entry("040000", "-", "a") + &entry("040000", "-", "a/b") + &entry("100644", "5", "a/b/c");
        let limits = TreeLimits { files: 1, directories: 2, bytes: 5, depth: 3 };
        for piece in [1, 7, listing.len()] {
            assert_eq!(judged(limits, &listing, piece), None);
            let fewer = TreeLimits { directories: 1, ..limits };
            assert_eq!(judged(fewer, &listing, piece), Some(TreeRejection::TooLarge(1, "directories")));
        }
        assert!(judged(limits, &entry("040000", "-", "a/../b"), 64).is_some());
    }

    #[test]
    fn paths_outside_the_tree_and_overlong_paths_are_rejected() {
        let long = "n".repeat(256);
        let far = "abcdefgh/".repeat(460) + "x";
        let deep = "d/".repeat(200) + "x";
        for path in ["../x", "a/../../b", "a//b", "/x", ".git/config", "sub/.GIT/hooks/x", &long, &far, &deep]
        {
            let limits = TreeLimits { depth: if path == far { 1000 } else { 128 }, ..TreeLimits::default() };
            assert!(judged(limits, &entry("100644", "1", path), 4096).is_some(), "{path}");
        }
        for path in [".gitignore", ".github/x", "a..b", "...", "git"] {
            assert_eq!(judged(TreeLimits::default(), &entry("100644", "1", path), 4096), None);
        }
    }

    #[test]
    fn a_link_needs_a_target_that_fits() {
        for (size, fits) in [("0", false), ("1", true), ("4095", true), ("4096", false)] {
            assert_eq!(
                judged(TreeLimits::default(), &entry("120000", size, "l"), 64).is_none(),
                fits,
                "{size}"
            );
        }
    }
}
