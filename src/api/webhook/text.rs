//! Making a sender's text safe to show: in a log line, a terminal, a record.

use axum::http::HeaderMap;

/// The longest text of a sender that is shown, in characters.
const LONGEST_SHOWN: usize = 120;

/// The longest delivery id that is remembered, in bytes.
const LONGEST_ID: usize = 128;

/// `text` shortened, and with everything replaced that could end a line, steer a terminal or
/// reorder what surrounds it. Letters and digits of every script stay.
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

/// Who sent it, for the record: `github (alice)`, or `github` where no name was sent.
pub(super) fn sender(provider: &str, name: Option<&str>) -> String {
    match name.map(str::trim).filter(|name| !name.is_empty()) {
        Some(name) => format!("{provider} ({})", tame(name)),
        None => provider.to_owned(),
    }
}

/// The first of `names` that is among the headers, as a delivery id. An id that is empty, overlong
/// or not plain is none: it would be remembered for days.
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
    fn a_senders_text_can_neither_forge_a_line_nor_steer_a_terminal() {
        let shown = tame("a\r\nb\u{1b}[31m\u{202e}c\u{200b}\0é名");
        assert_eq!(shown, "a\u{fffd}\u{fffd}b\u{fffd}[31m\u{fffd}c\u{fffd}\u{fffd}é名");
        assert_eq!(tame(&"x".repeat(1_000_000)).chars().count(), LONGEST_SHOWN + 1);
    }

    #[test]
    fn an_id_that_is_not_plain_is_none() {
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
