//! Parses JSON of senders: only the named fields, each of which may have any type.

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, IgnoredAny};

use super::Rejection;

/// An optional field. A missing field, `null` and an unexpected type all count as missing:
/// templates and versions of providers differ, so an unknown format is ignored, not an error.
#[derive(Debug)]
pub(super) struct Optional<T>(Option<T>);

impl<T> Default for Optional<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Optional<T> {
    /// The value, if it was sent in the expected type.
    pub(super) fn get(&self) -> Option<&T> {
        self.0.as_ref()
    }
}

impl Optional<String> {
    /// The text, if it was sent.
    pub(super) fn text(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Lenient<T> {
    Expected(T),
    Other(IgnoredAny),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Optional<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match Lenient::deserialize(deserializer)? {
            Lenient::Expected(value) => Self(Some(value)),
            Lenient::Other(_) => Self(None),
        })
    }
}

/// Parses the JSON object in `text`. Fields that `T` does not name are skipped without being
/// stored, so that a large body needs little memory.
///
/// # Errors
/// [`Rejection::BadRequest`] if it is not a JSON object, or has a field of `T` twice.
pub(super) fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, Rejection> {
    // A struct can also be parsed from an array, by position, but no provider sends that.
    if text.trim_ascii_start().first() != Some(&b'{') {
        return Err(Rejection::BadRequest("it is not a JSON object".to_owned()));
    }
    serde_json::from_slice(text).map_err(|error| Rejection::BadRequest(describe(&error)))
}

/// The kind of the error. The parser's own message may quote the payload, and its line and column
/// refer to the outline.
fn describe(error: &serde_json::Error) -> String {
    let kind = match error.classify() {
        serde_json::error::Category::Eof => "it ends too early",
        serde_json::error::Category::Data => "it has a duplicate field or a field of the wrong type",
        _ => "it is not valid JSON",
    };
    kind.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Sample {
        name: Optional<String>,
        inner: Optional<Inner>,
    }

    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Inner {
        name: Optional<String>,
    }

    fn name_in(text: &str) -> Result<Option<String>, Rejection> {
        parse::<Sample>(text.as_bytes()).map(|sample| sample.name.get().cloned())
    }

    #[test]
    fn a_field_of_the_wrong_type_reads_as_missing() {
        assert_eq!(name_in(r#"{"name":"a"}"#), Ok(Some("a".into())));
        for text in ["{}", r#"{"name":null}"#, r#"{"name":5}"#, r#"{"name":{"x":[]}}"#, r#"{"name":[1]}"#] {
            assert_eq!(name_in(text), Ok(None), "{text}");
        }
        let sample: Sample = parse(br#"{"inner":{"name":"b","other":1}}"#).unwrap();
        assert_eq!(sample.inner.get().and_then(|inner| inner.name.text()), Some("b"));
    }

    #[test]
    fn hostile_json_is_refused_without_harm() {
        let deep_array = "[".repeat(10_000);
        let deep_field = format!(r#"{{"name":{}"#, "[".repeat(10_000));
        let huge = format!(r#"{{"name":"{}"#, "x".repeat(1_000_000));
        for text in [
            "",
            "[]",
            "5",
            "null",
            r#"["a","b"]"#,
            r#"{"name":"a","name":"b"}"#,
            r#"{"name":1e999}"#,
            r#"{"name":"\ud800"}"#,
            r#"{"name":"a"}x"#,
            "\u{feff}{}",
            &deep_array,
            &deep_field,
            &huge,
        ] {
            let shown: String = text.chars().take(40).collect();
            assert!(matches!(name_in(text), Err(Rejection::BadRequest(_))), "{shown}");
        }
        assert!(parse::<Sample>(b"{\"name\":\"\xff\"}").is_err());
    }

    #[test]
    fn an_error_does_not_quote_the_payload() {
        let error = name_in(r#"{"name":"a","name":"sesame"}"#).unwrap_err();
        assert!(!error.to_string().contains("sesame"), "{error}");
    }
}
