//! Renders the server blocks: which names and ports lead to which environments. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::SocketAddr;

use super::location::ServedPlace;
use super::page;
use super::render::{Layout, certificate_lines, client_scheme};
use super::site::{Site, SitePools, Sites};
use super::version::NginxVersion;
use super::web_page::ServedPage;
use crate::acme::CHALLENGE_PATH;
use crate::model::name::SiteName;
use crate::model::spec::HttpsMode;

/// The sockets of a server.
pub(super) struct Listens {
    /// HTTP.
    pub(super) plain: Vec<SocketAddr>,
    /// HTTPS.
    pub(super) tls: Vec<SocketAddr>,
    /// Whether connections begin with the header of the PROXY protocol.
    pub(super) has_proxy_header: bool,
}

impl Listens {
    /// Without any server, nginx would listen on port 80.
    fn is_empty(&self) -> bool {
        self.plain.is_empty() && self.tls.is_empty()
    }

    fn plain_only(&self) -> Self {
        Self { plain: self.plain.clone(), tls: Vec::new(), ..*self }
    }

    fn tls_only(&self) -> Self {
        Self { tls: self.tls.clone(), plain: Vec::new(), ..*self }
    }

    fn both(&self) -> Self {
        Self { plain: self.plain.clone(), tls: self.tls.clone(), ..*self }
    }

    /// HTTP/2 and the PROXY protocol are properties of a socket, so all servers on it declare the same.
    fn write(&self, out: &mut String, suffix: &str, layout: &Layout) {
        let has_directive = layout.version.is_some_and(NginxVersion::has_http2_directive);
        let proxy = if self.has_proxy_header { " proxy_protocol" } else { "" };
        for socket in &self.plain {
            let _ = writeln!(out, "        listen {socket}{proxy}{suffix};");
        }
        let has_http2 = layout.version.is_none_or(NginxVersion::has_safe_http2);
        let http2 = if has_directive || !has_http2 { "" } else { " http2" };
        for socket in &self.tls {
            let _ = writeln!(out, "        listen {socket} ssl{http2}{proxy}{suffix};");
        }
        if has_directive && !self.tls.is_empty() {
            out.push_str("        http2 on;\n");
        }
    }
}

/// Renders what answers requests for names that no environment has. Without a certificate for all names, a
/// handshake for such a name is rejected.
pub(super) fn unknown_host(out: &mut String, by_name: &Listens, layout: &Layout) {
    let has_default = layout.tls.as_ref().is_some_and(|tls| tls.default.is_some());
    if !has_default && !by_name.tls.is_empty() {
        out.push_str("\n    server {\n");
        by_name.tls_only().write(out, " default_server", layout);
        out.push_str("        server_name _;\n        ssl_reject_handshake on;\n    }\n");
    }
    let listens = if has_default { by_name.both() } else { by_name.plain_only() };
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

/// Names with the same certificate and the same programs behind them, which share their servers.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct NameGroup<'a> {
    /// The environments, by the order of their names.
    environments: Vec<&'a str>,
    /// Whether abide's own page is served too.
    has_page: bool,
    certificate: Option<(&'a str, bool)>,
    /// The name that clients are redirected to; `None`: the programs answer.
    target: Option<&'a str>,
}

/// Renders the servers of all host names.
pub(super) fn serve_names(
    out: &mut String,
    layout: &Layout,
    by_name: &Listens,
    sites: &Sites,
    pools: &SitePools<'_>,
) {
    let mut serving: BTreeMap<&SiteName, Vec<&str>> = BTreeMap::new();
    for (environment, pool) in pools {
        for name in &pool.site.hostnames {
            serving.entry(name).or_default().push(environment);
        }
    }
    let page = layout.page.as_ref().map(|page| &page.name);
    if let Some(name) = page {
        serving.entry(name).or_default();
    }
    let served = serving.into_iter().map(|(name, environments)| (name, environments, None));
    let redirected = pools.iter().flat_map(|(environment, pool)| {
        let target = pool.site.target().map(SiteName::as_str);
        let names = pool.site.settings.redirect_from.iter().filter(move |_| target.is_some());
        names.map(move |name| (name, vec![*environment], target))
    });
    let certificates = layout.tls.as_ref().map(|tls| &tls.by_name);
    let mut groups: BTreeMap<NameGroup<'_>, Vec<&str>> = BTreeMap::new();
    for (name, environments, target) in served.chain(redirected) {
        let named = certificates.and_then(|by_name| by_name.get(name));
        let certificate = named.map(|named| (named.pair.as_str(), named.is_trusted));
        let has_page = target.is_none() && page == Some(name);
        let group = NameGroup { environments, has_page, certificate, target };
        groups.entry(group).or_default().push(name.as_str());
    }
    for (group, names) in groups {
        serve_group(out, layout, by_name, (sites, pools), &group, &names.join(" "));
    }
}

fn serve_group(
    out: &mut String,
    layout: &Layout,
    by_name: &Listens,
    (sites, pools): (&Sites, &SitePools<'_>),
    group: &NameGroup<'_>,
    names: &str,
) {
    let of = |name: &&'_ str| pools.get_key_value(*name);
    let mut members: Vec<_> = group.environments.iter().filter_map(of).collect();
    let page = layout.page.as_ref().filter(|_| group.has_page);
    // A manifest has no two, but nginx would load nothing at all.
    let mut paths: BTreeSet<_> = page.iter().map(|page| page.path.as_ref()).collect();
    members.retain(|(_, pool)| paths.insert(pool.site.settings.path.as_ref()));
    let has_default = layout.tls.as_ref().is_some_and(|tls| tls.default.is_some());
    let has_tls = !by_name.tls.is_empty() && (group.certificate.is_some() || has_default);
    let is_redirected = is_redirected(members.iter().map(|(_, pool)| pool.site.https), group.certificate);
    let certificate = group.certificate.map(|(pair, _)| pair);
    out.push('\n');
    // One comment each: nginx reads a comment as one word, whose length it limits.
    for served in page.iter().map(|_| "the web page of abide").chain(group.environments.iter().copied()) {
        let _ = writeln!(out, "    # {served}");
    }
    let mut server = |listens: &Listens, content: &ServerContent<'_>| {
        ServerBlock { listens, suffix: "", names, certificate }.write(out, layout, content);
    };
    if let Some(target) = group.target {
        let is_secure = is_secure(layout, sites, target);
        server(&by_name.plain_only(), &ServerContent::Moved { target, is_secure });
        if has_tls {
            server(&by_name.tls_only(), &ServerContent::Moved { target, is_secure: true });
        }
        return;
    }
    let listens = match (has_tls, is_redirected) {
        (true, true) => {
            server(&by_name.plain_only(), &ServerContent::Redirect);
            by_name.tls_only()
        }
        (true, false) => by_name.both(),
        (false, _) => by_name.plain_only(),
    };
    let places = members.iter().map(|(environment, pool)| ServedPlace {
        environment,
        pool,
        path: pool.site.settings.path.as_ref(),
        has_hsts: has_tls && is_redirected,
        counted_at: layout.counted_at(),
    });
    server(&listens, &ServerContent::Programs { places: places.collect(), page });
}

/// Whether clients of a name are redirected to HTTPS. Environments that share a name can declare different modes.
fn is_redirected(
    modes: impl Iterator<Item = Option<HttpsMode>> + Clone,
    certificate: Option<(&str, bool)>,
) -> bool {
    let has = |mode| modes.clone().any(|declared| declared == Some(mode));
    let is_trusted = certificate.is_some_and(|(_, is_trusted)| is_trusted);
    if has(HttpsMode::Required) {
        return certificate.is_none() || is_trusted;
    }
    is_trusted && !has(HttpsMode::Optional)
}

/// Whether clients of a name end at HTTPS.
fn is_secure(layout: &Layout, sites: &Sites, target: &str) -> bool {
    let Some(tls) = &layout.tls else { return false };
    let named = tls.by_name.iter().find(|(name, _)| name.as_str() == target).map(|(_, named)| named);
    let certificate = named.map(|named| (named.pair.as_str(), named.is_trusted));
    let serves = |site: &&Site| site.hostnames.iter().any(|name| name.as_str() == target);
    let modes: Vec<Option<HttpsMode>> = sites.values().filter(serves).map(|site| site.https).collect();
    (certificate.is_some() || tls.default.is_some()) && is_redirected(modes.into_iter(), certificate)
}

/// A server block.
pub(super) struct ServerBlock<'a> {
    /// Its sockets.
    pub(super) listens: &'a Listens,
    /// More words of `listen`.
    pub(super) suffix: &'a str,
    /// Its names, with spaces between them.
    pub(super) names: &'a str,
    /// The files of its certificate, without the ending.
    pub(super) certificate: Option<&'a str>,
}

/// The answers of a server.
pub(super) enum ServerContent<'a> {
    /// The same address over HTTPS.
    Redirect,
    /// The same address with another name.
    Moved { target: &'a str, is_secure: bool },
    /// The answers of environments' programs, and abide's page.
    Programs { places: Vec<ServedPlace<'a>>, page: Option<&'a ServedPage> },
}

impl ServerBlock<'_> {
    /// Renders the server; nothing if it has no socket.
    pub(super) fn write(&self, out: &mut String, layout: &Layout, content: &ServerContent<'_>) {
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
            ServerContent::Redirect => redirect(out, "$host", layout, true),
            ServerContent::Moved { target, is_secure } => redirect(out, target, layout, *is_secure),
            ServerContent::Programs { places, page } => {
                programs(out, places, page.map(|page| (page, client_scheme(layout))));
            }
        }
        out.push_str("    }\n");
    }
}

fn programs(out: &mut String, places: &[ServedPlace<'_>], page: Option<(&ServedPage, &str)>) {
    for place in places {
        place.write(out);
    }
    if let Some((page, scheme)) = page {
        page.write(out, scheme);
    }
    let mut paths = places.iter().map(|place| place.path).chain(page.map(|(page, _)| page.path.as_ref()));
    if paths.all(|path| path.is_some()) {
        let _ = writeln!(
            out,
            "        location / {{\n            return 404 '{}';\n        }}",
            page::unknown_path()
        );
    }
}

/// 308 keeps the method and the body of a request.
fn redirect(out: &mut String, name: &str, layout: &Layout, is_secure: bool) {
    let tls = layout.tls.as_ref().map(|tls| tls.port);
    let (scheme, port, usual) =
        if is_secure { ("https", tls.unwrap_or(443), 443) } else { ("http", layout.http, 80) };
    let port = if port == usual { String::new() } else { format!(":{port}") };
    let _ = write!(
        out,
        "        location / {{\n            return 308 {scheme}://{name}{port}$request_uri;\n        }}\n"
    );
}
