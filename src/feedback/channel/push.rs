//! Push services: ntfy and Gotify.

use serde_json::{Value, json};

use super::super::call::{ServiceRequest, ServiceResponse};
use super::super::lane::DeliveryRefusal;
use super::RequestInput;
use crate::model::container::Secret;
use crate::model::outbox::Mood;

/// ntfy turns a message of more than 4,096 bytes into a file.
const LONGEST: usize = 3800;

/// JSON goes to the root of the server; the topic is in the body.
pub(super) fn ntfy(url: &str, topic: &str, draft: &RequestInput<'_>) -> ServiceRequest {
    let content = &draft.content;
    let (priority, tag) = match content.mood {
        Mood::Good => (3, "white_check_mark"),
        Mood::Bad => (4, "rotating_light"),
        Mood::Neutral => (3, "information_source"),
    };
    let mut body = json!({
        "topic": topic,
        "title": content.title,
        "message": content.text(LONGEST, str::to_owned),
        "priority": priority,
        "tags": [tag],
    });
    if let Some(link) = &content.link {
        body["click"] = link.as_str().into();
    }
    let call = ServiceRequest::post(Secret::new(url), body.to_string()).allowing_private(draft.allow_private);
    if draft.secret.expose().is_empty() { call } else { call.bearer(&draft.secret) }
}

/// ntfy's own codes are more exact than the status: a daily quota takes hours to recover.
pub(super) fn judge_ntfy(answer: &ServiceResponse) -> Result<Option<String>, DeliveryRefusal> {
    const DAILY_QUOTA: i64 = 42908;
    const TOO_MANY_AUTH_FAILURES: i64 = 42909;
    let body: Value = answer.json().unwrap_or_default();
    match body["code"].as_i64() {
        Some(DAILY_QUOTA) => Err(answer.wait_for(3600.0, "the daily quota of ntfy is used up (42908)")),
        Some(TOO_MANY_AUTH_FAILURES) => {
            Err(DeliveryRefusal::denied("ntfy rejects the token too often (42909)"))
        }
        _ => answer.accepted().map(|()| body["id"].as_str().map(str::to_owned)),
    }
}

pub(super) fn gotify(url: &str, draft: &RequestInput<'_>) -> ServiceRequest {
    let content = &draft.content;
    let priority = match content.mood {
        Mood::Good | Mood::Neutral => 4,
        Mood::Bad => 8,
    };
    let mut body = json!({
        "title": content.title,
        "message": content.text(LONGEST, str::to_owned),
        "priority": priority,
        "extras": { "client::display": { "contentType": "text/plain" } },
    });
    if let Some(link) = &content.link {
        body["extras"]["client::notification"] = json!({ "click": { "url": link } });
    }
    let url = format!("{}/message", url.trim_end_matches('/'));
    ServiceRequest::post(Secret::new(url), body.to_string())
        .secret_header("x-gotify-key", draft.secret.clone())
        .allowing_private(draft.allow_private)
}
