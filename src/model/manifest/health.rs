//! `[environment.NAME.health]`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::table::{ManifestField, Table};
use super::{grammar, keys, secrets};
use crate::model::spec::{EnvValue, HealthSpec, Probe};

/// The keys that select the probe; exactly one is allowed.
const KINDS: [&str; 5] = ["http", "tcp", "command", "docker", "none"];
/// The keys that are valid only for an HTTP probe.
const OF_HTTP: [&str; 2] = ["host", "headers"];

/// Reads the health check of an environment whose program listens on `port`. A container without a port
/// accepts no connections, so the default then is that the program keeps running.
pub(super) fn read(environment: &Table<'_>, port: Option<u16>) -> HealthSpec {
    let default = HealthSpec {
        probe: if port.is_some() { Probe::Tcp } else { Probe::Running },
        ..HealthSpec::default()
    };
    match environment.get("health") {
        Some(field) => read_table(&field, port, &default).unwrap_or(default),
        None => default,
    }
}

fn read_table(field: &ManifestField<'_>, port: Option<u16>, default: &HealthSpec) -> Option<HealthSpec> {
    let table = field.table(&keys::HEALTH)?;
    let own_port = table.get("port").map(|field| field.port());
    let probe = read_probe(&table, own_port.is_some(), default);
    let health = HealthSpec {
        interval: patience(&table, "interval", default.interval),
        timeout: patience(&table, "timeout", default.timeout),
        start_deadline: patience(&table, "start_deadline", default.start_deadline),
        healthy_for: table
            .get("healthy_for")
            .and_then(|field| field.duration())
            .unwrap_or(default.healthy_for),
        port: own_port.flatten(),
        host: table.get("host").and_then(|field| field.parsed("a host name in quotes", grammar::probe_host)),
        headers: table.get("headers").map(|field| read_headers(&field)).unwrap_or_default(),
        probe,
    };
    if health.probe.needs_port() && port.is_none() && own_port.is_none() {
        field.must("needs a `port`, here or in the environment");
    }
    if let Err(predicate) = grammar::health(&health) {
        field.must(predicate);
    }
    Some(health)
}

/// A duration that must be more than zero.
fn patience(table: &Table<'_>, key: &'static str, default: Duration) -> Duration {
    let Some(field) = table.get(key) else { return default };
    let found = field.duration().unwrap_or(default);
    grammar::patience(found).unwrap_or_else(|predicate| {
        field.must(predicate);
        found
    })
}

fn read_probe(table: &Table<'_>, has_port: bool, default: &HealthSpec) -> Probe {
    let kinds = table.present(&KINDS);
    if let [_, second, ..] = &kinds[..] {
        second.problem("`health` accepts only one of `http`, `tcp`, `command`, `docker` and `none`");
    }
    let kind = kinds.first();
    if kind.is_none_or(|kind| kind.key() != "http") {
        for field in table.present(&OF_HTTP) {
            field.must("goes only with `http`");
        }
    }
    match kind {
        None if has_port => Probe::Tcp,
        None => default.probe.clone(),
        Some(kind) => read_kind(kind, has_port, default),
    }
}

fn read_kind(kind: &ManifestField<'_>, has_port: bool, default: &HealthSpec) -> Probe {
    let fallback = default.probe.clone();
    match kind.key() {
        "http" => {
            let path = kind.parsed("a path such as \"/\"", grammar::probe_path);
            return path.map_or(fallback, Probe::Http);
        }
        "command" => return read_command(kind).map_or(fallback, Probe::Command),
        _ => {}
    }
    if kind.flag() == Some(false) {
        kind.must("must be true or omitted");
    }
    let probe = match kind.key() {
        "docker" => Probe::Docker,
        "none" => Probe::None,
        _ => Probe::Tcp,
    };
    if has_port && !probe.needs_port() {
        kind.must("does not go with `port`, which only `http` and `tcp` use");
    }
    probe
}

fn read_command(field: &ManifestField<'_>) -> Option<Vec<String>> {
    let words = field.texts("a list such as [\"pg_isready\", \"-q\"]");
    let command = words.into_iter().map(str::to_owned).collect();
    grammar::probe_command(command).map_err(|predicate| field.must(predicate)).ok()
}

fn read_headers(field: &ManifestField<'_>) -> BTreeMap<String, EnvValue> {
    let read = |entry: ManifestField<'_>| {
        if let Err(predicate) = grammar::header_name(entry.key()) {
            entry.must(predicate);
        }
        let value = secrets::value(&entry)?;
        if let EnvValue::Plain(text) = &value
            && let Err(predicate) = grammar::header_value(text)
        {
            entry.must(predicate);
        }
        Some((entry.key().to_owned(), value))
    };
    field.all_entries().into_iter().filter_map(read).collect()
}
