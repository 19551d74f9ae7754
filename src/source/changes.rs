//! The paths that differ between two commits.

use std::ops::ControlFlow;
use std::time::Duration;

use super::error::SourceError;
use super::mirror::Mirror;
use crate::model::name::{BranchName, CommitId};

/// The maximum duration of a comparison. Two commits of one repository differ little.
const LONGEST: Duration = Duration::from_secs(30);

impl Mirror {
    /// Whether a path that `counts` differs between `from` and `to`, the head of `branch`. If the mirror no
    /// longer has `from`, every path counts as different.
    ///
    /// # Errors
    /// Returns the errors of [`Mirror::ensure`], and [`SourceError`] if the two cannot be compared.
    pub async fn touches(
        &self,
        from: &CommitId,
        to: &CommitId,
        branch: &BranchName,
        counts: impl Fn(&[u8]) -> bool + Send + Sync,
    ) -> Result<bool, SourceError> {
        let _turn = self.turn().await;
        self.bring_or_mend(to, Some(branch)).await?;
        let is_here = self.git("look up a commit").args(["cat-file", "-t", from.as_str()]).run().await?;
        if is_here.answer().is_none_or(|kind| kind != b"commit\n") {
            return Ok(true);
        }
        let (mut pending, mut touches) = (Vec::new(), false);
        let compare = self.git("compare two commits").within(LONGEST);
        let compare = compare.args(["diff-tree", "-r", "-z", "--name-only", "--no-renames", "--no-ext-diff"]);
        let compared = compare.args([from.as_str(), to.as_str()]).stream(|chunk| {
            pending.extend_from_slice(chunk);
            while let Some(end) = pending.iter().position(|byte| *byte == 0) {
                let path: Vec<u8> = pending.drain(..=end).take(end).collect();
                if counts(&path) {
                    touches = true;
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        });
        let compared = compared.await?;
        if touches { Ok(true) } else { compared.success().map(|_| false) }
    }
}
