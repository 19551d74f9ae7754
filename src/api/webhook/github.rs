//! GitHub and GitHub Enterprise Server: HMAC-SHA256 over the raw body, even of a form.

use axum::http::HeaderMap;
use serde::Deserialize;

use super::payload::{self, Optional};
use super::proof::SenderProof;
use super::refs::{self, CommitTarget};
use super::text::{delivery_id, sender, tame};
use super::{Rejection, VerifiedDelivery, WebhookEvent, mac};
use crate::model::container::Secret;

/// The fields used of a push. `head_commit` and `commits` are ignored, because they are capped and
/// may be empty.
#[derive(Default, Deserialize)]
#[serde(default)]
struct GithubPayload {
    #[serde(rename = "ref")]
    reference: Optional<String>,
    after: Optional<String>,
    context: Optional<String>,
    deleted: Optional<bool>,
    repository: Optional<GithubRepository>,
    pusher: Optional<GithubUser>,
    sender: Optional<GithubUser>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct GithubRepository {
    full_name: Optional<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct GithubUser {
    name: Optional<String>,
    login: Optional<String>,
}

/// The proof is a MAC over the raw body, even of a form. The SHA-1 signature in `X-Hub-Signature`
/// is ignored.
pub(super) fn proof(secret: &Secret, headers: &HeaderMap) -> Result<SenderProof, Rejection> {
    mac::hex_mac(secret, mac::single(headers, "x-hub-signature-256")?, "sha256=")
}

/// Reads an authentic delivery.
pub(super) fn delivery(headers: &HeaderMap, text: &[u8]) -> Result<VerifiedDelivery, Rejection> {
    let payload: GithubPayload = payload::parse(text)?;
    Ok(VerifiedDelivery {
        id: delivery_id(headers, &["x-github-delivery"]),
        repository: payload.repository.get().and_then(|r| r.full_name.text()).map(tame),
        by: sender("github", payload.person()),
        event: event(headers, &payload),
    })
}

impl GithubPayload {
    fn person(&self) -> Option<&str> {
        let pusher = self.pusher.get().and_then(|person| person.name.text());
        pusher.or_else(|| self.sender.get().and_then(|person| person.login.text()))
    }
}

fn event(headers: &HeaderMap, payload: &GithubPayload) -> WebhookEvent {
    let name = headers.get("x-github-event").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let deleted = payload.deleted.get().copied().unwrap_or_default();
    match name {
        "ping" => WebhookEvent::Ping,
        "push" => refs::push(payload.reference.text(), CommitTarget { after: payload.after.text(), deleted }),
        // Not `deployment_status` and the like: abide causes them itself.
        "status" => refs::checked(payload.context.text()),
        "check_suite" | "check_run" | "workflow_run" | "workflow_job" => WebhookEvent::Checks,
        other => refs::other_event(other),
    }
}
