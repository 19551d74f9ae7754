//! The rule that values of secrets reach no manifest.
//!
//! A variable of `.env` or the shell that is a secret never becomes its value: [`marked`] stands for it in every text
//! of the project. `literals` does the same with the secrets that the file holds as text. `environment` turns a text
//! with a mark into a reference, and [`settle`] deals with all others before they are written.

use serde_json::{Value, json};

use super::advice::{ShownSecrets, refusal};
use super::draft::EnvironmentDraft;
use super::secret_names::names_secret;
use super::secret_parts::secret_parts;
use super::service::{Context, reference};

/// Begin and end the name of a variable that stands for its value. No compose file has a reason to hold these
/// characters, which mean nothing in Unicode.
pub(super) const MARK: [char; 2] = ['\u{f8f0}', '\u{f8f1}'];

/// Whether a variable of this name and value is a secret: its name marks one, or its value has the form of one.
pub(super) fn is_secret(name: &str, value: &str) -> bool {
    names_secret(name, value) || !secret_parts(value).is_empty()
}

/// The text that stands for the value of a secret variable.
pub(super) fn marked(variable: &str) -> String {
    let [begin, end] = MARK;
    format!("{begin}{variable}{end}")
}

/// Whether a secret became part of a text.
pub(super) fn is_marked(text: &str) -> bool {
    text.contains(MARK)
}

/// The name in a text that is one mark and nothing else.
pub(super) fn sole_mark(text: &str) -> Option<&str> {
    let [begin, end] = MARK;
    text.strip_prefix(begin)?.strip_suffix(end).filter(|name| !is_marked(name))
}

/// The text as users may see it: with the names of secret variables in place of their values.
pub(super) fn shown(text: &str) -> String {
    let [begin, end] = MARK;
    text.replace(begin, "${").replace(end, "}")
}

/// The secret variables in a value, without doubles.
fn variables_in(value: &Value) -> Vec<String> {
    let mut all = Vec::new();
    collect(value, &mut all);
    all.sort();
    all.dedup();
    all
}

fn collect(value: &Value, all: &mut Vec<String>) {
    match value {
        Value::String(text) => all.extend(variables_of(text)),
        Value::Array(items) => items.iter().for_each(|item| collect(item, all)),
        Value::Object(entries) => entries.iter().for_each(|(key, value)| {
            all.extend(variables_of(key));
            collect(value, all);
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The secret variables in a text.
pub(super) fn variables_of(text: &str) -> impl Iterator<Item = String> {
    text.split(MARK[0]).skip(1).map(|rest| rest.split(MARK[1]).next().unwrap_or_default().to_owned())
}

/// Removes the secrets from everything that is to be written of an environment. A shell in the container reads them
/// from a variable. Whatever nothing reads later cannot be written, and is reported with what to do.
pub(super) fn settle(draft: &mut EnvironmentDraft, context: &mut Context<'_>) {
    for key in ["command", "entrypoint", "health"] {
        by_shell(draft, context, key);
    }
    let own = draft.keys.iter().map(|(key, value)| (key.clone(), value.clone()));
    let of_build = draft.build.iter().flatten().map(|(key, value)| (format!("build.{key}"), value.clone()));
    let of_source = draft.repository.iter().map(|it| ("url".to_owned(), json!([it.url, it.name])));
    let written: Vec<(String, Value)> = own.chain(of_build).chain(of_source).collect();
    for (key, value) in &written {
        let names = variables_in(value);
        if !names.is_empty() {
            let described: Vec<String> =
                names.iter().map(|name| context.project.literals.described(name)).collect();
            let shown = ShownSecrets { key, value, names: &names, described: described.join(", ") };
            let why = refusal(draft, &shown);
            draft.lose(why);
        }
    }
    for (service, _) in &mut draft.needs {
        *service = shown(service);
    }
    for texts in [&mut draft.lost, &mut draft.actions, &mut draft.changed] {
        texts.iter_mut().for_each(|text| *text = shown(text));
    }
}

/// Lets the shell that runs a command read its secrets from variables of the container.
fn by_shell(draft: &mut EnvironmentDraft, context: &mut Context<'_>, key: &str) {
    let Some(at) = draft.keys.iter().position(|(name, _)| name == key) else { return };
    let mut value = draft.keys[at].1.clone();
    let words = if key == "health" { value.get_mut("command") } else { Some(&mut value) };
    let Some(words) = words.and_then(Value::as_array_mut) else { return };
    let Some((Value::String(script), others)) = script_of(words) else { return };
    let found: Vec<String> = variables_of(script).collect();
    let Some(read) = reading(script).filter(|_| !found.is_empty() && others) else { return };
    *script = read;
    if found.iter().all(|variable| declare(draft, context, variable)) {
        draft.keys[at].1 = value;
        draft.change(format!("a shell in the container reads {} in `{key}`", found.join(", ")));
    }
}

/// The script in `sh -c SCRIPT ...`, and whether no other word holds a secret.
fn script_of(words: &mut [Value]) -> Option<(&mut Value, bool)> {
    let texts: Vec<&str> = words.iter().map(|word| word.as_str().unwrap_or_default()).collect();
    let is_script = is_script(&texts);
    let others = words.iter().enumerate().all(|(at, word)| at == 2 || variables_in(word).is_empty());
    words.get_mut(2).filter(|_| is_script).map(|script| (script, others))
}

/// Whether a command is a shell that runs a script: `sh -c SCRIPT`.
pub(super) fn is_script(words: &[&str]) -> bool {
    let [shell, flag, ..] = words else { return false };
    let shell = shell.rsplit('/').next().unwrap_or_default();
    ["sh", "bash", "ash", "dash"].contains(&shell) && flag.starts_with('-') && flag.ends_with('c')
}

/// The script with references to variables in place of secrets; `None`: whether a shell would read them is unclear.
fn reading(script: &str) -> Option<String> {
    // Scripts within scripts have quotes of their own.
    let nests =
        script.contains("$(") || script.contains('`') || script.contains("<<") || script.contains("eval ");
    if nests || script.contains(" -c ") {
        return None;
    }
    let [begin, end] = MARK;
    let (mut result, mut quote, mut is_escaped) = (String::new(), None, false);
    for c in script.chars() {
        let was_escaped = is_escaped;
        is_escaped = c == '\\' && !was_escaped && quote != Some('\'');
        match c {
            _ if c == begin && was_escaped => return None,
            _ if c == begin => result.push_str(match quote {
                None => "\"${",
                Some('"') => "${",
                _ => "'\"${",
            }),
            _ if c == end => result.push_str(match quote {
                None => "}\"",
                Some('"') => "}",
                _ => "}\"'",
            }),
            '\'' | '"' if !was_escaped && quote.is_none_or(|open| open == c) => {
                quote = if quote.is_none() { Some(c) } else { None };
                result.push(c);
            }
            _ => result.push(c),
        }
    }
    quote.is_none().then_some(result)
}

/// Gives the container a variable that holds a secret. Returns `false` if it has another one of that name.
fn declare(draft: &mut EnvironmentDraft, context: &mut Context<'_>, variable: &str) -> bool {
    let reference = reference(context, variable);
    let at = draft.keys.iter().position(|(key, _)| key == "env");
    let at = at.unwrap_or_else(|| {
        draft.set("env", json!({}));
        draft.keys.len() - 1
    });
    let Some(env) = draft.keys[at].1.as_object_mut() else { return false };
    let there = env.entry(variable).or_insert_with(|| reference.clone());
    *there == reference
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_a_secret_wherever_it_is_quoted() {
        let secret = marked("PW");
        for (script, expected) in [
            ("cli -a @ ping", Some("cli -a \"${PW}\" ping")),
            ("cli -p@", Some("cli -p\"${PW}\"")),
            ("cli -a \"@\"", Some("cli -a \"${PW}\"")),
            ("cli -a 'x@y'", Some("cli -a 'x'\"${PW}\"'y'")),
            ("a \\' @ \"'\" @", Some("a \\' \"${PW}\" \"'\" \"${PW}\"")),
            ("echo \"$(cli '@')\"", None),
            ("sh -c 'cli @'", None),
            ("cli '@", None),
            ("cli \\@", None),
        ] {
            assert_eq!(reading(&script.replace('@', &secret)).as_deref(), expected, "{script}");
        }
        assert_eq!(shown(&format!("a {secret} b")), "a ${PW} b");
    }
}
