//! Environments before they are written, and TOML.

use serde_json::{Map, Value};

use crate::model::redact::toml_text as quoted;

/// One environment of the manifest to write.
#[derive(Debug, Default)]
pub(super) struct EnvironmentDraft {
    /// The service's name.
    pub(super) service: String,
    /// The line of the service in its file.
    pub(super) line: usize,
    /// The environment's name.
    pub(super) environment: String,
    /// Keys of `[environment.NAME]`, in order.
    pub(super) keys: Vec<(String, Value)>,
    /// Keys of `[environment.NAME.build]`; `None`: the image is not built.
    pub(super) build: Option<Vec<(String, Value)>>,
    /// The services that it waits for, each with a condition of `needs`.
    pub(super) needs: Vec<(String, String)>,
    /// Its group, and its needs of the other members; `None`: it is alone.
    pub(super) group: Option<GroupDraft>,
    /// The repository that its source names, if that is its own.
    pub(super) repository: Option<Repository>,
    /// What matters at run time and cannot be expressed. Then the environment is not written.
    pub(super) lost: Vec<String>,
    /// The actions that a user has to take first.
    pub(super) actions: Vec<String>,
    /// Settings that are written in another way.
    pub(super) changed: Vec<String>,
    /// Variables without a value, which are empty texts in it.
    pub(super) unset: Vec<String>,
}

/// The group of an environment.
#[derive(Debug)]
pub(super) struct GroupDraft {
    pub(super) name: String,
    /// Short names of members, with conditions.
    pub(super) needs: Map<String, Value>,
    /// Services that it waited for and that are not in the manifest.
    pub(super) gone: Vec<String>,
}

/// A repository of the manifest to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Repository {
    pub(super) name: String,
    pub(super) url: String,
}

impl EnvironmentDraft {
    pub(super) fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.keys.push((key.to_owned(), value.into()));
    }

    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.keys.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    pub(super) fn lose(&mut self, what: impl Into<String>) {
        self.lost.push(what.into());
    }

    pub(super) fn act(&mut self, what: impl Into<String>) {
        let what = what.into();
        if !self.actions.contains(&what) {
            self.actions.push(what);
        }
    }

    pub(super) fn change(&mut self, what: impl Into<String>) {
        self.changed.push(what.into());
    }

    /// Its lines, with comments on what changed.
    pub(super) fn written(&self) -> Vec<String> {
        let mut lines = vec![format!("# Service {} (line {})", self.service, self.line)];
        let notes = self.actions.iter().map(|note| ("first", note));
        let notes = notes.chain(self.changed.iter().map(|note| ("note", note)));
        let gone = self.group.iter().flat_map(|group| &group.gone).map(|name| gone_note(name));
        let gone: Vec<String> = gone.collect();
        let notes = notes.chain(gone.iter().map(|note| ("note", note)));
        lines.extend(notes.map(|(kind, note)| format!("# {kind}: {}", comment(note))));
        if let Some(Repository { name, url }) = &self.repository {
            lines.extend([
                format!("[repository.{}]", quoted_key(name)),
                format!("url = {}", toml(&Value::from(url.as_str()))),
            ]);
        }
        lines.push(format!("[environment.{}]", quoted_key(&self.environment)));
        lines.extend(self.keys.iter().map(line));
        if let Some(group) = &self.group {
            lines.push(line(&("group".to_owned(), Value::from(group.name.as_str()))));
            if !group.needs.is_empty() {
                lines.push(line(&("needs".to_owned(), Value::from(group.needs.clone()))));
            }
        }
        if let Some(build) = self.build.as_ref().filter(|build| !build.is_empty()) {
            lines.push(format!("[environment.{}.build]", quoted_key(&self.environment)));
            lines.extend(build.iter().map(line));
        }
        lines
    }
}

/// The note on a service that is waited for and that is not in the manifest.
pub(super) fn gone_note(service: &str) -> String {
    format!("it does not wait for {service} (`depends_on`), which is not in this manifest")
}

/// A text that stays in its comment.
pub(super) fn comment(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn line((key, value): &(String, Value)) -> String {
    // Long lists and tables of variables are easier to read with one entry a line.
    match value {
        Value::Object(entries) if entries.len() > 1 && key == "env" => {
            // An inline table is one line in TOML 1.0.
            format!("{key} = {}", toml(value))
        }
        Value::Array(items) if items.len() > 3 => {
            let items: Vec<String> = items.iter().map(|item| format!("    {},", toml(item))).collect();
            format!("{key} = [\n{}\n]", items.join("\n"))
        }
        value => format!("{key} = {}", toml(value)),
    }
}

/// A value as TOML on one line.
pub(super) fn toml(value: &Value) -> String {
    match value {
        Value::Null => "\"\"".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => quoted(text),
        Value::Array(items) => format!("[{}]", items.iter().map(toml).collect::<Vec<_>>().join(", ")),
        Value::Object(entries) if entries.is_empty() => "{}".to_owned(),
        Value::Object(entries) => {
            let entries = entries.iter().map(|(key, value)| format!("{} = {}", quoted_key(key), toml(value)));
            format!("{{ {} }}", entries.collect::<Vec<_>>().join(", "))
        }
    }
}

pub(super) fn quoted_key(key: &str) -> String {
    let is_bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if is_bare { key.to_owned() } else { quoted(key) }
}
