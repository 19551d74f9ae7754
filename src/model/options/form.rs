//! The forms of settings: what a manifest may write, its one canonical form, and the engine's form.
//!
//! An error is the rest of a sentence that begins with the key: `must be ...`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::rule::{is_access, security_option, word};

use crate::model::manifest::grammar;
use crate::model::mount::AbsolutePath;

/// The rule of a text: returns its canonical form.
type Rule = fn(&str) -> Result<String, String>;

/// The form of a setting's values.
#[derive(Clone, Copy, Debug)]
pub(super) enum ValueForm {
    /// `true` or `false`.
    Flag,
    /// A text, or a number that is read as text.
    Text(Rule),
    /// A whole number from the first to the second.
    Number(i64, i64),
    /// A size in bytes, such as `64m`.
    Size,
    /// A size in bytes, or −1 for no limit.
    Swap,
    /// A network of the engine: `host` or `none`.
    NetworkMode,
    /// Texts whose order matters.
    Words(Rule),
    /// Texts whose order does not matter.
    Set(Rule),
    /// Names and texts: a table, or a list of `name=text`.
    Map(fn(&str, &str) -> Result<(), String>),
    /// Paths with mount options.
    Tmpfs,
    /// Security options.
    Security,
    /// Limits of resources by name.
    Ulimits,
    /// A logging driver and its options.
    Logging,
    /// Devices of the host.
    Devices,
    /// GPUs.
    Gpus,
}

type Read = Result<Value, String>;

impl ValueForm {
    /// Checks a value and returns its canonical form. The canonical form of that is the same.
    pub(super) fn canonical(self, raw: &Value) -> Read {
        match self {
            Self::Flag => raw.as_bool().map(Value::from).ok_or_else(|| "must be true or false".to_owned()),
            Self::Text(rule) => rule(&plain(raw)?).map(Value::from),
            Self::Number(least, most) => {
                let found = raw.as_i64().filter(|number| (least..=most).contains(number));
                found.map(Value::from).ok_or_else(|| format!("must be a whole number from {least} to {most}"))
            }
            Self::Size => size(raw),
            Self::Swap if raw.as_i64() == Some(-1) || raw == "-1" => Ok(Value::from(-1)),
            Self::Swap => size(raw).map_err(|predicate| format!("{predicate}, or -1 for no limit")),
            Self::NetworkMode => match raw.as_str() {
                Some("host" | "none") => Ok(raw.clone()),
                _ => Err("must be \"host\" or \"none\"; other networks belong into `networks`".to_owned()),
            },
            Self::Words(rule) => Ok(Value::from(words(raw, rule)?)),
            Self::Set(rule) => Ok(as_set(words(raw, rule)?)),
            Self::Map(rule) => map(raw, rule),
            Self::Tmpfs => tmpfs(raw),
            Self::Security => Ok(as_set(words(raw, security_option)?)),
            Self::Ulimits => ulimits(raw),
            Self::Logging => logging(raw),
            Self::Devices => devices(raw),
            Self::Gpus => gpus(raw),
        }
    }

    /// The engine's form of a canonical value.
    pub(super) fn to_engine(self, value: &Value) -> Value {
        match self {
            Self::Ulimits => {
                let limits = entries(value).map(
                    |(name, limit)| json!({ "Name": name, "Soft": limit["soft"], "Hard": limit["hard"] }),
                );
                limits.collect()
            }
            Self::Logging => json!({ "Type": value["driver"], "Config": value["options"] }),
            Self::Devices => texts(value).map(device_to_engine).collect(),
            Self::Gpus => json!([gpus_to_engine(value)]),
            _ => value.clone(),
        }
    }

    /// The canonical form of the engine's value; `None` if it means that nothing is set. A value that abide
    /// never sets is kept as it is, and differs from every declared one.
    pub(super) fn read_engine(self, value: &Value) -> Option<Value> {
        if is_unset(value) {
            return None;
        }
        let converted = match self {
            // Every other container joins a network, or a sandbox.
            Self::NetworkMode => return self.canonical(value).ok(),
            Self::Ulimits => limits_from_engine(value),
            Self::Logging => json!({ "driver": value["Type"], "options": value["Config"] }),
            Self::Devices => items_of(value).filter_map(device_from_engine).map(Value::from).collect(),
            Self::Gpus => gpus_from_engine(value),
            // `private` is the default of engines that name it.
            Self::Text(_) if value == "private" => value.clone(),
            _ => value.clone(),
        };
        Some(self.canonical(&converted).unwrap_or(converted))
    }

    /// Whether the observed value is the declared one.
    pub(super) fn is_met(self, seen: Option<&Value>, declared: &Value) -> bool {
        match (self, seen) {
            (Self::Map(_) | Self::Ulimits | Self::Logging, Some(seen)) => holds(seen, declared),
            // The engine adds labels for a privileged container, and with SELinux.
            (Self::Security, Some(seen)) => {
                let is_added = |option: &&str| !option.starts_with("label=") || has(declared, option);
                texts(seen).filter(is_added).eq(texts(declared))
            }
            // The engine shows nothing for `false`, zero and empty lists.
            (_, None) => is_unset(declared),
            (_, seen) => seen == Some(declared),
        }
    }

    /// Whether the engine sets the observed value by itself if none is declared, as the label of a container that is
    /// privileged or in a namespace of the host.
    pub(super) fn is_added(self, seen: &Value) -> bool {
        matches!(self, Self::Security) && self.is_met(Some(seen), &Value::Array(Vec::new()))
    }
}

/// The engine's forms of "nothing is set". Zero is the default of every number.
fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        Value::Bool(true) => false,
    }
}

/// Whether every entry of `declared` is in `seen`.
fn holds(seen: &Value, declared: &Value) -> bool {
    match (seen, declared) {
        (Value::Object(seen), Value::Object(declared)) => {
            declared.iter().all(|(name, value)| seen.get(name).is_some_and(|seen| holds(seen, value)))
        }
        (seen, declared) => seen == declared,
    }
}

// --- reading ----------------------------------------------------------------------------------------

/// A text, number or flag as text.
fn plain(raw: &Value) -> Result<String, String> {
    match raw {
        Value::String(text) if text.contains('\0') => Err("must not hold a NUL character".to_owned()),
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(flag) => Ok(flag.to_string()),
        _ => Err("must be a text in quotes".to_owned()),
    }
}

/// A list of texts; one text stands for a list of it.
fn words(raw: &Value, rule: Rule) -> Result<Vec<String>, String> {
    let Value::Array(items) = raw else { return Err("must be a list of texts in quotes".to_owned()) };
    items.iter().map(|item| rule(&plain(item)?)).collect()
}

fn as_set(mut words: Vec<String>) -> Value {
    words.sort();
    words.dedup();
    Value::from(words)
}

/// Reads a table, or a list of `name=text`.
fn pairs(raw: &Value) -> Result<BTreeMap<String, String>, String> {
    match raw {
        Value::Object(entries) => {
            entries.iter().map(|(name, value)| Ok((name.clone(), plain(value)?))).collect()
        }
        Value::Array(items) => {
            let pair = |item: &Value| {
                let text = plain(item)?;
                let (name, value) = text.split_once('=').unwrap_or((&text, ""));
                Ok((name.to_owned(), value.to_owned()))
            };
            items.iter().map(pair).collect()
        }
        _ => Err("must be a table such as { name = \"text\" } or a list such as [\"name=text\"]".to_owned()),
    }
}

fn map(raw: &Value, rule: fn(&str, &str) -> Result<(), String>) -> Read {
    let pairs = pairs(raw)?;
    pairs.iter().try_for_each(|(name, text)| rule(name, text))?;
    Ok(json!(pairs))
}

fn size(raw: &Value) -> Read {
    let wrong = || "must be a size such as \"64MiB\" or a number of bytes".to_owned();
    let bytes = match raw {
        Value::Number(number) => number.as_u64().ok_or_else(wrong)?,
        Value::String(text) => grammar::bytes(text).ok_or_else(wrong)?,
        _ => return Err(wrong()),
    };
    if bytes == 0 || i64::try_from(bytes).is_err() { Err(wrong()) } else { Ok(Value::from(bytes)) }
}

// --- structures -------------------------------------------------------------------------------------

/// Reads `"/path:options"`, a list of it, or a table of path and options.
fn tmpfs(raw: &Value) -> Read {
    let of_text = |text: String| {
        let (path, options) = text.split_once(':').unwrap_or((&text, ""));
        (path.to_owned(), options.to_owned())
    };
    let mounts: Vec<(String, String)> = match raw {
        Value::String(_) => vec![of_text(plain(raw)?)],
        Value::Array(items) => items.iter().map(|item| plain(item).map(of_text)).collect::<Result<_, _>>()?,
        _ => pairs(raw)
            .map_err(|_| "must be a list such as [\"/tmp\", \"/run:size=64m\"]".to_owned())?
            .into_iter()
            .collect(),
    };
    let mut canonical = Map::new();
    for (path, options) in mounts {
        let path = AbsolutePath::parse("the path", &path).map_err(|error| error.to_string())?;
        if path.as_str() == "/" {
            return Err("must not mount over the container's root".to_owned());
        }
        canonical.insert(path.to_string(), Value::from(options));
    }
    Ok(Value::from(canonical))
}

/// The names of limits that the engine knows. It refuses others only when it starts the container.
const LIMITS: [&str; 16] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
    "as",
];

/// Reads `{ nofile = 1024 }` or `{ nofile = { soft = 1024, hard = 2048 } }`; −1: no limit.
fn ulimits(raw: &Value) -> Read {
    let wrong = || "must be a table such as { nofile = 65536 } or { nofile = { soft = 1024, hard = 2048 } }";
    let Value::Object(entries) = raw else { return Err(wrong().to_owned()) };
    let number =
        |value: &Value| value.as_i64().filter(|number| *number >= -1).ok_or_else(|| wrong().to_owned());
    let mut canonical = Map::new();
    for (name, limit) in entries {
        if !LIMITS.contains(&name.as_str()) {
            return Err(format!("must not hold `{name}`: known are {}", LIMITS.join(", ")));
        }
        let (soft, hard) = match limit {
            Value::Object(both) if both.keys().all(|key| key == "soft" || key == "hard") => {
                (number(&limit["soft"])?, number(&limit["hard"])?)
            }
            both => (number(both)?, number(both)?),
        };
        if hard != -1 && (soft == -1 || soft > hard) {
            return Err(format!("must not hold a `soft` above the `hard` of `{name}`"));
        }
        canonical.insert(name.clone(), json!({ "soft": soft, "hard": hard }));
    }
    Ok(Value::from(canonical))
}

fn limits_from_engine(value: &Value) -> Value {
    let limits = items_of(value).filter_map(|limit| {
        let name = limit["Name"].as_str()?.to_owned();
        Some((name, json!({ "soft": limit["Soft"], "hard": limit["Hard"] })))
    });
    Value::from(limits.collect::<Map<_, _>>())
}

/// Reads `{ driver = "json-file", options = { max-size = "10m" } }`.
fn logging(raw: &Value) -> Read {
    let wrong =
        || "must be a table such as { driver = \"json-file\", options = { max-size = \"10m\" } }".to_owned();
    let Value::Object(entries) = raw else { return Err(wrong()) };
    if let Some(other) = entries.keys().find(|key| !["driver", "options"].contains(&key.as_str())) {
        return Err(format!("must not hold `{other}`: its keys are driver and options"));
    }
    let mut canonical = Map::new();
    if let Some(driver) = entries.get("driver").filter(|driver| !driver.is_null()) {
        canonical.insert("driver".to_owned(), Value::from(driver_name(&plain(driver)?)?));
    }
    if let Some(options) = entries.get("options").filter(|options| !is_unset(options)) {
        canonical.insert("options".to_owned(), json!(pairs(options)?));
    }
    if canonical.is_empty() { Err(wrong()) } else { Ok(Value::from(canonical)) }
}

/// A driver may be a plugin, such as `grafana/loki-docker-driver:latest`.
fn driver_name(text: &str) -> Result<String, String> {
    word(text).map_err(|_| "must name a logging driver, such as \"json-file\"".to_owned())
}

/// Reads `"/dev/x[:/dev/y][:rwm]"`.
fn devices(raw: &Value) -> Read {
    Ok(as_set(words(raw, device)?))
}

fn device(text: &str) -> Result<String, String> {
    let wrong = || "must hold devices such as \"/dev/ttyUSB0\" or \"/dev/sda:/dev/xvda:rw\"".to_owned();
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, access) = match parts[..] {
        [source] => (source, source, "rwm"),
        [source, access] if is_access(access) => (source, source, access),
        [source, target] => (source, target, "rwm"),
        [source, target, access] => (source, target, access),
        _ => return Err(wrong()),
    };
    let path = |text: &str| AbsolutePath::parse("the path", text).map_err(|_| wrong());
    if !is_access(access) {
        return Err(wrong());
    }
    let access: String = "rwm".chars().filter(|right| access.contains(*right)).collect();
    Ok(format!("{}:{}:{access}", path(source)?, path(target)?))
}

fn device_to_engine(text: &str) -> Value {
    let mut parts = text.splitn(3, ':');
    let (source, target, access) = (parts.next(), parts.next(), parts.next());
    json!({ "PathOnHost": source, "PathInContainer": target, "CgroupPermissions": access })
}

fn device_from_engine(device: &Value) -> Option<String> {
    let part = |name: &str| device[name].as_str();
    Some(format!("{}:{}:{}", part("PathOnHost")?, part("PathInContainer")?, part("CgroupPermissions")?))
}

/// Reads `"all"`, a number, or the ids of GPUs.
fn gpus(raw: &Value) -> Read {
    let wrong = || "must be \"all\", a number of GPUs, or a list of their ids".to_owned();
    match raw {
        Value::String(all) if all == "all" => Ok(raw.clone()),
        Value::String(number) if number.parse::<u16>().is_ok_and(|number| number > 0) => {
            Ok(json!(number.parse::<u16>().unwrap_or(1)))
        }
        Value::Number(number) if number.as_u64().is_some_and(|number| (1..=1024).contains(&number)) => {
            Ok(raw.clone())
        }
        Value::Array(ids) if !ids.is_empty() => Ok(as_set(words(raw, word).map_err(|_| wrong())?)),
        _ => Err(wrong()),
    }
}

fn gpus_to_engine(value: &Value) -> Value {
    let count = if value == "all" { json!(-1) } else { value.as_u64().map_or(Value::Null, Value::from) };
    json!({
        "Count": count,
        "DeviceIDs": if value.is_array() { value.clone() } else { Value::Null },
        "Capabilities": [["gpu"]],
    })
}

fn gpus_from_engine(value: &Value) -> Value {
    let Some([request]) = value.as_array().map(Vec::as_slice) else { return value.clone() };
    if request["Capabilities"] != json!([["gpu"]]) {
        return value.clone();
    }
    match (&request["DeviceIDs"], request["Count"].as_i64()) {
        (ids @ Value::Array(list), _) if !list.is_empty() => ids.clone(),
        (_, Some(-1)) => Value::from("all"),
        (_, Some(count)) => Value::from(count),
        _ => value.clone(),
    }
}

// --- parts of canonical values ----------------------------------------------------------------------

pub(super) fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn items_of(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

pub(super) fn texts(value: &Value) -> impl Iterator<Item = &str> {
    items_of(value).filter_map(Value::as_str)
}

fn has(value: &Value, text: &str) -> bool {
    texts(value).any(|item| item == text)
}
