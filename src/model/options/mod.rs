//! Further options of a container, by compose's names.
//!
//! [`SETTINGS`] is the table of the options that go to the engine as they are declared. A value is always in
//! the canonical form of its option, whether a user wrote it, a controller sent it or the engine showed it, so
//! two values are compared as they are.

mod form;
mod right;
mod rule;
mod setting;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use self::setting::{ComparedWhen, SettingOwner};
pub use self::setting::{EngineField, Right, SETTINGS, Setting};
use super::env_file::EnvFile;
use super::mount::AbsolutePath;
use super::name::{ContainerName, NetworkAlias, NetworkName};
use super::network::{Attachment, Attachments};
use super::platform::Platform;
use super::ports::{PortMapping, Publish};
use super::secret_file::SecretFile;

/// The options of a container beyond those that nearly every environment has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunOptions {
    /// Published ports, beside that of the program.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortMapping>,
    /// Files of environment variables; `env` goes before them, and later files before earlier ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env_files: Vec<EnvFile>,
    /// Secrets that the container gets as files, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, SecretFile>,
    /// Further names in the managed network.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub aliases: BTreeSet<NetworkAlias>,
    /// Networks beside the managed one.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub networks: Attachments,
    /// The platform that the image must be made for; `None`: the engine's choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// The options that go to the engine as they are.
    #[serde(skip_serializing_if = "Settings::is_empty")]
    pub settings: Settings,
}

impl RunOptions {
    /// All published ports: `port`, the one of the program, if it is published, and the further ones.
    pub fn ports_with(
        &self,
        port: Option<u16>,
        publish: Option<Publish>,
    ) -> impl Iterator<Item = PortMapping> {
        let own = port.zip(publish).map(|(port, publish)| PortMapping::of_port(port, publish));
        own.into_iter().chain(self.ports.iter().cloned())
    }

    /// Whether nothing is declared.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The options that belong to the sandbox, because it has the network namespace.
    #[must_use]
    pub fn of_sandbox(&self) -> Self {
        Self {
            settings: self.settings.of_sandbox(),
            // Its image is abide's own.
            platform: None,
            env_files: Vec::new(),
            secrets: BTreeMap::new(),
            ..self.clone()
        }
    }

    /// The names and addresses in all networks: `managed` is the one in which others find the container by
    /// `name`.
    pub fn attachments(&self, managed: &NetworkName, name: &ContainerName) -> Attachments {
        if self.settings.network_mode().is_some() {
            return Attachments::new();
        }
        let mut all = self.networks.clone();
        let own = all.entry(managed.clone()).or_default();
        own.aliases.extend(NetworkAlias::new(name.as_str()));
        own.aliases.extend(self.aliases.iter().cloned());
        all
    }

    /// Whether only one container can have these options.
    pub fn is_exclusive(&self) -> bool {
        self.settings.network_mode() == Some("host")
            || !self.ports.is_empty()
            || self.networks.values().any(Attachment::is_exclusive)
    }

    /// The manifest keys whose values differ.
    pub fn edited(&self, now: &Self) -> Vec<&'static str> {
        let Self { ports, env_files, secrets, aliases, networks, platform, settings } = self;
        let compared = [
            ("ports", *ports != now.ports),
            ("env_file", *env_files != now.env_files),
            ("secrets", *secrets != now.secrets),
            ("aliases", *aliases != now.aliases),
            ("networks", *networks != now.networks),
            ("platform", *platform != now.platform),
        ];
        let edited = compared.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key);
        edited.chain(settings.edited(&now.settings)).collect()
    }
}

/// Values of settings by key, in canonical form.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, Value>")]
pub struct Settings(BTreeMap<&'static str, Value>);

impl TryFrom<BTreeMap<String, Value>> for Settings {
    type Error = String;

    fn try_from(raw: BTreeMap<String, Value>) -> Result<Self, String> {
        let mut settings = Self::default();
        for (key, value) in raw {
            // Without the option the container could have rights that the declaration takes from it.
            let setting = find(&key).ok_or_else(|| format!("this version of abide has no option `{key}`"))?;
            settings.declare(setting, &value).map_err(|predicate| format!("`{key}` {predicate}"))?;
        }
        settings.agree()?;
        Ok(settings)
    }
}

fn find(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

impl Settings {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a value as a user writes it.
    ///
    /// # Errors
    /// Returns the rest of a sentence that begins with the key: `must be ...`.
    pub fn declare(&mut self, setting: &'static Setting, raw: &Value) -> Result<(), String> {
        self.0.insert(setting.key, setting.form.canonical(raw)?);
        Ok(())
    }

    /// Checks that the settings do not contradict each other.
    ///
    /// # Errors
    /// Returns a sentence.
    pub fn agree(&self) -> Result<(), String> {
        self.own_parameters()?;
        let is_host = self.network_mode() == Some("host");
        let parameters = self.0.get("sysctls").and_then(Value::as_object).into_iter().flatten();
        match parameters.map(|(name, _)| name).find(|name| is_host && is_of_network(name)) {
            Some(name) => Err(format!(
                "`sysctls` must not hold `{name}` beside `network_mode` = \"host\": it would change the host's own"
            )),
            None => Ok(()),
        }
    }

    fn own_parameters(&self) -> Result<(), String> {
        let has_own_ipc = self.0.get("ipc").is_none_or(|mode| mode != "host");
        let parameters = self.0.get("sysctls").and_then(Value::as_object).into_iter().flatten();
        let mut of_ipc = parameters.filter(|(name, _)| !is_of_network(name));
        match of_ipc.next().filter(|_| !has_own_ipc) {
            Some((name, _)) => Err(format!(
                "`sysctls` must not hold `{name}` beside `ipc` = \"host\": it would change the host's own"
            )),
            None => Ok(()),
        }
    }

    /// Reads the settings of an existing container: `read` returns a field of the engine's answer.
    pub fn of_engine(read: impl Fn(EngineField) -> Option<Value>) -> Self {
        let value =
            |setting: &'static Setting| Some((setting.key, setting.form.read_engine(&read(setting.field)?)?));
        Self(SETTINGS.iter().filter_map(value).collect())
    }

    /// The fields of a request to the engine. A table is to be merged with what the field holds already.
    pub fn to_engine(&self) -> impl Iterator<Item = (EngineField, Value)> {
        self.iter().map(|(setting, value)| (setting.field, setting.form.to_engine(value)))
    }

    fn iter(&self) -> impl Iterator<Item = (&'static Setting, &Value)> {
        SETTINGS.iter().filter_map(|setting| Some((setting, self.0.get(setting.key)?)))
    }

    /// The settings of the container that runs the program, if it joins a sandbox.
    #[must_use]
    pub fn of_container(&self) -> Self {
        self.owned_by(SettingOwner::Container)
    }

    /// The settings of the sandbox.
    #[must_use]
    pub fn of_sandbox(&self) -> Self {
        self.owned_by(SettingOwner::Sandbox)
    }

    /// The settings of a container beside that of the environment: without names by which others find it and
    /// labels that other programs obey, and with another entrypoint if there is one.
    #[must_use]
    pub fn of_one_off(&self, entrypoint: Option<&[String]>) -> Self {
        let mut all = self.0.clone();
        for key in ["container_hostname", "domainname", "labels", "tty", "stdin_open"] {
            all.remove(key);
        }
        if let Some(words) = entrypoint {
            all.insert("entrypoint", Value::from(words));
        }
        Self(all)
    }

    fn owned_by(&self, owner: SettingOwner) -> Self {
        let part = |(setting, value): (&'static Setting, &Value)| {
            let value = match setting.owner {
                SettingOwner::ByNamespace => by_namespace(value, owner)?,
                other => Some(value.clone()).filter(|_| other == owner)?,
            };
            Some((setting.key, value))
        };
        Self(self.iter().filter_map(part).collect())
    }

    /// The settings of a container together with those that its sandbox has in its place.
    #[must_use]
    pub fn beside(&self, sandbox: &Self) -> Self {
        let is_own = |setting: &Setting| setting.owner != SettingOwner::Sandbox;
        let own = self.iter().filter(|(setting, _)| is_own(setting));
        let mut all: BTreeMap<_, _> = own.map(|(setting, value)| (setting.key, value.clone())).collect();
        for (key, value) in sandbox.of_sandbox().0 {
            match (all.get_mut(key), value) {
                (Some(Value::Object(there)), Value::Object(more)) => there.extend(more),
                (_, value) => drop(all.insert(key, value)),
            }
        }
        Self(all)
    }

    /// The differences between these settings, which are declared, and the observed ones, in sentences.
    pub fn differences(&self, seen: &Self) -> Vec<String> {
        let difference = |setting: &Setting| {
            let (declared, seen) = (self.0.get(setting.key), seen.0.get(setting.key));
            let is_met = match declared {
                Some(declared) => setting.form.is_met(seen, declared),
                None => {
                    let is_compared = setting.compared == ComparedWhen::Always;
                    seen.is_none_or(|seen| !is_compared || setting.form.is_added(seen))
                }
            };
            (!is_met).then(|| sentence(setting.key, seen, declared))
        };
        SETTINGS.iter().filter_map(difference).collect()
    }

    /// The manifest keys whose values differ.
    pub fn edited(&self, now: &Self) -> impl Iterator<Item = &'static str> {
        SETTINGS.iter().map(|setting| setting.key).filter(|key| self.0.get(key) != now.0.get(key))
    }

    /// The rights that these settings need on a host, each with the name that needs it.
    pub fn rights(&self) -> Vec<(Right, String)> {
        let needed = self.iter().filter_map(|(setting, value)| Some((setting.needs?, value)));
        needed
            .flat_map(|(needs, value)| (needs.names)(value).into_iter().map(move |name| (needs.right, name)))
            .collect()
    }

    /// The engine's own network that the container uses, `host` or `none`; `None`: it uses a network of abide.
    pub fn network_mode(&self) -> Option<&str> {
        self.0.get("network_mode")?.as_str()
    }

    /// The limit of memory and swap together, in bytes; -1 for no limit of swap.
    pub fn memory_swap(&self) -> Option<i64> {
        self.0.get("memswap_limit")?.as_i64()
    }

    /// The memory that is kept for the container, in bytes.
    pub fn memory_reservation(&self) -> Option<u64> {
        self.0.get("mem_reservation")?.as_u64()
    }

    /// The paths at which the container has a file system in memory.
    pub fn memory_paths(&self) -> impl Iterator<Item = AbsolutePath> {
        let mounts = self.0.get("tmpfs").and_then(Value::as_object).into_iter().flatten();
        mounts.filter_map(|(path, _)| AbsolutePath::cleaned(path))
    }
}

fn is_of_network(parameter: &str) -> bool {
    parameter.starts_with("net.")
}

/// The kernel parameters of one namespace; `None`: there are none.
fn by_namespace(value: &Value, owner: SettingOwner) -> Option<Value> {
    let is_owned = |name: &String| is_of_network(name) == (owner == SettingOwner::Sandbox);
    let all = value.as_object().into_iter().flatten().filter(|(name, _)| is_owned(name));
    let part: Map<_, _> = all.map(|(name, value)| (name.clone(), value.clone())).collect();
    (!part.is_empty()).then(|| Value::from(part))
}

/// Describes a difference. The entries of a table may hold passwords, so only their names are shown.
fn sentence(key: &str, seen: Option<&Value>, declared: Option<&Value>) -> String {
    let shown = |value: Option<&Value>| match value {
        None => "unset".to_owned(),
        Some(Value::Object(entries)) => {
            format!("a table of {}", entries.keys().map(String::as_str).collect::<Vec<_>>().join(", "))
        }
        Some(value) => value.to_string(),
    };
    match (seen, declared) {
        (Some(Value::Object(seen)), Some(Value::Object(declared))) => {
            let differing = declared.iter().filter(|(name, value)| seen.get(*name) != Some(value));
            let further = seen.keys().filter(|name| !declared.contains_key(*name));
            let names: Vec<&str> =
                differing.map(|(name, _)| name).chain(further).map(String::as_str).collect();
            format!("`{key}` differs in {}", names.join(", "))
        }
        (seen, declared) => format!("`{key}` is {}, should be {}", shown(seen), shown(declared)),
    }
}
