//! Discord webhooks.

use serde_json::{Value, json};

use super::super::call::{ServiceRequest, ServiceResponse};
use super::super::content::cut;
use super::super::lane::DeliveryRefusal;
use super::{RequestInput, escape};
use crate::model::container::Secret;
use crate::model::outbox::Mood;

/// The longest description of an embed, of which Discord allows 4,096 characters.
const LONGEST: usize = 3500;

pub(super) fn request(draft: &RequestInput<'_>) -> ServiceRequest {
    let content = &draft.content;
    let colour = match content.mood {
        Mood::Good => 0x2e_cc_71,
        Mood::Bad => 0xe7_4c_3c,
        Mood::Neutral => 0x34_98_db,
    };
    let mut embed = json!({
        "title": cut(&escape::discord(&content.title), 250),
        "description": content.text(LONGEST, escape::discord),
        "color": colour,
        "timestamp": draft.message.announcement.at,
    });
    if let Some(link) = &content.link {
        embed["url"] = link.as_str().into();
    }
    let body = json!({ "content": "", "embeds": [embed], "allowed_mentions": { "parse": [] } });
    // Without `wait`, a lost message is not an error.
    let url = draft.secret.expose();
    let separator = if url.contains('?') { '&' } else { '?' };
    ServiceRequest::post(Secret::new(format!("{url}{separator}wait=true")), body.to_string())
        .hiding(&draft.secret)
        .allowing_private(draft.allow_private)
}

/// The answer has the created message. With 429, the body contains the pause, as a fraction of seconds.
pub(super) fn judge(answer: &ServiceResponse) -> Result<Option<String>, DeliveryRefusal> {
    if answer.status == 429 {
        let body: Value = answer.json().unwrap_or_default();
        if let Some(seconds) = body["retry_after"].as_f64() {
            return Err(answer.wait_for(seconds, "Discord limits the rate (429)"));
        }
    }
    answer.accepted()?;
    let body: Value = answer.json().unwrap_or_default();
    Ok(body["id"].as_str().map(str::to_owned))
}
