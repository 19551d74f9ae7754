//! Reads JSON as it arrives, and stores only the members that deliveries need.
//!
//! Before its last byte, a body may not be authentic. Storing whole bodies until then would let
//! strangers fill the memory, so a body of 25 MB costs only as much as the few members that matter.

use std::str;

use super::Rejection;

/// All members that are read for some provider, at any depth. Others, such as lists of commits, are
/// dropped with their content.
const KEPT: [&str; 37] = [
    "actor",
    "after",
    "changes",
    "checkout_sha",
    "closed",
    "commit_status",
    "context",
    "deleted",
    "display_name",
    "event_name",
    "full_name",
    "hash",
    "id",
    "key",
    "login",
    "name",
    "new",
    "nickname",
    "object_attributes",
    "object_kind",
    "old",
    "path_with_namespace",
    "project",
    "push",
    "pusher",
    "ref",
    "ref_type",
    "repository",
    "sender",
    "slug",
    "source",
    "target",
    "toHash",
    "type",
    "user_name",
    "user_username",
    "username",
];
/// The longest string stored, in bytes; a longer one becomes `null`. No useful reference, commit or
/// name is that long.
const LONGEST: usize = 4 * 1024;
/// The maximum stored of one body, in bytes: several thousand references.
const MOST: usize = 1024 * 1024;
/// The maximum nesting depth.
const DEEPEST: usize = 128;

/// The outline of a JSON object.
#[derive(Debug, Default)]
pub(super) struct Outline {
    /// The open objects and arrays.
    open: Vec<JsonLevel>,
    string: Option<Text>,
    /// The number of open levels outside the member that is being dropped.
    dropping: Option<usize>,
    is_begun: bool,
    wrong: Option<&'static str>,
    kept: Vec<u8>,
}

#[derive(Debug)]
enum JsonLevel {
    Array,
    Object {
        /// Whether the next string is a member's name.
        is_name_next: bool,
        is_empty: bool,
    },
}

/// The string that is being read.
#[derive(Debug)]
struct Text {
    is_name: bool,
    is_escaped: bool,
    /// Its start in the stored bytes, including a comma before it.
    start: usize,
    is_too_long: bool,
}

impl Outline {
    /// Reads the next bytes.
    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        while self.wrong.is_none() && !bytes.is_empty() {
            let read = if self.string.is_some() { self.in_string(bytes) } else { self.outside(bytes[0]) };
            bytes = &bytes[read..];
            if self.kept.len() > MOST {
                self.wrong = Some("it names too many things");
                self.kept = Vec::new();
            }
        }
    }

    /// The number of bytes stored.
    pub(super) fn kept(&self) -> usize {
        self.kept.len()
    }

    /// Returns the object with the relevant members. It is as valid as the input; the parser checks
    /// the stored part.
    ///
    /// # Errors
    /// [`Rejection::BadRequest`] if it is not an object, or nested too deep.
    pub(super) fn finish(self) -> Result<Vec<u8>, Rejection> {
        match self.wrong {
            Some(wrong) => Err(Rejection::BadRequest(wrong.to_owned())),
            None if !self.is_begun => Err(Rejection::BadRequest("it is not a JSON object".to_owned())),
            None => Ok(self.kept),
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.dropping.is_none() {
            self.kept.extend_from_slice(bytes);
        }
    }

    /// Reads the rest of a string, as far as it is there; returns the number of bytes.
    fn in_string(&mut self, bytes: &[u8]) -> usize {
        let Some(text) = &mut self.string else { return 0 };
        if text.is_escaped {
            text.is_escaped = false;
            self.keep_of_string(&bytes[..1]);
            return 1;
        }
        let plain = bytes.iter().position(|byte| matches!(byte, b'"' | b'\\')).unwrap_or(bytes.len());
        if plain > 0 {
            self.keep_of_string(&bytes[..plain]);
            return plain;
        }
        text.is_escaped = bytes[0] == b'\\';
        let is_end = bytes[0] == b'"';
        self.keep_of_string(&bytes[..1]);
        if is_end {
            self.end_string();
        }
        1
    }

    fn keep_of_string(&mut self, bytes: &[u8]) {
        let Some(text) = &mut self.string else { return };
        if self.dropping.is_some() || text.is_too_long {
            return;
        }
        self.kept.extend_from_slice(bytes);
        if self.kept.len() - text.start > LONGEST {
            text.is_too_long = true;
            self.kept.truncate(text.start);
        }
    }

    fn begin_string(&mut self) {
        let (mut is_name, start) = (false, self.kept.len());
        if let Some(JsonLevel::Object { is_name_next: is_next @ true, is_empty }) = self.open.last_mut() {
            (*is_next, is_name) = (false, true);
            if !*is_empty {
                self.keep(b",");
            }
        }
        self.keep(b"\"");
        self.string = Some(Text { is_name, is_escaped: false, start, is_too_long: false });
    }

    fn end_string(&mut self) {
        let Some(text) = self.string.take() else { return };
        if self.dropping.is_some() {
            return;
        }
        if text.is_name {
            self.end_name(&text);
        } else if text.is_too_long {
            self.keep(b"null");
        }
    }

    fn end_name(&mut self, text: &Text) {
        let written = self.kept.get(text.start..).unwrap_or_default();
        let name = written.strip_prefix(b",").unwrap_or(written);
        let name = name.strip_prefix(b"\"").and_then(|name| name.strip_suffix(b"\""));
        let is_kept =
            name.and_then(|name| str::from_utf8(name).ok()).is_some_and(|name| KEPT.contains(&name));
        if !is_kept {
            self.kept.truncate(text.start);
            self.dropping = Some(self.open.len());
        } else if let Some(JsonLevel::Object { is_empty, .. }) = self.open.last_mut() {
            *is_empty = false;
        }
    }

    /// Reads one byte outside a string.
    fn outside(&mut self, byte: u8) -> usize {
        match byte {
            b'"' if !self.open.is_empty() => self.begin_string(),
            b'{' => self.begin(JsonLevel::Object { is_name_next: true, is_empty: true }, byte),
            b'[' if !self.open.is_empty() => self.begin(JsonLevel::Array, byte),
            b'}' | b']' => self.end(byte),
            b',' if !self.open.is_empty() => self.separate(),
            // Keeps two numbers from merging into one.
            b' ' | b'\t' | b'\r' | b'\n' if self.kept.last().is_some_and(|last| *last != b' ') => {
                self.keep(b" ");
            }
            b' ' | b'\t' | b'\r' | b'\n' => {}
            _ if self.open.is_empty() => self.wrong = Some("it is not a JSON object"),
            _ => self.keep(&[byte]),
        }
        1
    }

    fn begin(&mut self, level: JsonLevel, byte: u8) {
        if self.is_begun && self.open.is_empty() {
            self.wrong = Some("there is text after the JSON object");
        } else if self.open.len() >= DEEPEST {
            self.wrong = Some("its values are nested too deeply");
        } else {
            self.is_begun = true;
            self.open.push(level);
            self.keep(&[byte]);
        }
    }

    fn end(&mut self, byte: u8) {
        if self.dropping == Some(self.open.len()) {
            self.dropping = None;
        }
        match (self.open.pop(), byte) {
            (Some(JsonLevel::Object { .. }), b'}') | (Some(JsonLevel::Array), b']') => self.keep(&[byte]),
            _ => self.wrong = Some("it is not valid JSON"),
        }
    }

    fn separate(&mut self) {
        if self.dropping == Some(self.open.len()) {
            self.dropping = None;
        }
        match self.open.last_mut() {
            // The next stored member writes the comma.
            Some(JsonLevel::Object { is_name_next, .. }) => *is_name_next = true,
            _ => self.keep(b","),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn outline(text: &[u8], piece: usize) -> Result<Vec<u8>, Rejection> {
        let mut outline = Outline::default();
        text.chunks(piece.max(1)).for_each(|piece| outline.push(piece));
        outline.finish()
    }

    fn kept(text: &str) -> String {
        String::from_utf8(outline(text.as_bytes(), 7).unwrap()).unwrap()
    }

    #[test]
    fn relevant_members_are_kept_and_others_dropped_at_any_depth() {
        for (text, expected) in [
            ("{}", "{}"),
            (r#"{"ref":"a","x":1}"#, r#"{"ref":"a"}"#),
            (r#"{"x":{"ref":"b"},"ref":"a"}"#, r#"{"ref":"a"}"#),
            (r#"{"x":[1,{"y":"}]"}],"after":null,"z":"\"","id":7}"#, r#"{"after":null,"id":7}"#),
            (
                r#"{"push":{"changes":[{"commits":[1],"new":{"name":"d"}},{}]}}"#,
                r#"{"push":{"changes":[{"new":{"name":"d"}},{}]}}"#,
            ),
            ("{ \"ref\" :\n \"a b\" , \"x\" : 1 }", "{ \"ref\" : \"a b\" }"),
        ] {
            let (kept, expected) = (kept(text), expected.replace(' ', ""));
            assert_eq!(kept.replace(' ', ""), expected, "{text}");
        }
    }

    #[test]
    fn a_non_object_or_trailing_data_is_rejected() {
        let deep = format!("{{\"x\":{}", "[".repeat(10_000));
        for text in ["", "[]", "5", "null", "\"ref\"", "\u{feff}{}", "{}x", "{}{}", "{]", "{}}", &deep] {
            let shown: String = text.chars().take(20).collect();
            assert!(outline(text.as_bytes(), 5).is_err(), "{shown}");
        }
    }

    #[test]
    fn the_outline_of_a_large_body_is_small() {
        let long = "x".repeat(3 * LONGEST);
        let commits: Vec<Value> =
            (0..20_000).map(|at| json!({"id": at, "message": "m".repeat(100)})).collect();
        let text = json!({"ref": long, "after": "b", "commits": commits}).to_string();
        let kept: Value = serde_json::from_slice(&outline(text.as_bytes(), 4_096).unwrap()).unwrap();
        assert_eq!(kept, json!({"ref": null, "after": "b"}));
        for flood in ["[1", "[\"a\"", "[{\"ref\":{}}"] {
            let text = format!("{{\"ref\":{}", flood.replace('[', "[ ") + &",\"id\"".repeat(400_000));
            let mut outline = Outline::default();
            text.as_bytes().chunks(64).for_each(|piece| outline.push(piece));
            assert!(outline.kept.capacity() <= 2 * MOST && outline.finish().is_err());
        }
    }

    /// `value` without the dropped members.
    fn reduced(value: &Value) -> Value {
        match value {
            Value::Object(members) => members
                .iter()
                .filter(|(name, _)| KEPT.contains(&name.as_str()))
                .map(|(name, value)| (name.clone(), reduced(value)))
                .collect(),
            Value::Array(items) => items.iter().map(reduced).collect(),
            other => other.clone(),
        }
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::from),
            "[\\PC\"\\\\{}\\[\\],:]{0,8}".prop_map(Value::from),
        ];
        let name = prop_oneof![Just("ref".to_owned()), Just("push".to_owned()), "[\\PC\"\\\\]{0,4}"];
        leaf.prop_recursive(5, 40, 6, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                proptest::collection::btree_map(name.clone(), inner, 0..5)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_outline_equals_the_reduced_object(value in values(), piece in 1_usize..20, is_pretty: bool) {
            let object = json!({"ref": value});
            let text = if is_pretty { serde_json::to_string_pretty(&object) } else { serde_json::to_string(&object) };
            let kept = outline(text.unwrap().as_bytes(), piece).unwrap();
            prop_assert_eq!(serde_json::from_slice::<Value>(&kept).unwrap(), reduced(&object));
        }

        #[test]
        fn arbitrary_bytes_do_not_panic_the_outline(bytes in proptest::collection::vec(any::<u8>(), 0..300), piece in 1_usize..20) {
            let _ = outline(&[b"{\"ref\":", bytes.as_slice()].concat(), piece);
        }
    }
}
