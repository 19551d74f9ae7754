//! Reads declarations from JSON, such as from a link or a record, with the grammar of the manifest. No
//! declaration bypasses that grammar.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error};

use super::manifest::grammar;
use super::name::SiteName;
use super::ports::RawPublish;
use super::spec::{EnvValue, HealthSpec};

/// Reads a raw value and converts it with `grammar`.
fn parsed<'de, D, Raw, Value>(
    deserializer: D,
    grammar: impl FnOnce(Raw) -> Result<Value, String>,
) -> Result<Value, D::Error>
where
    D: Deserializer<'de>,
    Raw: Deserialize<'de>,
{
    grammar(Raw::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// Does the same for an optional value.
fn optional<'de, D, Raw, Value>(
    deserializer: D,
    grammar: impl FnOnce(Raw) -> Result<Value, String>,
) -> Result<Option<Value>, D::Error>
where
    D: Deserializer<'de>,
    Raw: Deserialize<'de>,
{
    parsed(deserializer, |raw: Option<Raw>| raw.map(grammar).transpose())
}

/// An optional port.
pub(super) fn optional_port<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u16>, D::Error> {
    optional(deserializer, grammar::port)
}

/// Host names; one name, or `null` for none, as earlier versions wrote them.
pub(crate) fn site_names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<SiteName>, D::Error> {
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Raw {
        One(SiteName),
        Many(Vec<SiteName>),
    }
    Ok(match Option::<Raw>::deserialize(deserializer)? {
        None => Vec::new(),
        Some(Raw::One(name)) => vec![name],
        Some(Raw::Many(names)) => names,
    })
}

/// Arguments.
pub(super) fn command<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    optional(deserializer, |words: Vec<String>| words.into_iter().map(grammar::text).collect())
}

/// Environment variables.
pub(super) fn env<'de, D>(deserializer: D) -> Result<BTreeMap<String, EnvValue>, D::Error>
where
    D: Deserializer<'de>,
{
    parsed(deserializer, |env: BTreeMap<String, EnvValue>| {
        env.keys().try_for_each(|name| grammar::variable(name))?;
        Ok(env)
    })
}

/// A text that is passed to a program.
pub(super) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    parsed(deserializer, grammar::text)
}

/// The name of a variable that holds a secret.
pub(super) fn secret_variable<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    parsed(deserializer, |name: String| grammar::secret_variable(&name))
}

/// The path of a file.
pub(super) fn host_path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    parsed(deserializer, |path: String| grammar::host_path(&path))
}

/// Lines of `/etc/hosts`.
pub(super) fn extra_hosts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    parsed(deserializer, |hosts: Vec<String>| hosts.iter().map(|host| grammar::extra_host(host)).collect())
}

/// A memory limit.
pub(super) fn memory<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    optional(deserializer, grammar::memory_bytes)
}

/// A CPU limit.
pub(super) fn nano_cpus<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    optional(deserializer, grammar::billionths_of_a_cpu)
}

/// A limit of processes.
pub(super) fn pids<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    optional(deserializer, grammar::pids)
}

/// A duration that something may take.
pub(super) fn patience<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    parsed(deserializer, grammar::patience)
}

/// The stop timeout of a container.
pub(super) fn stop_timeout<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    parsed(deserializer, grammar::stop_timeout)
}

/// The path of a probe.
pub(super) fn probe_path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    parsed(deserializer, |path: String| grammar::probe_path(&path))
}

/// The command of a probe.
pub(super) fn probe_command<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    parsed(deserializer, grammar::probe_command)
}

/// A health check.
pub(super) fn health<'de, D: Deserializer<'de>>(deserializer: D) -> Result<HealthSpec, D::Error> {
    parsed(deserializer, |health: HealthSpec| {
        for duration in [health.interval, health.timeout, health.start_deadline] {
            grammar::patience(duration)?;
        }
        grammar::short_enough(health.healthy_for)?;
        health.port.map_or(Ok(0), grammar::port)?;
        health.host.as_deref().map(grammar::probe_host).transpose()?;
        for (name, value) in &health.headers {
            grammar::header_name(name)?;
            if let EnvValue::Plain(value) = value {
                grammar::header_value(value)?;
            }
        }
        grammar::health(&health)?;
        Ok(health)
    })
}

impl TryFrom<RawPublish> for super::spec::Publish {
    type Error = String;

    fn try_from(raw: RawPublish) -> Result<Self, String> {
        Ok(Self { address: raw.address, port: grammar::port(raw.port)? })
    }
}
