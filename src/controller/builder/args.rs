//! Build arguments that name the commit.

use crate::model::name::{BranchName, CommitId};
use crate::model::time::Timestamp;

/// Stands for the name of the branch.
pub(super) const BRANCH: &str = "{branch}";

/// What arguments may name. Each is as much a part of a build's content as a file: an argument that
/// names the commit makes every commit a build of its own.
pub(super) struct Facts<'a> {
    /// `{commit}`, and `{short_commit}`: its first twelve digits.
    pub(super) commit: &'a CommitId,
    /// `{branch}`.
    pub(super) branch: &'a BranchName,
    /// `{date}`: when the commit was made, in UTC.
    pub(super) time: Timestamp,
}

impl Facts<'_> {
    /// Fills in what `text` names. Other braces stay as they are.
    pub(super) fn fill(&self, text: &str) -> String {
        // The branch last: its name may have braces of its own.
        text.replace("{commit}", self.commit.as_str())
            .replace("{short_commit}", self.commit.short())
            .replace("{date}", &self.date())
            .replace(BRANCH, self.branch.as_str())
    }

    /// `2026-11-28T23:30:00Z`: commits know no fractions of a second.
    fn date(&self) -> String {
        let text = self.time.to_string();
        let (seconds, _) = text.split_once('.').unwrap_or((text.trim_end_matches('Z'), ""));
        format!("{seconds}Z")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_is_filled_in_and_other_braces_stay() {
        let (commit, branch) = (CommitId::new("a1".repeat(20)).unwrap(), BranchName::new("x/y").unwrap());
        let time = Timestamp::parse("2026-11-28T23:30:00Z").unwrap();
        let facts = Facts { commit: &commit, branch: &branch, time };
        let filled = facts.fill("{commit} {short_commit} {branch} {date} {\"a\": {b}}");
        let (whole, short) = ("a1".repeat(20), "a1".repeat(6));
        assert_eq!(filled, format!("{whole} {short} x/y 2026-11-28T23:30:00Z {{\"a\": {{b}}}}"));
    }
}
