//! Docker's `config.json`: the parts about credentials.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use base64::Engine as _;
use base64::engine::DecodePaddingMode::Indifferent;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

use super::{Credentials, DOCKER_HUB_KEY, KeyringError, helper};
use crate::model::container::Secret;
use crate::model::reference::{DOCKER_HUB, RegistryHost};

/// The largest configuration that is read, in bytes.
const LARGEST: u64 = 1 << 20;
/// The padding is optional: some tools write it, others do not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(Indifferent),
);

/// The relevant keys.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DockerConfigFile {
    auths: BTreeMap<String, Auth>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    #[serde(rename = "identitytoken")]
    identity_token: Option<String>,
}

/// One configuration, and its source.
pub(super) struct DockerConfig {
    place: String,
    document: DockerConfigFile,
}

impl DockerConfig {
    /// Reads a file; `None` if it does not exist.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, KeyringError> {
        let place = path.display().to_string();
        let problem = |problem| Err(KeyringError::Config { place: place.clone(), problem });
        match std::fs::metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Ok(found) if found.is_file() && found.len() <= LARGEST => {}
            Ok(_) => return problem("is not a regular file of at most 1 MiB"),
            Err(_) => return problem("cannot be read"),
        }
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&place, &text).map(Some),
            Err(_) => problem("cannot be read"),
        }
    }

    /// Parses a text. The parser's own message would repeat secrets.
    pub(super) fn parse(place: &str, text: &str) -> Result<Self, KeyringError> {
        let wrong = |_| KeyringError::Config {
            place: place.to_owned(),
            problem: "is not a valid Docker \
            configuration",
        };
        Ok(Self { place: place.to_owned(), document: serde_json::from_str(text).map_err(wrong)? })
    }

    /// The credentials for `host`: from its own helper, else from the store, else from the file itself.
    pub(super) async fn credentials(&self, host: &RegistryHost) -> Result<Option<Credentials>, KeyringError> {
        let keys = keys_of(host);
        let own = keys.iter().find_map(|key| Some((key, self.document.cred_helpers.get(key)?)));
        let store = self.document.creds_store.as_ref().filter(|store| !store.is_empty());
        if let Some((key, program)) = own.or_else(|| Some((keys.first()?, store?)))
            && let Some(found) = helper::get(program, key, host).await?
        {
            return Ok(Some(found));
        }
        let written = self.document.auths.iter().find(|(key, _)| keys.iter().any(|of| is_same(key, of)));
        written.map_or(Ok(None), |(_, auth)| self.written(auth))
    }

    /// The registries that it names.
    pub(super) fn hosts(&self) -> BTreeSet<RegistryHost> {
        let DockerConfigFile { auths, cred_helpers, .. } = &self.document;
        auths.keys().chain(cred_helpers.keys()).filter_map(|key| host_of(key)).collect()
    }

    fn written(&self, auth: &Auth) -> Result<Option<Credentials>, KeyringError> {
        let some = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(token) = some(&auth.identity_token) {
            return Ok(Some(Credentials::IdentityToken(Secret::new(token))));
        }
        if let Some(pair) = some(&auth.auth) {
            let wrong =
                || KeyringError::Config { place: self.place.clone(), problem: "contains an invalid `auth`" };
            return decode(&pair).map(Some).ok_or_else(wrong);
        }
        let pair = some(&auth.username).zip(some(&auth.password));
        Ok(pair
            .map(|(username, password)| Credentials::Password { username, password: Secret::new(password) }))
    }
}

/// Decodes `name:password` in base64; some old clients append a NUL.
fn decode(pair: &str) -> Option<Credentials> {
    let text = String::from_utf8(BASE64.decode(pair.trim()).ok()?).ok()?;
    let (username, password) = text.split_once(':')?;
    let password = Secret::new(password.trim_end_matches('\0'));
    Some(Credentials::Password { username: username.to_owned(), password })
}

/// The keys under which a registry may be stored.
fn keys_of(host: &RegistryHost) -> Vec<String> {
    match host.as_str() {
        DOCKER_HUB => vec![DOCKER_HUB_KEY.to_owned(), "index.docker.io".to_owned(), DOCKER_HUB.to_owned()],
        host => vec![host.to_owned()],
    }
}

/// Old clients store `https://host/v1/` instead of `host`.
fn is_same(kept: &str, key: &str) -> bool {
    kept == key || bare(kept) == bare(key)
}

fn bare(key: &str) -> &str {
    let key = key.trim_start_matches("https://").trim_start_matches("http://");
    key.split('/').next().unwrap_or(key)
}

fn host_of(key: &str) -> Option<RegistryHost> {
    match bare(key) {
        "index.docker.io" => DOCKER_HUB.parse().ok(),
        host => host.parse().ok(),
    }
}
