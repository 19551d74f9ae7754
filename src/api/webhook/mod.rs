//! Webhooks: pushes that git hosting services announce, with a proof of the sender.
//!
//! [`read`] is pure: it takes headers and body and returns a [`VerifiedDelivery`] or a [`Rejection`]. The
//! provider is fixed by the hook's URL and never guessed, because several providers send each
//! other's headers. abide treats nothing in a payload as an address or a command: a push is only a
//! hint that a branch may have changed, and abide then queries git.
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
mod text;

#[cfg(test)]
mod tests;

use axum::http::HeaderMap;

use crate::model::container::Secret;
use crate::model::name::{BranchName, CommitId};
use crate::model::spec::Provider;
use crate::model::time::Timestamp;

pub use endpoint::{Inbox, StoreError, WebhookConfig, WebhookLimits, WebhookState, routes};
pub use mac::check_secret;

/// A delivery whose sender has proven to know the hook's secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedDelivery {
    /// The sender's ID of the delivery, the same for a redelivery. At most 128 visible ASCII
    /// characters. No signature covers it, so it alone never decides whether a delivery is new.
    pub id: Option<String>,
    /// The repository's full name as sent, made safe to show. Only for display.
    pub repository: Option<String>,
    /// The user who pushed, for the record: `github (alice)`. Safe to show.
    pub by: String,
    /// The event.
    pub event: WebhookEvent,
}

/// The event that a delivery reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WebhookEvent {
    /// The hook was created, or a user pressed its test button.
    Ping,
    /// References changed; at least one.
    Push(Vec<RefChange>),
    /// The checks of a commit changed. abide then asks the forge which, whatever the payload states.
    Checks,
    /// Irrelevant; the reason is a clause for users, safe to show.
    Ignored(String),
}

/// A changed reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefChange {
    /// The branch; `None` for a tag, or for a name that a manifest cannot declare.
    pub branch: Option<BranchName>,
    /// The reference as sent, made safe to show.
    pub raw_ref: String,
    /// The commit that it points to now; `None` if it was deleted.
    pub revision: Option<CommitId>,
}

/// Why a delivery is rejected. The texts are for the log; senders get constant answers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The sender has not proven to know the secret.
    #[error("unauthenticated delivery: {0}")]
    Unauthorized(&'static str),
    /// The sender is authentic, but the body cannot be parsed.
    #[error("unreadable payload: {0}")]
    BadRequest(String),
    /// The provider does not send bodies of this type.
    #[error("unsupported content: {0}")]
    UnsupportedMediaType(&'static str),
    /// The hook's secret is too weak to prove anything.
    #[error("webhook disabled: {0}")]
    Unconfigured(&'static str),
}

/// Reads a delivery of `provider` if it proves to know `secret`.
///
/// `now` is compared with the signed time of providers that sign it (GitLab; five minutes).
///
/// # Errors
/// A [`Rejection`]. The secret is checked first, then the content type, the signature, the payload.
pub fn read(
    provider: Provider,
    secret: &Secret,
    headers: &HeaderMap,
    body: &[u8],
    now: Timestamp,
) -> Result<VerifiedDelivery, Rejection> {
    let mut arriving = proof::Arriving::new(provider, secret, headers, now)?;
    arriving.push(body);
    arriving.finish(headers)
}

/// As [`read`], with the body in pieces of a given length.
#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn read_in_pieces(
    provider: Provider,
    secret: &Secret,
    headers: &HeaderMap,
    body: &[u8],
    now: Timestamp,
    size: usize,
) -> Result<VerifiedDelivery, Rejection> {
    let mut arriving = proof::Arriving::new(provider, secret, headers, now)?;
    body.chunks(size).for_each(|piece| arriving.push(piece));
    arriving.finish(headers)
}
