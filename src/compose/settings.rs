//! The options that have the same name in the manifest, checked by the manifest's own rules.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::draft::EnvironmentDraft;
use super::service::Context;
use super::yaml::{Node, YamlKind};
use crate::model::options::{SETTINGS, Settings};

/// Settings that are flags.
const FLAGS: &[&str] = &["tty", "stdin_open", "read_only", "privileged"];
/// Settings that are numbers.
const NUMBERS: &[&str] = &["oom_score_adj", "cpu_shares", "cpu_quota", "cpu_period"];
/// Settings that other functions write.
const ELSEWHERE: &[&str] =
    &["entrypoint", "network_mode", "mem_reservation", "memswap_limit", "gpus", "container_hostname"];

/// Whether the manifest has a setting of this name.
pub(super) fn is_setting(key: &str) -> bool {
    SETTINGS.iter().any(|setting| setting.key == key)
}

pub(super) fn convert(draft: &mut EnvironmentDraft, context: &Context<'_>, service: &Node) {
    for setting in SETTINGS.iter().filter(|setting| !ELSEWHERE.contains(&setting.key)) {
        let Some(node) = service.get(setting.key) else { continue };
        // A mount in memory is written already, with these.
        if draft.get(setting.key).is_some() {
            continue;
        }
        let value = match setting.key {
            "security_opt" => security(draft, context, node),
            "devices" => node.items().iter().map(device).collect(),
            "labels" => labels(draft, node),
            key => plain(key, node),
        };
        if is_empty(&value) || value == Value::Bool(false) {
            continue;
        }
        match Settings::default().declare(setting, &value) {
            Ok(()) => draft.set(setting.key, value),
            Err(predicate) => draft.lose(format!("`{}` {predicate}", setting.key)),
        }
    }
    if let Some(gpus) = service.get("gpus") {
        match gpus.text() {
            Some(text) => draft.set("gpus", text),
            None => reserved_gpus(draft, gpus),
        }
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

fn plain(key: &str, node: &Node) -> Value {
    if FLAGS.contains(&key) {
        return node.flag().map_or_else(|| text(node), Value::from);
    }
    if NUMBERS.contains(&key) {
        return number(node);
    }
    match key {
        "ulimits" => table(node, &|limit| match &limit.kind {
            YamlKind::Map(_) => table(limit, &number),
            _ => number(limit),
        }),
        "logging" => logging(node),
        _ => any(node),
    }
}

fn any(node: &Node) -> Value {
    match &node.kind {
        YamlKind::Null => Value::from(""),
        YamlKind::Text(_) => text(node),
        YamlKind::List(items) => items.iter().map(any).collect(),
        YamlKind::Map(_) => table(node, &any),
    }
}

fn text(node: &Node) -> Value {
    Value::from(node.text().unwrap_or_default())
}

fn number(node: &Node) -> Value {
    let number = node.text().and_then(|text| text.parse::<i64>().ok());
    number.map_or_else(|| text(node), Value::from)
}

fn table(node: &Node, value: &dyn Fn(&Node) -> Value) -> Value {
    Value::from(node.entries().iter().map(|(key, node)| (key.clone(), value(node))).collect::<Map<_, _>>())
}

fn logging(node: &Node) -> Value {
    let mut logging = Map::new();
    if let Some(driver) = node.get_text("driver") {
        logging.insert("driver".to_owned(), Value::from(driver));
    }
    if let Some(options) = node.get("options").filter(|options| !options.entries().is_empty()) {
        logging.insert("options".to_owned(), table(options, &text));
    }
    Value::from(logging)
}

fn labels(draft: &mut EnvironmentDraft, node: &Node) -> Value {
    let (own, others): (Vec<_>, Vec<_>) = node
        .entries()
        .iter()
        .partition(|(name, _)| name.starts_with("com.docker.compose.") || name.starts_with("abide."));
    for (name, _) in own {
        draft.change(format!("the label `{name}` is left out"));
    }
    Value::from(others.into_iter().map(|(name, value)| (name.clone(), text(value))).collect::<Map<_, _>>())
}

/// Reads seccomp profiles, which the engine wants as JSON.
fn security(draft: &mut EnvironmentDraft, context: &Context<'_>, node: &Node) -> Value {
    let mut options = Vec::new();
    for option in node.items().iter().filter_map(Node::text) {
        let profile = option.strip_prefix("seccomp=").or_else(|| option.strip_prefix("seccomp:"));
        let profile = profile.filter(|profile| *profile != "unconfined" && !profile.starts_with('{'));
        let Some(path) = profile else {
            options.push(Value::from(option));
            continue;
        };
        match (context.input.read)(&context.project.dir.join(Path::new(path))) {
            Ok(text) => options.push(Value::from(format!("seccomp={}", text.trim()))),
            Err(_) => draft.lose(format!("cannot read the seccomp profile {path}")),
        }
    }
    Value::from(options)
}

fn device(node: &Node) -> Value {
    let Some(source) = node.get_text("source") else { return text(node) };
    let target = node.get_text("target").unwrap_or(source);
    Value::from(format!("{source}:{target}:{}", node.get_text("permissions").unwrap_or("rwm")))
}

/// Reads a reservation of GPUs, such as `[{ driver: nvidia, count: all, capabilities: [gpu] }]`.
pub(super) fn reserved_gpus(draft: &mut EnvironmentDraft, devices: &Node) {
    let [device] = devices.items() else { return draft.lose("several reservations of devices") };
    let kinds = device.get("capabilities").map(Node::items).unwrap_or_default();
    let is_gpu = kinds.is_empty() || kinds.iter().any(|kind| kind.text() == Some("gpu"));
    if !is_gpu {
        return draft.lose("a reservation of devices other than GPUs");
    }
    let ids: Vec<&str> =
        device.get("device_ids").map(Node::items).unwrap_or_default().iter().filter_map(Node::text).collect();
    if !ids.is_empty() {
        return draft.set("gpus", json!(ids));
    }
    match device.get_text("count").unwrap_or("all") {
        "all" | "-1" => draft.set("gpus", "all"),
        count => draft.set("gpus", count.parse::<u16>().map_or(Value::from(count), Value::from)),
    }
}
