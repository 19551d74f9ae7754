//! Builds.

use std::path::Path;

use serde_json::{Map, Value};

use super::draft::{EnvironmentDraft, Repository};
use super::project::is_remote;
use super::secrets::is_secret;
use super::service::Context;
use super::storage::declared_secret;
use super::volume::cleaned;
use super::yaml::{Node, YamlKind};

/// Keys that change nothing about the image, or that abide does by itself.
const WITHOUT_EFFECT: &[&str] = &["tags", "cache_to", "provenance", "sbom", "isolation"];
/// Keys that are copied.
const COPIED: &[&str] = &["target", "network", "shm_size"];
/// Keys that are read one by one.
const READ: &[&str] =
    &["context", "dockerfile", "args", "cache_from", "labels", "extra_hosts", "no_cache", "pull", "secrets"];

pub(super) fn convert(draft: &mut EnvironmentDraft, context: &mut Context<'_>, name: &str, build: &Node) {
    let mut keys = Vec::new();
    let Some(source) = source(draft, context, name, build, &mut keys) else { return };
    draft.set("source", source);
    if let Some(dockerfile) = build.get_text("dockerfile") {
        keys.push(("dockerfile".to_owned(), Value::from(dockerfile.trim_start_matches("./"))));
    }
    for key in COPIED.iter().copied() {
        if let Some(value) = build.get_text(key) {
            keys.push((key.to_owned(), Value::from(value)));
        }
    }
    for key in ["no_cache", "pull"] {
        if build.get(key).and_then(Node::flag) == Some(true) {
            keys.push((key.to_owned(), Value::from(true)));
        }
    }
    arguments(draft, context, build, &mut keys);
    lists(build, &mut keys);
    secrets(draft, context, build, &mut keys);
    rest(draft, context, build);
    draft.build = Some(keys);
}

/// The source of the build, and its context in the repository.
fn source(
    draft: &mut EnvironmentDraft,
    context: &mut Context<'_>,
    name: &str,
    build: &Node,
    keys: &mut Vec<(String, Value)>,
) -> Option<Value> {
    let folder = build.get_text("context").unwrap_or_default().to_owned();
    if is_remote(&folder) {
        return Some(remote(draft, context, name, &folder, keys));
    }
    let git = context.checkout;
    let folder = if folder.is_empty() { context.project.dir.clone() } else { cleaned(Path::new(&folder)) };
    let Ok(inside) = folder.strip_prefix(&git.root) else {
        draft.lose(format!(
            "its build context {} is outside of the repository {}",
            folder.display(),
            git.root.display()
        ));
        return None;
    };
    if !inside.as_os_str().is_empty() {
        keys.push(("context".to_owned(), Value::from(inside.display().to_string())));
    }
    if !git.is_known {
        draft.act(format!(
            "abide builds from commits: set `url` and `branch` of the repository {} in this file",
            context.project.name
        ));
    }
    Some(serde_json::json!({ "repository": context.project.name, "branch": git.branch }))
}

/// A context in another repository: `url#branch:folder`.
fn remote(
    draft: &mut EnvironmentDraft,
    context: &Context<'_>,
    name: &str,
    text: &str,
    keys: &mut Vec<(String, Value)>,
) -> Value {
    let (url, rest) = text.split_once('#').unwrap_or((text, ""));
    let (branch, folder) = rest.split_once(':').unwrap_or((rest, ""));
    if !folder.is_empty() {
        keys.push(("context".to_owned(), Value::from(folder)));
    }
    let branch = if branch.is_empty() { "master" } else { branch };
    let repository = format!("{}-{name}", context.project.name);
    let url = if url.contains("://") || url.starts_with("git@") {
        url.to_owned()
    } else {
        format!("https://{url}")
    };
    draft.repository = Some(Repository { name: repository.clone(), url });
    if rest.is_empty() {
        draft.act(format!("check the branch `{branch}` of {repository}: the compose file names none"));
    }
    serde_json::json!({ "repository": repository, "branch": branch })
}

fn arguments(
    draft: &mut EnvironmentDraft,
    context: &Context<'_>,
    build: &Node,
    keys: &mut Vec<(String, Value)>,
) {
    let mut args = Map::new();
    for (name, value) in build.get("args").map(Node::entries).unwrap_or_default() {
        let text = match &value.kind {
            YamlKind::Text(scalar) => Some(scalar.text.clone()),
            _ => context.project.variables.get(name).cloned(),
        };
        match text {
            Some(text) if is_secret(name, &text) || context.project.literals.found_in(&text).is_some() => draft.lose(format!(
                "the build argument `{name}` looks like a secret, and stays readable in the image: use a secret of \
                 the build"
            )),
            Some(text) => drop(args.insert(name.clone(), Value::from(text))),
            None => draft.change(format!("the build argument `{name}` is left out: it has no value")),
        }
    }
    if !args.is_empty() {
        keys.push(("args".to_owned(), Value::from(args)));
    }
}

fn lists(build: &Node, keys: &mut Vec<(String, Value)>) {
    let images = build.get("cache_from").map(Node::items).unwrap_or_default();
    let images: Vec<&str> =
        images.iter().filter_map(Node::text).filter(|text| !text.contains("type=")).collect();
    if !images.is_empty() {
        keys.push(("cache_from".to_owned(), Value::from(images)));
    }
    let labels = build.get("labels").map(Node::entries).unwrap_or_default();
    let label =
        |(name, value): &(String, Node)| (name.clone(), Value::from(value.text().unwrap_or_default()));
    if !labels.is_empty() {
        keys.push(("labels".to_owned(), Value::from(labels.iter().map(label).collect::<Map<_, _>>())));
    }
    let hosts = build.get("extra_hosts").map(Node::entries).unwrap_or_default();
    let host = |(name, address): &(String, Node)| format!("{name}:{}", address.text().unwrap_or_default());
    if !hosts.is_empty() {
        keys.push(("extra_hosts".to_owned(), Value::from(hosts.iter().map(host).collect::<Vec<_>>())));
    }
}

fn secrets(
    draft: &mut EnvironmentDraft,
    context: &mut Context<'_>,
    build: &Node,
    keys: &mut Vec<(String, Value)>,
) {
    let mut all = Map::new();
    for item in build.get("secrets").map(Node::items).unwrap_or_default() {
        let Some(name) = item.text().or_else(|| item.get_text("source")) else { continue };
        let id = item.get_text("target").unwrap_or(name).to_owned();
        match declared_secret(context, name) {
            Some(secret) => drop(all.insert(id, Value::from(secret))),
            None => draft.lose(format!("the secret `{name}` of the build, which Swarm keeps")),
        }
    }
    if !all.is_empty() {
        keys.push(("secrets".to_owned(), Value::from(all)));
    }
}

fn rest(draft: &mut EnvironmentDraft, context: &Context<'_>, build: &Node) {
    for (key, value) in build.entries() {
        let is_read = COPIED.contains(&key.as_str()) || READ.contains(&key.as_str()) || key.starts_with("x-");
        if is_read || value.is_null() || WITHOUT_EFFECT.contains(&key.as_str()) {
            continue;
        }
        let platforms = value.one_or_many();
        let declared =
            draft.get("platform").and_then(Value::as_str).unwrap_or(context.input.platform).to_owned();
        let is_own = |platform: &&Node| platform.text() == Some(declared.as_str());
        if key == "platforms" && platforms.iter().any(is_own) {
            continue;
        }
        draft.lose(format!("`{key}` (line {}) of `build` has no counterpart in abide", value.line));
    }
}
