//! The forms of settings: what a manifest may write, its one canonical form, and the engine's form.
//!
//! An error is the rest of a sentence that begins with the key: `must be ...`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Map, Value, json};

use crate::model::manifest::grammar;
use crate::model::mount::AbsolutePath;

/// The rule of a text: returns its canonical form.
type Rule = fn(&str) -> Result<String, String>;

/// The form of a setting's values.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    /// `true` or `false`.
    Flag,
    /// A text, or a number that is read as text.
    Text(Rule),
    /// A whole number from the first to the second.
    Number(i64, i64),
    /// A size in bytes, such as `64m`.
    Size,
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

impl Form {
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
    pub(super) fn from_engine(self, value: &Value) -> Option<Value> {
        if is_unset(value) {
            return None;
        }
        let converted = match self {
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
            // The engine adds labels of its own for a privileged container, and with SELinux.
            (Self::Security, Some(seen)) => {
                let is_added = |option: &&str| !option.starts_with("label=") || has(declared, option);
                texts(seen).filter(is_added).eq(texts(declared))
            }
            (Self::Words(_), None) => items_of(declared).next().is_none(),
            (_, seen) => seen == Some(declared),
        }
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

/// A text without control characters that is not empty.
pub(super) fn word(text: &str) -> Result<String, String> {
    if text.is_empty() || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err("must be a word without spaces".to_owned());
    }
    Ok(text.to_owned())
}

pub(super) fn text(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

pub(super) fn name(text: &str) -> Result<String, String> {
    let known = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if known && !text.is_empty() {
        return Ok(text.to_owned());
    }
    Err("must be a name of letters, digits and - _ .".to_owned())
}

pub(super) fn user(text: &str) -> Result<String, String> {
    let parts: Vec<&str> = text.split(':').collect();
    if parts.len() <= 2 && parts.iter().all(|part| name(part).is_ok()) {
        return Ok(text.to_owned());
    }
    Err("must be a user such as \"1000\", \"1000:1000\" or \"node\"".to_owned())
}

pub(super) fn group(text: &str) -> Result<String, String> {
    name(text).map_err(|_| "must hold names or numbers of groups, such as \"video\"".to_owned())
}

/// The engine cleans the path in the same way.
pub(super) fn folder(text: &str) -> Result<String, String> {
    let wrong = || "must be an absolute path in the container, such as \"/app\"".to_owned();
    if text == "/" {
        return Ok(text.to_owned());
    }
    if !text.starts_with('/') {
        return Err(wrong());
    }
    AbsolutePath::cleaned(text).map(|path| path.to_string()).ok_or_else(wrong)
}

pub(super) fn hostname(text: &str) -> Result<String, String> {
    let is_label = |label: &str| {
        let known = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        (1..=63).contains(&label.len()) && known && !label.starts_with('-') && !label.ends_with('-')
    };
    if text.len() <= 63 && text.split('.').all(is_label) {
        return Ok(text.to_owned());
    }
    Err("must be a host name of at most 63 letters, digits and -, such as \"db-1\"".to_owned())
}

pub(super) fn search_domain(text: &str) -> Result<String, String> {
    // A dot alone removes the host's own search domains.
    if text == "." {
        Ok(text.to_owned())
    } else {
        hostname(text.trim_end_matches('.')).map(|_| text.to_owned())
    }
}

pub(super) fn address(text: &str) -> Result<String, String> {
    let address: Result<IpAddr, _> = text.parse();
    address.map(|it| it.to_string()).map_err(|_| "must hold addresses such as \"1.1.1.1\"".to_owned())
}

pub(super) fn label(name: &str, _text: &str) -> Result<(), String> {
    if name.is_empty() || name.chars().any(char::is_control) {
        return Err("must name every label".to_owned());
    }
    if name.starts_with("abide.") {
        return Err(format!("must not hold `{name}`: labels that begin with `abide.` are abide's own"));
    }
    Ok(())
}

/// The signals of Linux, in the order of their numbers.
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

pub(super) fn signal(text: &str) -> Result<String, String> {
    let wrong = || "must be a signal such as \"SIGINT\" or its number".to_owned();
    let upper = text.trim().to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Ok(number) = bare.parse::<usize>() {
        let name = number.checked_sub(1).and_then(|index| SIGNALS.get(index));
        return name.map(|name| format!("SIG{name}")).ok_or_else(wrong);
    }
    // The engine names real-time signals by their distance to the first or the last.
    let is_real_time = |begin: &str| {
        let rest = bare.strip_prefix(begin);
        rest.is_some_and(|rest| rest.parse().is_ok_and(|distance: u8| (1..=15).contains(&distance)))
    };
    let is_known = SIGNALS.contains(&bare)
        || ["RTMIN", "RTMAX"].contains(&bare)
        || is_real_time("RTMIN+")
        || is_real_time("RTMAX-");
    if is_known { Ok(format!("SIG{bare}")) } else { Err(wrong()) }
}

/// The kernel parameters outside `net.` that a container has for itself.
const OWN_PARAMETERS: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// The engine refuses the others only when it starts the container.
pub(super) fn sysctl(name: &str, text: &str) -> Result<(), String> {
    let is_own = name.starts_with("net.") || name.starts_with("fs.mqueue.") || OWN_PARAMETERS.contains(&name);
    let is_plain = !name.chars().any(|c| c.is_whitespace() || c.is_control());
    if is_own && is_plain && !text.is_empty() {
        return Ok(());
    }
    Err("must hold kernel parameters that a container has for itself: `net.*`, `fs.mqueue.*`, `kernel.shm*`, \
         `kernel.msg*` or `kernel.sem`"
        .to_owned())
}

/// The engine shows the name as it was written.
pub(super) fn capability(text: &str) -> Result<String, String> {
    let upper = text.trim().to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    if !bare.is_empty() && bare.bytes().all(|b| b.is_ascii_uppercase() || b == b'_') {
        return Ok(bare.to_owned());
    }
    Err("must hold capabilities such as \"NET_ADMIN\", or \"ALL\"".to_owned())
}

fn security_option(text: &str) -> Result<String, String> {
    let (name, value) = text.split_once(['=', ':']).unwrap_or((text, ""));
    match (name, value) {
        ("no-new-privileges", "" | "true") => Ok("no-new-privileges".to_owned()),
        ("no-new-privileges", "false") => Ok("no-new-privileges=false".to_owned()),
        ("seccomp", "unconfined") => Ok("seccomp=unconfined".to_owned()),
        ("seccomp", profile) if profile.trim_start().starts_with('{') => Ok(format!("seccomp={profile}")),
        ("seccomp", _) => {
            Err("must hold \"seccomp=unconfined\" or the JSON of a profile, not a path".to_owned())
        }
        ("systempaths", _) => {
            Err("must not hold `systempaths`, which only the docker client knows".to_owned())
        }
        ("apparmor" | "label", value) if !value.is_empty() => Ok(format!("{name}={value}")),
        _ => {
            Err("must hold \"no-new-privileges\", \"seccomp=...\", \"apparmor=...\" or \"label=...\""
                .to_owned())
        }
    }
}

pub(super) fn device_rule(text: &str) -> Result<String, String> {
    let parts: Vec<&str> = text.split_whitespace().collect();
    let number = |text: &str| text == "*" || text.parse::<u32>().is_ok();
    let is_rule = match parts[..] {
        [kind, device, access] => {
            let device = device.split_once(':').is_some_and(|(major, minor)| number(major) && number(minor));
            ["a", "b", "c"].contains(&kind) && device && is_access(access)
        }
        _ => false,
    };
    if is_rule { Ok(parts.join(" ")) } else { Err("must hold rules such as \"c 188:* rwm\"".to_owned()) }
}

fn is_access(text: &str) -> bool {
    (1..=3).contains(&text.len()) && text.bytes().all(|b| b"rwm".contains(&b))
}

pub(super) fn cpuset(text: &str) -> Result<String, String> {
    let is_cpu = |text: &str| text.parse::<u16>().is_ok();
    let is_part = |part: &str| match part.split_once('-') {
        Some((first, last)) => is_cpu(first) && is_cpu(last),
        None => is_cpu(part),
    };
    if text.split(',').all(is_part) {
        return Ok(text.to_owned());
    }
    Err("must be processors such as \"0-3\" or \"0,2\"".to_owned())
}

pub(super) fn host(text: &str) -> Result<String, String> {
    if text == "host" { Ok(text.to_owned()) } else { Err("must be \"host\"".to_owned()) }
}

pub(super) fn pid_mode(text: &str) -> Result<String, String> {
    host(text)
}

pub(super) fn ipc_mode(mode: &str) -> Result<String, String> {
    one_of(mode, &["host", "private", "shareable", "none"])
}

pub(super) fn cgroup_mode(mode: &str) -> Result<String, String> {
    one_of(mode, &["host", "private"])
}

fn one_of(text: &str, known: &[&str]) -> Result<String, String> {
    if known.contains(&text) {
        return Ok(text.to_owned());
    }
    let quoted: Vec<String> = known.iter().map(|word| format!("\"{word}\"")).collect();
    Err(format!("must be one of {}", quoted.join(", ")))
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

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn items_of(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn texts(value: &Value) -> impl Iterator<Item = &str> {
    items_of(value).filter_map(Value::as_str)
}

fn has(value: &Value, text: &str) -> bool {
    texts(value).any(|item| item == text)
}

// --- rights -----------------------------------------------------------------------------------------

pub(super) fn keys(value: &Value) -> Vec<String> {
    entries(value).map(|(name, _)| name.clone()).collect()
}

pub(super) fn items(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        value => texts(value).map(str::to_owned).collect(),
    }
}

pub(super) fn if_true(value: &Value) -> Vec<String> {
    if value == &Value::Bool(true) { vec!["true".to_owned()] } else { Vec::new() }
}

pub(super) fn any(_value: &Value) -> Vec<String> {
    vec!["gpus".to_owned()]
}

pub(super) fn of_host(value: &Value, namespace: &str) -> Vec<String> {
    if value == "host" { vec![namespace.to_owned()] } else { Vec::new() }
}

pub(super) fn device_paths(value: &Value) -> Vec<String> {
    texts(value).filter_map(|device| Some(device.split_once(':')?.0.to_owned())).collect()
}

/// The capabilities that every container has unless it drops them.
const GIVEN: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

pub(super) fn added_capabilities(value: &Value) -> Vec<String> {
    texts(value).filter(|capability| !GIVEN.contains(capability)).map(str::to_owned).collect()
}

pub(super) fn weakened(value: &Value) -> Vec<String> {
    texts(value).filter(|option| *option != "no-new-privileges").map(str::to_owned).collect()
}

/// The drivers that keep the output on the host.
const LOCAL_DRIVERS: [&str; 4] = ["json-file", "local", "journald", "none"];

pub(super) fn remote_driver(value: &Value) -> Vec<String> {
    let driver = value["driver"].as_str();
    driver.filter(|driver| !LOCAL_DRIVERS.contains(driver)).map(str::to_owned).into_iter().collect()
}
