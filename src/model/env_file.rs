//! Files of environment variables, as compose reads them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::container::Secret;
use super::manifest::grammar;
use super::wire;

/// A file of environment variables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvFile {
    /// Its path on the host that runs the environment.
    #[serde(deserialize_with = "wire::host_path")]
    pub path: PathBuf,
    /// Whether it has to exist.
    #[serde(default = "by_default", skip_serializing_if = "Clone::clone")]
    pub required: bool,
}

fn by_default() -> bool {
    true
}

/// Why a file is not one of variables. The message never repeats its content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} {problem}")]
pub struct InvalidEnvFile {
    line: usize,
    problem: &'static str,
}

/// Adds the variables of a file to `all`: lines of `NAME=value` and comments. A value may be quoted; without
/// quotes or in double quotes, `$NAME`, `${NAME}` and `${NAME:-default}` stand for earlier variables. A name
/// without a value is left out: abide does not pass on its variables.
///
/// # Errors
/// Returns [`InvalidEnvFile`], which names the line.
pub fn read(text: &str, all: &mut BTreeMap<String, Secret>) -> Result<(), InvalidEnvFile> {
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    while !rest.is_empty() {
        let line = 1 + text[..text.len() - rest.len()].matches('\n').count();
        let wrong = |problem| InvalidEnvFile { line, problem };
        let (this, after) = rest.split_once('\n').unwrap_or((rest, ""));
        let bare = this.trim();
        if bare.is_empty() || bare.starts_with('#') {
            rest = after;
            continue;
        }
        let start = rest.len() - rest.trim_start().len();
        let bare = rest[start..].strip_prefix("export ").map_or(&rest[start..], str::trim_start);
        let end = bare.find(['=', '\n']).unwrap_or(bare.len());
        let name = bare[..end].trim();
        if grammar::variable(name).is_err() {
            return Err(wrong("does not begin with the name of a variable"));
        }
        if !bare[end..].starts_with('=') {
            rest = after;
            continue;
        }
        let (value, left) = value(bare[end + 1..].trim_start_matches([' ', '\t']), all).map_err(wrong)?;
        all.insert(name.to_owned(), Secret::new(value));
        rest = left;
    }
    Ok(())
}

/// Reads a value and returns what follows its line.
fn value<'t>(text: &'t str, known: &BTreeMap<String, Secret>) -> Result<(String, &'t str), &'static str> {
    let quote = text.chars().next().filter(|first| ['\'', '"'].contains(first));
    let Some(quote) = quote else {
        let (line, after) = text.split_once('\n').unwrap_or((text, ""));
        let comment = line.match_indices('#').find(|(at, _)| line[..*at].ends_with([' ', '\t']) || *at == 0);
        let bare = comment.map_or(line, |(at, _)| &line[..at]).trim_end();
        return Ok((expanded(bare, known)?, after));
    };
    let (mut end, mut escaped) = (None, false);
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => {
                end = Some(at);
                break;
            }
            _ => {}
        }
    }
    let end = end.ok_or("opens a quote that no later line closes")?;
    let (inside, after) = (&text[1..end], &text[end + 1..]);
    let (left, after) = after.split_once('\n').unwrap_or((after, ""));
    if !left.trim().is_empty() && !left.trim().starts_with('#') {
        return Err("has more text after the closing quote");
    }
    let value = match quote {
        '"' => expanded(inside, known)?,
        _ => inside.replace("\\'", "'"),
    };
    Ok((value, after))
}

/// Replaces escapes and variables.
fn expanded(text: &str, known: &BTreeMap<String, Secret>) -> Result<String, &'static str> {
    let mut value = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['\\', '$']) {
        value.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        rest = if rest[at..].starts_with('\\') {
            escape(after, &mut value)
        } else {
            variable(after, known, &mut value)?
        };
    }
    value.push_str(rest);
    Ok(value)
}

fn escape<'t>(after: &'t str, value: &mut String) -> &'t str {
    let mut chars = after.chars();
    match chars.next() {
        Some('n') => value.push('\n'),
        Some('r') => value.push('\r'),
        Some('t') => value.push('\t'),
        Some(c @ ('"' | '\\' | '$' | '\'')) => value.push(c),
        Some(other) => value.extend(['\\', other]),
        None => value.push('\\'),
    }
    chars.as_str()
}

/// Reads what follows a dollar.
fn variable<'t>(
    after: &'t str,
    known: &BTreeMap<String, Secret>,
    value: &mut String,
) -> Result<&'t str, &'static str> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if let Some(rest) = after.strip_prefix('$') {
        value.push('$');
        return Ok(rest);
    }
    let Some(inside) = after.strip_prefix('{') else {
        let end = after.find(|c| !is_name(c)).unwrap_or(after.len());
        match &after[..end] {
            "" => value.push('$'),
            name => value.push_str(known.get(name).map_or("", Secret::expose)),
        }
        return Ok(&after[end..]);
    };
    let (inside, rest) = inside.split_once('}').ok_or("has a `${` without its `}`")?;
    let end = inside.find(|c| !is_name(c)).unwrap_or(inside.len());
    let found = known.get(&inside[..end]).map(Secret::expose);
    let chosen = match &inside[end..] {
        "" => found.unwrap_or_default(),
        other => match (other.strip_prefix(":-"), other.strip_prefix('-')) {
            (Some(default), _) => found.filter(|found| !found.is_empty()).unwrap_or(default),
            (None, Some(default)) => found.unwrap_or(default),
            (None, None) => return Err("has a form of `${...}` other than `${NAME}` and `${NAME:-default}`"),
        },
    };
    value.push_str(chosen);
    Ok(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        let mut all = BTreeMap::new();
        read(text, &mut all).unwrap();
        all.iter().map(|(name, value)| (name.clone(), value.expose().to_owned())).collect()
    }

    #[test]
    fn env_files_are_parsed_as_compose_does() {
        for (text, value) in [
            ("A=1", "1"),
            ("A = 1 ", "1"),
            ("export A=1\r\n", "1"),
            ("# x\n\nA=a#b", "a#b"),
            ("A=a # b", "a"),
            ("A=", ""),
            ("A=# none", ""),
            ("A='$X \\n'", "$X \\n"),
            ("A=\"a\\n\\\"b\\\"\" # c", "a\n\"b\""),
            ("A=\"two\nlines\"", "two\nlines"),
            ("A=a$$b", "a$b"),
            ("A=${X:-d}e", "de"),
            ("A=$X", ""),
            ("A=postgres://u:p@h/d?x=1", "postgres://u:p@h/d?x=1"),
            ("\u{feff}A=1", "1"),
        ] {
            assert_eq!(pairs(text), [("A".to_owned(), value.to_owned())], "{text:?}");
        }
        assert_eq!(pairs("A\nB"), []);
        let both = pairs("A=1\nB=\"${A}2\"\nA=3\n");
        assert_eq!(both, [("A".to_owned(), "3".to_owned()), ("B".to_owned(), "12".to_owned())]);
    }

    #[test]
    fn an_invalid_env_file_line_is_reported_without_its_content() {
        for (text, line) in [
            ("A=1\nthe secret=1", 2),
            ("\n\nA=\"secret", 3),
            ("A='a' secret", 1),
            ("A=${secret", 1),
            ("A=${A:?x}", 1),
        ] {
            let error = read(text, &mut BTreeMap::new()).unwrap_err();
            assert_eq!(error.line, line, "{text:?}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
