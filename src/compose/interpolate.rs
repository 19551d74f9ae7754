//! Variables in values: `$NAME`, `${NAME}`, `${NAME:-default}`, `${NAME-default}`, `${NAME:?error}`,
//! `${NAME?error}`, `${NAME:+other}`, `${NAME+other}`, and `$$` for a dollar. In place of a secret, its mark appears.

use std::collections::BTreeMap;

use super::secrets::{is_marked, is_secret, marked};
use super::yaml::Scalar;

/// The deepest nesting of defaults in defaults.
const DEEPEST: usize = 16;

/// The values of variables: of the environment and of `.env`.
pub(super) type ComposeVariables = BTreeMap<String, String>;

/// A variable that a file requires and that has no value, with the file's own message.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Required {
    pub(super) name: String,
    pub(super) message: String,
}

/// What files say about variables that have no value.
#[derive(Debug, Default)]
pub(super) struct UnsetVariables {
    /// Those that a file requires.
    pub(super) required: Vec<Required>,
    /// The defaults of secrets, such as `${DB_PASSWORD:-default}`, with their lines.
    pub(super) defaults: BTreeMap<String, (String, usize)>,
}

/// Replaces the variables in a scalar of a line.
///
/// # Errors
/// Returns the rest of a sentence: the text is not valid.
pub(super) fn expand(
    scalar: &mut Scalar,
    line: usize,
    variables: &ComposeVariables,
    found: &mut UnsetVariables,
) -> Result<(), String> {
    if !scalar.text.contains('$') {
        return Ok(());
    }
    let text = std::mem::take(&mut scalar.text);
    let mut state = Expansion { variables, line, found: &mut *found, scalar: &mut *scalar };
    let expanded = state.text(&text, 0)?;
    scalar.text = expanded;
    scalar.raw = text;
    Ok(())
}

/// Whether a text is one variable, and nothing else.
pub(super) fn is_variable(text: &str) -> bool {
    match text.strip_prefix("${") {
        Some(inside) => closing(inside).is_some_and(|end| end + 1 == inside.len()),
        None => text.strip_prefix('$').is_some_and(|name| !name.is_empty() && name.chars().all(is_in_name)),
    }
}

/// The variable with which a text begins.
pub(super) fn leading_variable(text: &str) -> Option<&str> {
    let rest = text.strip_prefix('$')?;
    let rest = rest.strip_prefix('{').unwrap_or(rest);
    let end = rest.find(|c| !is_in_name(c)).unwrap_or(rest.len());
    Some(&rest[..end]).filter(|name| !name.is_empty())
}

fn is_in_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

struct Expansion<'a> {
    variables: &'a ComposeVariables,
    line: usize,
    found: &'a mut UnsetVariables,
    scalar: &'a mut Scalar,
}

impl Expansion<'_> {
    /// Returns `text` with its variables replaced.
    fn text(&mut self, text: &str, depth: usize) -> Result<String, String> {
        if depth > DEEPEST {
            return Err("has defaults in defaults that are nested too deeply".to_owned());
        }
        let mut result = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            result.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('$') {
                result.push('$');
                rest = after;
            } else if let Some(inside) = rest.strip_prefix('{') {
                let end = closing(inside).ok_or("opens `${` and does not close it")?;
                result.push_str(&self.braced(&inside[..end], depth)?);
                rest = &inside[end + 1..];
            } else {
                let end = rest.find(|c| !is_in_name(c)).unwrap_or(rest.len());
                let starts_well = rest.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
                if end == 0 || !starts_well {
                    return Err("has a `$` without a name: write `$$` for a dollar".to_owned());
                }
                result.push_str(&self.value(&rest[..end], true).unwrap_or_default());
                rest = &rest[end..];
            }
        }
        result.push_str(rest);
        Ok(result)
    }

    fn braced(&mut self, inside: &str, depth: usize) -> Result<String, String> {
        let end = inside.find(|c| !is_in_name(c)).unwrap_or(inside.len());
        let (name, rule) = inside.split_at(end);
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(format!("has `${{{inside}}}`, which names no variable"));
        }
        let (is_strict, rule) = rule.strip_prefix(':').map_or((false, rule), |rule| (true, rule));
        let mut kinds = rule.chars();
        let kind = kinds.next();
        let value = self.value(name, kind.is_none());
        let value = value.filter(|value| !is_strict || !value.is_empty());
        let word = kinds.as_str();
        match (kind, value) {
            (None, value) if !is_strict => Ok(value.unwrap_or_default()),
            (Some('-' | '?'), Some(value)) => Ok(value),
            (Some('-'), None) => {
                let text = self.text(word, depth + 1)?;
                if is_marked(&text) || !is_secret(name, &text) {
                    return Ok(text);
                }
                self.found.defaults.entry(name.to_owned()).or_insert((text, self.line));
                Ok(marked(name))
            }
            (Some('+'), Some(_)) => self.text(word, depth + 1),
            (Some('+'), None) => Ok(String::new()),
            (Some('?'), None) => {
                let message = self.text(word, depth + 1)?;
                self.found.required.push(Required { name: name.to_owned(), message });
                self.scalar.unset.push(name.to_owned());
                Ok(String::new())
            }
            _ => Err(format!("has `${{{inside}}}`, which compose does not know")),
        }
    }

    /// The value of a variable. Notes a missing one if nothing replaces it.
    fn value(&mut self, name: &str, notes: bool) -> Option<String> {
        self.scalar.variables.push(name.to_owned());
        let value = self.variables.get(name).cloned();
        if value.is_none() && notes {
            self.scalar.unset.push(name.to_owned());
        }
        value.map(|value| if is_secret(name, &value) { marked(name) } else { value })
    }
}

/// The place of the brace that closes the first one.
fn closing(inside: &str) -> Option<usize> {
    let mut open = 0usize;
    let bytes = inside.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'{' if at > 0 && bytes[at - 1] == b'$' => open += 1,
            b'}' if open == 0 => return Some(at),
            b'}' => open -= 1,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> Result<(Scalar, Vec<Required>), String> {
        let set = [("A", "a"), ("EMPTY", "")];
        let variables = set.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let mut found = UnsetVariables::default();
        let mut scalar = Scalar { text: text.to_owned(), ..Scalar::default() };
        expand(&mut scalar, 1, &variables, &mut found).map(|()| (scalar, found.required))
    }

    #[test]
    fn variables_are_replaced_as_compose_does() {
        for (text, expected) in [
            ("$A-${A}", "a-a"),
            ("${NONE}", ""),
            ("${NONE:-x}", "x"),
            ("${NONE-x}", "x"),
            ("${EMPTY:-x}", "x"),
            ("${EMPTY-x}", ""),
            ("${A:-x}", "a"),
            ("${A:+yes}${NONE:+no}${EMPTY:+no}${EMPTY+yes}", "yesyes"),
            ("${NONE:-${ALSO:-${A}}}/b", "a/b"),
            ("${NONE:-a:b-c?d}", "a:b-c?d"),
            ("${NONE:-}", ""),
            ("$$A $${A}", "$A ${A}"),
            ("${A:?must be set}", "a"),
            ("no variables", "no variables"),
        ] {
            assert_eq!(expanded(text).unwrap().0.text, expected, "{text}");
        }
    }

    #[test]
    fn a_secret_never_becomes_its_value() {
        let variables = [("DB_PASSWORD", "hunter2"), ("URL", "http://u:hunter2@h"), ("TOKEN_TTL", "5")];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        for text in [
            "$DB_PASSWORD",
            "a ${X:-${DB_PASSWORD}}",
            "${DB_PASSWORD:?set it}",
            "${DB_PASSWORD-x}/$URL",
            "${API_TOKEN:-hunter2}",
            "${LINK:-http://u:hunter2@h}",
        ] {
            let mut scalar = Scalar { text: text.to_owned(), ..Scalar::default() };
            expand(&mut scalar, 1, &variables, &mut UnsetVariables::default()).unwrap();
            assert!(!scalar.text.contains("hunter2") && is_marked(&scalar.text), "{text}");
        }
        let mut plain = Scalar { text: "${DB_PASSWORD:+set} $TOKEN_TTL".to_owned(), ..Scalar::default() };
        expand(&mut plain, 1, &variables, &mut UnsetVariables::default()).unwrap();
        assert_eq!(plain.text, "set 5");
    }

    #[test]
    fn an_unset_variable_is_reported_with_its_message() {
        let (scalar, required) = expanded("${EMPTY:?set it}").unwrap();
        assert_eq!(
            (scalar.unset.as_slice(), required[0].message.as_str()),
            (&["EMPTY".to_owned()][..], "set it")
        );
        assert_eq!(expanded("${NONE}").unwrap().0.unset, ["NONE"]);
        assert!(expanded("${NONE:-x}").unwrap().0.unset.is_empty());
        for (text, is_variable) in [
            ("${NONE}", true),
            ("$A", true),
            ("${A:-x}", true),
            ("a$A", false),
            ("$A$A", false),
            ("$$", false),
        ] {
            assert_eq!(super::is_variable(text), is_variable, "{text}");
        }
        assert_eq!(leading_variable("${NONE}/a"), Some("NONE"));
        assert_eq!(leading_variable("$NONE/a"), Some("NONE"));
        assert_eq!((leading_variable("/$NONE"), leading_variable("$$NONE")), (None, None));
        for wrong in ["${", "${A", "$ 5", "${1}", "${A!x}", "${}", "$"] {
            assert!(expanded(wrong).is_err(), "{wrong}");
        }
    }
}
