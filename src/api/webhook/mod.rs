//! Webhooks: what a git hosting service says about a push, once it has proven who it is.
//!
//! [`read`] is pure: headers and body in, a [`Delivery`] or a [`Rejection`] out. The provider is
//! bound to the hook's URL and never guessed, because several providers send each other's headers.
//! Nothing that a payload says is an address or a command: a push is only a hint that a branch may
//! have moved, and git is asked for the truth.
//!
//! [`routes`] is the HTTP side: size, time and rate limits, then `read`, then the [`Inbox`].

mod answer;
mod bitbucket;
pub(in crate::api) mod bucket;
mod content;
mod endpoint;
mod form;
mod gitea;
mod github;
mod gitlab;
mod intake;
mod mac;
mod outline;
mod payload;
mod proof;
mod refs;
mod refusals;
pub mod registry;
mod tally;
mod text;

#[cfg(test)]
mod tests;

use axum::http::HeaderMap;

use crate::model::container::Secret;
use crate::model::name::{BranchName, CommitId};
use crate::model::spec::Provider;
use crate::model::time::Timestamp;

pub use endpoint::{Hook, Inbox, RecordOutcome, Recorded, StoreError, WebhookLimits, WebhookState, routes};
pub use mac::check_secret;
pub use tally::Tally;

/// A delivery whose sender has proven to hold the hook's secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The sender's id of the delivery, the same when it is sent again. At most 128 visible ASCII
    /// characters. No signature covers it, so it never decides alone whether a delivery is new.
    pub id: Option<String>,
    /// The repository's full name as it was sent, made safe to show. Only for people.
    pub repository: Option<String>,
    /// Who pushed, for the record: `github (alice)`. Safe to show.
    pub by: String,
    /// What it says.
    pub event: Event,
}

/// What a delivery says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The hook was set up, or someone pressed its test button.
    Ping,
    /// References moved; at least one.
    Push(Vec<RefChange>),
    /// Nothing that concerns us; the reason is a clause for people, safe to show.
    Ignored(String),
}

/// One reference that moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefChange {
    /// The branch; `None`: a tag, or a name that no manifest can declare.
    pub branch: Option<BranchName>,
    /// The reference as it was sent, made safe to show.
    pub raw_ref: String,
    /// The commit that it points to now; `None`: it was deleted.
    pub revision: Option<CommitId>,
}

/// Why a delivery is not taken. The texts are for the log; senders get constant answers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The sender has not proven to hold the secret.
    #[error("the delivery is not authentic: {0}")]
    Unauthorized(&'static str),
    /// The sender is authentic, but the body cannot be read.
    #[error("the payload cannot be read: {0}")]
    BadRequest(String),
    /// The body is of a kind that this provider does not send.
    #[error("the body is of no kind that is understood: {0}")]
    UnsupportedMediaType(&'static str),
    /// The hook's secret is too weak to prove anything.
    #[error("the webhook is not served: {0}")]
    Unconfigured(&'static str),
}

/// Reads a delivery of `provider` as it came in, where it proves to hold `secret`.
///
/// `now` is compared with the signed time of providers that sign one (GitLab; five minutes).
///
/// # Errors
/// A [`Rejection`]. The secret is checked first, then the kind of body, the signature, the payload.
pub fn read(
    provider: Provider,
    secret: &Secret,
    headers: &HeaderMap,
    body: &[u8],
    now: Timestamp,
) -> Result<Delivery, Rejection> {
    let mut arriving = proof::Arriving::new(provider, secret, headers, now)?;
    arriving.push(body);
    arriving.finish(headers)
}
