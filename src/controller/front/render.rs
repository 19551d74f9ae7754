//! Renders nginx's configuration from the desired sites. Pure.
//!
//! Every inserted word is a number, an address, or a name whose grammar excludes nginx's special characters.
//! So no value from a manifest can become a directive.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::page;
use super::site::{Site, Sites, listens};
use crate::model::spec::Publish;

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
    /// The port for host names over TLS, and the name of its files in [`FOLDER`].
    pub(crate) https: Option<(u16, String)>,
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
struct Notes {
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
        let notes = Notes { hash: hash.clone(), asked_at, sites: sites.clone(), changes };
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
        let Notes { hash, asked_at, sites, changes } = serde_json::from_str(line).ok()?;
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
    unknown_host(&mut out, &by_name);
    for (environment, site) in sites {
        let _ = write!(out, "\n    # {environment}\n");
        let own = Listens { plain: open(layout, site.listens(layout.has_ipv6)), tls: Vec::new() };
        serve(&mut out, &own, " default_server", "_", environment.as_str(), site);
        if let Some(hostname) = &site.hostname {
            serve(&mut out, &by_name, "", hostname.as_str(), environment.as_str(), site);
        }
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
    if let Some((_, name)) = &layout.https {
        let _ = write!(
            out,
            "\n    ssl_certificate /{FOLDER}/{name}.crt;\n    ssl_certificate_key /{FOLDER}/{name}.key;\n    \
             ssl_protocols TLSv1.2 TLSv1.3;\n    ssl_session_cache shared:abide:10m;\n"
        );
    }
}

fn tls_listens(layout: &Layout) -> Vec<SocketAddr> {
    let port = layout.https.as_ref().map(|(port, _)| *port);
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
    /// Without any server, nginx would listen on port 80.
    fn is_empty(&self) -> bool {
        self.plain.is_empty() && self.tls.is_empty()
    }

    fn write(&self, out: &mut String, suffix: &str) {
        for socket in &self.plain {
            let _ = writeln!(out, "        listen {socket}{suffix};");
        }
        for socket in &self.tls {
            let _ = writeln!(out, "        listen {socket} ssl{suffix};");
        }
    }
}

fn unknown_host(out: &mut String, by_name: &Listens) {
    if by_name.is_empty() {
        return;
    }
    out.push_str("\n    server {\n");
    by_name.write(out, " default_server");
    let _ = write!(out, "        server_name _;\n        return 404 '{}';\n    }}\n", page::unknown_host());
}

fn serve(out: &mut String, on: &Listens, suffix: &str, server_name: &str, environment: &str, site: &Site) {
    if on.is_empty() {
        return;
    }
    out.push_str("    server {\n");
    on.write(out, suffix);
    let _ = writeln!(out, "        server_name {server_name};");
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
    out.push_str("    }\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::front::Route;
    use crate::model::name::{EnvironmentName, HostName};

    fn layout() -> Layout {
        Layout {
            record: "0123".to_owned(),
            http: 80,
            https: None,
            drain: Duration::from_secs(30),
            has_ipv6: true,
            refused: BTreeSet::new(),
            trusted_proxies: Vec::new(),
            changes: 0,
        }
    }

    fn site(hostname: Option<&str>, publish: Option<Publish>, route: Option<&str>) -> Site {
        Site {
            hostname: hostname.map(|name| HostName::new(name).unwrap()),
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
        let layout = Layout { https: Some((443, "tls-77".to_owned())), ..layout() };
        is_golden("tls", &layout, &three());
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
