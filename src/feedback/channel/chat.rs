//! Mattermost's incoming webhooks.

use serde_json::json;

use super::super::call::ServiceRequest;
use super::{RequestInput, escape};

/// Mattermost splits longer texts.
const LONGEST: usize = 12_000;

pub(super) fn mattermost(draft: &RequestInput<'_>) -> ServiceRequest {
    let content = &draft.content;
    let title = escape::markdown(&content.title);
    let heading = match &content.link {
        Some(link) => format!("**[{title}]({link})**"),
        None => format!("**{title}**"),
    };
    // A line break alone would join the lines.
    let text = content.text(LONGEST, escape::markdown).replace('\n', "  \n");
    let body = json!({ "text": format!("{heading}  \n{text}") });
    ServiceRequest::post(draft.secret.clone(), body.to_string()).allowing_private(draft.allow_private)
}
