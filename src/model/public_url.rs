//! The public URL of the web page: the grammar of `[page] url`.

use std::fmt;

/// The longest accepted URL, in bytes.
const LONGEST: usize = 512;

/// The URL at which browsers reach the web page. It decides the links, the cookie and the allowed origin, so that
/// no header of a request does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicUrl {
    is_https: bool,
    host: String,
    port: Option<u16>,
    prefix: String,
}

impl PublicUrl {
    /// Parses `https://host`, with an optional port and an optional path.
    ///
    /// # Errors
    /// Returns the broken rule as a clause.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.len() > LONGEST {
            return Err("must have at most 512 characters");
        }
        let (is_https, rest) = match text.split_once("://") {
            Some(("https", rest)) => (true, rest),
            Some(("http", rest)) => (false, rest),
            _ => return Err("must begin with https:// or http://"),
        };
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let (host, port) =
            host_and_port(authority).ok_or("must have a host name or an address, and a valid port")?;
        let port = port.filter(|port| *port != if is_https { 443 } else { 80 });
        let prefix = path.trim_end_matches('/');
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.~".contains(c);
        let is_part = |part: &str| !matches!(part, "" | "." | "..") && part.chars().all(is_plain);
        if !prefix.split('/').skip(1).all(is_part) {
            return Err("must have a path of letters, digits and -_.~, without query and fragment");
        }
        Ok(Self { is_https, host: host.to_ascii_lowercase(), port, prefix: prefix.to_owned() })
    }

    /// Whether browsers use TLS.
    pub fn is_https(&self) -> bool {
        self.is_https
    }

    /// The host, in lower case and without a port.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, which browsers leave out if it is the default.
    pub fn port(&self) -> u16 {
        self.port.unwrap_or(if self.is_https { 443 } else { 80 })
    }

    /// The path before every path of the page; empty, or `/abide` without a slash at its end.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The origin as browsers write it: `https://ci.example.com`, with the port unless it is the default.
    pub fn origin(&self) -> String {
        let scheme = if self.is_https { "https" } else { "http" };
        let port = self.port.map_or_else(String::new, |port| format!(":{port}"));
        format!("{scheme}://{}{port}", self.host)
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}/", self.origin(), self.prefix)
    }
}

/// Splits an authority without a user: `ci.example.com`, `192.0.2.7:8080`, `[2001:db8::1]:8080`.
pub fn host_and_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let (host, rest) = match authority.strip_prefix('[') {
        Some(inner) => {
            let end = inner.find(']')?;
            let is_address = inner[..end].parse::<std::net::Ipv6Addr>().is_ok();
            is_address.then(|| authority.split_at(end + 2))?
        }
        None => authority.find(':').map_or((authority, ""), |at| authority.split_at(at)),
    };
    let port = match rest.strip_prefix(':') {
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => {
            Some(port.parse().ok().filter(|port| *port > 0)?)
        }
        Some(_) => return None,
        None if rest.is_empty() => None,
        None => return None,
    };
    let is_name = !host.is_empty()
        && host.len() <= 253
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    (is_name || host.starts_with('[')).then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_url_is_normalized_as_in_browsers() {
        for (text, origin, prefix) in [
            ("https://ci.example.com", "https://ci.example.com", ""),
            ("https://ci.example.com/", "https://ci.example.com", ""),
            ("https://CI.example.com:443/abide/", "https://ci.example.com", "/abide"),
            ("http://ci.lan:80/a/b", "http://ci.lan", "/a/b"),
            ("http://192.0.2.7:8080", "http://192.0.2.7:8080", ""),
            ("https://[2001:db8::1]:8443/x", "https://[2001:db8::1]:8443", "/x"),
        ] {
            let url = PublicUrl::parse(text).unwrap();
            assert_eq!((url.origin().as_str(), url.prefix()), (origin, prefix), "{text}");
        }
    }

    #[test]
    fn an_invalid_public_url_is_rejected() {
        for text in [
            "",
            "ci.example.com",
            "ftp://ci.example.com",
            "https://",
            "https://user@ci.example.com",
            "https://ci.example.com:0",
            "https://ci.example.com:x",
            "https://ci.example.com:99999",
            "https://[::1",
            "https://[x]",
            "https://ci.example.com/a b",
            "https://ci.example.com/../x",
            "https://ci.example.com//x",
            "https://ci.example.com/?q",
            "https://ci.example.com/x#y",
            "https://ci.example.com/\"x",
        ] {
            assert!(PublicUrl::parse(text).is_err(), "{text}");
        }
    }
}
