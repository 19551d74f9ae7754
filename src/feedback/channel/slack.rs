//! Slack: incoming webhooks, and a bot that answers in the thread of an incident.

use serde_json::{Value, json};

use super::super::call::{ServiceRequest, ServiceResponse};
use super::super::content::cut;
use super::super::lane::DeliveryRefusal;
use super::{RequestInput, escape};
use crate::model::container::Secret;

/// Slack's method for messages of bots.
const POST_MESSAGE: &str = "https://slack.com/api/chat.postMessage";
/// The longest text of a section, of which Slack allows 3,000 characters.
const LONGEST_SECTION: usize = 2900;

/// With a channel, the secret is the token of a bot; without one, the URL of an incoming webhook.
pub(super) fn request(
    channel: Option<&str>,
    draft: &RequestInput<'_>,
) -> Result<ServiceRequest, DeliveryRefusal> {
    let mut body = body(draft);
    let call = match channel {
        None => ServiceRequest::post(draft.secret.clone(), body.to_string()),
        Some(channel) => {
            body["channel"] = channel.into();
            if let Some(thread) = draft.thread {
                body["thread_ts"] = thread.into();
                // The end of an incident is also shown in the channel itself.
                body["reply_broadcast"] = draft.message.announcement.is_end.into();
            }
            ServiceRequest::post(Secret::new(POST_MESSAGE), body.to_string()).bearer(&draft.secret)
        }
    };
    Ok(call.allowing_private(draft.allow_private))
}

fn body(draft: &RequestInput<'_>) -> Value {
    let content = &draft.content;
    let title = escape::slack(&content.title);
    let heading = match &content.link {
        Some(link) => format!("*<{}|{title}>*", escape::slack(link)),
        None => format!("*{title}*"),
    };
    let text = content.text(LONGEST_SECTION - heading.len().min(500), escape::slack);
    json!({
        "text": title,
        "unfurl_links": false,
        "blocks": [{ "type": "section", "text": { "type": "mrkdwn", "text": format!("{heading}\n{text}") } }],
    })
}

/// The answer of an incoming webhook: `ok`.
pub(super) fn judge_hook(answer: &ServiceResponse) -> Result<Option<String>, DeliveryRefusal> {
    answer.accepted()?;
    // Something else answered for the service. A repetition would be answered alike.
    if answer.body.trim_ascii() != b"ok" {
        return Err(DeliveryRefusal::permanent(format!(
            "{} answers {} and not `ok`{}",
            answer.place,
            answer.status,
            answer.excerpt()
        )));
    }
    Ok(None)
}

/// The answer of a method: always 200, with `ok` in the body.
pub(super) fn judge_bot(answer: &ServiceResponse) -> Result<Option<String>, DeliveryRefusal> {
    answer.accepted()?;
    let body: Value = answer.json()?;
    if body["ok"] == true {
        return Ok(body["ts"].as_str().map(str::to_owned));
    }
    let error = cut(body["error"].as_str().unwrap_or("no reason"), 100);
    let why = format!("Slack answers {error}");
    Err(match error.as_str() {
        "ratelimited" => answer.wait(why),
        "internal_error" | "fatal_error" | "service_unavailable" | "request_timeout" => {
            DeliveryRefusal::passing(why)
        }
        "invalid_auth" | "not_authed" | "account_inactive" | "token_revoked" | "token_expired"
        | "channel_not_found" | "not_in_channel" | "is_archived" | "missing_scope" => {
            DeliveryRefusal::denied(why)
        }
        _ => DeliveryRefusal::permanent(why),
    })
}
