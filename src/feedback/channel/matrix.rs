//! Matrix: the message's id is the id of the transaction, so a repetition is recognized by the server.

use serde_json::{Value, json};

use super::super::call::{ServiceRequest, ServiceResponse};
use super::super::lane::DeliveryRefusal;
use super::{RequestInput, escape};
use crate::model::container::Secret;
use crate::model::percent::encoded;

/// Matrix allows 65,536 bytes for the whole event.
const LONGEST: usize = 12_000;

pub(super) fn request(url: &str, room: &str, draft: &RequestInput<'_>) -> ServiceRequest {
    let content = &draft.content;
    let text = content.text(LONGEST, str::to_owned);
    let html = content.text(LONGEST, escape::html).replace('\n', "<br>");
    let title = escape::html(&content.title);
    let heading = match &content.link {
        Some(link) => format!("<strong><a href=\"{}\">{title}</a></strong>", escape::html(link)),
        None => format!("<strong>{title}</strong>"),
    };
    let mut body = json!({
        "msgtype": "m.notice",
        "body": format!("{}\n{text}", content.title),
        "format": "org.matrix.custom.html",
        "formatted_body": format!("{heading}<br>{html}"),
        // An empty object: nobody is mentioned.
        "m.mentions": {},
    });
    if let Some(first) = draft.thread {
        body["m.relates_to"] = json!({ "rel_type": "m.thread", "event_id": first });
    }
    let (url, room, id) = (url.trim_end_matches('/'), encoded(room), encoded(&draft.message.id));
    let url = format!("{url}/_matrix/client/v3/rooms/{room}/send/m.room.message/{id}");
    ServiceRequest::put(Secret::new(url), body.to_string())
        .bearer(&draft.secret)
        .allowing_private(draft.allow_private)
}

pub(super) fn judge(answer: &ServiceResponse) -> Result<Option<String>, DeliveryRefusal> {
    let body: Value = answer.json().unwrap_or_default();
    if answer.status == 429
        && let Some(millis) = body["retry_after_ms"].as_f64()
    {
        return Err(answer.wait_for(millis / 1000.0, "Matrix limits the rate (429)"));
    }
    answer.accepted()?;
    Ok(body["event_id"].as_str().map(str::to_owned))
}
