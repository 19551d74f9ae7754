//! Escapes text of strangers, so that a commit message can neither ping anyone nor add markup.

/// For Slack, whose markup begins with `<`.
pub(super) fn slack(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// For HTML.
pub(super) fn html(text: &str) -> String {
    slack(text).replace('"', "&quot;")
}

/// For Markdown dialects that obey `@name` and Slack's `<!channel>`: a character without width breaks both, and
/// markup characters are escaped.
pub(super) fn markdown(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '@' => escaped.push_str("@\u{200b}"),
            '<' => escaped.push_str("<\u{200b}"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '~' | '#' | '|' | '!' => {
                escaped.push('\\');
                escaped.push(c);
            }
            c => escaped.push(c),
        }
    }
    escaped
}

/// For Discord, whose mentions are switched off by the request itself.
pub(super) fn discord(text: &str) -> String {
    markdown(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn untrusted_text_is_escaped_for_every_service() {
        assert_eq!(slack("<!channel> a & b <https://x|y>"), "&lt;!channel&gt; a &amp; b &lt;https://x|y&gt;");
        assert_eq!(html("<b a=\"\">"), "&lt;b a=&quot;&quot;&gt;");
        let escaped = markdown("@channel @here <!channel> [x](https://y) **b** `c`");
        for ping in ["@channel", "@here", "<!channel>", "[x](", "**b**", "`c`"] {
            assert!(!escaped.replace("\\`", "").contains(ping), "{escaped}");
        }
    }
}
