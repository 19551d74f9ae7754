//! Users of Traefik's basic authentication: their labels hold hashes of passwords, which a manifest must not.

use serde_json::{Map, Value, json};

use super::advice::USERS;
use super::draft::EnvironmentDraft;
use super::secrets::{sole_mark, variables_of};
use super::service::{Context, reference, secret_name, stored};
use super::storage::is_secret_hidden;
use super::yaml::Node;
use crate::model::secret_file::FOLDER;

/// Moves the users in labels of Traefik's own service to files of secrets, which Traefik reads as well. On other
/// services the label stays, because its file has to be in Traefik's container.
pub(super) fn to_files(draft: &mut EnvironmentDraft, context: &mut Context<'_>, service: &Node) {
    if !service.get_text("image").is_some_and(is_traefik) {
        return;
    }
    let Some(at) = draft.keys.iter().position(|(key, _)| key == "labels") else { return };
    let mut labels = Map::new();
    for (label, value) in draft.keys[at].1.as_object().cloned().unwrap_or_default() {
        let file = value.as_str().and_then(|users| to_file(draft, context, service, &label, users));
        match file {
            Some(path) => labels.insert(format!("{label}file"), Value::from(path)),
            None => labels.insert(label, value),
        };
    }
    draft.keys[at].1 = Value::from(labels);
}

/// Whether an image is Traefik's, whichever registry it is in.
fn is_traefik(image: &str) -> bool {
    let name = image.rsplit('/').next().unwrap_or_default();
    name.split([':', '@']).next() == Some("traefik")
}

/// Declares the file of the users of one label, and returns its path; `None`: the label stays.
fn to_file(
    draft: &mut EnvironmentDraft,
    context: &mut Context<'_>,
    service: &Node,
    label: &str,
    users: &str,
) -> Option<String> {
    let lower = label.to_ascii_lowercase();
    let middleware = lower.strip_suffix(USERS)?.rsplit('.').next()?.to_owned();
    let mark = variables_of(users).next()?;
    let name = format!("{middleware}-users");
    let path = format!("{FOLDER}/{name}");
    // A file has one user on each line, and a variable of the daemon is one line.
    if users.contains(',') || is_secret_hidden(context.project, service, &path) {
        return None;
    }
    let secret = match sole_mark(users) {
        Some(variable) => reference(context, variable),
        None => {
            let project = context.project;
            let place = match project.literals.line(&mark) {
                Some(line) => format!("line {line} of the compose file, with `$` in place of `$$`"),
                None => format!("`{label}` of the compose file, with the value of {mark}"),
            };
            stored(context, &secret_name(project, &draft.service, &name), &place)
        }
    };
    declare(draft, &name, secret);
    draft.change(format!("Traefik reads the user of `{label}` from the file {path}"));
    Some(path)
}

/// Adds a file of a secret.
fn declare(draft: &mut EnvironmentDraft, name: &str, secret: Value) {
    let at = draft.keys.iter().position(|(key, _)| key == "secrets").unwrap_or_else(|| {
        draft.set("secrets", json!({}));
        draft.keys.len() - 1
    });
    if let Some(secrets) = draft.keys[at].1.as_object_mut() {
        secrets.insert(name.to_owned(), secret);
    }
}
