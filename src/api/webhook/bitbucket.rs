//! Bitbucket Cloud and Data Center: HMAC-SHA256 over the raw body; a delivery may have several
//! references.

use axum::http::HeaderMap;
use serde::Deserialize;

use super::payload::{self, Optional};
use super::proof::SenderProof;
use super::refs::{self, CommitTarget};
use super::text::{delivery_id, sender, tame};
use super::{RefChange, Rejection, VerifiedDelivery, WebhookEvent, mac};
use crate::model::container::Secret;

/// The payload of both products: Cloud has `push.changes`, Data Center has `changes`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct BitbucketPayload {
    push: Optional<BitbucketPush>,
    changes: Optional<Vec<Optional<ServerChange>>>,
    commit_status: Optional<CommitStatus>,
    repository: Optional<BitbucketRepository>,
    actor: Optional<BitbucketUser>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct BitbucketPush {
    changes: Optional<Vec<Optional<CloudChange>>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CommitStatus {
    key: Optional<String>,
}

/// `new` is `null` if the reference was deleted.
#[derive(Default, Deserialize)]
#[serde(default)]
struct CloudChange {
    new: Optional<CloudRef>,
    old: Optional<CloudRef>,
    closed: Optional<bool>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CloudRef {
    #[serde(rename = "type")]
    kind: Optional<String>,
    name: Optional<String>,
    target: Optional<CloudTarget>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CloudTarget {
    hash: Optional<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ServerChange {
    #[serde(rename = "ref")]
    reference: Optional<ServerRef>,
    #[serde(rename = "toHash")]
    to_hash: Optional<String>,
    #[serde(rename = "type")]
    kind: Optional<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ServerRef {
    id: Optional<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct BitbucketRepository {
    full_name: Optional<String>,
    slug: Optional<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct BitbucketUser {
    nickname: Optional<String>,
    display_name: Optional<String>,
    name: Optional<String>,
}

/// The proof is a MAC over the raw body. The header carries SHA-1 at GitHub, but SHA-256 here.
pub(super) fn proof(secret: &Secret, headers: &HeaderMap) -> Result<SenderProof, Rejection> {
    mac::hex_mac(secret, mac::single(headers, "x-hub-signature")?, "sha256=")
}

/// Reads an authentic delivery.
pub(super) fn delivery(headers: &HeaderMap, text: &[u8]) -> Result<VerifiedDelivery, Rejection> {
    let payload: BitbucketPayload = payload::parse(text)?;
    Ok(VerifiedDelivery {
        id: delivery_id(headers, &["x-request-uuid", "x-request-id"]),
        repository: payload.repository_name().map(tame),
        by: sender("bitbucket", payload.person()),
        event: event(headers, &payload),
    })
}

impl BitbucketPayload {
    fn repository_name(&self) -> Option<&str> {
        let repository = self.repository.get()?;
        repository.full_name.text().or_else(|| repository.slug.text())
    }

    fn person(&self) -> Option<&str> {
        let actor = self.actor.get()?;
        [&actor.nickname, &actor.name, &actor.display_name].into_iter().find_map(Optional::text)
    }
}

fn event(headers: &HeaderMap, payload: &BitbucketPayload) -> WebhookEvent {
    let name = headers.get("x-event-key").and_then(|value| value.to_str().ok()).unwrap_or_default();
    match name {
        "diagnostics:ping" => WebhookEvent::Ping,
        "repo:push" => pushed(payload.push.get().and_then(|push| push.changes.get()), cloud_change),
        "repo:refs_changed" => pushed(payload.changes.get(), server_change),
        "repo:commit_status_created" | "repo:commit_status_updated" => {
            let status = payload.commit_status.get();
            match status.and_then(|status| status.key.text()) {
                Some(key) if key.starts_with("abide-") => refs::other_event("status of abide"),
                _ => WebhookEvent::Checks,
            }
        }
        other => refs::other_event(other),
    }
}

/// Returns every readable change. An unreadable change does not discard the others.
fn pushed<T>(
    changes: Option<&Vec<Optional<T>>>,
    read: impl Fn(&T) -> Result<RefChange, String>,
) -> WebhookEvent {
    let mut unreadable = None;
    let mut taken = Vec::new();
    for change in changes.into_iter().flatten().filter_map(Optional::get) {
        match read(change) {
            Ok(change) => taken.push(change),
            Err(reason) => unreadable = Some(reason),
        }
    }
    match unreadable {
        _ if !taken.is_empty() => WebhookEvent::Push(taken),
        Some(reason) => WebhookEvent::Ignored(reason),
        None => WebhookEvent::Ignored("the payload has no reference".to_owned()),
    }
}

fn cloud_change(change: &CloudChange) -> Result<RefChange, String> {
    let named = change.new.get().or_else(|| change.old.get());
    let name = named.and_then(|named| named.name.text());
    let name = name.ok_or("the payload has no reference")?;
    let kind = match named.and_then(|named| named.kind.text()) {
        Some("branch" | "named_branch") => "heads",
        _ => "tags",
    };
    let target = change.new.get().and_then(|new| new.target.get());
    let closed = change.closed.get().copied().unwrap_or_default();
    let target = CommitTarget {
        after: target.and_then(|target| target.hash.text()),
        deleted: change.new.get().is_none() && closed,
    };
    refs::change(&format!("refs/{kind}/{name}"), target)
}

fn server_change(change: &ServerChange) -> Result<RefChange, String> {
    let id = change.reference.get().and_then(|reference| reference.id.text());
    let id = id.ok_or("the payload has no reference")?;
    let target = CommitTarget { after: change.to_hash.text(), deleted: change.kind.text() == Some("DELETE") };
    refs::change(id, target)
}
