//! Which variables hold secrets, by their names, and the rule that their values reach no manifest.
//!
//! A variable of `.env` or the shell whose name looks like a secret never becomes its value: [`marked`] stands for it
//! in every text of the project. `environment` turns such a text into a reference, and [`settle`] deals with all others
//! before they are written.

use serde_json::{Value, json};

use super::draft::EnvironmentDraft;
use super::service::Context;

/// Begin and end the name of a variable that stands for its value. No compose file has a reason to hold these
/// characters, which mean nothing in Unicode.
const MARK: [char; 2] = ['\u{f8f0}', '\u{f8f1}'];

/// Parts of names that mark a secret.
const MARKS: &[&str] = &[
    "PASSWORD",
    "PASSWD",
    "PASSPHRASE",
    "SECRET",
    "TOKEN",
    "APIKEY",
    "API_KEY",
    "ACCESS_KEY",
    "PRIVATE_KEY",
    "ENCRYPTION_KEY",
    "SIGNING_KEY",
    "MASTER_KEY",
    "APP_KEY",
    "CREDENTIAL",
    "SALT",
    "JWT_KEY",
    "LICENSE_KEY",
];
/// Ends of names that mark a secret.
const ENDS: &[&str] = &["_PASS", "_PWD", "_DSN", "_KEY_BASE", "_AUTH", "DBPASS"];
/// Ends of names whose values only describe a secret.
const HARMLESS_ENDS: &[&str] = &[
    "_FILE",
    "_PATH",
    "_DIR",
    "_EXPIRY",
    "_EXPIRES",
    "_EXPIRATION",
    "_EXPIRE",
    "_TTL",
    "_LENGTH",
    "_ENABLED",
    "_ENABLE",
    "_DISABLED",
    "_TIMEOUT",
    "_LIFETIME",
    "_ALGORITHM",
    "_NAME",
    "_HEADER",
    "_ISSUER",
    "_AUDIENCE",
    "_MINUTES",
    "_SECONDS",
    "_DAYS",
    "_PORT",
    "_HOST",
    "_VERSION",
    "_TAG",
    "_IMAGE",
    "_ROOT",
    "_FOLDER",
];

/// Whether a variable of this name and value is a secret. Its value decides only if its name does not.
pub(super) fn is_secret(name: &str, value: &str) -> bool {
    let name = name.to_ascii_uppercase().replace(['-', '.'], "_");
    if value.is_empty()
        || ["true", "false", "yes", "no", "0", "1"].contains(&value.to_ascii_lowercase().as_str())
    {
        return false;
    }
    if has_login(value) {
        return true;
    }
    let is_harmless =
        HARMLESS_ENDS.iter().any(|end| name.ends_with(end)) || value.starts_with("/run/secrets/");
    let is_marked = MARKS.iter().any(|mark| name.contains(mark))
        || ENDS.iter().any(|end| name.ends_with(end))
        || name == "PASS";
    is_marked && !is_harmless
}

/// Whether a URL has a password in it.
fn has_login(value: &str) -> bool {
    let Some((_, rest)) = value.split_once("://") else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    // A password may hold a slash.
    let login = authority.rsplit_once('@').or_else(|| rest.rsplit_once('@')).map(|(login, _)| login);
    login.and_then(|login| login.split_once(':')).is_some_and(|(_, password)| !password.is_empty())
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
    let own = draft.keys.iter().map(|(key, value)| (key.clone(), value));
    let of_build = draft.build.iter().flatten().map(|(key, value)| (format!("build.{key}"), value));
    let found = own.chain(of_build).map(|(key, value)| (key, variables_in(value)));
    let mut lost: Vec<(String, Vec<String>)> = found.filter(|(_, names)| !names.is_empty()).collect();
    if let Some(repository) = &draft.repository {
        let names = variables_in(&json!([repository.url, repository.name]));
        lost.extend((!names.is_empty()).then(|| ("url".to_owned(), names)));
    }
    for (key, names) in lost {
        draft.lose(refusal(&key, &names));
    }
    for (service, _) in &mut draft.needs {
        *service = shown(service);
    }
    for texts in [&mut draft.lost, &mut draft.actions, &mut draft.changed] {
        texts.iter_mut().for_each(|text| *text = shown(text));
    }
}

/// Says that a key would hold secrets, and what to change in the compose file.
pub(super) fn refusal(key: &str, variables: &[String]) -> String {
    let names = variables.join(", ");
    let first = variables.first().map_or("", String::as_str);
    let advice = match key {
        "command" | "entrypoint" | "health" => format!(
            "write it in the compose file as `sh -c '... $${first} ...'`, add `{first}: ${{{first}}}` to \
             `environment`, and run this again"
        ),
        "build.args" => "use a secret of the build, because arguments stay readable in the image".to_owned(),
        "labels" => "every user of the engine reads labels: use `site` of the manifest, or let the program read a file"
            .to_owned(),
        "url" => "write the URL without it, and declare `username` and `password` of the repository".to_owned(),
        _ => "put it into `environment` or into a file of `secrets`, and run this again".to_owned(),
    };
    format!("`{key}` would show {names}, and a manifest holds no secret: {advice}")
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
    let text = |at: usize| words.get(at).and_then(Value::as_str).unwrap_or_default();
    let shell = text(0).rsplit('/').next().unwrap_or_default();
    let is_script =
        ["sh", "bash", "ash", "dash"].contains(&shell) && text(1).starts_with('-') && text(1).ends_with('c');
    let others = words.iter().enumerate().all(|(at, word)| at == 2 || variables_in(word).is_empty());
    words.get_mut(2).filter(|_| is_script).map(|script| (script, others))
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
    let reference = json!({ "secret_env": variable });
    let at = draft.keys.iter().position(|(key, _)| key == "env");
    let at = at.unwrap_or_else(|| {
        draft.set("env", json!({}));
        draft.keys.len() - 1
    });
    let Some(env) = draft.keys[at].1.as_object_mut() else { return false };
    let there = env.entry(variable).or_insert_with(|| reference.clone());
    if *there != reference {
        return false;
    }
    context.secrets.entry(variable.to_owned()).or_insert_with(|| "`.env` or your shell".to_owned());
    true
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

    #[test]
    fn secrets_are_detected_by_name_and_url() {
        for (name, value) in [
            ("POSTGRES_PASSWORD", "x"),
            ("db-password", "x"),
            ("SECRET_KEY_BASE", "x"),
            ("GITHUB_TOKEN", "x"),
            ("DATABASE_URL", "postgres://u:p@db/x"),
            ("REDIS", "redis://:pw@redis:6379"),
            ("SMTP_PASS", "x"),
            ("SENTRY_DSN", "https://a@b/1"),
            ("AWS_SECRET_ACCESS_KEY", "x"),
            ("MYSQL_PWD", "x"),
        ] {
            assert!(is_secret(name, value), "{name}");
        }
        for (name, value) in [
            ("POSTGRES_USER", "x"),
            ("POSTGRES_PASSWORD_FILE", "/run/secrets/db"),
            ("TOKEN_EXPIRY", "3600"),
            ("MYSQL_ALLOW_EMPTY_PASSWORD", "yes"),
            ("DATABASE_URL", "postgres://db/x"),
            ("REDIS_URL", "redis://redis:6379/0"),
            ("SECRET_KEY", ""),
        ] {
            assert!(!is_secret(name, value), "{name}");
        }
    }
}
