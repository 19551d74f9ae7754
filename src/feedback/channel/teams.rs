//! Microsoft Teams: a workflow that posts an adaptive card.

use serde_json::{Value, json};

use super::super::call::ServiceRequest;
use super::RequestInput;
use crate::model::outbox::Mood;

/// The longest text, in bytes.
const LONGEST: usize = 12_000;
/// The longest request, in bytes. Teams documents 28 KB, and was seen to reject 21 KB.
const LONGEST_REQUEST: usize = 20_000;

/// Runs of text in a rich text block are plain text, unlike text blocks, which are Markdown.
pub(super) fn request(draft: &RequestInput<'_>) -> ServiceRequest {
    // Many short lines, or characters that JSON escapes, need much more room than their text.
    let mut longest = LONGEST;
    let mut body = card(draft, longest);
    while body.len() > LONGEST_REQUEST && longest > 0 {
        longest = longest * 3 / 4;
        body = card(draft, longest);
    }
    ServiceRequest::post(draft.secret.clone(), body).allowing_private(draft.allow_private)
}

/// The request with at most `longest` bytes of text.
fn card(draft: &RequestInput<'_>, longest: usize) -> String {
    let content = &draft.content;
    let colour = match content.mood {
        Mood::Good => "good",
        Mood::Bad => "attention",
        Mood::Neutral => "accent",
    };
    let run = |text: &str| json!({ "type": "TextRun", "text": text });
    let title = json!({
        "type": "TextRun", "text": content.title, "weight": "bolder", "size": "medium", "color": colour,
    });
    let mut blocks = vec![json!({ "type": "RichTextBlock", "inlines": [title] })];
    let text = content.text(longest, str::to_owned);
    let block = |line: &str| json!({ "type": "RichTextBlock", "spacing": "none", "inlines": [run(line)] });
    blocks.extend(text.lines().filter(|line| !line.trim().is_empty()).map(block));
    let mut card = json!({
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": blocks,
    });
    if let Some(link) = &content.link {
        card["actions"] = json!([{ "type": "Action.OpenUrl", "title": "Open abide", "url": link }]);
    }
    let body = json!({
        "type": "message",
        "attachments": [{
            "contentType": "application/vnd.microsoft.card.adaptive",
            "contentUrl": Value::Null,
            "content": card,
        }],
    });
    body.to_string()
}
