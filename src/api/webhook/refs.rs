//! References in payloads.

use super::text::tame;
use super::{RefChange, WebhookEvent};
use crate::model::checks::is_own;
use crate::model::name::{BranchName, CommitId};

/// The target of a reference after a push, according to the payload.
#[derive(Clone, Copy, Debug)]
pub(super) struct CommitTarget<'a> {
    /// The commit, perhaps all zeros.
    pub after: Option<&'a str>,
    /// Whether the payload marks it as deleted.
    pub deleted: bool,
}

/// Returns the change of the full reference `reference`, or why it is ignored, as a clause for
/// users.
pub(super) fn change(reference: &str, target: CommitTarget<'_>) -> Result<RefChange, String> {
    let branch = reference.strip_prefix("refs/heads/").and_then(|name| BranchName::new(name).ok());
    let revision = match &branch {
        Some(_) => revision(target)?,
        None => target.after.and_then(|after| CommitId::new(after).ok()),
    };
    Ok(RefChange { branch, raw_ref: tame(reference), revision })
}

/// Returns the commit of a branch, or `None` if it was deleted. A branch marked as deleted counts
/// as deleted even if the payload names a commit, so nothing is started for it.
fn revision(target: CommitTarget<'_>) -> Result<Option<CommitId>, String> {
    match target.after {
        _ if target.deleted => Ok(None),
        Some(after) if is_zeros(after) => Ok(None),
        Some(after) => CommitId::new(after).map(Some).map_err(|error| tame(&error.to_string())),
        None => Err("the payload has no commit".to_owned()),
    }
}

/// Zeros stand for a missing commit, in any length: SHA-256 repositories have 64 of them.
pub(super) fn is_zeros(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b == b'0')
}

/// A push of one reference, or an ignored event with its reason.
pub(super) fn push(reference: Option<&str>, target: CommitTarget<'_>) -> WebhookEvent {
    let Some(reference) = reference else {
        return WebhookEvent::Ignored("the payload has no reference".to_owned());
    };
    match change(reference, target) {
        Ok(change) => WebhookEvent::Push(vec![change]),
        Err(reason) => WebhookEvent::Ignored(reason),
    }
}

/// The event of a status with this context. abide's own would only make it look again.
pub(super) fn checked(context: Option<&str>) -> WebhookEvent {
    match context {
        Some(context) if is_own(context) => other_event("status of abide"),
        _ => WebhookEvent::Checks,
    }
}

/// An ignored event of another kind.
pub(super) fn other_event(name: &str) -> WebhookEvent {
    WebhookEvent::Ignored(format!("event `{}` does not change a branch", tame(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "6113728f27ae82c7b1a177c8d03f9e96e0adf246";

    fn change_to(reference: &str, after: &str) -> Result<RefChange, String> {
        change(reference, CommitTarget { after: Some(after), deleted: false })
    }

    #[test]
    fn references_resembling_options_or_exploits_are_not_branches() {
        let long = format!("refs/heads/{}", "x".repeat(4096));
        for reference in [
            "refs/heads/--upload-pack=touch x;",
            "-f",
            "refs/heads/-f",
            "refs/heads/../../x",
            "refs/heads/a\nb",
            "refs/heads/$(id)",
            "refs/heads/*",
            &long,
            "refs/heads/\u{202e}niam",
            "refs/heads/m\u{0430}in",
            "refs/heads/main.lock",
            "refs/heads/",
            "HEAD",
            "@{-1}",
            "refs/pull/1/merge",
            "refs/remotes/origin/main",
            "refs/tags/v1",
            "main",
            "",
        ] {
            let change = change_to(reference, COMMIT).unwrap();
            assert_eq!(change.branch, None, "{reference:?}");
        }
        assert_eq!(change_to("refs/heads/a/b", COMMIT).unwrap().branch, BranchName::new("a/b").ok());
    }

    #[test]
    fn an_all_zero_commit_means_deletion_and_a_malformed_one_is_rejected() {
        for zeros in ["0".repeat(40), "0".repeat(64)] {
            assert_eq!(change_to("refs/heads/dev", &zeros).unwrap().revision, None);
        }
        let malformed = [&COMMIT[1..], &format!("{COMMIT}a"), &COMMIT.to_uppercase(), "--help", ""];
        for after in malformed {
            assert!(change_to("refs/heads/dev", after).is_err(), "{after:?}");
        }
        let deleted = change("refs/heads/dev", CommitTarget { after: Some(COMMIT), deleted: true });
        assert_eq!(deleted.unwrap().revision, None);
    }
}
