//! The checks of a commit: what must be green before it is deployed, and what the forge reports.

use serde::{Deserialize, Serialize};

use super::forge::ForgeSpec;
use super::name::{BranchName, CommitId};
use super::outbox::commit::CommitState;
use super::time::Timestamp;

/// The checks that a commit needs before an environment deploys it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum NeededChecks {
    /// Those that the forge requires for the branch; if it requires none, all that the commit has.
    OfBranch,
    /// These, by name.
    Named(Vec<String>),
}

/// A question for the checks of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChecksQuery {
    /// The forge.
    pub forge: ForgeSpec,
    /// The branch that the commit is on.
    pub branch: BranchName,
    /// The commit.
    pub commit: CommitId,
    /// Whether the checks that the forge requires for the branch are asked for too. Tokens may lack the permission.
    pub with_required: bool,
}

/// The checks of a commit, as the forge reports them, without those of abide itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommitChecks {
    /// Every check, the newest run of each.
    pub found: Vec<FoundCheck>,
    /// The checks that the forge requires for the branch; empty: it requires none, or does not show which.
    pub required: Vec<RequiredCheck>,
}

/// A check of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundCheck {
    /// Its name: a status context, the name of a check run or job, or a key.
    pub name: String,
    /// Its result.
    pub result: CheckResult,
    /// Another name that people know it by.
    pub alias: Option<String>,
    /// The app that reports it, if the forge names one.
    pub app: Option<u64>,
}

/// A check that the forge requires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequiredCheck {
    /// Its name. `*` stands for any characters.
    pub name: String,
    /// The app that must report it, if the forge pins one.
    pub app: Option<u64>,
}

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckResult {
    /// It has not ended.
    Pending,
    /// It passed.
    Passed,
    /// It did not run, and forges count that as passed.
    Skipped,
    /// It failed, or was cancelled.
    Failed,
}

impl FoundCheck {
    /// A check without an app.
    pub fn new(name: impl Into<String>, result: CheckResult) -> Self {
        Self { name: name.into(), result, alias: None, app: None }
    }
}

impl RequiredCheck {
    /// A required check that any app may report.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), app: None }
    }

    /// Whether `found` is this check. Forges disagree about the case of names, so it is ignored.
    pub fn is(&self, found: &FoundCheck) -> bool {
        let is_pinned_to_other = matches!((self.app, found.app), (Some(wanted), Some(app)) if wanted != app);
        let name = self.name.to_lowercase();
        let mut names = std::iter::once(&found.name).chain(&found.alias);
        !is_pinned_to_other && names.any(|found| fits(&name, &found.to_lowercase()))
    }
}

/// Whether `name` fits `pattern`, in which `*` stands for any characters.
fn fits(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = name.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    true
}

/// Whether a status with this context is abide's own. It never counts as a check.
pub fn is_own(context: &str) -> bool {
    context.to_ascii_lowercase().starts_with("abide/")
}

/// The reason why the checks of a commit are unknown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct ChecksUnknown {
    /// The failure, as a clause without secrets.
    pub why: String,
    /// Whether a person has to act, such as on a rejected token.
    pub is_denied: bool,
    /// The time before which the forge must not be asked again, if it named one.
    pub not_before: Option<Timestamp>,
}

/// The newest commits of a branch that wait for their checks or failed them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UncheckedHead {
    /// The head of the branch.
    pub head: CommitId,
    /// The state as a sentence.
    pub sentence: String,
    /// Whether a check is still to come. Otherwise nothing happens until somebody pushes or repeats a check.
    pub is_pending: bool,
    /// The start of this state.
    pub since: Timestamp,
    /// When the forge is asked again at the latest.
    pub recheck_at: Timestamp,
}

/// A commit of a branch that is not deployed because of its checks, as the record keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AwaitedCommit {
    /// The commit.
    pub revision: CommitId,
    /// When abide read its checks first. A commit without checks is given up some time after it, also if abide
    /// was restarted meanwhile.
    pub first_seen: Timestamp,
    /// Its state for the forge; `None`: the forge shows none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<CommitState>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_patterns_are_case_insensitive() {
        let is = |pattern: &str, name: &str| {
            RequiredCheck::named(pattern).is(&FoundCheck::new(name, CheckResult::Passed))
        };
        for (pattern, name) in
            [("ci/build", "CI/build"), ("ci/*", "ci/a"), ("*", ""), ("a*c", "abc"), ("a*b*c", "a-b-b-c")]
        {
            assert!(is(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in
            [("ci/build", "ci/build2"), ("ci/*", "c"), ("a*c", "ab"), ("a*b*c", "acb"), ("", "x")]
        {
            assert!(!is(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn a_check_pinned_to_an_app_does_not_match_another_app() {
        let pinned = RequiredCheck { name: "ci".to_owned(), app: Some(7) };
        let of = |app| FoundCheck { app, ..FoundCheck::new("ci", CheckResult::Passed) };
        assert!(pinned.is(&of(Some(7))) && pinned.is(&of(None)) && !pinned.is(&of(Some(8))));
    }

    #[test]
    fn abides_own_statuses_are_recognized() {
        assert!(is_own("abide/prod") && is_own("Abide/prod"));
        assert!(!is_own("ci/abide/prod") && !is_own("abidectl/x"));
    }
}
