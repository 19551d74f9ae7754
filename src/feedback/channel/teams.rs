//! Microsoft Teams: a workflow that posts an adaptive card.

use serde_json::{Value, json};

use super::super::call::Call;
use super::Draft;
use crate::model::outbox::Mood;

/// Teams accepts 28 KB as a whole.
const LONGEST: usize = 12_000;

/// Runs of text in a rich text block are plain text, unlike text blocks, which are Markdown.
pub(super) fn request(draft: &Draft<'_>) -> Call {
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
    let text = content.text(LONGEST, str::to_owned);
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
    Call::post(draft.secret.clone(), body.to_string()).allowing_private(draft.allow_private)
}
