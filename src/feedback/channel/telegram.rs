//! Telegram's Bot API.

use serde_json::{Value, json};

use super::super::call::{ServiceRequest, ServiceResponse};
use super::super::content::cut;
use super::super::lane::DeliveryRefusal;
use super::{RequestInput, escape};
use crate::model::container::Secret;

/// Telegram allows 4,096 characters after parsing.
const LONGEST: usize = 3800;

pub(super) fn request(chat: &str, draft: &RequestInput<'_>) -> ServiceRequest {
    let content = &draft.content;
    let title = escape::html(&content.title);
    let heading = match &content.link {
        Some(link) => format!("<b><a href=\"{}\">{title}</a></b>", escape::html(link)),
        None => format!("<b>{title}</b>"),
    };
    let text = content.text(LONGEST - heading.len().min(1000), escape::html);
    // Ids of chats are numbers; names of public channels begin with @.
    let chat = chat.parse::<i64>().map_or_else(|_| Value::from(chat), Value::from);
    let mut body = json!({
        "chat_id": chat,
        "text": format!("{heading}\n{text}"),
        "parse_mode": "HTML",
        "link_preview_options": { "is_disabled": true },
    });
    if let Some(first) = draft.thread.and_then(|thread| thread.parse::<i64>().ok()) {
        body["reply_parameters"] = json!({ "message_id": first, "allow_sending_without_reply": true });
    }
    let url = format!("https://api.telegram.org/bot{}/sendMessage", draft.secret.expose());
    ServiceRequest::post(Secret::new(url), body.to_string())
        .hiding(&draft.secret)
        .allowing_private(draft.allow_private)
}

pub(super) fn judge(answer: &ServiceResponse) -> Result<Option<String>, DeliveryRefusal> {
    let body: Value = answer.json().unwrap_or_default();
    if body["ok"] == true {
        return Ok(body["result"]["message_id"].as_i64().map(|id| id.to_string()));
    }
    let description = cut(body["description"].as_str().unwrap_or_default(), 200);
    if let Some(seconds) = body["parameters"]["retry_after"].as_f64() {
        return Err(answer.wait_for(seconds, "Telegram limits the rate (429)"));
    }
    if let Some(chat) = body["parameters"]["migrate_to_chat_id"].as_i64() {
        let why = format!("Telegram moved the chat: set `channel = \"{chat}\"` in the manifest");
        return Err(DeliveryRefusal::denied(why));
    }
    match answer.status {
        400 if description.contains("chat not found") => {
            Err(DeliveryRefusal::denied("Telegram does not know the chat, or the bot is not in it"))
        }
        400 => Err(DeliveryRefusal::permanent(format!("Telegram rejects the message: {description}"))),
        _ => answer.accepted().map(|()| None),
    }
}
