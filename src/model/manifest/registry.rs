//! `[registry]` and `[registry_access.HOST]`.

use std::time::Duration;

use toml::de::DeValue;

use super::table::{ManifestField, Table};
use super::{grammar, keys, secrets};
use crate::model::name::ContainerName;
use crate::model::spec::{CertificateFiles, ManagedRegistry, Publish, RegistryAccess, SecretRef};

/// The default image, name and volume of the managed registry.
const DEFAULT_IMAGE: &str = "registry:2";
const DEFAULT_NAME: &str = "abide-registry";
/// The default host port, the same as in Docker's own examples.
const DEFAULT_PORT: u16 = 5000;

/// The shortest time between two polls: registries limit requests, and lock out clients that ask too often.
const SHORTEST_POLL: Duration = Duration::from_secs(5);

/// Reads the managed registry. Returns `None` also if `managed` is false or the table has a problem.
pub(super) fn read_managed(field: &ManifestField<'_>) -> Option<ManagedRegistry> {
    let table = field.table(&keys::MANAGED_REGISTRY)?;
    let is_managed = table.required("managed").and_then(|field| field.flag());
    let image = match table.get("image") {
        Some(field) => field.parsed("the name of an image with its tag", grammar::tagged_name),
        None => Some(DEFAULT_IMAGE.to_owned()),
    };
    let publish = read_publish(&table);
    let container = match table.get("container") {
        Some(field) => field.name(),
        None => ContainerName::new(DEFAULT_NAME).ok(),
    };
    let volume = match table.get("volume") {
        Some(field) => field.parsed("the name of a volume", grammar::volume),
        None => DEFAULT_NAME.parse().ok(),
    };
    let path = |key| Some(table.get(key)?.parsed("the path of a file", grammar::host_path));
    let (htpasswd, certificate, key) = (path("htpasswd"), path("certificate"), path("key"));
    let tls = match (certificate, key) {
        (Some(certificate), Some(key)) => Some(CertificateFiles { certificate: certificate?, key: key? }),
        (None, None) => None,
        _ => {
            table.problem("`registry` needs `certificate` and `key` together");
            None
        }
    };
    let is_open =
        publish.is_some_and(|publish| !publish.address.is_some_and(|address| address.is_loopback()));
    if is_open && htpasswd.is_none() {
        table.problem(
            "`registry` is reachable from other hosts and needs `htpasswd`: otherwise everyone could \
            push to it",
        );
    }
    let (image, publish, container, volume) = (image?, publish?, container?, volume?);
    let htpasswd = htpasswd.map_or(Some(None), |path| path.map(Some))?;
    let registry = ManagedRegistry { image, publish, container, volume, htpasswd, tls };
    is_managed?.then_some(registry)
}

/// Reads the published address. The default is the loopback address, which Docker trusts without a
/// certificate.
fn read_publish(table: &Table<'_>) -> Option<Publish> {
    let loopback = |port| Publish { address: Some(std::net::Ipv4Addr::LOCALHOST.into()), port };
    let Some(field) = table.get("publish") else { return Some(loopback(DEFAULT_PORT)) };
    match field.value() {
        DeValue::Integer(_) => field.port().map(loopback),
        DeValue::String(_) => field.parsed(REGISTRY_PUBLISH, grammar::publish),
        _ => {
            field.wrong(REGISTRY_PUBLISH);
            None
        }
    }
}

/// The accepted values of `publish` in this table.
const REGISTRY_PUBLISH: &str = "a host port such as 5000, or an address and port such as \"0.0.0.0:5000\"";

pub(super) fn read_access(field: &ManifestField<'_>) -> Option<RegistryAccess> {
    let table = field.table(&keys::REGISTRY_ACCESS)?;
    let default = RegistryAccess::default();
    Some(RegistryAccess {
        login: secrets::login(&table),
        plain_http: table.get("plain_http").and_then(|field| field.flag()).unwrap_or(default.plain_http),
        poll: read_poll(&table).unwrap_or(default.poll),
        patience: read_patience(&table).unwrap_or(default.patience),
        webhook: table.get("webhook").and_then(|hook| read_webhook(&hook)),
    })
}

fn read_poll(table: &Table<'_>) -> Option<Duration> {
    let field = table.get("poll")?;
    let poll = field.duration()?;
    if !poll.is_zero() && poll < SHORTEST_POLL {
        field.must("must be at least \"5s\", or \"0s\" to turn it off");
    }
    Some(poll)
}

fn read_patience(table: &Table<'_>) -> Option<Duration> {
    let field = table.get("patience")?;
    let patience = field.duration()?;
    if patience.is_zero() {
        field.must("must be more than zero");
    }
    Some(patience)
}

fn read_webhook(field: &ManifestField<'_>) -> Option<SecretRef> {
    secrets::read(&field.table(&keys::REGISTRY_WEBHOOK)?)
}
