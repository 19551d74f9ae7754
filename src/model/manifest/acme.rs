//! `[front] acme` and `certificates`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::table::{ManifestField, Table};
use super::{grammar, keys, secrets};
use crate::model::name::SiteName;
use crate::model::spec::{AcmeSpec, CertificateFiles, DnsSpec, NamedCertificate};

/// The directories of Let's Encrypt.
const PRODUCTION: &str = "https://acme-v02.api.letsencrypt.org/directory";
const STAGING: &str = "https://acme-staging-v02.api.letsencrypt.org/directory";
/// The default time limit of one call of the DNS command.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(120);
/// The default time for TXT records to reach the zone's name servers.
const DEFAULT_PROPAGATION: Duration = Duration::from_secs(300);
/// The port of name servers.
const DNS_PORT: u16 = 53;

pub(super) fn read(field: &ManifestField<'_>) -> Option<AcmeSpec> {
    let table = field.table(&keys::ACME)?;
    let email = table.get("email").map(|field| field.parsed("an e-mail address", email));
    let directory = table.get("directory").map(|field| field.parsed("a URL", directory));
    let directory = directory.unwrap_or_else(|| Some(PRODUCTION.to_owned()));
    let staging = table.get("staging").map(|field| field.parsed("a URL", directory_url));
    let ca_file = table.get("ca_file").map(|field| field.parsed("an absolute path", grammar::host_path));
    let profile = table.get("profile").map(|field| field.parsed("the name of a profile", profile));
    let dns = table.get("dns").map(|field| read_dns(&field));
    let resolver = table.get("resolver").map(|field| field.parsed("an address", name_server));
    let directory = directory?;
    // Let's Encrypt has one for everybody; others are tried directly.
    let own = (directory == PRODUCTION).then(|| STAGING.to_owned());
    Some(AcmeSpec {
        email: optional(email)?,
        staging: optional(staging)?.or(own).filter(|staging| *staging != directory),
        directory,
        ca_file: optional(ca_file)?,
        profile: optional(profile)?,
        dns: optional(dns)?,
        resolver: optional(resolver)?,
    })
}

/// An absent value is none; a wrong one makes the whole table wrong.
#[allow(clippy::option_option)]
fn optional<T>(value: Option<Option<T>>) -> Option<Option<T>> {
    match value {
        None => Some(None),
        Some(read) => read.map(Some),
    }
}

fn email(text: &str) -> Result<String, String> {
    let (name, host) = text.rsplit_once('@').unwrap_or_default();
    let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic() && !b",<>\"".contains(&byte));
    if name.is_empty() || !host.contains('.') || !is_plain {
        return Err("must be an e-mail address such as \"ops@example.com\"".to_owned());
    }
    Ok(text.to_owned())
}

fn directory(text: &str) -> Result<String, String> {
    match text {
        "letsencrypt" => Ok(PRODUCTION.to_owned()),
        "staging" => Ok(STAGING.to_owned()),
        url => directory_url(url).map_err(|why| format!("{why}, \"letsencrypt\" or \"staging\"")),
    }
}

fn directory_url(text: &str) -> Result<String, String> {
    let host = text.strip_prefix("https://").map(|rest| rest.split('/').next().unwrap_or_default());
    let is_url = host.is_some_and(|host| !host.is_empty() && !host.contains('@'))
        && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"'\\<>".contains(&byte));
    if is_url { Ok(text.to_owned()) } else { Err("must be an https:// URL".to_owned()) }
}

fn profile(text: &str) -> Result<String, String> {
    let is_word = (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if is_word { Ok(text.to_owned()) } else { Err("must be one word such as \"shortlived\"".to_owned()) }
}

fn name_server(text: &str) -> Result<SocketAddr, String> {
    let address = text.parse::<IpAddr>().map(|address| SocketAddr::new(address, DNS_PORT));
    address.or_else(|_| text.parse()).map_err(|_| {
        "must be the address of a name server such as \"1.1.1.1\" or \"127.0.0.1:5353\"".to_owned()
    })
}

fn read_dns(field: &ManifestField<'_>) -> Option<DnsSpec> {
    let table = field.table(&keys::ACME_DNS)?;
    let command = table.required("command").map(|field| read_command(&field));
    let env = table.get("env").map(|field| secrets::variables(&field)).unwrap_or_default();
    let timeout = read_time(&table, "timeout", DEFAULT_TIMEOUT);
    let propagation = read_time(&table, "propagation", DEFAULT_PROPAGATION);
    Some(DnsSpec { command: command??, env, timeout: timeout?, propagation: propagation? })
}

fn read_command(field: &ManifestField<'_>) -> Option<Vec<String>> {
    let words = field.texts("a list such as [\"/usr/local/bin/dns-record\"]");
    if words.first().is_some_and(|program| program.starts_with('/')) {
        return Some(words.into_iter().map(str::to_owned).collect());
    }
    field.must("must begin with the absolute path of a program");
    None
}

fn read_time(table: &Table<'_>, key: &'static str, default: Duration) -> Option<Duration> {
    let Some(field) = table.get(key) else { return Some(default) };
    let time = field.duration()?;
    if time.is_zero() {
        field.must("must be more than zero");
    }
    Some(time)
}

/// Reads certificates for some names.
pub(super) fn read_certificates(field: &ManifestField<'_>) -> Vec<NamedCertificate> {
    let items = field.items(
        "a list such as [{ names = [\"example.com\"], cert = \"/etc/ssl/a.pem\", key = \"/etc/ssl/a.key\" }]",
    );
    let mut taken = BTreeMap::new();
    items.iter().filter_map(|item| read_certificate(item, &mut taken)).collect()
}

fn read_certificate(
    item: &ManifestField<'_>,
    taken: &mut BTreeMap<SiteName, ()>,
) -> Option<NamedCertificate> {
    let table = item.table(&keys::CERTIFICATE)?;
    let names = table.required("names");
    let path = |key| table.required(key)?.parsed("an absolute path", grammar::host_path);
    let (certificate, key) = (path("cert"), path("key"));
    let mut read = Vec::new();
    for name in names?.items("a list of host names") {
        let Some(found) = name.name::<SiteName>() else { continue };
        if taken.insert(found.clone(), ()).is_some() {
            name.must(format!("has a certificate already: {found}"));
        }
        read.push(found);
    }
    if read.is_empty() {
        item.must("needs at least one name in `names`");
    }
    Some(NamedCertificate { names: read, files: CertificateFiles { certificate: certificate?, key: key? } })
}
