//! The paths that differ between two commits.

use std::ops::ControlFlow;
use std::time::Duration;

use super::error::SourceError;
use super::mirror::GitMirror;
use crate::model::name::{BranchName, CommitId};

/// The maximum number of compared entries. Two commits that differ in more, even if only in empty
/// directories, count as different everywhere.
const MOST_ENTRIES: usize = 500_000;

/// The maximum duration of a comparison. Two commits of one repository differ little.
const LONGEST: Duration = Duration::from_secs(30);

impl GitMirror {
    /// Whether a path that `counts` differs between `from` and `to`, the head of `branch`. If the mirror no
    /// longer has `from`, every path counts as different.
    ///
    /// # Errors
    /// Returns the errors of [`GitMirror::ensure`], and [`SourceError`] if the two cannot be compared.
    pub async fn touches(
        &self,
        from: &CommitId,
        to: &CommitId,
        branch: &BranchName,
        counts: impl Fn(&[u8]) -> bool + Send + Sync,
    ) -> Result<bool, SourceError> {
        let _turn = self.turn().await;
        self.ensure_or_repair(to, Some(branch)).await?;
        let is_here = self.git("look up a commit").args(["cat-file", "-t", from.as_str()]).run().await?;
        if is_here.answer().is_none_or(|kind| kind != b"commit\n") {
            return Ok(true);
        }
        let mut differences = Differences::new(counts);
        let compare = self.git("compare two commits").within(LONGEST);
        let compare = compare.args(["diff-tree", "-r", "-t", "-z", "--raw", "--no-renames", "--no-ext-diff"]);
        let compared = compare.args([from.as_str(), to.as_str()]).stream(|chunk| differences.take(chunk));
        let compared = compared.await?;
        if differences.touches { Ok(true) } else { compared.success().map(|_| false) }
    }
}

/// Reads the output of `git diff-tree -r -t -z --raw` as it comes: facts and a path in turn.
struct Differences<C> {
    counts: C,
    pending: Vec<u8>,
    entries: usize,
    /// Whether the path that comes next is one of a directory; `None`: facts come next.
    is_directory: Option<bool>,
    touches: bool,
}

impl<C: Fn(&[u8]) -> bool> Differences<C> {
    fn new(counts: C) -> Self {
        Self { counts, pending: Vec::new(), entries: 0, is_directory: None, touches: false }
    }

    /// Takes a piece of the output. After `Break` the two commits differ.
    fn take(&mut self, chunk: &[u8]) -> ControlFlow<()> {
        let mut pieces = chunk.split(|byte| *byte == 0);
        let last = pieces.next_back().unwrap_or_default();
        for piece in pieces {
            self.pending.extend_from_slice(piece);
            let text = std::mem::take(&mut self.pending);
            self.judge(&text);
            if self.touches {
                return ControlFlow::Break(());
            }
        }
        self.pending.extend_from_slice(last);
        ControlFlow::Continue(())
    }

    fn judge(&mut self, text: &[u8]) {
        match self.is_directory.take() {
            None => {
                self.entries += 1;
                self.touches = self.entries > MOST_ENTRIES;
                self.is_directory = Some(is_of_directories(text));
            }
            Some(true) => {}
            Some(false) => self.touches = (self.counts)(text),
        }
    }
}

/// Whether facts such as `:040000 000000 ...` are of a directory, and of no file on either side.
fn is_of_directories(facts: &[u8]) -> bool {
    let mut modes = facts.strip_prefix(b":").unwrap_or(facts).split(|byte| *byte == b' ').take(2);
    modes.all(|mode| mode == b"040000" || mode == b"000000")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTS: [(&str, &str); 4] = [
        (":040000 040000 1 2 M", "a"),
        (":000000 040000 0 2 A", "a/b"),
        (":100644 000000 1 0 D", "a/x"),
        (":040000 100644 1 2 T", "a/y"),
    ];

    fn paths(piece: usize) -> Vec<String> {
        let output: String = FACTS.iter().map(|(facts, path)| format!("{facts}\0{path}\0")).collect();
        let seen = std::cell::RefCell::new(Vec::new());
        let mut differences = Differences::new(|path: &[u8]| {
            seen.borrow_mut().push(String::from_utf8_lossy(path).into_owned());
            false
        });
        for chunk in output.as_bytes().chunks(piece) {
            assert!(differences.take(chunk).is_continue());
        }
        seen.into_inner()
    }

    #[test]
    fn directories_are_not_reported_as_changed_paths() {
        for piece in [1, 5, 1000] {
            assert_eq!(paths(piece), ["a/x", "a/y"]);
        }
    }

    #[test]
    fn too_many_differences_count_as_a_difference_everywhere() {
        let mut differences = Differences::new(|_: &[u8]| false);
        let entry = b":040000 040000 1 2 M\0a\0";
        let taken = (0..=MOST_ENTRIES).take_while(|_| differences.take(entry).is_continue()).count();
        assert_eq!((taken, differences.touches), (MOST_ENTRIES, true));
    }
}
