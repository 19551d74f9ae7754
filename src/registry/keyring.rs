//! Credentials for registries: from the manifest, or else from Docker's own configuration.

mod config;
mod helper;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;

use crate::model::container::Secret;
use crate::model::reference::{DOCKER_HUB, RegistryHost};
use crate::model::spec::{Login, RegistryAccess};
use crate::secret;
use config::DockerConfig;

/// The key of Docker Hub's credentials in Docker's configuration.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// Credentials for one registry.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A name and a password.
    Password {
        /// The name.
        username: String,
        /// The password.
        password: Secret,
    },
    /// A token that replaces both.
    IdentityToken(Secret),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Credentials {
    /// Encodes the credentials for the engine's `X-Registry-Auth`: JSON in URL-safe base64.
    ///
    /// The Docker client library uses the other alphabet, whose `+` and `/` the engine cannot read: it then
    /// queries the registry anonymously, without an error. Passwords with `>`, `?` or `~` at some positions
    /// cause this.
    pub fn engine_header(&self, host: &RegistryHost) -> Secret {
        Secret::new(URL_SAFE.encode(self.engine_json(host).to_string()))
    }

    /// Encodes the credentials of several registries for the engine's `X-Registry-Config`, likewise.
    pub fn engine_config(all: &BTreeMap<RegistryHost, Self>) -> Secret {
        let entry = |(host, of): (&RegistryHost, &Self)| (address(host).to_owned(), of.engine_json(host));
        let config: serde_json::Map<_, _> = all.iter().map(entry).collect();
        Secret::new(URL_SAFE.encode(serde_json::Value::Object(config).to_string()))
    }

    fn engine_json(&self, host: &RegistryHost) -> serde_json::Value {
        let address = address(host);
        match self {
            Self::Password { username, password } => serde_json::json!({
                "username": username,
                "password": password.expose(),
                "serveraddress": address,
            }),
            Self::IdentityToken(token) => {
                serde_json::json!({ "identitytoken": token.expose(), "serveraddress": address })
            }
        }
    }
}

/// The engine's name of a registry.
fn address(host: &RegistryHost) -> &str {
    match host.as_str() {
        DOCKER_HUB => DOCKER_HUB_KEY,
        host => host,
    }
}

/// The reason why credentials are missing. No variant contains them.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// A secret of the manifest cannot be read.
    #[error("the password for the registry {host}: {source}")]
    Secret {
        /// The registry.
        host: RegistryHost,
        /// The cause.
        source: secret::SecretError,
    },
    /// Docker's configuration cannot be read.
    #[error("Docker's configuration in {place} {problem}")]
    Config {
        /// The file or variable.
        place: String,
        /// The problem with it.
        problem: &'static str,
    },
    /// A credential helper gave an invalid answer.
    #[error("the credential helper {helper} for the registry {host} {problem}")]
    Helper {
        /// The helper program.
        helper: String,
        /// The registry.
        host: RegistryHost,
        /// The failure.
        problem: &'static str,
    },
}

/// The sources of credentials. They are read again for every use, so a login or a rotated password needs no
/// restart.
#[derive(Clone, Debug)]
pub struct Keyring {
    /// Docker's configuration in a variable. It takes precedence over the file.
    inline: Option<Secret>,
    /// Docker's configuration file; `None` if there is no home directory.
    file: Option<PathBuf>,
}

impl Keyring {
    /// Reads this process's environment: `DOCKER_AUTH_CONFIG`, then `config.json` in `DOCKER_CONFIG` or in
    /// `~/.docker`.
    pub fn from_environment() -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let inline = set("DOCKER_AUTH_CONFIG").and_then(|text| text.into_string().ok()).map(Secret::new);
        let folder = set("DOCKER_CONFIG").map(PathBuf::from);
        let folder = folder.or_else(|| set("HOME").map(|home| PathBuf::from(home).join(".docker")));
        Self { inline, file: folder.map(|folder| folder.join("config.json")) }
    }

    /// Uses Docker's configuration in `text`, and after it the one in `file`.
    #[cfg(test)]
    pub fn new(text: Option<Secret>, file: Option<PathBuf>) -> Self {
        Self { inline: text, file }
    }

    /// The credentials for `host`; `None` for anonymous access.
    ///
    /// # Errors
    /// Returns [`KeyringError`] if configured credentials cannot be read.
    pub async fn credentials(
        &self,
        host: &RegistryHost,
        access: &RegistryAccess,
    ) -> Result<Option<Credentials>, KeyringError> {
        if let Some(Login { username, password }) = &access.login {
            let password = secret::read(password);
            let password = password.map_err(|source| KeyringError::Secret { host: host.clone(), source })?;
            return Ok(Some(Credentials::Password { username: username.clone(), password }));
        }
        for config in self.configs() {
            if let Some(found) = config?.credentials(host).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The registries that Docker's own configuration names. An unreadable configuration names none: users of
    /// its credentials get the error.
    pub fn hosts(&self) -> BTreeSet<RegistryHost> {
        self.configs().filter_map(Result::ok).flat_map(|config| config.hosts()).collect()
    }

    fn configs(&self) -> impl Iterator<Item = Result<DockerConfig, KeyringError>> {
        let inline =
            self.inline.as_ref().map(|text| DockerConfig::parse("DOCKER_AUTH_CONFIG", text.expose()));
        let file = self.file.as_ref().and_then(|path| DockerConfig::read(path).transpose());
        inline.into_iter().chain(file)
    }
}

impl Default for Keyring {
    fn default() -> Self {
        Self::from_environment()
    }
}
