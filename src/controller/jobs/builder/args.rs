//! Build arguments that name the commit.

use crate::model::name::{BranchName, CommitId};
use crate::model::time::Timestamp;

/// The placeholder for the name of the branch.
pub(super) const BRANCH: &str = "{branch}";

/// The values of placeholders in arguments. Each belongs to a build's content like a file does: with an
/// argument that names the commit, every commit needs its own build.
pub(super) struct ArgValues<'a> {
    /// `{commit}`, and `{short_commit}`: its first twelve digits.
    pub(super) commit: &'a CommitId,
    /// `{branch}`.
    pub(super) branch: &'a BranchName,
    /// `{date}`: the time of the commit, in UTC.
    pub(super) time: Timestamp,
}

impl ArgValues<'_> {
    /// Replaces the placeholders in `text`. Other braces are unchanged.
    pub(super) fn fill(&self, text: &str) -> String {
        // The branch is replaced last, because its name may contain braces.
        text.replace("{commit}", self.commit.as_str())
            .replace("{short_commit}", self.commit.short())
            .replace("{date}", &self.date())
            .replace(BRANCH, self.branch.as_str())
    }

    /// Formats the time as `2026-11-28T23:30:00Z`, because commits have no fractions of a second.
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
    fn known_placeholders_are_substituted_and_other_braces_kept() {
        let (commit, branch) = (CommitId::new("a1".repeat(20)).unwrap(), BranchName::new("x/y").unwrap());
        let time = Timestamp::parse("2026-11-28T23:30:00Z").unwrap();
        let facts = ArgValues { commit: &commit, branch: &branch, time };
        let filled = facts.fill("{commit} {short_commit} {branch} {date} {\"a\": {b}}");
        let (full, short) = ("a1".repeat(20), "a1".repeat(6));
        assert_eq!(filled, format!("{full} {short} x/y 2026-11-28T23:30:00Z {{\"a\": {{b}}}}"));
    }
}
