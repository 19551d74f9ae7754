//! Makes a sender's text safe to show in a log line, a terminal or a record.

use axum::http::HeaderMap;

/// The longest text of a sender to show, in characters.
const LONGEST_SHOWN: usize = 120;

/// The longest delivery ID to store, in bytes.
const LONGEST_ID: usize = 128;

/// `text` shortened, with every character replaced that could end a line, control a terminal or
/// reorder the surrounding text. Letters and digits of every script stay.
pub(super) fn tame(text: &str) -> String {
    let mut shown: String = text.chars().take(LONGEST_SHOWN).map(tame_char).collect();
    if text.chars().nth(LONGEST_SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

fn tame_char(c: char) -> char {
    if c.is_ascii_graphic() || c == ' ' || c.is_alphanumeric() { c } else { '\u{fffd}' }
}

/// The sender, for the record: `github (alice)`, or `github` if no name was sent.
pub(super) fn sender(provider: &str, name: Option<&str>) -> String {
    match name.map(str::trim).filter(|name| !name.is_empty()) {
        Some(name) => format!("{provider} ({})", tame(name)),
        None => provider.to_owned(),
    }
}

/// Returns the first of `names` among the headers, as a delivery ID. An empty, overlong or
/// malformed ID is ignored, because it would be stored for days.
pub(super) fn delivery_id(headers: &HeaderMap, names: &[&str]) -> Option<String> {
    let value = names.iter().find_map(|name| headers.get(*name))?;
    let id = value.to_str().ok()?;
    let plain = (1..=LONGEST_ID).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic());
    plain.then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sender_text_can_neither_forge_a_log_line_nor_control_a_terminal() {
        let shown = tame("a\r\nb\u{1b}[31m\u{202e}c\u{200b}\0é名");
        assert_eq!(shown, "a\u{fffd}\u{fffd}b\u{fffd}[31m\u{fffd}c\u{fffd}\u{fffd}é名");
        assert_eq!(tame(&"x".repeat(1_000_000)).chars().count(), LONGEST_SHOWN + 1);
    }

    #[test]
    fn a_delivery_id_with_unsafe_characters_is_ignored() {
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-id", value.parse().unwrap());
            delivery_id(&headers, &["x-other", "x-id"])
        };
        assert_eq!(with("72d3162e-cc78"), Some("72d3162e-cc78".into()));
        assert_eq!(with(""), None);
        assert_eq!(with("a b"), None);
        assert_eq!(with(&"x".repeat(LONGEST_ID + 1)), None);
    }
}
