//! Generic webhooks, signed as in Standard Webhooks.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::json;
use sha2::Sha256;

use super::super::call::ServiceRequest;
use super::super::lane::DeliveryRefusal;
use super::RequestInput;
use crate::model::container::Secret;

/// The prefix of secrets.
const PREFIX: &str = "whsec_";

/// `draft` as a signed request. The secret is one key, or several with spaces between them while keys are being
/// exchanged: the request is then signed with each of them.
pub(super) fn request(url: &str, draft: &RequestInput<'_>) -> Result<ServiceRequest, DeliveryRefusal> {
    let body = body(draft).to_string();
    let id = &draft.message.id;
    let seconds = (draft.now.as_millis() / 1000).to_string();
    let signatures: Result<Vec<String>, DeliveryRefusal> = draft
        .secret
        .expose()
        .split_whitespace()
        .map(|key| sign(key, id, &seconds, &body).map(|signature| format!("v1,{signature}")))
        .collect();
    Ok(ServiceRequest::post(Secret::new(url), body)
        .header("webhook-id", id.clone())
        .header("webhook-timestamp", seconds)
        .header("webhook-signature", signatures?.join(" "))
        .allowing_private(draft.allow_private))
}

fn body(draft: &RequestInput<'_>) -> serde_json::Value {
    let message = draft.message;
    let announcement = &message.announcement;
    json!({
        "type": announcement.kind(),
        "timestamp": announcement.at,
        "data": {
            "title": message.title(),
            "environment": announcement.subject.environment(),
            "subject": announcement.subject.to_string(),
            "incident": announcement.incident,
            "generation": announcement.subject.environment().map(|_| announcement.to.generation),
            "to": announcement.subject.environment().map(|_| &announcement.to),
            "from": announcement.from,
            "origin": announcement.origin,
            "by": announcement.by,
            "reason": announcement.reason,
            "message": draft.content.reason,
            "messages": message.grouped,
            "more": message.more,
            "url": draft.content.link,
        }
    })
}

/// The base64 HMAC-SHA256 of `id.timestamp.body`.
fn sign(key: &str, id: &str, timestamp: &str, body: &str) -> Result<String, DeliveryRefusal> {
    let unusable = || {
        DeliveryRefusal::denied(
            "the secret must be `whsec_` and the base64 of 24 to 64 bytes, as `openssl rand -base64 32` prints it",
        )
    };
    let key = key.strip_prefix(PREFIX).unwrap_or(key);
    let key = STANDARD.decode(key).map_err(|_| unusable())?;
    // Libraries of receivers reject other lengths.
    if !(24..=64).contains(&key.len()) {
        return Err(unusable());
    }
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).map_err(|_| unusable())?;
    mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
    Ok(STANDARD.encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_example_gets_the_same_signature() {
        let signature = sign(
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            "1614265330",
            "{\"test\": 2432232314}",
        );
        assert_eq!(signature.unwrap(), "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert!(sign("no base64!", "a", "b", "c").is_err());
        assert!(sign("whsec_c2hvcnQ=", "a", "b", "c").is_err(), "receivers accept 24 to 64 bytes");
    }
}
