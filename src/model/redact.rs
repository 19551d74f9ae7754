//! Removes secrets from text that others wrote: the output of programs, and what services answer.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use super::container::Secret;
use super::percent;

/// Shorter values remain: they cannot be distinguished from ordinary text.
const SHORTEST: usize = 4;
/// A shorter line of a value with several lines occurs in any text by chance.
const SHORTEST_LINE: usize = 6;
/// A shorter piece of Base64 occurs in any text by chance.
const SHORTEST_BASE64: usize = 8;
/// A shorter part of an address occurs in any text by chance.
const SHORTEST_PART: usize = 8;
/// A part of an address that is not an ordinary word, even without a digit.
const LONG_PART: usize = 16;
/// Replaces a secret.
const MARK: &str = "[redacted]";

/// Replaces secrets in a text, however they are written: plainly, in JSON, in a URL, in Base64, or between
/// escape sequences of a terminal. Redact a text before it is cut, or a part of a secret remains.
#[derive(Clone, Default)]
pub struct Redactor {
    /// What to replace, the longest first: a secret may be a part of another one.
    spellings: Vec<String>,
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redactor").finish_non_exhaustive()
    }
}

impl Redactor {
    /// Hides these secrets.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> Self {
        let mut redactor = Self::default();
        secrets.into_iter().for_each(|secret| redactor.hide(secret));
        redactor
    }

    /// Hides this secret too. If it has several lines, such as a key, each of them is hidden: a program may
    /// indent them, or only one may be visible.
    pub fn hide(&mut self, secret: &Secret) {
        let value = secret.expose();
        let lines = value.lines().map(str::trim).filter(|line| line.len() >= SHORTEST_LINE && *line != value);
        let parts = [value].into_iter().filter(|value| value.trim().len() >= SHORTEST).chain(lines);
        let parts = parts.chain(of_address(value));
        self.spellings.extend(parts.flat_map(spellings));
        self.spellings.sort_by(|one, other| other.len().cmp(&one.len()).then_with(|| one.cmp(other)));
        self.spellings.dedup();
    }

    /// Returns `text` without the secrets. Escape sequences are removed with them, because one may stand in
    /// the middle of a secret.
    pub fn redacted(&self, text: &str) -> String {
        let is_hidden = |text: &str| self.spellings.iter().any(|spelling| text.contains(spelling.as_str()));
        let plain = anstream::adapter::strip_str(text).to_string();
        let text = if is_hidden(&plain) { plain } else { text.to_owned() };
        self.spellings.iter().fold(text, |text, spelling| {
            if text.contains(spelling.as_str()) { text.replace(spelling.as_str(), MARK) } else { text }
        })
    }
}

/// The secret parts of a value that is an address, such as that of a chat's webhook: servers repeat the path in their
/// errors, and log its parts.
fn of_address(value: &str) -> impl Iterator<Item = &str> {
    let path = value.trim().split_once("://").and_then(|(_, rest)| Some(&rest[rest.find('/')?..]));
    let is_secret = |part: &&str| {
        part.len() >= LONG_PART
            || part.len() >= SHORTEST_PART && part.bytes().any(|byte| byte.is_ascii_digit())
    };
    let parts = path.into_iter().flat_map(|path| path.split(['/', '?', '&', '=', '#'])).filter(is_secret);
    path.into_iter().filter(|path| path.len() >= SHORTEST_PART).chain(parts)
}

/// The ways in which a value may be written.
fn spellings(value: &str) -> Vec<String> {
    let json = serde_json::to_string(value).unwrap_or_default();
    let json = json.trim_start_matches('"');
    let json = json.strip_suffix('"').unwrap_or(json).to_owned();
    // PHP escapes slashes, Go the characters that HTML knows.
    let slashes = json.replace('/', "\\/");
    let of_html = json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026");
    let (upper, lower) = (percent::encoded(value), percent::encoded_in_lower_case(value));
    let form = upper.replace("%20", "+");
    let mut all = vec![value.to_owned(), json, slashes, of_html, upper, lower, form];
    for begins_at in 0..3 {
        let piece = base64_within(value.as_bytes(), begins_at);
        if piece.len() >= SHORTEST_BASE64 {
            all.push(piece.replace('+', "-").replace('/', "_"));
            all.push(piece);
        }
    }
    all
}

/// The Base64 digits that depend on `value` alone, if `begins_at` bytes precede it in a group of three.
fn base64_within(value: &[u8], begins_at: usize) -> String {
    let before = vec![0; begins_at];
    let digits = STANDARD_NO_PAD.encode([before.as_slice(), value].concat());
    let first = (begins_at * 8).div_ceil(6);
    let last = (begins_at + value.len()) * 8 / 6;
    digits.get(first..last).unwrap_or_default().to_owned()
}

/// Whether `c` controls a terminal, or changes the direction of the text around it so that it looks like
/// another one.
pub fn is_deceptive(c: char) -> bool {
    let is_of_direction =
        matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || is_of_direction
}

/// `text` as a string of TOML. Deceptive characters are escaped too, so that it can be shown and copied.
pub fn toml_text(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c if is_deceptive(c) => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_toml_is_read_as_it_was_and_shows_nothing_deceptive() {
        let text = "/a\nb\t\r\"\\\u{1b}[31m\u{202e}é";
        let quoted = toml_text(text);
        assert!(!quoted.contains(is_deceptive), "{quoted}");
        // JSON has the same escapes.
        assert_eq!(serde_json::from_str::<String>(&quoted).unwrap(), text);
    }

    const VALUE: &str = "s3cr3t-Value+/=x\"y<z>& ü";

    fn redactor() -> Redactor {
        Redactor::new([&Secret::new(VALUE)])
    }

    #[test]
    fn the_path_of_an_address_and_its_secret_parts_are_hidden() {
        let redactor = Redactor::new([&Secret::new(
            "https://hooks.example:8443/services/T0/B0/SesamE77?key=abcdefghijklmnopq",
        )]);
        for (text, shown) in [
            ("Cannot POST /services/T0/B0/SesamE77?key=abcdefghijklmnopq", "Cannot POST [redacted]"),
            ("denied: SesamE77", "denied: [redacted]"),
            ("the key abcdefghijklmnopq is wrong", "the key [redacted] is wrong"),
            ("no such services at hooks.example:8443", "no such services at hooks.example:8443"),
        ] {
            assert_eq!(redactor.redacted(text), shown);
        }
    }

    #[test]
    fn a_secret_is_redacted_in_every_encoding() {
        let json = serde_json::to_string(VALUE).unwrap();
        let basic = |user: &str| STANDARD_NO_PAD.encode(format!("{user}:{VALUE}@host"));
        let texts = [
            VALUE.to_owned(),
            json.trim_matches('"').to_owned(),
            json.trim_matches('"').replace('/', "\\/"),
            form_urlencoded::byte_serialize(VALUE.as_bytes()).collect(),
            percent::encoded_in_lower_case(VALUE),
            STANDARD_NO_PAD.encode(VALUE),
            basic("a"),
            basic("ab"),
            basic("abc"),
            "s3cr3t\u{1b}[0m-Value+/=x\u{1b}[1;31m\"y<z>& ü".to_owned(),
        ];
        for text in texts {
            let shown = redactor().redacted(&format!("it is {text}, really"));
            assert!(shown.contains(MARK), "{text} is shown: {shown}");
            assert!(
                !shown.contains("Value") && !shown.contains("VmFsdW"),
                "a part of {text} is shown: {shown}"
            );
        }
    }

    #[test]
    fn text_without_a_secret_is_unchanged() {
        let text = "\u{1b}[32mok\u{1b}[0m s3cr3t";
        assert_eq!(redactor().redacted(text), text);
        assert_eq!(Redactor::new([&Secret::new("abc"), &Secret::new("")]).redacted("abc"), "abc");
    }

    #[test]
    fn each_line_of_a_secret_is_hidden() {
        let key = Secret::new("-----BEGIN KEY-----\n  MIIBOgIBAAJBAKj34Gkx\nab\n-----END KEY-----");
        let shown = Redactor::new([&key]).redacted("MIIBOgIBAAJBAKj34Gkx\nabout\n    -----END KEY-----");
        assert_eq!(shown, "[redacted]\nabout\n    [redacted]");
    }

    #[test]
    fn a_secret_nested_in_another_is_fully_redacted() {
        let secrets = [Secret::new("inner"), Secret::new("outer-inner-outer")];
        assert_eq!(Redactor::new(&secrets).redacted("x outer-inner-outer inner"), "x [redacted] [redacted]");
    }
}
