//! Renders nginx's configuration from the desired sites. Pure.
//!
//! Every inserted word is a number, an address, or a name whose grammar excludes nginx's special characters.
//! So no value from a manifest can become a directive.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::page;
use super::site::{Site, Sites, listens};
use super::version::Version;
use crate::acme::CHALLENGE_PATH;
use crate::model::name::SiteName;
use crate::model::spec::{HttpsMode, Publish};

/// The folder of all of the front's files in its container.
pub(crate) const FOLDER: &str = "etc/abide-front";
/// The host name for the question which configuration the front serves. No host has this name (RFC 6761).
pub(crate) const SELF: &str = "abide-front.invalid";
/// The path for that question.
pub(crate) const SELF_PATH: &str = "/configuration";
/// The placeholder for the hash in the hashed text.
const HASH: &str = "@HASH@";
/// The prefix of the line from which [`Configuration::read`] reads the sites back.
const SITES: &str = "# sites ";

/// The inputs of the configuration, in addition to the sites.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// The record that the front belongs to.
    pub(crate) record: String,
    /// The port for host names.
    pub(crate) http: u16,
    /// TLS for host names.
    pub(crate) tls: Option<TlsLayout>,
    /// The thumbprint in answers to challenges of an ACME authority.
    pub(crate) thumbprint: Option<String>,
    /// nginx's version; `None`: unknown.
    pub(crate) version: Option<Version>,
    /// How long requests to a replaced container may take.
    pub(crate) drain: Duration,
    /// Whether this host has IPv6.
    pub(crate) has_ipv6: bool,
    /// Sockets in use by others: a single one would keep nginx from applying anything.
    pub(crate) refused: BTreeSet<SocketAddr>,
    /// Proxies whose headers about the client are passed on.
    pub(crate) trusted_proxies: Vec<IpNet>,
    /// How often somebody else changed the served configuration. Only with a new hash can nginx prove that it
    /// serves the rendered configuration.
    pub(crate) changes: u32,
}

/// TLS for host names. Certificates are named by their files in [`FOLDER`], without the ending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TlsLayout {
    /// The port.
    pub(crate) port: u16,
    /// The certificate of all names that have none of their own; `None`: unknown names are rejected in the
    /// handshake.
    pub(crate) default: Option<String>,
    /// Certificates of names.
    pub(crate) by_name: BTreeMap<SiteName, NamedPair>,
}

/// The certificate of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedPair {
    /// Its files.
    pub(crate) pair: String,
    /// Whether clients trust it, so that they can be redirected to HTTPS.
    pub(crate) is_trusted: bool,
}

/// A configuration and its properties.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Configuration {
    /// The file.
    pub(crate) text: String,
    /// The front's answer to the question which configuration it serves.
    pub(crate) hash: String,
    /// The socket for that question; `None` if the front can listen nowhere.
    pub(crate) asked_at: Option<SocketAddr>,
    /// The sites that it serves.
    pub(crate) sites: Sites,
    /// As in [`Layout`].
    pub(crate) changes: u32,
}

/// The properties that a configuration file records about itself.
#[derive(Serialize, Deserialize)]
struct RenderedNotes {
    hash: String,
    asked_at: Option<SocketAddr>,
    sites: Sites,
    #[serde(default, skip_serializing_if = "is_zero")]
    changes: u32,
}

// serde requires this signature.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(changes: &u32) -> bool {
    *changes == 0
}

impl Configuration {
    /// Renders the configuration that serves `sites`.
    pub(crate) fn render(layout: &Layout, sites: &Sites) -> Self {
        let control = control(layout, sites);
        let asked_at = control.map(reachable);
        let body = body(layout, sites, control);
        let hash = hash_of(asked_at, &body);
        let changes = layout.changes;
        let notes = RenderedNotes { hash: hash.clone(), asked_at, sites: sites.clone(), changes };
        // Maps with text keys can always be serialized.
        let notes = serde_json::to_string(&notes).unwrap_or_default();
        let head = "# Written by abide, which reverts all other changes.\n";
        let text = format!("{head}{SITES}{notes}\n{}", body.replace(HASH, &hash));
        Self { text, hash, asked_at, sites: sites.clone(), changes }
    }

    /// Returns whether nginx would read `found` exactly like this configuration.
    pub(crate) fn reads_as(&self, found: &str) -> bool {
        let read = |line: &&str| !line.starts_with('#');
        self.text.lines().filter(read).eq(found.lines().filter(read))
    }

    /// Returns whether the text is unchanged since it was rendered.
    pub(crate) fn is_whole(&self) -> bool {
        let rest = self.text.split_once(SITES).and_then(|(_, rest)| rest.split_once('\n'));
        rest.is_some_and(|(_, body)| hash_of(self.asked_at, &body.replace(&self.hash, HASH)) == self.hash)
    }

    /// Parses a configuration file; `None` if this module did not write it.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let line = text.lines().find_map(|line| line.strip_prefix(SITES))?;
        let RenderedNotes { hash, asked_at, sites, changes } = serde_json::from_str(line).ok()?;
        Some(Self { text: text.to_owned(), hash, asked_at, sites, changes })
    }
}

fn hash_of(asked_at: Option<SocketAddr>, body: &str) -> String {
    hex::encode(Sha256::digest(format!("{asked_at:?}{body}")))
}

/// Returns the sockets of the port for host names.
fn http_listens(layout: &Layout) -> Vec<SocketAddr> {
    open(layout, listens(Publish { address: None, port: layout.http }, layout.has_ipv6))
}

fn open(layout: &Layout, wanted: Vec<SocketAddr>) -> Vec<SocketAddr> {
    wanted.into_iter().filter(|socket| !layout.refused.contains(socket)).collect()
}

/// Returns the socket for questions to the front: one that it has anyway.
fn control(layout: &Layout, sites: &Sites) -> Option<SocketAddr> {
    let own = sites.values().flat_map(|site| open(layout, site.listens(layout.has_ipv6)));
    http_listens(layout).into_iter().chain(own).next()
}

fn reachable(listen: SocketAddr) -> SocketAddr {
    let address = match listen.ip() {
        IpAddr::V4(address) if address.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(address) if address.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        address => address,
    };
    SocketAddr::new(address, listen.port())
}

fn body(layout: &Layout, sites: &Sites, control: Option<SocketAddr>) -> String {
    let drain = layout.drain.as_millis().max(1);
    let mut out = format!(
        "# record {}\n\
         daemon off;\n\
         pid /{FOLDER}/nginx.pid;\n\
         error_log stderr error;\n\
         worker_processes auto;\n\
         worker_shutdown_timeout {drain}ms;\n\
         events {{\n    worker_connections 4096;\n}}\n\
         http {{\n",
        layout.record
    );
    if layout.changes > 0 {
        let _ = writeln!(out, "    # restored {} times", layout.changes);
    }
    out.push_str(GENERAL);
    out.push_str(&forwarded(&layout.trusted_proxies));
    tls(&mut out, layout);
    if let Some(control) = control {
        ask_about_itself(&mut out, control);
    }
    let by_name = Listens { plain: http_listens(layout), tls: tls_listens(layout) };
    unknown_host(&mut out, &by_name, layout);
    for (environment, site) in sites {
        let _ = write!(out, "\n    # {environment}\n");
        let own = Listens { plain: open(layout, site.listens(layout.has_ipv6)), tls: Vec::new() };
        let on_port =
            Server { listens: &own, suffix: " default_server", names: "_", certificate: None, site };
        on_port.write(
            &mut out,
            layout,
            &Content::Program { environment: environment.as_str(), has_hsts: false },
        );
        serve_names(&mut out, layout, &by_name, environment.as_str(), site);
    }
    out.push_str("}\n");
    out
}

/// Settings for every request: the front passes requests on unchanged, as a published port would.
const GENERAL: &str = r"    access_log off;
    server_tokens off;
    server_names_hash_bucket_size 512;
    server_names_hash_max_size 8192;
    default_type text/html;

    # Limits are the program's business.
    client_max_body_size 0;
    large_client_header_buffers 8 32k;
    underscores_in_headers on;
    ignore_invalid_headers off;
    keepalive_requests 100000;

    # Nothing waits here: events and uploads go through as they come.
    proxy_buffering off;
    proxy_buffer_size 32k;
    proxy_buffers 8 32k;
    proxy_request_buffering off;
    proxy_redirect off;

    # A container that takes no connection is gone; one that is silent may be thinking.
    proxy_connect_timeout 5s;
    proxy_read_timeout 1h;
    proxy_send_timeout 1h;

    # No connection to a container is kept: one that was idle could be cut while a request goes out.
    map $http_upgrade $abide_connection {
        default upgrade;
        '' close;
    }
    proxy_http_version 1.1;
    proxy_set_header Host $http_host;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection $abide_connection;
";

/// Renders the headers that describe the client to the program. Without trusted proxies, the front is the
/// outermost proxy and uses its own view; the client can only set the beginning of the address chain. With
/// trusted proxies, each of their headers is passed on as it is, and no header of anyone else.
fn forwarded(trusted: &[IpNet]) -> String {
    let set = |name, value| format!("    proxy_set_header X-Forwarded-{name} {value};\n");
    if trusted.is_empty() {
        return set("For", "$proxy_add_x_forwarded_for")
            + &set("Proto", "$scheme")
            + &set("Host", "$http_host");
    }
    let networks: String = trusted.iter().map(|network| format!("        {network} 1;\n")).collect();
    let choices: String = [
        ("for", "$proxy_add_x_forwarded_for", "$remote_addr"),
        ("proto", "$http_x_forwarded_proto", "$scheme"),
        ("host", "$http_x_forwarded_host", "$http_host"),
    ]
    .iter()
    .map(|(name, theirs, own)| {
        let came = format!("$abide_is_trusted$http_x_forwarded_{name}");
        format!("    map {came} $abide_{name} {{\n        default {own};\n        ~^1. {theirs};\n    }}\n")
    })
    .collect();
    format!("\n    geo $abide_is_trusted {{\n        default 0;\n{networks}    }}\n{choices}")
        + &set("For", "$abide_for")
        + &set("Proto", "$abide_proto")
        + &set("Host", "$abide_host")
}

fn tls(out: &mut String, layout: &Layout) {
    let Some(tls) = &layout.tls else { return };
    out.push('\n');
    if let Some(pair) = &tls.default {
        out.push_str(&certificate_lines("    ", pair));
    }
    out.push_str(TLS_SETTINGS);
}

fn certificate_lines(indent: &str, pair: &str) -> String {
    format!(
        "{indent}ssl_certificate /{FOLDER}/{pair}.crt;\n{indent}ssl_certificate_key /{FOLDER}/{pair}.key;\n"
    )
}

/// Mozilla's intermediate settings (guidelines 5.7, without ciphers that need a file of parameters). Tickets
/// would use one key for as long as nginx runs. A program's own `Strict-Transport-Security` takes precedence.
const TLS_SETTINGS: &str = "    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_ciphers ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:\
ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305;
    ssl_ecdh_curve X25519:prime256v1:secp384r1;
    ssl_prefer_server_ciphers off;
    ssl_session_timeout 1d;
    ssl_session_cache shared:abide:10m;
    ssl_session_tickets off;
    map $upstream_http_strict_transport_security $abide_hsts {
        '' max-age=63072000;
        default '';
    }
";

fn tls_listens(layout: &Layout) -> Vec<SocketAddr> {
    let port = layout.tls.as_ref().map(|tls| tls.port);
    let wanted = port.map(|port| listens(Publish { address: None, port }, layout.has_ipv6));
    open(layout, wanted.unwrap_or_default())
}

/// Renders the server that reports which configuration this is, only to this host. `return` runs before
/// `deny`, so the server checks the address itself.
fn ask_about_itself(out: &mut String, control: SocketAddr) {
    let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let here: BTreeSet<IpAddr> = loopback.into_iter().chain([reachable(control).ip()]).collect();
    out.push_str("\n    map $remote_addr $abide_is_here {\n        default '';\n");
    for address in here {
        let _ = writeln!(out, "        {address} 1;");
    }
    let _ = write!(
        out,
        "    }}\n    server {{\n        listen {control};\n        server_name {SELF};\n        \
         default_type text/plain;\n        if ($abide_is_here = '') {{\n            return 404;\n        }}\n        \
         location = {SELF_PATH} {{\n            return 200 '{HASH}';\n        }}\n        location / {{\n            \
         return 404;\n        }}\n    }}\n"
    );
}

struct Listens {
    plain: Vec<SocketAddr>,
    tls: Vec<SocketAddr>,
}

impl Listens {
    fn none() -> Self {
        Self { plain: Vec::new(), tls: Vec::new() }
    }

    /// Without any server, nginx would listen on port 80.
    fn is_empty(&self) -> bool {
        self.plain.is_empty() && self.tls.is_empty()
    }

    fn plain_only(&self) -> Self {
        Self { plain: self.plain.clone(), ..Self::none() }
    }

    fn tls_only(&self) -> Self {
        Self { tls: self.tls.clone(), ..Self::none() }
    }

    /// HTTP/2 is a property of a socket, so all servers on it say the same.
    fn write(&self, out: &mut String, suffix: &str, layout: &Layout) {
        let has_directive = layout.version.is_some_and(Version::has_http2_directive);
        for socket in &self.plain {
            let _ = writeln!(out, "        listen {socket}{suffix};");
        }
        let http2 = if has_directive { "" } else { " http2" };
        for socket in &self.tls {
            let _ = writeln!(out, "        listen {socket} ssl{http2}{suffix};");
        }
        if has_directive && !self.tls.is_empty() {
            out.push_str("        http2 on;\n");
        }
    }
}

/// Renders what answers requests for names that no environment has. Without a certificate for all names, a
/// handshake for such a name is rejected.
fn unknown_host(out: &mut String, by_name: &Listens, layout: &Layout) {
    let has_default = layout.tls.as_ref().is_some_and(|tls| tls.default.is_some());
    if !has_default && !by_name.tls.is_empty() {
        out.push_str("\n    server {\n");
        by_name.tls_only().write(out, " default_server", layout);
        out.push_str("        server_name _;\n        ssl_reject_handshake on;\n    }\n");
    }
    let listens = if has_default {
        Listens { plain: by_name.plain.clone(), tls: by_name.tls.clone() }
    } else {
        by_name.plain_only()
    };
    if listens.is_empty() {
        return;
    }
    out.push_str("\n    server {\n");
    listens.write(out, " default_server", layout);
    out.push_str("        server_name _;\n");
    if layout.thumbprint.is_none() {
        let _ = write!(out, "        return 404 '{}';\n    }}\n", page::unknown_host());
        return;
    }
    challenges(out, layout);
    let _ = write!(
        out,
        "        location / {{\n            return 404 '{}';\n        }}\n    }}\n",
        page::unknown_host()
    );
}

/// Renders the answer to challenges of an ACME authority: the same for every token, because only the account's
/// key makes it valid. It comes before redirects and everything that could stop a request.
fn challenges(out: &mut String, layout: &Layout) {
    let Some(thumbprint) = &layout.thumbprint else { return };
    let pattern = CHALLENGE_PATH.replace('.', "\\.");
    let _ = write!(
        out,
        "        location ^~ {CHALLENGE_PATH} {{\n            \
         location ~ \"^{pattern}(?<abide_token>[-_A-Za-z0-9]+)$\" {{\n                default_type text/plain;\n                \
         return 200 \"$abide_token.{thumbprint}\";\n            }}\n            return 404;\n        }}\n"
    );
}

/// Renders the servers of an environment's host names: names with the same certificate share them.
fn serve_names(out: &mut String, layout: &Layout, by_name: &Listens, environment: &str, site: &Site) {
    let mut groups: BTreeMap<Option<(&str, bool)>, Vec<&SiteName>> = BTreeMap::new();
    for name in &site.hostnames {
        let named = layout.tls.as_ref().and_then(|tls| tls.by_name.get(name));
        groups.entry(named.map(|named| (named.pair.as_str(), named.is_trusted))).or_default().push(name);
    }
    let has_default = layout.tls.as_ref().is_some_and(|tls| tls.default.is_some());
    for (certificate, names) in groups {
        let names = names.into_iter().map(SiteName::as_str).collect::<Vec<_>>().join(" ");
        let is_trusted = certificate.is_some_and(|(_, is_trusted)| is_trusted);
        let has_tls = !by_name.tls.is_empty() && (certificate.is_some() || has_default);
        let certificate = certificate.map(|(pair, _)| pair);
        let is_redirected = match site.https {
            Some(HttpsMode::Required) => certificate.is_none() || is_trusted,
            Some(HttpsMode::Optional) => false,
            None => is_trusted,
        };
        let listens = match (has_tls, is_redirected) {
            (true, true) => {
                let plain = by_name.plain_only();
                let redirecting =
                    Server { listens: &plain, suffix: "", names: &names, certificate: None, site };
                redirecting.write(out, layout, &Content::Redirect);
                by_name.tls_only()
            }
            (true, false) => Listens { plain: by_name.plain.clone(), tls: by_name.tls.clone() },
            (false, _) => by_name.plain_only(),
        };
        let serving = Server { listens: &listens, suffix: "", names: &names, certificate, site };
        serving.write(out, layout, &Content::Program { environment, has_hsts: has_tls && is_redirected });
    }
}

/// A server block.
struct Server<'a> {
    listens: &'a Listens,
    suffix: &'a str,
    names: &'a str,
    certificate: Option<&'a str>,
    site: &'a Site,
}

/// What a server answers.
enum Content<'a> {
    /// The same address over HTTPS.
    Redirect,
    /// What the program of an environment answers.
    Program { environment: &'a str, has_hsts: bool },
}

impl Server<'_> {
    fn write(&self, out: &mut String, layout: &Layout, content: &Content<'_>) {
        if self.listens.is_empty() {
            return;
        }
        out.push_str("    server {\n");
        self.listens.write(out, self.suffix, layout);
        let _ = writeln!(out, "        server_name {};", self.names);
        if let Some(pair) = self.certificate.filter(|_| !self.listens.tls.is_empty()) {
            out.push_str(&certificate_lines("        ", pair));
        }
        let is_by_name = self.suffix.is_empty();
        if is_by_name && !self.listens.plain.is_empty() {
            challenges(out, layout);
        }
        match content {
            Content::Redirect => redirect(out, layout),
            Content::Program { environment, has_hsts } => {
                if *has_hsts {
                    out.push_str("        add_header Strict-Transport-Security $abide_hsts always;\n");
                }
                program(out, environment, self.site);
            }
        }
        out.push_str("    }\n");
    }
}

/// 308 keeps the method and the body of a request.
fn redirect(out: &mut String, layout: &Layout) {
    let port = layout.tls.as_ref().map(|tls| tls.port).filter(|port| *port != 443);
    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
    let _ = write!(
        out,
        "        location / {{\n            return 308 https://$host{port}$request_uri;\n        }}\n"
    );
}

fn program(out: &mut String, environment: &str, site: &Site) {
    match &site.route {
        Some(route) => {
            let _ = write!(
                out,
                "        error_page 502 504 @unanswered;\n        location / {{\n            \
                 proxy_pass http://{};\n        }}\n        location @unanswered {{\n            \
                 add_header Retry-After {} always;\n            return 502 '{}';\n        }}\n",
                route.address,
                page::RETRY_AFTER.as_secs(),
                page::unanswered(environment),
            );
        }
        None => {
            let _ = write!(
                out,
                "        location / {{\n            add_header Retry-After {} always;\n            \
                 return 503 '{}';\n        }}\n",
                page::RETRY_AFTER.as_secs(),
                page::none_ready(environment),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::front::Route;
    use crate::model::name::EnvironmentName;

    fn layout() -> Layout {
        Layout {
            record: "0123".to_owned(),
            http: 80,
            tls: None,
            thumbprint: None,
            version: Some(Version(1, 22, 1)),
            drain: Duration::from_secs(30),
            has_ipv6: true,
            refused: BTreeSet::new(),
            trusted_proxies: Vec::new(),
            changes: 0,
        }
    }

    fn site(hostname: Option<&str>, publish: Option<Publish>, route: Option<&str>) -> Site {
        Site {
            hostnames: hostname.map(|name| SiteName::new(name).unwrap()).into_iter().collect(),
            https: None,
            publish,
            route: route
                .map(|address| Route { container: "c0ffee".to_owned(), address: address.parse().unwrap() }),
        }
    }

    fn three() -> Sites {
        let port = |port| Some(Publish { address: None, port });
        let local = Some(Publish { address: Some(Ipv4Addr::LOCALHOST.into()), port: 8099 });
        [
            ("dev", site(Some("dev.keepwork.com"), port(8900), Some("172.18.0.2:8900"))),
            ("prod", site(Some("keepwork.com"), None, None)),
            ("test", site(None, local, Some("172.18.0.3:8099"))),
        ]
        .into_iter()
        .map(|(name, site)| (EnvironmentName::new(name).unwrap(), site))
        .collect()
    }

    /// If set, the test overwrites the expected files with the rendered ones.
    const RENEW: &str = "ABIDE_RENEW_GOLDEN";

    #[track_caller]
    fn is_golden(name: &str, layout: &Layout, sites: &Sites) {
        let path = format!("{}/src/controller/front/golden/{name}.conf", env!("CARGO_MANIFEST_DIR"));
        let rendered = Configuration::render(layout, sites).text;
        if std::env::var_os(RENEW).is_some() {
            std::fs::write(&path, &rendered).unwrap();
        }
        assert_eq!(rendered, std::fs::read_to_string(&path).unwrap(), "{RENEW}=1 writes {path} anew");
    }

    #[test]
    fn three_environments_are_served_by_name_and_by_port() {
        is_golden("plain", &layout(), &three());
    }

    #[test]
    fn host_names_are_served_over_tls_too() {
        let tls = TlsLayout { port: 443, default: Some("tls-77".to_owned()), by_name: BTreeMap::new() };
        is_golden("tls", &Layout { tls: Some(tls), ..layout() }, &three());
    }

    fn pair(pair: &str, is_trusted: bool) -> NamedPair {
        NamedPair { pair: pair.to_owned(), is_trusted }
    }

    fn names(texts: &[&str]) -> Vec<SiteName> {
        texts.iter().map(|text| SiteName::new(*text).unwrap()).collect()
    }

    #[test]
    fn each_name_has_its_certificate_and_is_redirected_once_clients_trust_it() {
        let mut sites = three();
        let [dev, prod, test] = ["dev", "prod", "test"].map(|name| EnvironmentName::new(name).unwrap());
        sites.get_mut(&dev).unwrap().hostnames = names(&["a.example", "b.example", "*.c.example"]);
        sites.get_mut(&prod).unwrap().https = Some(HttpsMode::Optional);
        sites.get_mut(&test).unwrap().hostnames = names(&["stand-in.example"]);
        let by_name = [
            ("a.example", pair("tls-1", true)),
            ("b.example", pair("tls-1", true)),
            ("*.c.example", pair("tls-2", true)),
            ("keepwork.com", pair("tls-3", true)),
            ("stand-in.example", pair("tls-4", false)),
        ];
        let by_name = by_name.map(|(name, pair)| (SiteName::new(name).unwrap(), pair)).into();
        let tls = TlsLayout { port: 8443, default: None, by_name };
        let thumbprint = Some("6XgtThumb_-".to_owned());
        let layout = Layout { tls: Some(tls), thumbprint, version: Some(Version(1, 27, 0)), ..layout() };
        is_golden("acme", &layout, &sites);
    }

    #[test]
    fn a_certificate_for_all_names_redirects_nobody_unless_it_is_asked_for() {
        let tls = TlsLayout { port: 443, default: Some("tls-77".to_owned()), by_name: BTreeMap::new() };
        let layout = Layout { tls: Some(tls), ..layout() };
        let mut sites = three();
        assert!(!Configuration::render(&layout, &sites).text.contains("return 308"));
        let prod = EnvironmentName::new("prod").unwrap();
        sites.get_mut(&prod).unwrap().https = Some(HttpsMode::Required);
        let text = Configuration::render(&layout, &sites).text;
        assert_eq!(text.matches("return 308 https://$host$request_uri;").count(), 1, "{text}");
        assert_eq!(text.matches("add_header Strict-Transport-Security").count(), 1, "{text}");
    }

    #[test]
    fn trusted_proxies_speak_for_their_clients() {
        let trusted_proxies = ["10.0.0.0/8", "fd00::7/128"].map(|network| network.parse().unwrap()).into();
        is_golden("trusted", &Layout { trusted_proxies, ..layout() }, &three());
    }

    #[test]
    fn what_somebody_else_listens_on_is_left_out_and_nothing_more() {
        let refused = ["0.0.0.0:80", "[::]:80", "0.0.0.0:8900"].map(|socket| socket.parse().unwrap());
        let layout = Layout { refused: refused.into(), ..layout() };
        let rendered = Configuration::render(&layout, &three());
        assert!(!rendered.text.contains("listen 0.0.0.0:"), "{}", rendered.text);
        assert!(rendered.text.contains("listen [::]:8900 default_server;"));
        assert_eq!(rendered.asked_at, Some("[::1]:8900".parse().unwrap()), "it is asked where it listens");
        let servers = rendered.text.matches("    server {").count();
        assert_eq!(servers, 3, "a server without a socket would listen on port 80:\n{}", rendered.text);
    }

    #[test]
    fn a_front_that_can_listen_nowhere_is_asked_nowhere() {
        let refused = ["0.0.0.0:80", "[::]:80"].map(|socket| socket.parse().unwrap());
        let rendered = Configuration::render(&Layout { refused: refused.into(), ..layout() }, &Sites::new());
        assert_eq!((rendered.asked_at, rendered.text.contains("listen ")), (None, false));
    }

    #[test]
    fn the_hash_tells_what_is_served_and_the_file_tells_for_which_container() {
        let rendered = Configuration::render(&layout(), &three());
        assert!(rendered.text.contains(&format!("return 200 '{}';", rendered.hash)));
        assert_eq!(Configuration::read(&rendered.text), Some(rendered.clone()));
        let mut renewed = three();
        let dev = EnvironmentName::new("dev").unwrap();
        renewed.get_mut(&dev).unwrap().route.as_mut().unwrap().container = "another".to_owned();
        let renewed = Configuration::render(&layout(), &renewed);
        assert!(
            renewed.text != rendered.text && renewed.reads_as(&rendered.text),
            "nginx need not hear of it"
        );
        let put_right = Configuration::render(&Layout { changes: 1, ..layout() }, &three());
        assert!(put_right.hash != rendered.hash && !put_right.reads_as(&rendered.text));
        assert!(rendered.is_whole() && put_right.is_whole());
        let edited = Configuration::read(&put_right.text.replace("dev.keepwork.com", "hacked.example"));
        assert!(!edited.unwrap().is_whole(), "somebody edited it");
        assert_eq!(Configuration::read(&put_right.text), Some(put_right));
        let mut moved = three();
        moved.get_mut(&dev).unwrap().route = None;
        let moved = Configuration::render(&layout(), &moved);
        assert!(moved.hash != rendered.hash && !moved.reads_as(&rendered.text));
        assert_eq!(Configuration::read("events {}\n# sites nonsense\n"), None);
    }
}
