//! `[front]`, the managed nginx proxy, and its rules for environments.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::cross::{Declarations, NamedPartial, port_path};
use super::environment::PartialEnvironment;
use super::places::Places;
use super::problem::Problem;
use super::table::{ManifestField, Table};
use super::{acme, grammar, keys};
use crate::model::name::{AgentName, EnvironmentName, SiteName};
use crate::model::network::Attachment;
use crate::model::ports::TransportProtocol;
use crate::model::site::SitePath;
use crate::model::spec::{CertificateFiles, FrontSpec, HttpsSpec, Update};

/// The default image: the official one.
const DEFAULT_IMAGE: &str = "nginx";
/// The default HTTP port.
const DEFAULT_HTTP: u16 = 80;
/// The default HTTPS port, if there are certificates.
const DEFAULT_HTTPS: u16 = 443;
/// The default time for the last requests to a replaced container.
const DEFAULT_DRAIN: Duration = Duration::from_secs(30);

pub(super) fn read(field: &ManifestField<'_>) -> Option<FrontSpec> {
    let table = field.table(&keys::FRONT)?;
    let image = table.get("image").map(|field| field.parsed("the name of an image", image));
    let http = table.get("http").map(|field| field.port());
    let drain = table.get("drain").map(|field| read_drain(&field));
    let acme = table.get("acme").map(|field| acme::read(&field));
    let certificates = table.get("certificates").map(|field| acme::read_certificates(&field));
    let https = read_https(&table, acme.is_some() || certificates.is_some());
    let trusted = table.get("trusted_proxies").map(|field| field.items("a list of addresses and networks"));
    let trusted = trusted.unwrap_or_default();
    let proxy_protocol = table.get("proxy_protocol").filter(|field| field.flag() == Some(true));
    if let (Some(field), true) = (&proxy_protocol, trusted.is_empty()) {
        field.must("needs the addresses of the senders in `trusted_proxies`");
    }
    let spare = table.get("spare").map(|field| field.flag());
    Some(FrontSpec {
        image: image.unwrap_or_else(|| Some(DEFAULT_IMAGE.to_owned()))?,
        http: http.unwrap_or(Some(DEFAULT_HTTP))?,
        https: https?,
        certificates: certificates.unwrap_or_default(),
        acme: acme.map_or(Some(None), |acme| acme.map(Some))?,
        drain: drain.unwrap_or(Some(DEFAULT_DRAIN))?,
        trusted_proxies: trusted.iter().filter_map(read_network).collect(),
        proxy_protocol: proxy_protocol.is_some(),
        spare: spare.unwrap_or(Some(true))?,
    })
}

pub(super) fn image(text: &str) -> Result<String, String> {
    if grammar::is_image(text) {
        return Ok(text.to_owned());
    }
    Err("must be the name of an image, such as \"nginx\" or \"nginx:1.28\"".to_owned())
}

/// Reads the drain time. Zero is invalid, because nginx takes it for "no limit".
fn read_drain(field: &ManifestField<'_>) -> Option<Duration> {
    let drain = field.duration()?;
    if drain.is_zero() {
        field.must("must be more than zero");
    }
    Some(drain)
}

pub(super) fn read_network(field: &ManifestField<'_>) -> Option<IpNet> {
    field.parsed("an address or a network such as \"10.0.0.0/8\"", |text| {
        let address = text.parse::<IpAddr>().map(IpNet::from);
        address
            .or_else(|_| text.parse())
            .map(|network| network.trunc())
            .map_err(|_| "must be an address or a network such as \"10.0.0.7\" or \"10.0.0.0/8\"".to_owned())
    })
}

/// Reads the port, and the certificate of all other names. `has_more`: there are other
/// certificates, so the port has a default.
#[allow(clippy::option_option)]
fn read_https(table: &Table<'_>, has_more: bool) -> Option<Option<HttpsSpec>> {
    let port = table.get("https").map(|field| field.port());
    let path = |key| table.get(key).map(|field| field.parsed(HOST_FILE, grammar::host_path));
    let default = match (path("certificate"), path("key")) {
        (None, None) => None,
        (Some(certificate), Some(key)) => Some(CertificateFiles { certificate: certificate?, key: key? }),
        _ => {
            table.problem("`front` takes `certificate` and `key` together");
            return None;
        }
    };
    match port {
        None if default.is_none() && !has_more => Some(None),
        Some(_) if default.is_none() && !has_more => {
            table.problem(
                "`https` needs certificates: `acme = {}` gets them from Let's Encrypt, and `certificates`, or \
                 `certificate` and `key`, name files",
            );
            None
        }
        None if !has_more => {
            table.problem(
                "`front` needs the port `https` with `certificate` and `key`, such as `https = 443`",
            );
            None
        }
        port => Some(Some(HttpsSpec { port: port.unwrap_or(Some(DEFAULT_HTTPS))?, default })),
    }
}

const HOST_FILE: &str = "an absolute path of this host";

/// Returns the problems between the proxy and the environments of one host.
pub(super) fn problems(declared: &Declarations, all: &[NamedPartial<'_>], places: &Places) -> Vec<Problem> {
    let mut found = host_names_taken_twice(all, places);
    found.extend(options_of_two_versions(declared, all, places));
    // An agent's own policy has the front of its host.
    let all: Vec<NamedPartial<'_>> = all.iter().filter(|(_, draft)| draft.host.is_none()).copied().collect();
    let all = all.as_slice();
    match &declared.front {
        Some(Some(front)) => {
            found.extend(ports_of_the_front(front, all, places));
            found.extend(wildcards_without_proof(front, all, places));
        }
        Some(None) => {}
        None if declared.incomplete => {}
        None => found.extend(host_names_without_front(all, places)),
    }
    found
}

fn host_names_taken_twice(all: &[NamedPartial<'_>], places: &Places) -> Vec<Problem> {
    let (mut owners, mut found) = (BTreeMap::<(&SiteName, Option<&SitePath>), _>::new(), Vec::new());
    for (name, draft) in all {
        for (host, place) in draft.hostnames.iter().map(|host| (host, host_path(places, name))) {
            let path = draft.site.path.as_ref();
            match owners.get(&(host, path)) {
                Some(owner) if owner != name => {
                    let below = path.map(|path| format!(" with the path `{path}`")).unwrap_or_default();
                    let message =
                        format!("the host name `{host}`{below} already belongs to `environment.{owner}`");
                    found.push(places.problem(&place, message));
                }
                Some(_) => {}
                None => _ = owners.insert((host, path), *name),
            }
        }
    }
    found.extend(redirects_taken_twice(all, places));
    found
}

/// Names that an environment redirects, and that something else claims too.
fn redirects_taken_twice(all: &[NamedPartial<'_>], places: &Places) -> Vec<Problem> {
    let (mut owners, mut found) = (BTreeMap::<&SiteName, &EnvironmentName>::new(), Vec::new());
    for (name, draft) in all {
        owners.extend(draft.hostnames.iter().map(|host| (host, *name)));
    }
    for (name, draft) in all {
        for host in &draft.site.redirect_from {
            if let Some(owner) = owners.insert(host, *name).filter(|owner| owner != name) {
                let message = format!("the host name `{host}` already belongs to `environment.{owner}`");
                found.push(places.problem(&format!("environment.{name}.site.redirect_from"), message));
            }
        }
    }
    found
}

/// The path of an environment's host names.
fn host_path(places: &Places, name: &EnvironmentName) -> String {
    let one = format!("environment.{name}.hostname");
    if places.has(&one) { one } else { format!("environment.{name}.hostnames") }
}

/// Wildcards that an ACME authority would have to certify, without a way to prove them.
fn wildcards_without_proof(front: &FrontSpec, all: &[NamedPartial<'_>], places: &Places) -> Vec<Problem> {
    if front.acme.as_ref().is_none_or(|acme| acme.dns.is_some()) || has_default(front) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (name, draft) in all {
        let is_unproven = |host: &&SiteName| host.wildcard_base().is_some() && !has_certificate(front, host);
        for host in draft.hostnames.iter().chain(&draft.site.redirect_from).filter(is_unproven) {
            let message = format!(
                "a certificate for `{host}` needs proof by DNS: set `dns` in `acme`, or name one in `certificates`"
            );
            found.push(places.problem(&host_path(places, name), message));
        }
    }
    found
}

fn has_default(front: &FrontSpec) -> bool {
    front.https.as_ref().is_some_and(|https| https.default.is_some())
}

/// Whether a user named a certificate for this host name.
pub(super) fn has_certificate(front: &FrontSpec, host: &SiteName) -> bool {
    has_default(front) || front.certificates.iter().flat_map(|one| &one.names).any(|name| name.covers(host))
}

/// Options of environments that update start-first and that two versions cannot have at once.
fn options_of_two_versions(
    declared: &Declarations,
    all: &[NamedPartial<'_>],
    places: &Places,
) -> Vec<Problem> {
    let has_front =
        |host: &Option<AgentName>| host.is_none() && (declared.front.is_some() || declared.incomplete);
    // An agent refuses host names unless its host has a front.
    let has_front = |draft: &PartialEnvironment| {
        has_front(&draft.host) || draft.host.is_some() && !draft.hostnames.is_empty()
    };
    // Two tasks of a service share a port, or have one each.
    let is_service =
        |draft: &PartialEnvironment| draft.spec.as_ref().is_some_and(|spec| spec.swarm.is_some());
    let needs_front =
        |draft: &PartialEnvironment| draft.publish.is_some() && !has_front(draft) && !is_service(draft);
    let beside = all
        .iter()
        .filter(|(_, draft)| draft.spec.as_ref().is_some_and(|spec| spec.update == Some(Update::StartFirst)));
    let problem = |(name, draft): &NamedPartial<'_>| {
        let message = match exclusive(draft) {
            Some(why) => format!("`update` = \"start-first\" does not go with {why}: set \"stop-first\""),
            None if needs_front(draft) => {
                "`update` = \"start-first\" needs a proxy that switches between the \
                 containers: add `[front]`, or `publish = false`"
                    .to_owned()
            }
            None => return None,
        };
        Some(places.problem(&format!("environment.{name}.update"), message))
    };
    beside.filter_map(problem).collect()
}

/// The option that only one container can have at a time, with or without a proxy; as the end of a sentence.
fn exclusive(draft: &PartialEnvironment) -> Option<&'static str> {
    let mut networks = draft.spec.iter().flat_map(|spec| spec.run.networks.values());
    match () {
        () if draft.ports.iter().any(|port| port.publish().is_some()) => {
            Some("`ports`, because two containers cannot publish one host port")
        }
        () if draft.host_port.is_some() => {
            Some("`network_mode` = \"host\", because two containers cannot listen on one `port` of the host")
        }
        () if networks.any(Attachment::is_exclusive) => {
            Some("a fixed address, because two containers cannot have one address")
        }
        () => None,
    }
}

fn host_names_without_front(all: &[NamedPartial<'_>], places: &Places) -> Vec<Problem> {
    let needs = |key: &str| format!("`{key}` needs the proxy: add `[front]`, whose keys all have defaults");
    let problem = |(name, draft): &NamedPartial<'_>| {
        if !draft.hostnames.is_empty() {
            return Some(places.problem(&host_path(places, name), needs("hostname")));
        }
        let site = format!("environment.{name}.site");
        (!draft.site.is_default()).then(|| places.problem(&site, needs("site")))
    };
    all.iter().filter_map(problem).collect()
}

/// The proxy's own ports that something else claims too.
fn ports_of_the_front(front: &FrontSpec, all: &[NamedPartial<'_>], places: &Places) -> Vec<Problem> {
    let mut found = Vec::new();
    let https = front.https.as_ref().map(|https| https.port);
    if https == Some(front.http) {
        let message = format!("`https` must be a different port than `http`, which is {}", front.http);
        found.push(places.problem("front.https", message));
    }
    for (name, draft) in all {
        let all = draft.all_ports().filter(|port| port.protocol == TransportProtocol::Tcp);
        for (port, publish) in all.filter_map(|port| port.publish().map(|publish| (port, publish))) {
            let key = match publish.port {
                port if port == front.http => "http",
                port if Some(port) == https => "https",
                _ => continue,
            };
            let message = format!(
                "the host port {} is `{key}` of the proxy: publish another port, or set `publish = false` \
                 and a `hostname`",
                publish.port
            );
            found.push(places.problem(&port_path(places, (name, draft), &port), message));
        }
    }
    found
}
