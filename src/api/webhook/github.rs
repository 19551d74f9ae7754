//! GitHub and GitHub Enterprise Server: HMAC-SHA256 over the raw body, even of a form.

use axum::http::HeaderMap;
use serde::Deserialize;

use super::payload::{self, Field};
use super::proof::Proof;
use super::refs::{self, Target};
use super::text::{delivery_id, sender, tame};
use super::{Delivery, Event, Rejection, mac};
use crate::model::container::Secret;

/// The fields used of a push. `head_commit` and `commits` are ignored, because they are capped and
/// may be empty.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Payload {
    #[serde(rename = "ref")]
    reference: Field<String>,
    after: Field<String>,
    deleted: Field<bool>,
    repository: Field<Repository>,
    pusher: Field<Person>,
    sender: Field<Person>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Repository {
    full_name: Field<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Person {
    name: Field<String>,
    login: Field<String>,
}

/// The proof is a MAC over the raw body, even of a form. The SHA-1 signature in `X-Hub-Signature`
/// is ignored.
pub(super) fn proof(secret: &Secret, headers: &HeaderMap) -> Result<Proof, Rejection> {
    mac::hex_mac(secret, mac::single(headers, "x-hub-signature-256")?, "sha256=")
}

/// Reads an authentic delivery.
pub(super) fn delivery(headers: &HeaderMap, text: &[u8]) -> Result<Delivery, Rejection> {
    let payload: Payload = payload::parse(text)?;
    Ok(Delivery {
        id: delivery_id(headers, &["x-github-delivery"]),
        repository: payload.repository.get().and_then(|r| r.full_name.text()).map(tame),
        by: sender("github", payload.person()),
        event: event(headers, &payload),
    })
}

impl Payload {
    fn person(&self) -> Option<&str> {
        let pusher = self.pusher.get().and_then(|person| person.name.text());
        pusher.or_else(|| self.sender.get().and_then(|person| person.login.text()))
    }
}

fn event(headers: &HeaderMap, payload: &Payload) -> Event {
    let name = headers.get("x-github-event").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let deleted = payload.deleted.get().copied().unwrap_or_default();
    match name {
        "ping" => Event::Ping,
        "push" => refs::push(payload.reference.text(), Target { after: payload.after.text(), deleted }),
        other => refs::other_event(other),
    }
}
