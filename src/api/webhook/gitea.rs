//! Gitea, Forgejo and Gogs: HMAC-SHA256 over the JSON text, even if a form carries it.

use axum::http::HeaderMap;
use serde::Deserialize;

use super::payload::{self, Optional};
use super::proof::SenderProof;
use super::refs::{self, CommitTarget};
use super::text::{delivery_id, sender, tame};
use super::{Rejection, VerifiedDelivery, WebhookEvent, mac};
use crate::model::container::Secret;

/// By precedence: the sender's own header first, then those of its ancestors. Their `X-Hub-*` and
/// `X-GitHub-*` twins are ignored, so that a GitHub delivery does not count as Gitea's.
const SIGNATURES: [&str; 3] = ["x-forgejo-signature", "x-gitea-signature", "x-gogs-signature"];
const EVENTS: [&str; 3] = ["x-forgejo-event", "x-gitea-event", "x-gogs-event"];
const DELIVERIES: [&str; 3] = ["x-forgejo-delivery", "x-gitea-delivery", "x-gogs-delivery"];

#[derive(Default, Deserialize)]
#[serde(default)]
struct GiteaPayload {
    #[serde(rename = "ref")]
    reference: Optional<String>,
    ref_type: Optional<String>,
    after: Optional<String>,
    context: Optional<String>,
    repository: Optional<GiteaRepository>,
    pusher: Optional<GiteaUser>,
    sender: Optional<GiteaUser>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct GiteaRepository {
    full_name: Optional<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct GiteaUser {
    login: Optional<String>,
    username: Optional<String>,
}

/// The proof is a MAC over the JSON text. The first signature header present decides. An empty one,
/// as a sender without a secret sends it, is a failure like any other.
pub(super) fn proof(secret: &Secret, headers: &HeaderMap) -> Result<SenderProof, Rejection> {
    let name = SIGNATURES.into_iter().find(|name| headers.contains_key(*name));
    let signature = mac::single(headers, name.unwrap_or(SIGNATURES[0]))?;
    match mac::hex_mac(secret, signature, "")? {
        SenderProof::Mac { mac, given, .. } => Ok(SenderProof::Mac { mac, given, of_text: true }),
        other => Ok(other),
    }
}

/// Reads an authentic delivery.
pub(super) fn delivery(headers: &HeaderMap, text: &[u8]) -> Result<VerifiedDelivery, Rejection> {
    let payload: GiteaPayload = payload::parse(text)?;
    Ok(VerifiedDelivery {
        id: delivery_id(headers, &DELIVERIES),
        repository: payload.repository.get().and_then(|r| r.full_name.text()).map(tame),
        by: sender("gitea", payload.person()),
        event: event(headers, &payload),
    })
}

impl GiteaPayload {
    fn person(&self) -> Option<&str> {
        [&self.pusher, &self.sender]
            .into_iter()
            .filter_map(Optional::get)
            .find_map(|person| person.login.text().or_else(|| person.username.text()))
    }
}

fn event(headers: &HeaderMap, payload: &GiteaPayload) -> WebhookEvent {
    let header = EVENTS.iter().find_map(|name| headers.get(*name));
    let target = CommitTarget { after: payload.after.text(), deleted: false };
    match header.and_then(|value| value.to_str().ok()).unwrap_or_default() {
        "ping" => WebhookEvent::Ping,
        "push" => refs::push(payload.reference.text(), target),
        "delete" => deletion(payload),
        "status" => refs::checked(payload.context.text()),
        "workflow_run" | "workflow_job" | "action_run_success" | "action_run_failure"
        | "action_run_recover" => WebhookEvent::Checks,
        other => refs::other_event(other),
    }
}

/// A deletion is a separate event, and names the branch without `refs/heads/`.
fn deletion(payload: &GiteaPayload) -> WebhookEvent {
    let kind = match payload.ref_type.text() {
        Some("branch") => "heads",
        Some("tag") => "tags",
        _ => return WebhookEvent::Ignored("the payload does not name the deleted reference".to_owned()),
    };
    let reference = payload.reference.text().map(|name| format!("refs/{kind}/{name}"));
    refs::push(reference.as_deref(), CommitTarget { after: None, deleted: true })
}
