//! GitLab: signed by the Standard Webhooks scheme (19.0 and later), or with a plain token.

use axum::http::{HeaderMap, HeaderValue};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::payload::{self, Optional};
use super::proof::SenderProof;
use super::refs::{self, CommitTarget};
use super::text::{delivery_id, sender, tame};
use super::{Rejection, VerifiedDelivery, WebhookEvent, mac};
use crate::model::container::Secret;
use crate::model::time::Timestamp;

/// The prefix of a signing token; the rest is the key in base64.
const SIGNING_PREFIX: &str = "whsec_";

/// The maximum difference between the signed time and the local time, in seconds. It makes a
/// captured request worthless soon.
const TOLERANCE_SECONDS: u64 = 5 * 60;

/// The shortest signing key, in bytes.
const SHORTEST_KEY: usize = 16;

/// The number of signatures checked of a list. Two are usual during a change of the secret.
const MOST_SIGNATURES: usize = 8;

#[derive(Default, Deserialize)]
#[serde(default)]
struct GitlabPayload {
    object_kind: Optional<String>,
    event_name: Optional<String>,
    #[serde(rename = "object_attributes")]
    attributes: Optional<Pipeline>,
    #[serde(rename = "ref")]
    reference: Optional<String>,
    after: Optional<String>,
    checkout_sha: Optional<String>,
    project: Optional<GitlabProject>,
    user_username: Optional<String>,
    user_name: Optional<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Pipeline {
    source: Optional<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct GitlabProject {
    path_with_namespace: Optional<String>,
}

/// The proof is a signature, or a token if there is no signature.
pub(super) fn proof(secret: &Secret, headers: &HeaderMap, now: Timestamp) -> Result<SenderProof, Rejection> {
    match mac::single(headers, "webhook-signature")? {
        Some(signature) => signed(secret, headers, signature, now),
        None => demand_token(secret, headers).map(|()| SenderProof::Token),
    }
}

/// Reads an authentic delivery.
pub(super) fn delivery(headers: &HeaderMap, text: &[u8]) -> Result<VerifiedDelivery, Rejection> {
    let payload: GitlabPayload = payload::parse(text)?;
    Ok(VerifiedDelivery {
        // Not `X-Gitlab-WebhookEvent-UUID`: hooks that another hook triggers share it.
        id: delivery_id(headers, &["idempotency-key", "webhook-id"]),
        repository: payload.project.get().and_then(|p| p.path_with_namespace.text()).map(tame),
        by: sender("gitlab", payload.user_username.text().or_else(|| payload.user_name.text())),
        event: event(&payload),
    })
}

/// If a signature is present, it must match; the token beside it is ignored.
fn signed(
    secret: &Secret,
    headers: &HeaderMap,
    signatures: &HeaderValue,
    now: Timestamp,
) -> Result<SenderProof, Rejection> {
    let refused = Rejection::Unauthorized;
    let key = signing_key(secret)?;
    let id = signed_header(headers, "webhook-id")?;
    let time = signed_header(headers, "webhook-timestamp")?;
    if id.contains('.') {
        return Err(refused("its ID contains a dot, which separates the signed parts"));
    }
    if !is_recent(time, now) {
        return Err(refused("its signed time differs from this host's clock by more than five minutes"));
    }
    let signatures = signatures.to_str().map_err(|_| refused("its signature is malformed"))?;
    let given: Vec<_> = signatures.split(' ').take(MOST_SIGNATURES).filter_map(decode_v1).collect();
    if given.is_empty() {
        return Err(refused("its signature is malformed"));
    }
    SenderProof::mac(&key, &[id.as_bytes(), b".", time.as_bytes(), b"."], given)
}

fn signing_key(secret: &Secret) -> Result<Vec<u8>, Rejection> {
    let encoded = secret.expose().trim().strip_prefix(SIGNING_PREFIX);
    let encoded = encoded.ok_or(Rejection::Unauthorized(
        "it is signed, but the secret is not a signing token (`whsec_...`)",
    ))?;
    let key = STANDARD.decode(encoded).ok().filter(|key| key.len() >= SHORTEST_KEY);
    key.ok_or(Rejection::Unconfigured("its signing token is not valid base64 of at least 16 bytes"))
}

fn signed_header<'a>(headers: &'a HeaderMap, name: &str) -> Result<&'a str, Rejection> {
    let value = mac::single(headers, name)?.and_then(|value| value.to_str().ok());
    value.filter(|text| !text.is_empty()).ok_or(Rejection::Unauthorized("a signed header is missing"))
}

fn is_recent(seconds: &str, now: Timestamp) -> bool {
    let digits_only = seconds.bytes().all(|b| b.is_ascii_digit());
    let Some(sent) = seconds.parse::<u64>().ok().filter(|_| digits_only) else { return false };
    sent.abs_diff(now.as_millis() / 1000) <= TOLERANCE_SECONDS
}

/// Decodes a `v1` signature. Other versions, such as the asymmetric `v1a`, are unsupported and
/// prove nothing.
fn decode_v1(signature: &str) -> Option<Vec<u8>> {
    STANDARD.decode(signature.strip_prefix("v1,")?).ok()
}

/// Rejects a signing token sent as a plain token: signing tokens are never sent, so this only
/// proves a leak.
fn demand_token(secret: &Secret, headers: &HeaderMap) -> Result<(), Rejection> {
    let refused = Rejection::Unauthorized;
    if secret.expose().starts_with(SIGNING_PREFIX) {
        return Err(refused("it is not signed, but the secret is a signing token"));
    }
    let given = mac::single(headers, "x-gitlab-token")?.ok_or(refused("it has no token"))?;
    if mac::is_same_token(secret.expose().as_bytes(), given.as_bytes()) {
        Ok(())
    } else {
        Err(refused("its token does not match"))
    }
}

/// Determines the event from the body. The header is not covered by a signature. For all events of
/// a whole instance it is `System Hook`, and the body then has only `event_name`.
fn event(payload: &GitlabPayload) -> WebhookEvent {
    let kind = payload.object_kind.text().or_else(|| payload.event_name.text());
    match kind.unwrap_or_default() {
        "push" | "tag_push" => refs::push(payload.reference.text(), target(payload)),
        // `build` is the event of a job. Pipelines of statuses from outside are abide's own, too.
        "pipeline"
            if payload.attributes.get().and_then(|pipeline| pipeline.source.text()) == Some("external") =>
        {
            refs::other_event("pipeline of an external status")
        }
        "pipeline" | "build" => WebhookEvent::Checks,
        other => refs::other_event(other),
    }
}

/// `after` may be a tag object; `checkout_sha` is the commit, and `null` if the commit no longer
/// exists.
fn target(payload: &GitlabPayload) -> CommitTarget<'_> {
    let after = payload.after.text();
    CommitTarget { after: payload.checkout_sha.text().or(after), deleted: after.is_some_and(refs::is_zeros) }
}
