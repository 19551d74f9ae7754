//! What to write in the compose file in place of a text that would show a secret.

use serde_json::{Value, json};

use super::draft::EnvironmentDraft;
use super::secrets::{MARK, is_script, variables_of};
use crate::model::secret_file::FOLDER;

/// The end of the names of labels with users for Traefik's basic authentication.
pub(super) const USERS: &str = ".basicauth.users";

/// A key of the manifest that would hold secrets.
pub(super) struct ShownSecrets<'a> {
    pub(super) key: &'a str,
    /// Its value, with marks.
    pub(super) value: &'a Value,
    /// The names of the secrets in it.
    pub(super) names: &'a [String],
    /// The same names as users may see them.
    pub(super) described: String,
}

/// Reports that a key would show secrets, and what to change in the compose file.
pub(super) fn refusal(draft: &EnvironmentDraft, shown: &ShownSecrets<'_>) -> String {
    let advice = match shown.key {
        "command" | "entrypoint" | "health" => for_command(draft, shown),
        "build.args" => "use a secret of the build, because arguments stay readable in the image".to_owned(),
        "labels" => for_labels(shown.value),
        "logging" => {
            "set the options of the log driver in the engine's `daemon.json`, or write to `json-file`"
                .to_owned()
        }
        "url" => {
            "write the URL without it, and declare `username` and `password` of the repository".to_owned()
        }
        _ => "put it into `environment` or into a file of `secrets`, and run this again".to_owned(),
    };
    format!("`{}` would show {}, and a manifest holds no secret: {advice}", shown.key, shown.described)
}

/// A shell in the container can read the secrets from variables. Only a user knows whether the image has one.
fn for_command(draft: &EnvironmentDraft, shown: &ShownSecrets<'_>) -> String {
    let value = if shown.key == "health" { shown.value.get("command") } else { Some(shown.value) };
    let words: Vec<&str> =
        value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let variables: Vec<String> = shown.names.iter().map(|name| format!("`{name}: ${{{name}}}`")).collect();
    let variables = variables.join(" and ");
    if is_script(&words) {
        let names: Vec<String> = shown.names.iter().map(|name| format!("`$${name}`")).collect();
        return format!(
            "write {} in its script in place of the value, outside of quotes within quotes, add {variables} to \
             `environment`, and run this again",
            names.join(" and ")
        );
    }
    let script: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    let script = script.join(" ");
    let line = match shown.key {
        "health" => format!("`test: {}`", json!(["CMD-SHELL", script])),
        "entrypoint" => {
            format!("`entrypoint: {}`", json!(["sh", "-c", format!("exec {script} \"$$@\""), "sh"]))
        }
        _ if words.first().is_some_and(|word| word.starts_with('-')) => {
            let image = draft.get("image").and_then(Value::as_str).unwrap_or("IMAGE");
            let line = json!(["sh", "-c", format!("exec PROGRAM {script}")]);
            format!(
                "`entrypoint: {line}` in place of `command`, with the PROGRAM that `docker image inspect --format \
                 '{{{{.Config.Entrypoint}}}}' {image}` prints,"
            )
        }
        _ => format!("`command: {}`", json!(["sh", "-c", format!("exec {script}")])),
    };
    format!(
        "if the program reads it from a variable or a file, use that; else write {line} in the compose file, add \
         {variables} to `environment`, and run this again"
    )
}

/// A word of a command as a script in a compose file has it, with variables in place of secrets.
fn quoted(word: &str) -> String {
    let [begin, end] = MARK;
    if word.is_empty() {
        return "''".to_owned();
    }
    let parts = word.split(begin).enumerate().map(|(at, part)| match part.split_once(end) {
        Some((name, rest)) if at > 0 => format!("\"$${name}\"{}", plain(rest)),
        _ => plain(part),
    });
    parts.collect()
}

/// A text without secrets, in quotes if a shell needs them.
fn plain(text: &str) -> String {
    let is_bare = |b: u8| b.is_ascii_alphanumeric() || b"-_./:=,@+%".contains(&b);
    if text.bytes().all(is_bare) {
        return text.to_owned();
    }
    shell_words::quote(text).replace('$', "$$")
}

/// Labels are for other programs, which have ways of their own to read a secret.
fn for_labels(labels: &Value) -> String {
    let holds_secret = |value: &Value| value.as_str().is_some_and(|text| variables_of(text).next().is_some());
    let mut names = labels.as_object().into_iter().flatten().filter(|(_, value)| holds_secret(value));
    let users = names.find_map(|(name, _)| name.to_ascii_lowercase().ends_with(USERS).then_some(name));
    match users {
        Some(name) => format!(
            "write the users into a file, one on each line, give it to the service of Traefik as one of its `secrets`, \
             and label this one `{name}file={FOLDER}/NAME`"
        ),
        None => "every user of the engine reads labels: use `site` of the manifest, or let the program read a file"
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::secrets::marked;
    use super::*;

    fn advised(key: &str, words: &[&str]) -> String {
        let words: Vec<String> = words.iter().map(|word| word.replace('@', &marked("PW"))).collect();
        let mut draft = EnvironmentDraft::default();
        draft.set("image", "app:1");
        let value = if key == "health" { json!({ "command": words }) } else { json!(words) };
        let names = ["PW".to_owned()];
        refusal(&draft, &ShownSecrets { key, value: &value, names: &names, described: "PW".to_owned() })
    }

    #[test]
    fn the_line_to_write_is_complete() {
        for (key, words, expected) in [
            (
                "command",
                &["serve", "--key=@", "a b"] as &[&str],
                r#"`command: ["sh","-c","exec serve --key=\"$$PW\" 'a b'"]`"#,
            ),
            (
                "command",
                &["--price", "$5", "--token", "@"],
                r#"`entrypoint: ["sh","-c","exec PROGRAM --price '$$5' --token \"$$PW\""]`"#,
            ),
            ("command", &["--token", "@"], "--format '{{.Config.Entrypoint}}' app:1`"),
            (
                "entrypoint",
                &["serve", "@"],
                r#"`entrypoint: ["sh","-c","exec serve \"$$PW\" \"$$@\"","sh"]`"#,
            ),
            ("health", &["ask", "-a", "@"], r#"`test: ["CMD-SHELL","ask -a \"$$PW\""]`"#),
            ("command", &["sh", "-c", "a \"$(b '@')\""], "write `$$PW` in its script"),
        ] {
            let text = advised(key, words);
            assert!(text.contains(expected), "{text}");
            assert!(text.contains("add `PW: ${PW}` to `environment`"), "{text}");
        }
    }
}
