//! The site that a request belongs to: its links, its cookie, its origin. They follow from the configured URL and the
//! listener. Headers such as `X-Forwarded-Host` are never believed.

use std::net::IpAddr;
use std::time::Duration;

use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};

use crate::api::ApiState;
use crate::model::container::Secret;
use crate::model::credential::SessionSecret;
use crate::model::listener::DaemonListener;
use crate::model::public_url::{PublicUrl, host_and_port};

/// The most cookies of one name that are tried. Another program of the same host may have set one too.
const MOST_COOKIES: usize = 4;

/// The site of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::api) struct PageSite {
    /// Precedes every path: empty, or such as `/abide`.
    pub(super) prefix: String,
    /// The host that the browser asked for, to show it.
    pub(super) host: String,
    /// Whether browsers reach it at a public URL with TLS.
    pub(super) is_public_https: bool,
    /// The origin of the public URL, if the request came by it.
    origin: Option<String>,
    /// Whether the cookie may be sent only over TLS.
    is_secure: bool,
}

impl PageSite {
    /// The site of a request; `None` if the host that it names is not one of this listener. Such a request comes from
    /// a page whose host name was made to point to this host.
    pub(super) fn of(api: &ApiState, parts: &Parts) -> Option<Self> {
        let public = api.manifest.borrow().manifest.page.as_ref().map(|page| page.url.clone());
        let listener = parts.extensions.get::<DaemonListener>();
        let asked = asked_host(parts);
        let host = asked.as_deref().and_then(host_and_port).map(|(host, _)| host.trim_end_matches('.'));
        let host = host.map(str::to_ascii_lowercase).unwrap_or_default();
        if let Some(public) = public.filter(|public| public.host() == host) {
            return Some(Self::public(&public, host));
        }
        // The kernel has named the user of a Unix socket, and browsers cannot connect to one.
        if listener.is_some_and(DaemonListener::is_local) && !is_local_name(&host) {
            return None;
        }
        let is_secure = listener.is_some_and(|listener| listener.is_tls);
        Some(Self { prefix: String::new(), host, is_public_https: false, origin: None, is_secure })
    }

    fn public(url: &PublicUrl, host: String) -> Self {
        Self {
            prefix: url.prefix().to_owned(),
            host,
            is_public_https: url.is_https(),
            origin: Some(url.origin()),
            is_secure: url.is_https(),
        }
    }

    /// A path of this site, with its prefix. `path` begins with a slash.
    pub(super) fn path(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }

    /// Whether a request that changes something comes from a page of this site.
    ///
    /// A browser sends `Sec-Fetch-Site` to trustworthy origins, and `Origin` with every POST. A request with
    /// neither does not come from a browser that this page supports.
    pub(super) fn is_own_request(&self, parts: &Parts) -> bool {
        if matches!(parts.method, Method::GET | Method::HEAD) {
            return true;
        }
        if let Some(site) = only(&parts.headers, "sec-fetch-site") {
            return site.is_some_and(|site| matches!(site, "same-origin" | "none"));
        }
        let Some(Some(origin)) = only(&parts.headers, header::ORIGIN.as_str()) else { return false };
        if let Some(own) = &self.origin {
            return origin == own;
        }
        let host = origin.split_once("://").map(|(_, host)| host);
        host.is_some() && host == asked_host(parts).as_deref()
    }

    /// The name of the session's cookie. The prefixes make browsers refuse one that another host or plain HTTP set.
    pub(super) fn cookie_name(&self) -> &'static str {
        match (self.is_secure, self.prefix.is_empty()) {
            (true, true) => "__Host-abide",
            // `__Host-` would need the path `/`, and would hand the cookie to every program of the host.
            (true, false) => "__Secure-abide",
            (false, _) => "abide_session",
        }
    }

    /// The `Set-Cookie` of a session, or of its end if the value is empty. `Lax`, because a link in a chat must not
    /// end at the login.
    pub(super) fn set_cookie(&self, value: &Secret, lifetime: Duration) -> String {
        let secure = if self.is_secure { "; Secure" } else { "" };
        format!(
            "{}={}; Path={}/; Max-Age={}; HttpOnly; SameSite=Lax{secure}",
            self.cookie_name(),
            value.expose(),
            self.prefix,
            lifetime.as_secs()
        )
    }

    /// The secrets in the cookies of a request.
    pub(super) fn secrets(&self, headers: &HeaderMap) -> Vec<SessionSecret> {
        let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
        let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
        let own = pairs.filter(|(name, _)| *name == self.cookie_name()).take(MOST_COOKIES);
        own.filter_map(|(_, value)| SessionSecret::parse(value)).collect()
    }
}

/// A header's value: `None` without the header, `Some(None)` if it is repeated or not text.
fn only<'h>(headers: &'h HeaderMap, name: &str) -> Option<Option<&'h str>> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    Some(if values.next().is_some() { None } else { first.to_str().ok() })
}

/// The host and port that the client asked for: `:authority` in HTTP/2, else `Host`.
fn asked_host(parts: &Parts) -> Option<String> {
    if let Some(authority) = parts.uri.authority() {
        return Some(authority.as_str().to_owned());
    }
    only(&parts.headers, header::HOST.as_str()).flatten().map(str::to_owned)
}

/// Whether a name can only mean this host.
fn is_local_name(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    matches!(host, "localhost" | "abide.localhost") || address.is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// The path to continue at after a login, if it is one of this site. `//host` and `/\host` are addresses of other
/// hosts.
pub(super) fn safe_next(text: &str) -> Option<&str> {
    let is_path = text.starts_with('/') && !text.starts_with("//") && !text.contains('\\');
    let is_plain = text.len() <= 2_048 && text.bytes().all(|b| b.is_ascii_graphic());
    (is_path && is_plain).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_redirects_only_to_a_path_on_this_site() {
        for good in ["/", "/environments/dev", "/?q=a%20b", "/environments/dev?moved=3#log"] {
            assert_eq!(safe_next(good), Some(good));
        }
        for bad in [
            "",
            "x",
            "//evil.example",
            "/\\evil.example",
            "https://evil.example",
            "/a\r\nb",
            "/a b",
            "/ä",
            "/a\\b",
        ] {
            assert_eq!(safe_next(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn only_loopback_host_names_are_local() {
        for good in ["localhost", "abide.localhost", "127.0.0.1", "127.8.8.8", "[::1]", "[::ffff:127.0.0.1]"]
        {
            assert!(is_local_name(good), "{good}");
        }
        for bad in
            ["", "evil.example", "localhost.evil.example", "0.0.0.0", "192.0.2.7", "x.localhost", "[::2]"]
        {
            assert!(!is_local_name(bad), "{bad}");
        }
    }
}
