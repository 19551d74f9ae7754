//! Percent-encoding of texts in URLs.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Everything but the unreserved characters of RFC 3986.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// `text` as one part of a path or a query.
pub fn encoded(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

/// The same with small letters in the escapes, as some programs write them.
pub fn encoded_in_lower_case(text: &str) -> String {
    let parts = utf8_percent_encode(text, RESERVED);
    parts
        .map(|part| if part.starts_with('%') { part.to_ascii_lowercase() } else { part.to_owned() })
        .collect()
}
