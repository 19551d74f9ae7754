//! Evidence about an image: what a promotion may rest on. Every document names one environment, one image and
//! one generation, and counts for no other image.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::canary::{CanaryPercent, RequestCount};
use super::desired::Image;
use super::name::{CommitId, EnvironmentName, Generation, TokenId};
use super::time::Timestamp;

/// The author of evidence or of a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    /// The name for the record: `alice`, or `token ci (192.0.2.7)`.
    pub by: String,
    /// The token's public half, if a token was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<TokenId>,
}

impl Person {
    /// A person without a token: a user of this host, or an author as a change names it.
    pub fn named(by: impl Into<String>) -> Self {
        Self { by: by.into(), token: None }
    }

    /// The name alone: of the token, of the user of the forge or of this host.
    pub fn name(&self) -> &str {
        name(&self.by)
    }

    /// Whether both are the same person as far as names and tokens show it. Names are compared without case,
    /// because forges do that. A token that was issued again under its name is the same person.
    pub fn is_same(&self, other: &Self) -> bool {
        let is_same_token = self.token.is_some() && self.token == other.token;
        is_same_token || self.name().to_lowercase() == other.name().to_lowercase()
    }
}

/// The name in an author's text: `token ci (192.0.2.7)` is `ci`, `github (alice)` is `alice`.
fn name(by: &str) -> &str {
    match by.strip_suffix(')').and_then(|by| by.split_once(" (")) {
        Some((token, _)) if token.starts_with("token ") => &token["token ".len()..],
        Some((_, user)) => user,
        None => by,
    }
}

/// One piece of evidence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// Its number, which rises with every piece of evidence of the whole record.
    pub sequence: u64,
    /// The environment that ran the image.
    pub environment: EnvironmentName,
    /// The image.
    pub image: Image,
    /// The generation of the environment.
    pub generation: Generation,
    /// The finding.
    #[serde(flatten)]
    pub finding: EvidenceFinding,
    /// The author; `None`: abide itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Person>,
    /// The time.
    pub at: Timestamp,
    /// The author's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A finding about an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EvidenceFinding {
    /// It was observed healthy. This document grows while it is.
    Healthy {
        /// How long, in milliseconds; times at which nobody observed it do not count.
        millis: u64,
        /// Restarts of its container meanwhile.
        restarts: u32,
        /// The first time.
        since: Timestamp,
    },
    /// The environment's own check ran.
    Verified {
        /// Whether it passed.
        passed: bool,
        /// The mark of the check.
        check: String,
        /// The result, as a clause.
        result: String,
        /// Its last output.
        output: String,
    },
    /// It served a part of the visitors before it was to take over.
    Canary {
        /// Whether it took over.
        passed: bool,
        /// The result, as a clause.
        result: String,
        /// The share of the visitors.
        percent: CanaryPercent,
        /// How long it was seen to serve them, in milliseconds.
        millis: u64,
        /// The requests that it got.
        #[serde(flatten)]
        count: RequestCount,
        /// All of its figures, as a clause.
        figures: String,
    },
    /// A person approved it.
    Approved {
        /// The mark of the gates of each promotion that the approval covers, by target.
        gates: BTreeMap<EnvironmentName, String>,
    },
    /// A person rejected it; the note has the reason.
    Rejected {
        /// Set once somebody entitled withdrew the rejection.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        withdrawn: Option<Withdrawal>,
    },
    /// A check of the commit's forge.
    Checks {
        /// The commit.
        revision: CommitId,
        /// The name of the check.
        name: String,
        /// Its state.
        state: CheckState,
    },
    /// A signature was verified.
    Signed {
        /// The mark of the key.
        key: String,
    },
    /// No valid signature was found.
    Unsigned {
        /// The mark of the key.
        key: String,
        /// The reason and its remedy, as a clause.
        why: String,
    },
}

impl EvidenceFinding {
    /// The word, as in JSON.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Healthy { .. } => "healthy",
            Self::Verified { .. } => "verified",
            Self::Canary { .. } => "canary",
            Self::Approved { .. } => "approved",
            Self::Rejected { .. } => "rejected",
            Self::Checks { .. } => "checks",
            Self::Signed { .. } => "signed",
            Self::Unsigned { .. } => "unsigned",
        }
    }
}

/// The withdrawal of a rejection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdrawal {
    /// The author.
    pub by: Person,
    /// The time.
    pub at: Timestamp,
    /// The author's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// The state of a check of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckState {
    /// It has not ended yet.
    Pending,
    /// It passed.
    Passed,
    /// It failed, or was cancelled.
    Failed,
}

impl CheckState {
    fn describe(self) -> &'static str {
        match self {
            Self::Pending => "is running",
            Self::Passed => "passed",
            Self::Failed => "failed",
        }
    }
}

impl Evidence {
    /// Whether this is a rejection in effect.
    pub fn is_rejection(&self) -> bool {
        matches!(self.finding, EvidenceFinding::Rejected { withdrawn: None })
    }

    /// The finding, as a clause after the kind and the author: `for 1m 1s, restarted once`.
    pub fn describe(&self) -> String {
        let note = self.note.as_deref().unwrap_or_default();
        match &self.finding {
            EvidenceFinding::Healthy { millis, restarts, .. } => {
                let length = humantime::format_duration(Duration::from_secs(millis / 1000));
                match restarts {
                    0 => format!("for {length}"),
                    1 => format!("for {length}, restarted once"),
                    many => format!("for {length}, restarted {many} times"),
                }
            }
            EvidenceFinding::Verified { passed: true, .. } => "passed".to_owned(),
            EvidenceFinding::Verified { result, .. } => format!("failed: {result}"),
            EvidenceFinding::Canary { result, figures, .. } => format!("{result} ({figures})"),
            EvidenceFinding::Approved { .. } | EvidenceFinding::Rejected { withdrawn: None } => {
                note.to_owned()
            }
            EvidenceFinding::Rejected { withdrawn: Some(withdrawal) } => {
                let why = withdrawal.note.as_ref().map_or_else(String::new, |why| format!(": {why}"));
                format!("{note}; withdrawn by {}{why}", withdrawal.by.name())
            }
            EvidenceFinding::Checks { name, state, .. } => format!("{name} {}", state.describe()),
            EvidenceFinding::Signed { key } => format!("by the key {}", key.get(..12).unwrap_or(key)),
            EvidenceFinding::Unsigned { why, .. } => why.clone(),
        }
    }
}

/// A kind of gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateKind {
    /// Nobody rejected the image.
    Rejection,
    /// People approved it.
    Approvals,
    /// It was healthy for long enough.
    Soak,
    /// The source's check passed.
    Verified,
    /// The checks of its commit passed.
    Checks,
    /// It is signed.
    Signed,
    /// The time is within a window.
    Window,
    /// The time is within no freeze.
    Freeze,
}

/// The state of one gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateAnswer {
    /// The gate.
    pub gate: GateKind,
    /// Whether it lets the image pass.
    pub open: bool,
    /// The state as a clause: `1 of 2 approvals`.
    pub sentence: String,
    /// The time at which time alone changes the answer, if it does.
    pub next_change: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_is_identified_by_token_or_by_name() {
        let token = |name: &str, id: &str| Person {
            by: format!("token {name} (192.0.2.7)"),
            token: Some(TokenId::new(id).unwrap()),
        };
        let (anna, again) = (token("anna", "0123456789ab"), token("anna", "fedcba987654"));
        assert_eq!(anna.name(), "anna");
        assert!(anna.is_same(&again), "a token that was issued again");
        assert!(anna.is_same(&Person::named("github (Anna)")), "the forge's user");
        assert!(anna.is_same(&Person::named("anna")), "the user of this host");
        assert!(!anna.is_same(&Person::named("github (ben)")));
        assert!(anna.is_same(&token("renamed", "0123456789ab")));
    }
}
