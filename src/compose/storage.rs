//! Volumes, configs and secrets.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::draft::EnvironmentDraft;
use super::interpolate::leading_variable;
use super::project::ComposeProject;
use super::secrets::{is_secret, variables_of as secrets_in};
use super::service::{Context, reference};
use super::yaml::{Node, YamlKind};
use crate::model::secret_file::FOLDER;

pub(super) fn convert(draft: &mut EnvironmentDraft, context: &mut Context<'_>, service: &Node) {
    let (mut mounts, mut in_memory) = (Vec::new(), Vec::new());
    for mount in mounts_of(context.project, service, 0) {
        match mount.get_text("type").unwrap_or("volume") {
            "tmpfs" => in_memory.extend(memory(&mount)),
            kind @ ("volume" | "bind") => mounts.extend(written(draft, context, &mount, kind == "bind")),
            kind => draft.lose(format!("a mount of the type `{kind}`")),
        }
    }
    foreign_mounts(draft, context.project, service);
    configs(draft, context, service, &mut mounts);
    secrets(draft, context, service, &mut mounts);
    if !mounts.is_empty() {
        draft.set("volumes", mounts);
    }
    if !in_memory.is_empty() {
        // The option of the same name follows later, and would declare the key twice.
        let more = service.get("tmpfs").map(Node::items).unwrap_or_default();
        in_memory.extend(more.iter().filter_map(Node::text).map(str::to_owned));
        draft.set("tmpfs", in_memory);
    }
}

/// The mounts of a service, with those that it takes from others.
pub(super) fn mounts_of(project: &ComposeProject, service: &Node, depth: usize) -> Vec<Node> {
    let own = service.get("volumes").map(Node::items).unwrap_or_default();
    let mut all: Vec<Node> =
        own.iter().filter(|mount| matches!(mount.kind, YamlKind::Map(_))).cloned().collect();
    for from in service.get("volumes_from").map(Node::items).unwrap_or_default().iter().filter_map(Node::text)
    {
        let (name, mode) = from.split_once(':').unwrap_or((from, "rw"));
        let Some(other) = project.service(name).filter(|_| depth < 8) else { continue };
        for mut mount in mounts_of(project, other, depth + 1) {
            let is_there = all.iter().any(|known| known.get_text("target") == mount.get_text("target"));
            if is_there {
                continue;
            }
            if let (YamlKind::Map(entries), "ro") = (&mut mount.kind, mode) {
                entries.push(("read_only".to_owned(), Node::of_text(mount.line, "true")));
            }
            all.push(mount);
        }
    }
    all
}

fn foreign_mounts(draft: &mut EnvironmentDraft, project: &ComposeProject, service: &Node) {
    for from in service.get("volumes_from").map(Node::items).unwrap_or_default().iter().filter_map(Node::text)
    {
        let name = from.split(':').next().unwrap_or_default();
        if project.service(name).is_none() {
            draft.lose(format!("`volumes_from: {from}` names no service of this project"));
        }
    }
    for item in service.get("volumes").map(Node::items).unwrap_or_default() {
        if !matches!(item.kind, YamlKind::Map(_)) {
            draft.lose(format!("`{}` of `volumes` is not a mount", item.text().unwrap_or_default()));
        }
    }
}

/// What the file declares outside of a service for its volumes, configs and secrets.
pub(super) fn declarations<'a>(
    project: &'a ComposeProject,
    service: &'a Node,
) -> impl Iterator<Item = &'a Node> {
    let volumes = service.get("volumes").map(Node::items).unwrap_or_default().iter();
    let volumes = volumes.filter_map(|mount| Some((&project.volumes, mount.get_text("source")?)));
    let files = [("configs", &project.configs), ("secrets", &project.secrets)].into_iter();
    let files = files.flat_map(|(key, section)| {
        let items = service.get(key).map(Node::items).unwrap_or_default().iter();
        items.filter_map(move |item| Some((section, item.text().or_else(|| item.get_text("source"))?)))
    });
    volumes.chain(files).filter_map(|(section, name)| project.declared(section, name))
}

/// The source of a mount as the engine knows it; `None`: an anonymous volume.
pub(super) fn source(project: &ComposeProject, mount: &Node) -> Option<String> {
    let source = mount.get_text("source")?;
    Some(if mount.get_text("type") == Some("bind") {
        source.to_owned()
    } else {
        volume_name(project, source)
    })
}

/// The engine's name of a volume.
fn volume_name(project: &ComposeProject, volume: &str) -> String {
    let declared = project.declared(&project.volumes, volume);
    let external = declared.and_then(|it| it.get("external"));
    let named =
        declared.and_then(|it| it.get_text("name")).or_else(|| external.and_then(|it| it.get_text("name")));
    match named {
        Some(name) => name.to_owned(),
        None if external.is_some_and(|it| it.flag() != Some(false)) => volume.to_owned(),
        None => format!("{}_{volume}", project.name),
    }
}

pub(super) fn is_read_only(mount: &Node) -> bool {
    mount.get("read_only").and_then(Node::flag) == Some(true)
}

fn memory(mount: &Node) -> Option<String> {
    let target = mount.get_text("target")?;
    let options = ["size", "mode"].iter().filter_map(|key| Some(format!("{key}={}", mount.get_text(key)?)));
    let options: Vec<String> = options.collect();
    Some(if options.is_empty() { target.to_owned() } else { format!("{target}:{}", options.join(",")) })
}

fn written(
    draft: &mut EnvironmentDraft,
    context: &Context<'_>,
    mount: &Node,
    is_bind: bool,
) -> Option<Value> {
    let Some(target) = mount.get_text("target") else {
        draft.lose("a mount without a target");
        return None;
    };
    if let Some(variable) = mount.get("source").and_then(unset_beginning) {
        // What is left is another place, as for compose: `/data` instead of `/srv/shop/data`.
        match mount.get_text("source") {
            None | Some("" | "/") => {
                draft.lose(format!(
                    "the mount at {target} needs {variable}: set it in `.env`, and run this again"
                ));
                return None;
            }
            Some(rest) => draft.change(format!(
                "the source of the mount at {target} begins with {variable}, which has no value, so the data is \
                 expected in {rest}: set it in `.env` and run this again"
            )),
        }
    }
    if mount.get("subpath").is_some() {
        draft.lose(format!("the `subpath` of the volume at {target}"));
    }
    let Some(source) = source(context.project, mount) else {
        let name = anonymous(draft, target);
        draft.change(format!("the volume at {target} has no name: it is new, as {name}"));
        return Some(Value::from(format!("{name}:{target}")));
    };
    let mut options = Map::new();
    if is_read_only(mount) {
        options.insert("read_only".to_owned(), true.into());
    } else if context.shared.contains(&source) {
        options.insert("shared".to_owned(), true.into());
    }
    for key in ["selinux", "propagation"] {
        if let Some(value) = mount.get_text(key) {
            options.insert(key.to_owned(), value.into());
        }
    }
    if mount.get("nocopy").and_then(Node::flag) == Some(true) {
        options.insert("nocopy".to_owned(), true.into());
    }
    if is_bind {
        bound(draft, context, mount, &source, &mut options);
    } else if is_prepared(draft, context.project, mount) {
        options.insert("external".to_owned(), true.into());
    }
    let source = if is_bind { context.input.written_path(&source) } else { source };
    let is_plain = options.keys().all(|key| key == "read_only") && !target.contains(':');
    Some(match is_plain {
        true if options.is_empty() => Value::from(format!("{source}:{target}")),
        true => Value::from(format!("{source}:{target}:ro")),
        false => {
            options.insert("source".to_owned(), source.into());
            options.insert("target".to_owned(), target.into());
            Value::from(options)
        }
    })
}

/// The variable with which a text begins, if it has no value.
fn unset_beginning(node: &Node) -> Option<&str> {
    let scalar = node.scalar()?;
    leading_variable(&scalar.raw).filter(|name| scalar.unset.iter().any(|unset| unset == name))
}

fn bound(
    draft: &mut EnvironmentDraft,
    context: &Context<'_>,
    mount: &Node,
    source: &str,
    options: &mut Map<String, Value>,
) {
    if (context.input.exists)(source.as_ref()) {
        return;
    }
    let last = source.rsplit('/').next().unwrap_or_default();
    let looks_like_a_file = last.trim_start_matches('.').contains('.');
    if looks_like_a_file {
        draft.act(format!("put {source} in place: compose would create an empty folder of that name"));
    } else if mount.get("create").and_then(Node::flag) == Some(true) {
        options.insert("create".to_owned(), true.into());
    } else {
        draft.act(format!("create the folder {source}"));
    }
}

/// Whether somebody else creates the volume: it is external, or has options.
fn is_prepared(draft: &mut EnvironmentDraft, project: &ComposeProject, mount: &Node) -> bool {
    let Some(volume) = mount.get_text("source") else { return false };
    let Some(declared) = project.declared(&project.volumes, volume) else { return false };
    if declared.get("external").is_some_and(|it| it.flag() != Some(false)) {
        return true;
    }
    let mut options = Vec::new();
    if let Some(driver) = declared.get_text("driver").filter(|driver| *driver != "local") {
        options.push(format!("--driver {driver}"));
    }
    for (key, value) in declared.get("driver_opts").map(Node::entries).unwrap_or_default() {
        options.push(format!("--opt {key}='{}'", value.text().unwrap_or_default()));
    }
    if options.is_empty() {
        return false;
    }
    let name = volume_name(project, volume);
    draft.act(format!("unless the volume exists: docker volume create {} {name}", options.join(" ")));
    true
}

/// A name for a volume that has none.
fn anonymous(draft: &EnvironmentDraft, target: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let path: String = target.trim_start_matches('/').chars().map(plain).collect();
    format!("{}-{path}", draft.environment)
}

fn configs(draft: &mut EnvironmentDraft, context: &mut Context<'_>, service: &Node, mounts: &mut Vec<Value>) {
    for item in service.get("configs").map(Node::items).unwrap_or_default() {
        let Some(name) = item.text().or_else(|| item.get_text("source")) else { continue };
        let target = item.get_text("target").map_or_else(|| format!("/{name}"), str::to_owned);
        let declared = context.project.declared(&context.project.configs, name);
        let file = declared.and_then(|it| it.get_text("file")).map(|path| context.input.written_path(path));
        let content = declared.and_then(|it| it.get_text("content")).map(str::to_owned);
        let of_env = declared.and_then(|it| it.get_text("environment"));
        // The file is beside the manifest, so it holds no secret either.
        let secret = content.as_deref().and_then(|text| secrets_in(text).next());
        let value = of_env.and_then(|name| Some((name, context.project.variables.get(name)?)));
        let shows = |(name, text): &(&str, &String)| {
            is_secret(name, text) || context.project.literals.found_in(text).is_some()
        };
        let secret = secret.or(value.filter(shows).map(|(name, _)| name.to_owned()));
        if let Some(variable) = secret {
            let variable = context.project.literals.described(&variable);
            draft.lose(format!(
                "the config `{name}` would show {variable}, and abide writes no secret into a file beside the manifest: \
                 write the file yourself and name it as its `file`, or make it one of `secrets`"
            ));
            continue;
        }
        let content = content.or_else(|| value.map(|(_, text)| text.clone()));
        match (file, content) {
            (Some(file), _) => mounts.push(Value::from(format!("{file}:{target}:ro"))),
            (None, Some(content)) => {
                let file = format!("{}.files/{name}", context.project.name);
                context.files.insert(file.clone(), content);
                mounts.push(Value::from(format!("./{file}:{target}:ro")));
            }
            (None, None) => draft.lose(match of_env {
                Some(variable) => {
                    format!("the config `{name}` needs {variable}: set it in `.env`, and run this again")
                }
                None => format!("the config `{name}`, which Swarm keeps"),
            }),
        }
    }
}

fn secrets(draft: &mut EnvironmentDraft, context: &mut Context<'_>, service: &Node, mounts: &mut Vec<Value>) {
    let mut all = Map::new();
    for item in service.get("secrets").map(Node::items).unwrap_or_default() {
        let Some(name) = item.text().or_else(|| item.get_text("source")) else { continue };
        let Some(mut secret) = declared_secret(context, name) else {
            let is_declared = context.project.declared(&context.project.secrets, name).is_some();
            let why = if is_declared { "which Swarm keeps" } else { "which the file does not declare" };
            draft.lose(format!("the secret `{name}`, {why}"));
            continue;
        };
        // abide writes the files of secrets before the start, which a read-only container does not allow, and which a
        // file system in memory would hide. Compose mounts them.
        let target = secret_path(item.get_text("target").unwrap_or(name));
        let file = secret.get("secret_file").and_then(Value::as_str);
        if let (true, Some(file)) = (is_secret_hidden(context.project, service, &target), file) {
            mounts.push(mounted_secret(draft, context, file, &target));
            continue;
        }
        if let Some(target) = item.get_text("target") {
            secret.insert("target".to_owned(), Value::from(target));
        }
        for key in ["uid", "gid"] {
            if let Some(id) = item.get_text(key).and_then(|id| id.parse::<u32>().ok()) {
                secret.insert(key.to_owned(), Value::from(id));
            }
        }
        if let Some(mode) = item.get_text("mode") {
            secret.insert("mode".to_owned(), Value::from(octal(mode)));
        }
        // One secret may be there twice, with two targets.
        let mut key = name.to_owned();
        if all.contains_key(&key) {
            key = format!("{name}-{}", all.len() + 1);
            secret.entry("target").or_insert_with(|| Value::from(name));
        }
        all.insert(key, Value::from(secret));
    }
    if !all.is_empty() {
        draft.set("secrets", Value::from(all));
    }
}

/// Whether a file that abide writes before the start cannot be in the container, or cannot be seen in it.
pub(super) fn is_secret_hidden(project: &ComposeProject, service: &Node, path: &str) -> bool {
    let in_memory = memory_paths(project, service);
    is_read_only(service) || in_memory.iter().any(|memory| Path::new(path).starts_with(memory))
}

/// The paths at which a service has a file system in memory.
fn memory_paths(project: &ComposeProject, service: &Node) -> Vec<String> {
    let mounts = mounts_of(project, service, 0);
    let of_mounts = mounts.iter().filter(|mount| mount.get_text("type") == Some("tmpfs"));
    let of_mounts = of_mounts.filter_map(|mount| mount.get_text("target"));
    let short = service.get("tmpfs").map(Node::items).unwrap_or_default().iter().filter_map(Node::text);
    let short = short.map(|text| text.split(':').next().unwrap_or_default());
    of_mounts.chain(short).map(str::to_owned).collect()
}

/// The path of a secret in the container. A relative one is in the folder of secrets.
fn secret_path(target: &str) -> String {
    if target.starts_with('/') { target.to_owned() } else { format!("{FOLDER}/{target}") }
}

/// The mount of a secret's file.
fn mounted_secret(draft: &mut EnvironmentDraft, context: &Context<'_>, file: &str, target: &str) -> Value {
    if !(context.input.exists)(file.as_ref()) {
        draft.act(format!("put the secret {file} in place"));
    }
    Value::from(format!("{}:{target}:ro", context.input.written_path(file)))
}

/// A mode in octal digits. YAML reads `0440` and `0o440` as octal, and `288` as the same number.
fn octal(mode: &str) -> String {
    let digits =
        mode.strip_prefix("0o").or_else(|| mode.strip_prefix('0')).filter(|digits| !digits.is_empty());
    match (digits, mode.parse::<u32>()) {
        (Some(digits), _) => format!("0{digits}"),
        (None, Ok(number)) => format!("0{number:o}"),
        (None, Err(_)) => mode.to_owned(),
    }
}

/// The source of a secret, as the manifest names it.
pub(super) fn declared_secret(context: &mut Context<'_>, name: &str) -> Option<Map<String, Value>> {
    let declared = context.project.declared(&context.project.secrets, name)?;
    let reference = match (declared.get_text("file"), declared.get_text("environment")) {
        (Some(file), _) => json!({ "secret_file": file }),
        (None, Some(variable)) => reference(context, variable),
        (None, None) => return None,
    };
    reference.as_object().cloned()
}
