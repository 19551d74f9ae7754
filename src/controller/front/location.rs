//! Renders the locations of a site: what happens to requests for an environment. Pure.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::SocketAddr;

use super::page;
use super::render::FOLDER;
use super::requests::{self, RequestSink};
use super::site::{FrontFile, Site, SitePool};
use crate::model::site::{ErrorStatus, HeaderText, SitePath, SiteSettings};

/// The variable with a dollar sign: nginx's configuration has no other way to write one.
pub(super) const DOLLAR: &str = "abide_dollar";
/// The path of pages, which no client can request.
const PAGES: &str = "/.abide-front";

/// An environment in a server.
pub(super) struct ServedPlace<'a> {
    /// The environment.
    pub(super) environment: &'a str,
    /// Its site, and the containers that serve it.
    pub(super) pool: &'a SitePool<'a>,
    /// The path below which the server passes requests to it; `None`: all paths.
    pub(super) path: Option<&'a SitePath>,
    /// Whether answers have the header that makes browsers use HTTPS only.
    pub(super) has_hsts: bool,
    /// The address that nginx sends a record of each request to.
    pub(super) counted_at: Option<SocketAddr>,
}

/// The fields of a logged request. nginx escapes the values, and the times of several attempts are lists.
const RECORD: &str = "\"time\":\"$time_iso8601\",\"client\":\"$remote_addr\",\"host\":\"$host\",\
\"method\":\"$request_method\",\"path\":\"$request_uri\",\"protocol\":\"$server_protocol\",\"status\":$status,\
\"bytes\":$body_bytes_sent,\"seconds\":$request_time,\"program_seconds\":\"$upstream_response_time\",\
\"program_status\":\"$upstream_status\",\"user_agent\":\"$http_user_agent\",\"referer\":\"$http_referer\"";

/// Renders the parts of a site's settings that are outside of servers.
pub(super) fn zone(out: &mut String, environment: &str, site: &Site, counted: Option<&RequestSink>) {
    let settings = &site.settings;
    if let Some(sink) = counted {
        let has_canary = site.route.as_ref().is_some_and(|route| route.canary.is_some());
        let format = requests::format(&sink.token, environment, has_canary);
        let _ = writeln!(out, "    log_format abide-requests-{environment} {format};");
    }
    if settings.access_log {
        let _ = writeln!(
            out,
            "    log_format abide-{environment} escape=json\n        '{{\"environment\":\"{environment}\",{RECORD}}}';"
        );
    }
    if let Some(limit) = settings.rate_limit {
        let _ =
            writeln!(out, "    limit_req_zone $binary_remote_addr zone=abide-{environment}:1m rate={limit};");
    }
}

/// Whether a configuration needs [`DOLLAR`].
pub(super) fn has_dollar(settings: &SiteSettings) -> bool {
    let realm = settings.basic_auth.iter().map(|auth| auth.realm.as_str());
    settings.headers.values().map(HeaderText::as_str).chain(realm).any(|text| text.contains('$'))
}

impl ServedPlace<'_> {
    /// Renders the locations of the environment, and those for answers of the proxy.
    pub(super) fn write(&self, out: &mut String) {
        match self.path {
            None => self.location(out, "/", ""),
            Some(path) => {
                // One answers the path itself, which nginx would redirect otherwise.
                let pass = if self.pool.site.settings.strip_path { "/" } else { "" };
                self.location(out, &format!("= {path}"), pass);
                self.location(out, &format!("^~ {path}/"), pass);
            }
        }
        if self.pool.passes_to().is_some() && self.pool.site.page(502).is_none() {
            self.unanswered(out);
        }
        // Two statuses may have the same page.
        let files: BTreeSet<&str> = self.pool.site.files.pages.values().map(FrontFile::as_str).collect();
        for file in files {
            self.page(out, file);
        }
    }

    fn location(&self, out: &mut String, at: &str, pass: &str) {
        let _ = writeln!(out, "        location {at} {{");
        self.common(out);
        match self.pool.passes_to() {
            Some(target) => {
                settings(out, self.environment, self.pool.site);
                self.choice(out);
                self.error_pages(out);
                let _ = writeln!(out, "            proxy_pass http://{target}{pass};");
            }
            None => self.unavailable(out),
        }
        out.push_str("        }\n");
    }

    /// How nginx chooses another container, if there are several.
    fn choice(&self, out: &mut String) {
        let Some(upstream) = self.pool.upstream() else { return };
        out.push_str(NEXT_UPSTREAM);
        if let Some(cookie) = upstream.choice.cookie() {
            let _ = writeln!(out, "            add_header Set-Cookie $abide_new_{cookie};");
        }
    }

    fn unavailable(&self, out: &mut String) {
        let _ = writeln!(out, "            add_header Retry-After {} always;", page::RETRY_AFTER.as_secs());
        match self.pool.site.page(503) {
            Some(file) => {
                let _ = writeln!(out, "            error_page 503 {PAGES}/{}/{file};", self.environment);
                out.push_str("            return 503;\n");
            }
            None => {
                let page = match self.pool.site.maintenance {
                    true => page::maintenance(self.environment),
                    false => page::none_ready(self.environment),
                };
                let _ = writeln!(out, "            return 503 '{page}';");
            }
        }
    }

    fn unanswered(&self, out: &mut String) {
        let _ = writeln!(out, "        location @unanswered-{} {{", self.environment);
        self.common(out);
        let _ = write!(
            out,
            "            add_header Retry-After {} always;\n            return 502 '{}';\n        }}\n",
            page::RETRY_AFTER.as_secs(),
            page::unanswered(self.environment),
        );
    }

    /// Pages for the proxy's own answers; 504 has the page of 502 unless it has one itself.
    fn error_pages(&self, out: &mut String) {
        let mut without = Vec::new();
        for status in ErrorStatus::ALL {
            match self.pool.site.page(status) {
                Some(file) => {
                    let _ =
                        writeln!(out, "            error_page {status} {PAGES}/{}/{file};", self.environment);
                }
                None if status == 502 => without.push("502"),
                None if status == 504 && self.pool.site.page(502).is_none() => without.push("504"),
                None => {}
            }
        }
        if !without.is_empty() {
            let _ = writeln!(
                out,
                "            error_page {} @unanswered-{};",
                without.join(" "),
                self.environment
            );
        }
    }

    fn page(&self, out: &mut String, file: &str) {
        let _ = writeln!(out, "        location = {PAGES}/{}/{file} {{", self.environment);
        self.common(out);
        let passes = [502, 503, 504].map(|status| self.pool.site.page(status).map(FrontFile::as_str));
        if passes.contains(&Some(file)) {
            let _ =
                writeln!(out, "            add_header Retry-After {} always;", page::RETRY_AFTER.as_secs());
        }
        let _ = write!(
            out,
            "            internal;\n            types {{}}\n            \
             default_type \"text/html; charset=utf-8\";\n            alias /{FOLDER}/{file};\n        }}\n"
        );
    }

    /// What all answers have. A location has either its own headers or those of its server, so each repeats them.
    fn common(&self, out: &mut String) {
        if let Some(address) = self.counted_at {
            let _ = writeln!(
                out,
                "            access_log syslog:server={address},nohostname,tag={} abide-requests-{};",
                requests::TAG,
                self.environment
            );
        }
        if self.pool.site.settings.access_log {
            let _ = writeln!(out, "            access_log /dev/stdout abide-{};", self.environment);
        }
        if self.has_hsts {
            out.push_str("            add_header Strict-Transport-Security $abide_hsts always;\n");
        }
        for (name, value) in &self.pool.site.settings.headers {
            let _ = writeln!(out, "            proxy_hide_header {name};");
            if !value.as_str().is_empty() {
                let _ = writeln!(out, "            add_header {name} {} always;", quoted(value.as_str()));
            }
        }
    }
}

fn settings(out: &mut String, environment: &str, site: &Site) {
    let SiteSettings { max_body, timeout, gzip, basic_auth, allow, deny, rate_limit, .. } = &site.settings;
    if let Some(limit) = max_body {
        let _ = writeln!(out, "            client_max_body_size {};", u64::from(*limit));
    }
    for directive in ["client_body_timeout", "send_timeout", "proxy_read_timeout", "proxy_send_timeout"] {
        if let Some(timeout) = timeout {
            let _ = writeln!(out, "            {directive} {timeout}ms;");
        }
    }
    if *gzip {
        out.push_str(GZIP);
    }
    for network in deny {
        let _ = writeln!(out, "            deny {network};");
    }
    for network in allow {
        let _ = writeln!(out, "            allow {network};");
    }
    if !allow.is_empty() {
        out.push_str("            deny all;\n");
    }
    if let (Some(auth), Some(users)) = (basic_auth, &site.files.users) {
        let _ = writeln!(out, "            auth_basic {};", quoted(auth.realm.as_str()));
        let _ = writeln!(out, "            auth_basic_user_file /{FOLDER}/{users};");
    }
    if let Some(limit) = rate_limit {
        let burst = match limit.burst() {
            0 => String::new(),
            burst => format!(" burst={burst} nodelay"),
        };
        let _ = writeln!(out, "            limit_req zone=abide-{environment}{burst};");
        out.push_str("            limit_req_status 429;\n            limit_req_log_level info;\n");
    }
}

/// nginx repeats a request only as long as no container has received it, or if HTTP allows to repeat it.
const NEXT_UPSTREAM: &str = "            proxy_next_upstream error timeout;
            proxy_next_upstream_timeout 10s;
            proxy_connect_timeout 2s;
";

/// Texts, and neither images nor event streams, which have to arrive as they come.
const GZIP: &str = "            gzip on;
            gzip_proxied any;
            gzip_vary on;
            gzip_min_length 1024;
            gzip_types text/plain text/css text/xml text/javascript text/csv application/json application/javascript \
application/xml application/rss+xml application/atom+xml application/manifest+json application/wasm \
image/svg+xml font/ttf font/otf;
";

/// Renders a text as one word.
fn quoted(text: &str) -> String {
    let mut word = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => word.extend(['\\', c]),
            '$' => word.push_str(&format!("${{{DOLLAR}}}")),
            _ => word.push(c),
        }
    }
    word + "\""
}
