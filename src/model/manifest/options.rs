//! The keys of `[environment.NAME]` that compose has too, beyond the common ones.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;
use toml::de::DeValue;

use super::table::{ManifestField, Table, integer};
use super::{grammar, keys};
use crate::model::env_file::EnvFile;
use crate::model::mount::Mount;
use crate::model::name::{NetworkAlias, NetworkName};
use crate::model::network::{Attachment, Attachments};
use crate::model::options::{SETTINGS, Settings};
use crate::model::platform::{InvalidPlatform, Platform};
use crate::model::ports::{self, PortMapping, TransportProtocol};

/// The accepted forms of a port.
const PORT: &str = "a text such as \"8080:80\" or a table { target = 80, published = 8080 }";
const ADDRESS: &str = "an address such as \"127.0.0.1\"";
const RANGE: &str = "a port such as 80 or a range such as \"8000-8009\"";
const PROTOCOL: &str = "\"tcp\" or \"udp\"";

/// The accepted forms of a platform.
pub(super) const PLATFORM: &str = "a platform such as \"linux/amd64\" or \"linux/arm/v7\"";

pub(super) fn platform(text: &str) -> Result<Platform, String> {
    text.parse().map_err(|error: InvalidPlatform| error.to_string())
}

/// Reads `ports`.
pub(super) fn ports(table: &Table<'_>) -> Vec<PortMapping> {
    let items = table.get("ports").map(|field| field.items("a list such as [\"8080:80\", \"53:53/udp\"]"));
    items.unwrap_or_default().iter().filter_map(port).flatten().collect()
}

fn port(item: &ManifestField<'_>) -> Option<Vec<PortMapping>> {
    if let DeValue::Integer(_) = item.value() {
        let port = item.port()?;
        return PortMapping::parse_all(&port.to_string()).ok();
    }
    if !matches!(item.value(), DeValue::Table(_)) {
        return item.parsed(PORT, |text| PortMapping::parse_all(text).map_err(|error| error.to_string()));
    }
    let table = item.table(&keys::PORT)?;
    let target = table.required("target").and_then(|field| range(&field));
    let host = table.get("published").map(|field| range(&field));
    let address = table.get("host_ip").map(|field| field.parsed(ADDRESS, address));
    let protocol = table.get("protocol").map(|field| field.parsed(PROTOCOL, protocol));
    let host = host.map_or(Some(None), |range| range.map(Some))?;
    let protocol = protocol.unwrap_or(Some(TransportProtocol::Tcp))?;
    let all = PortMapping::of_parts(target?, host, address.map_or(Some(None), |it| it.map(Some))?, protocol);
    all.map_err(|error| item.must(error.to_string())).ok()
}

/// Reads a port or a range of ports.
fn range(field: &ManifestField<'_>) -> Option<(u16, u16)> {
    if let DeValue::Integer(_) = field.value() {
        return field.port().map(|port| (port, port));
    }
    field.parsed(RANGE, |text| ports::range(text).map_err(|_| format!("must be {RANGE}")))
}

fn address(text: &str) -> Result<IpAddr, String> {
    ports::parse_address(text).map_err(|_| format!("must be {ADDRESS}"))
}

fn protocol(text: &str) -> Result<TransportProtocol, String> {
    ports::parse_protocol(text).map_err(|_| format!("must be {PROTOCOL}"))
}

/// Reads `env_file`: a path, or a list of paths and tables.
pub(super) fn env_files(table: &Table<'_>) -> Vec<EnvFile> {
    let Some(field) = table.get("env_file") else { return Vec::new() };
    let items = match field.value() {
        DeValue::String(_) => vec![field],
        _ => field.items("a path or a list of paths"),
    };
    items.iter().filter_map(env_file).collect()
}

fn env_file(item: &ManifestField<'_>) -> Option<EnvFile> {
    let path = |field: &ManifestField<'_>| {
        field.parsed("the path of a file", |text| grammar::host_path(&field.in_folder(text)))
    };
    if !matches!(item.value(), DeValue::Table(_)) {
        return path(item).map(|path| EnvFile { path, required: true });
    }
    let table = item.table(&keys::ENV_FILE)?;
    let required = table.get("required").and_then(|field| field.flag()).unwrap_or(true);
    let path = path(&table.required("path")?)?;
    Some(EnvFile { path, required })
}

/// Rejects paths that begin at the manifest's folder, for an environment on a host that does not have it.
pub(super) fn none_in_folder(table: &Table<'_>) {
    let is_relative = |value: &DeValue<'_>| match value {
        DeValue::String(text) => text.starts_with("./") || text.starts_with("../"),
        _ => false,
    };
    for field in table.present(&["volumes", "env_file"]) {
        let items = match field.value() {
            DeValue::Array(_) => field.items("a list"),
            _ => vec![field],
        };
        for item in items {
            let inner = match item.value() {
                DeValue::Table(entries) => ["source", "path"].iter().find_map(|key| entries.get(*key)),
                _ => None,
            };
            if is_relative(inner.map_or(item.value(), |value| value.get_ref())) {
                item.must("must be an absolute path beside `host`: that host does not have this folder");
            }
        }
    }
}

/// Reads `aliases`, of the environment or in one network.
pub(super) fn aliases(table: &Table<'_>) -> BTreeSet<NetworkAlias> {
    let items = table.get("aliases").map(|field| field.items("a list of names such as [\"db\"]"));
    items.unwrap_or_default().iter().filter_map(ManifestField::name).collect()
}

/// Reads `networks`: a list of names, or a table of them.
pub(super) fn networks(table: &Table<'_>) -> Attachments {
    let Some(field) = table.get("networks") else { return Attachments::new() };
    if let DeValue::Array(_) = field.value() {
        let names = field.items("a list");
        return names
            .iter()
            .filter_map(|name| Some((network(name, name.name()?)?, Attachment::default())))
            .collect();
    }
    let DeValue::Table(_) = field.value() else {
        field.wrong("a list of networks, or a table of networks by name");
        return Attachments::new();
    };
    field
        .entries()
        .iter()
        .filter_map(|entry| Some((network(entry, entry.key_as_name()?)?, attachment(entry)?)))
        .collect()
}

/// Rejects the engine's own networks: a container that joins one is a different kind of container.
fn network(field: &ManifestField<'_>, name: NetworkName) -> Option<NetworkName> {
    if !["host", "none", "bridge", "default"].contains(&name.as_str()) {
        return Some(name);
    }
    field.problem(format!("the network `{name}` is the engine's own: declare another one"));
    None
}

fn attachment(field: &ManifestField<'_>) -> Option<Attachment> {
    let table = field.table(&keys::NETWORK)?;
    let (ipv4_address, ipv6_address) = (fixed(&table, "ipv4_address"), fixed(&table, "ipv6_address"));
    Some(Attachment { aliases: aliases(&table), ipv4_address, ipv6_address })
}

fn fixed<T: std::str::FromStr>(table: &Table<'_>, key: &'static str) -> Option<T> {
    let field = table.get(key)?;
    field.parsed("an address in quotes", |text| text.parse().map_err(|_| "must be an address".to_owned()))
}

/// The keys that need a network of the container's own.
const OF_NETWORKS: [&str; 4] = ["ports", "networks", "aliases", "domainname"];
/// The keys that need a port that the proxy can connect to.
const OF_THE_PROXY: [&str; 3] = ["hostname", "hostnames", "https"];

/// Reads `network_mode`, and rejects the keys that do not go with it.
pub(super) fn network_mode(table: &Table<'_>) -> Option<&'static str> {
    let field = table.get("network_mode")?;
    let mode = match field.value() {
        DeValue::String(text) if text == "host" => "host",
        DeValue::String(text) if text == "none" => "none",
        // The table of settings reports it.
        _ => return None,
    };
    let published = table.get("publish").filter(|field| !matches!(field.value(), DeValue::Boolean(false)));
    for other in table.present(&OF_NETWORKS).into_iter().chain(published) {
        other.must(format!(
            "does not go with `network_mode` = \"{mode}\": the container has no network of its own"
        ));
    }
    let connected = table.get("port").into_iter().chain(table.present(&OF_THE_PROXY));
    for other in connected.filter(|_| mode == "none") {
        other.must("does not go with `network_mode` = \"none\": nothing can connect to it");
    }
    Some(mode)
}

/// Reads every setting of the table that goes to the engine as it is.
pub(super) fn settings(table: &Table<'_>, volumes: &[Mount]) -> Settings {
    let mut settings = Settings::default();
    for setting in SETTINGS {
        let Some(field) = table.get(setting.key) else { continue };
        let raw = json(field.value());
        // The rule is the same for a type that no setting takes.
        let declared = settings.declare(setting, raw.as_ref().unwrap_or(&Value::Null));
        match declared {
            Err(predicate) if raw.is_none() => field.must(format!("{predicate}, not a date")),
            Err(predicate) => field.must(predicate),
            Ok(()) => {}
        }
    }
    if let Err(sentence) = settings.agree() {
        table.problem(sentence);
    }
    let is_taken = |path| volumes.iter().any(|mount| *mount.target() == path);
    if let (Some(field), true) = (table.get("tmpfs"), settings.memory_paths().any(is_taken)) {
        field.must("mounts over the target of one of `volumes`");
    }
    settings
}

/// The same value as JSON; `None` if it holds a date.
fn json(value: &DeValue<'_>) -> Option<Value> {
    Some(match value {
        DeValue::String(text) => Value::from(text.as_ref()),
        DeValue::Boolean(flag) => Value::from(*flag),
        DeValue::Integer(number) => Value::from(integer(number)?),
        DeValue::Float(number) => Value::from(number.as_str().parse::<f64>().ok()?),
        DeValue::Datetime(_) => return None,
        DeValue::Array(items) => items.iter().map(|item| json(item.get_ref())).collect::<Option<Value>>()?,
        DeValue::Table(entries) => {
            let pair =
                |(key, value): (&toml::Spanned<std::borrow::Cow<'_, str>>, &toml::Spanned<DeValue<'_>>)| {
                    Some((key.get_ref().to_string(), json(value.get_ref())?))
                };
            Value::from(entries.iter().map(pair).collect::<Option<serde_json::Map<_, _>>>()?)
        }
    })
}
