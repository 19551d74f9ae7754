//! Renders nginx's configuration from the desired sites. Pure.
//!
//! Every inserted word is a number, an address, a name whose grammar excludes nginx's special characters, or a
//! quoted text of printable ASCII. So no value from a manifest can become a directive.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::location::{self, ServedPlace};
use super::requests::RequestSink;
use super::server::{self, Listens, ServerBlock, ServerContent};
use super::site::{self, SitePool, SitePools, Sites, UpstreamChoice, UpstreamGroup, listens};
use super::version::NginxVersion;
use super::web_page::ServedPage;
use crate::model::name::SiteName;
use crate::model::spec::Publish;

/// The folder of all of the front's files in its container.
pub(crate) const FOLDER: &str = "etc/abide-front";
/// The host name for the question which configuration the front serves. No host has this name (RFC 6761).
pub(crate) const SELF: &str = "abide-front.invalid";
/// The path for that question.
pub(crate) const SELF_PATH: &str = "/configuration";
/// The placeholder for the hash in the hashed text.
const HASH: &str = "@HASH@";
/// The prefix of the lines from which [`Configuration::read`] reads the sites back.
const SITES: &str = "# sites ";
/// Characters of the notes on one of these lines. nginx reads a comment as one word, and rejects words of more than
/// 4096 bytes (`NGX_CONF_BUFFER`).
const NOTES_PER_LINE: usize = 1000;

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
    pub(crate) version: Option<NginxVersion>,
    /// How long requests to a replaced container may take.
    pub(crate) drain: Duration,
    /// Whether this host has IPv6.
    pub(crate) has_ipv6: bool,
    /// Sockets in use by others: a single one would keep nginx from applying anything.
    pub(crate) refused: BTreeSet<SocketAddr>,
    /// Proxies whose word about the client counts.
    pub(crate) trusted_proxies: Vec<IpNet>,
    /// Whether they give it by the PROXY protocol, instead of headers that are passed on.
    pub(crate) proxy_protocol: bool,
    /// The receiver of a record of each request; `None`: nobody counts them.
    pub(crate) requests: Option<RequestSink>,
    /// abide's own web page, if the front serves it.
    pub(crate) page: Option<ServedPage>,
    /// How often somebody else changed the served configuration. Only with a new hash can nginx prove that it
    /// serves the rendered configuration.
    pub(crate) changes: u32,
}

impl Layout {
    /// The address that nginx sends a record of each request to.
    pub(super) fn counted_at(&self) -> Option<SocketAddr> {
        self.requests.as_ref().map(|sink| sink.address)
    }
}

/// TLS for host names. Certificates are named by their files in [`FOLDER`], without the ending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TlsLayout {
    /// The port.
    pub(crate) port: u16,
    /// The certificate of all other names; `None`: unknown names are rejected in the handshake.
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
    /// Whether that socket expects the header of the PROXY protocol.
    pub(crate) has_proxy_header: bool,
    /// The sites that it serves.
    pub(crate) sites: Sites,
    /// As in [`Layout`].
    pub(crate) requests: Option<RequestSink>,
    /// As in [`Layout`].
    pub(crate) changes: u32,
}

/// The properties that a configuration file records about itself.
#[derive(Serialize, Deserialize)]
struct RenderedNotes {
    hash: String,
    asked_at: Option<SocketAddr>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    has_proxy_header: bool,
    sites: Sites,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    requests: Option<RequestSink>,
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
        let has_proxy_header = control.is_some_and(|control| expects_proxy_header(layout, control));
        let body = body(layout, sites, control);
        let hash = hash_of(asked_at, &body);
        let (requests, changes) = (layout.requests.clone(), layout.changes);
        let notes = RenderedNotes {
            hash: hash.clone(),
            asked_at,
            has_proxy_header,
            sites: sites.clone(),
            requests: requests.clone(),
            changes,
        };
        // Maps with text keys can always be serialized.
        let notes = serde_json::to_string(&notes).unwrap_or_default();
        let head = "# Written by abide, which reverts all other changes.\n";
        let text = format!("{head}{}{}", as_comments(&notes), body.replace(HASH, &hash));
        Self { text, hash, asked_at, has_proxy_header, sites: sites.clone(), requests, changes }
    }

    /// Returns whether nginx would read `found` exactly like this configuration.
    pub(crate) fn reads_as(&self, found: &str) -> bool {
        let read = |line: &&str| !line.starts_with('#');
        self.text.lines().filter(read).eq(found.lines().filter(read))
    }

    /// Returns whether the text is unchanged since it was rendered.
    pub(crate) fn is_unedited(&self) -> bool {
        notes_and_body(&self.text)
            .is_some_and(|(_, body)| hash_of(self.asked_at, &body.replace(&self.hash, HASH)) == self.hash)
    }

    /// Parses a configuration file; `None` if this module did not write it.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let (notes, _) = notes_and_body(text)?;
        let RenderedNotes { hash, asked_at, has_proxy_header, sites, requests, changes } =
            serde_json::from_str(&notes).ok()?;
        Some(Self { text: text.to_owned(), hash, asked_at, has_proxy_header, sites, requests, changes })
    }
}

fn as_comments(notes: &str) -> String {
    let characters: Vec<char> = notes.chars().collect();
    characters
        .chunks(NOTES_PER_LINE)
        .map(|part| format!("{SITES}{}\n", part.iter().collect::<String>()))
        .collect()
}

/// Splits a configuration file into its notes and everything after them.
fn notes_and_body(text: &str) -> Option<(String, &str)> {
    let mut rest = &text[text.find(SITES)?..];
    let mut notes = String::new();
    while let Some((part, after)) = rest.strip_prefix(SITES).and_then(|rest| rest.split_once('\n')) {
        notes.push_str(part);
        rest = after;
    }
    Some((notes, rest))
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

/// Whether connections to this socket of the proxy begin with the header of the PROXY protocol.
fn expects_proxy_header(layout: &Layout, socket: SocketAddr) -> bool {
    layout.proxy_protocol && http_listens(layout).contains(&socket)
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
         error_log stderr crit;\n\
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
    out.push_str(&forwarded(layout));
    for_sites(&mut out, layout, sites);
    let pools = site::pools(sites);
    replicas(&mut out, &pools);
    tls(&mut out, layout);
    if let Some(control) = control {
        ask_about_itself(&mut out, control, layout);
    }
    let has_proxy_header = layout.proxy_protocol;
    let by_name = Listens { plain: http_listens(layout), tls: tls_listens(layout), has_proxy_header };
    server::unknown_host(&mut out, &by_name, layout);
    for (environment, pool) in &pools {
        let plain = open(layout, pool.site.listens(layout.has_ipv6));
        let own = Listens { plain, tls: Vec::new(), has_proxy_header: false };
        let place =
            ServedPlace { environment, pool, path: None, has_hsts: false, counted_at: layout.counted_at() };
        let on_port = ServerBlock { listens: &own, suffix: " default_server", names: "_", certificate: None };
        on_port.write(&mut out, layout, &ServerContent::Programs { places: vec![place], page: None });
    }
    server::serve_names(&mut out, layout, &by_name, sites, &pools);
    out.push_str("}\n");
    out
}

/// Settings for every request. The main log, which has a separate level, would get a line for each record of a request
/// that nobody receives while the daemon is down. The front passes requests on unchanged, as a published port would.
const GENERAL: &str = r"    error_log stderr error;
    access_log off;
    server_tokens off;
    server_names_hash_bucket_size 512;
    server_names_hash_max_size 8192;
    proxy_headers_hash_bucket_size 128;
    proxy_headers_hash_max_size 4096;
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

/// The variable with the scheme that the client used.
pub(super) fn client_scheme(layout: &Layout) -> &'static str {
    if passes_headers_on(layout) { "abide_proto" } else { "scheme" }
}

/// Whether a proxy in front of this one speaks HTTP, so that its headers about the client are passed on.
fn passes_headers_on(layout: &Layout) -> bool {
    !layout.trusted_proxies.is_empty() && !layout.proxy_protocol
}

/// Renders the headers that describe the client to the program. If nothing in front of it speaks HTTP, the front
/// uses its own view; the client can only set the beginning of the address chain. With trusted proxies, each of
/// their headers is passed on as it is, and no header of anyone else.
fn forwarded(layout: &Layout) -> String {
    let trusted = &layout.trusted_proxies;
    let set = |name, value| format!("    proxy_set_header X-Forwarded-{name} {value};\n");
    let own =
        || set("For", "$proxy_add_x_forwarded_for") + &set("Proto", "$scheme") + &set("Host", "$http_host");
    if trusted.is_empty() {
        return own();
    }
    let networks: String = trusted.iter().map(|network| format!("        {network} 1;\n")).collect();
    // The modules that judge clients use `$remote_addr`, which is then the client that the proxies name.
    let real: String = trusted.iter().map(|network| format!("    set_real_ip_from {network};\n")).collect();
    if layout.proxy_protocol {
        return format!("\n{real}    real_ip_header proxy_protocol;\n{}", own());
    }
    // No map has a regular expression: with captures they were CVE-2026-42533.
    let choices: String = [
        ("for", "\"$http_x_forwarded_for, $realip_remote_addr\"", "$realip_remote_addr"),
        ("proto", "$http_x_forwarded_proto", "$scheme"),
        ("host", "$http_x_forwarded_host", "$http_host"),
    ]
    .iter()
    .map(|(name, theirs, own)| {
        format!(
            "    map $http_x_forwarded_{name} $abide_came_{name} {{\n        default {theirs};\n        '' {own};\n    \
             }}\n    map $abide_is_trusted $abide_{name} {{\n        default {own};\n        1 $abide_came_{name};\n    \
             }}\n"
        )
    })
    .collect();
    format!(
        "\n{real}    real_ip_header X-Forwarded-For;\n    real_ip_recursive on;\n    \
         geo $realip_remote_addr $abide_is_trusted {{\n        default 0;\n{networks}    }}\n{choices}"
    ) + &set("For", "$abide_for")
        + &set("Proto", "$abide_proto")
        + &set("Host", "$abide_host")
}

/// Renders what settings of sites need outside of servers.
fn for_sites(out: &mut String, layout: &Layout, sites: &Sites) {
    if sites.values().any(|site| location::has_dollar(&site.settings)) {
        let _ = write!(out, "\n    geo ${} {{\n        default \"$\";\n    }}\n", location::DOLLAR);
    }
    for (environment, site) in sites {
        location::zone(out, environment.as_str(), site, layout.requests.as_ref());
    }
}

/// Renders the containers among which nginx chooses. It remembers no failure: abide starts a container again within a
/// fraction of a second, and a dead one refuses at once. A replica on a lost node, which refuses nothing, gets few
/// requests, because those that wait for it count. Requests that a client repeats by itself, such as a GET, go to
/// another one. A POST that was sent is never repeated.
fn replicas(out: &mut String, pools: &SitePools<'_>) {
    let upstreams: Vec<UpstreamGroup> = pools.values().filter_map(SitePool::upstream).collect();
    let cookies: BTreeSet<&str> = upstreams.iter().filter_map(|upstream| upstream.choice.cookie()).collect();
    if !cookies.is_empty() {
        out.push_str(SECURE);
    }
    for name in cookies {
        out.push_str(&cookie(name));
    }
    for UpstreamGroup { name, choice, servers } in upstreams {
        let choice = match choice {
            UpstreamChoice::LeastBusy => "least_conn".to_owned(),
            UpstreamChoice::Sticky => "hash $abide_replica consistent".to_owned(),
            UpstreamChoice::Canary(generation) => format!("hash \"{generation} $abide_canary\""),
        };
        let _ = write!(out, "    upstream {name} {{\n        zone {name} 64k;\n        {choice};\n");
        for (address, weight) in servers {
            let weight = weight.map(|weight| format!(" weight={weight}")).unwrap_or_default();
            let _ = writeln!(out, "        server {address}{weight} max_fails=0;");
        }
        out.push_str("    }\n");
    }
}

/// The end of cookies that clients must send over TLS only.
const SECURE: &str = r"
    map $https $abide_secure {
        default '';
        on '; Secure';
    }
";

/// Renders the cookie that keeps a client at one container, and its value for clients that have none.
fn cookie(name: &str) -> String {
    format!(
        "    map $cookie_abide_{name} $abide_{name} {{\n        default $cookie_abide_{name};\n        '' $request_id;\n    \
         }}\n    map $cookie_abide_{name} $abide_new_{name} {{\n        default '';\n        '' \
         'abide_{name}=$request_id; Path=/; HttpOnly; SameSite=Lax$abide_secure';\n    }}\n"
    )
}

fn tls(out: &mut String, layout: &Layout) {
    let Some(tls) = &layout.tls else { return };
    out.push('\n');
    if let Some(pair) = &tls.default {
        out.push_str(&certificate_lines("    ", pair));
    }
    out.push_str(TLS_SETTINGS);
}

/// Renders which certificate to present.
pub(super) fn certificate_lines(indent: &str, pair: &str) -> String {
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
fn ask_about_itself(out: &mut String, control: SocketAddr, layout: &Layout) {
    let proxy_header = if expects_proxy_header(layout, control) { " proxy_protocol" } else { "" };
    let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let here: BTreeSet<IpAddr> = loopback.into_iter().chain([reachable(control).ip()]).collect();
    // A client cannot choose the address of its connection.
    let address = if layout.trusted_proxies.is_empty() { "remote_addr" } else { "realip_remote_addr" };
    let _ = write!(out, "\n    map ${address} $abide_is_here {{\n        default '';\n");
    for address in here {
        let _ = writeln!(out, "        {address} 1;");
    }
    let _ = write!(
        out,
        "    }}\n    server {{\n        listen {control}{proxy_header};\n        server_name {SELF};\n        \
         default_type text/plain;\n        if ($abide_is_here = '') {{\n            return 404;\n        }}\n        \
         location = {SELF_PATH} {{\n            return 200 '{HASH}';\n        }}\n        location / {{\n            \
         return 404;\n        }}\n    }}\n"
    );
}

#[cfg(test)]
mod tests;
