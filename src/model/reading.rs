//! Reads documents of clients, and words the errors. The libraries' own texts name types of Rust, and places in a
//! document that a client may never have seen.

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::error::Category;

/// Reads a JSON text.
///
/// # Errors
/// Returns a sentence about the first problem.
pub fn json<T: DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let read = serde_path_to_error::deserialize(&mut reader);
    let read = read.map_err(|error| at(&error.path().to_string(), error.inner()))?;
    reader.end().map_err(|error| words(&error))?;
    Ok(read)
}

/// Reads a JSON value.
///
/// # Errors
/// Returns a sentence about the first problem.
pub fn value<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    serde_path_to_error::deserialize(value).map_err(|error| at(&error.path().to_string(), error.inner()))
}

/// Words an error of a JSON text whose place in the document is unknown.
pub fn words(error: &serde_json::Error) -> String {
    at("", error)
}

/// Words an error at a path such as `images.dev`.
fn at(path: &str, error: &serde_json::Error) -> String {
    let (line, column) = (error.line(), error.column());
    match error.classify() {
        Category::Eof => "it is not complete JSON: its end is missing".to_owned(),
        Category::Syntax => format!("it is not valid JSON at line {line}, column {column}"),
        Category::Io => error.to_string(),
        Category::Data => {
            let text = error.to_string();
            let place = format!(" at line {line} column {column}");
            sentence(path, text.strip_suffix(&place).unwrap_or(&text))
        }
    }
}

/// Words a message of serde about the value at a path; an empty path is the whole document.
pub fn sentence(path: &str, message: &str) -> String {
    let is_place = !path.is_empty() && path != "." && !path.ends_with('?');
    let subject = if is_place { format!("`{path}`") } else { "the value".to_owned() };
    let within = if is_place { format!(" in `{path}`") } else { String::new() };
    let named = |start: &str| message.strip_prefix(start)?.split_once('`');
    if let Some((name, _)) = named("missing field `") {
        return format!("missing field `{name}`{within}");
    }
    if let Some((name, _)) = named("duplicate field `") {
        return format!("the field `{name}`{within} is there twice: keep one");
    }
    if let Some((name, rest)) = named("unknown field `") {
        // The path ends with the field itself.
        let parent = path.strip_suffix(name).unwrap_or_default().trim_end_matches('.');
        let within = if parent.is_empty() { String::new() } else { format!(" in `{parent}`") };
        return match rest.strip_prefix(", expected ") {
            Some(known) => format!("unknown field `{name}`{within}: use {known}"),
            None => format!("unknown field `{name}`{within}: remove it"),
        };
    }
    if let Some((name, rest)) = named("unknown variant `") {
        let known = rest.strip_prefix(", expected ").unwrap_or("another word");
        return format!("{subject} must be {known}, not `{name}`");
    }
    for start in ["invalid type: ", "invalid value: "] {
        if let Some((found, expected)) =
            message.strip_prefix(start).and_then(|rest| rest.split_once(", expected "))
        {
            return format!("{subject} must be {}, not {}", required(expected), present(found));
        }
    }
    if let Some((_, expected)) =
        message.strip_prefix("invalid length ").and_then(|rest| rest.split_once(", expected "))
    {
        return match expected.starts_with("struct ") {
            true => format!("{subject} must be an object, not a list"),
            false => format!("{subject} has the wrong number of elements"),
        };
    }
    if message.starts_with("data did not match any variant") {
        return format!("{subject} has none of the forms that are valid there");
    }
    let number = [
        "invalid digit found in string",
        "cannot parse integer from empty string",
        "number too large to fit",
    ];
    if number.iter().any(|start| message.starts_with(start)) {
        return format!("{subject} must be a whole number that is neither negative nor too large");
    }
    if message.starts_with("provided string was not `true` or `false`") {
        return format!("{subject} must be `true` or `false`");
    }
    // The grammars of abide's own types write sentences.
    if is_place { format!("{subject}: {message}") } else { message.to_owned() }
}

/// The kind of value that is valid.
fn required(expected: &str) -> String {
    let word = match expected {
        "a string" | "string" | "str" | "a borrowed string" | "variant identifier" => "a text",
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number of 0 or more",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "`true` or `false`",
        "a sequence" | "an array" => "a list",
        "a map" => "an object",
        "string or map" => "a text or an object",
        structure if structure.starts_with("struct ") => "an object",
        tuple if tuple.starts_with("tuple") || tuple.starts_with("a tuple") => "a list",
        sentence => sentence,
    };
    word.to_owned()
}

/// The value that is there.
fn present(found: &str) -> String {
    match found {
        "map" => "an object".to_owned(),
        "sequence" => "a list".to_owned(),
        "unit value" => "null".to_owned(),
        _ => match found.split_once(' ') {
            Some(("string", text)) => format!("the text {text}"),
            Some(("integer", number)) => format!("the number {}", number.trim_matches('`')),
            Some(("floating", rest)) => {
                format!("the number {}", rest.trim_start_matches("point ").trim_matches('`'))
            }
            Some(("boolean", word)) => word.to_owned(),
            _ => found.to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only the errors of reading it are tested")]
    struct Sample {
        from: String,
        #[serde(default)]
        numbers: BTreeMap<String, u16>,
        #[serde(default)]
        flag: bool,
        kind: Option<Kind>,
        either: Option<Either>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Kind {
        Small,
        Large,
    }

    #[derive(Debug, Deserialize)]
    #[serde(untagged)]
    #[allow(dead_code, reason = "only the errors of reading it are tested")]
    enum Either {
        Number(u64),
        Text(String),
    }

    #[test]
    fn no_sentence_names_a_type_of_rust() {
        for (text, expected) in [
            ("{}", "missing field `from`"),
            ("[]", "the value must be an object, not a list"),
            ("7", "the value must be an object, not the number 7"),
            ("{\"from\": 7}", "`from` must be a text, not the number 7"),
            ("{\"from\": null}", "`from` must be a text, not null"),
            ("{\"from\": {}}", "`from` must be a text, not an object"),
            (
                "{\"from\": \"a\", \"flag\": \"yes\"}",
                "`flag` must be `true` or `false`, not the text \"yes\"",
            ),
            (
                "{\"from\": \"a\", \"numbers\": {\"dev\": -1}}",
                "`numbers.dev` must be a whole number of 0 or more, not the number -1",
            ),
            ("{\"from\": \"a\", \"numbers\": []}", "`numbers` must be an object, not a list"),
            ("{\"from\": \"a\", \"from\": \"b\"}", "the field `from` is there twice: keep one"),
            ("{\"from\": \"a\", \"kind\": \"x\"}", "`kind` must be `small` or `large`, not `x`"),
            ("{\"from\": \"a\", \"either\": []}", "`either` has none of the forms that are valid there"),
            (
                "{\"form\": \"a\"}",
                "unknown field `form`: use one of `from`, `numbers`, `flag`, `kind`, `either`",
            ),
            ("{\"from\": ", "it is not complete JSON: its end is missing"),
            ("{\"from\": x}", "it is not valid JSON at line 1, column 10"),
            ("{\"from\": \"a\"} x", "it is not valid JSON at line 1, column 15"),
        ] {
            assert_eq!(json::<Sample>(text.as_bytes()).unwrap_err(), expected, "{text}");
        }
        let read = value::<Sample>(serde_json::json!({ "from": 1.5 })).unwrap_err();
        assert_eq!(read, "`from` must be a text, not the number 1.5");
    }
}
