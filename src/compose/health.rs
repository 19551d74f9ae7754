//! Health checks.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::draft::EnvironmentDraft;
use super::time::{duration, written};
use super::yaml::{Node, YamlKind};

/// Compose's defaults.
const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const RETRIES: u32 = 3;
/// The shortest deadline that is written: abide's own default.
const SHORTEST_DEADLINE: Duration = Duration::from_secs(30);
/// The deadline of a program for which the file declares no check. Compose has none.
const PATIENT: &str = "5m";

pub(super) fn convert(draft: &mut EnvironmentDraft, service: &Node) {
    let has_port = draft.get("port").is_some();
    let Some(check) = service.get("healthcheck") else {
        if has_port {
            draft.set("health", json!({ "tcp": true, "start_deadline": PATIENT }));
        }
        return;
    };
    let is_off = check.get("disable").and_then(Node::flag) == Some(true);
    match test(check) {
        _ if is_off => draft.set("health", json!({ "none": true })),
        Ok(Test::Off) => draft.set("health", json!({ "none": true })),
        Ok(Test::Command(command)) => {
            let mut health = Map::from_iter([("command".to_owned(), Value::from(command))]);
            timing(draft, check, &mut health);
            draft.set("health", Value::from(health));
        }
        Ok(Test::OfImage) => {
            draft.change("the intervals of `healthcheck` are left out: the image's own check has its own");
            draft.set("health", json!({ "docker": true, "start_deadline": PATIENT }));
        }
        Err(problem) => draft.lose(format!("`healthcheck` {problem}")),
    }
}

enum Test {
    Off,
    OfImage,
    Command(Vec<String>),
}

fn test(check: &Node) -> Result<Test, String> {
    let Some(test) = check.get("test") else { return Ok(Test::OfImage) };
    let shell = |text: &str| Test::Command(vec!["/bin/sh".to_owned(), "-c".to_owned(), text.to_owned()]);
    let items: Vec<String> = match &test.kind {
        YamlKind::Text(scalar) if scalar.text == "NONE" => return Ok(Test::Off),
        YamlKind::Text(scalar) => return Ok(shell(&scalar.text)),
        _ => test.items().iter().map(|item| item.text().unwrap_or_default().to_owned()).collect(),
    };
    match items.split_first() {
        None => Ok(Test::OfImage),
        Some((kind, _)) if kind == "NONE" => Ok(Test::Off),
        Some((kind, rest)) if kind == "CMD-SHELL" => Ok(shell(&rest.join(" "))),
        Some((kind, rest)) if kind == "CMD" && !rest.is_empty() => Ok(Test::Command(rest.to_vec())),
        _ => Err("must begin with CMD, CMD-SHELL or NONE".to_owned()),
    }
}

fn timing(draft: &mut EnvironmentDraft, check: &Node, health: &mut Map<String, Value>) {
    let mut read = |key: &str, default: Duration| match check.get_text(key) {
        None => default,
        Some(text) => duration(text).filter(|it| !it.is_zero()).unwrap_or_else(|| {
            draft.change(format!(
                "`{key}: {text}` of `healthcheck` is not a duration, so its default applies"
            ));
            default
        }),
    };
    let (interval, timeout) = (read("interval", INTERVAL), read("timeout", TIMEOUT));
    let start = check.get_text("start_period").and_then(duration).unwrap_or_default();
    let retries =
        check.get_text("retries").and_then(|retries| retries.parse::<u32>().ok()).unwrap_or(RETRIES);
    let needed =
        interval.saturating_add(timeout).saturating_mul(retries.clamp(1, 1000)).saturating_add(start);
    health.insert("interval".to_owned(), Value::from(written(interval)));
    health.insert("timeout".to_owned(), Value::from(written(timeout)));
    health.insert("start_deadline".to_owned(), Value::from(written(needed.max(SHORTEST_DEADLINE))));
}
