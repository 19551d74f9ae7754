//! Address of a daemon, as `--server` gives it.

use std::path::PathBuf;

use super::ClientError;
use crate::tls::client::is_local;

/// The kind of address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// A Unix socket.
    Unix(PathBuf),
    /// `http://host:port`, with an optional path prefix for a proxy.
    Http(HttpAddress),
    /// `https://host:port`, the same with TLS.
    Https(HttpAddress),
}

/// The relevant parts of an `http` or `https` URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HttpAddress {
    /// A hostname or an IP address, without brackets.
    pub(crate) host: String,
    /// The TCP port.
    pub(crate) port: u16,
    /// The `Host` header.
    pub(crate) authority: String,
    /// The path prefix, without a trailing slash.
    pub(crate) prefix: String,
}

impl Address {
    /// Parses `https://host[:port][/prefix]`, the same with `http`, or `unix:PATH`.
    ///
    /// # Errors
    /// [`ClientError::Address`] with the reason; it never repeats a password from the URL.
    pub(crate) fn parse(text: &str) -> Result<Self, ClientError> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        let uri: hyper::Uri = text.parse().map_err(|_| refused("it is not a URL"))?;
        match uri.scheme_str() {
            Some("http") => HttpAddress::of(&uri, 80).map(Self::Http),
            Some("https") => HttpAddress::of(&uri, 443).map(Self::Https),
            _ => Err(refused("it must begin with `https://`, `http://` or `unix:`")),
        }
    }
}

impl HttpAddress {
    fn of(uri: &hyper::Uri, usual_port: u16) -> Result<Self, ClientError> {
        let authority = uri.authority().ok_or_else(|| refused("it has no host"))?;
        if authority.as_str().contains('@') {
            return Err(refused("it contains a user or password; put the token into ABIDE_TOKEN"));
        }
        if uri.query().is_some() {
            return Err(refused("it contains a query"));
        }
        Ok(Self {
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(usual_port),
            authority: authority.to_string(),
            prefix: uri.path().trim_end_matches('/').to_owned(),
        })
    }

    /// Whether requests to this address stay on this host.
    pub(crate) fn is_local(&self) -> bool {
        is_local(&self.host)
    }
}

fn refused(reason: &'static str) -> ClientError {
    ClientError::Address { reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(text: &str) -> HttpAddress {
        match Address::parse(text) {
            Ok(Address::Http(address)) => address,
            other => panic!("{text} became {other:?}"),
        }
    }

    fn refusal(text: &str) -> String {
        Address::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn a_url_is_split_into_host_port_and_prefix() {
        let address = http("http://build.example:8080/abide/");
        assert_eq!((address.host.as_str(), address.port), ("build.example", 8080));
        assert_eq!(address.prefix, "/abide");
        assert_eq!(http("http://localhost").port, 80);
        assert_eq!(http("http://[::1]:8080").host, "::1");
        assert_eq!(http("http://[::1]:8080").authority, "[::1]:8080");
    }

    #[test]
    fn a_socket_address_has_two_forms() {
        let socket = Address::Unix("/run/abide.sock".into());
        assert_eq!(Address::parse("unix:/run/abide.sock").unwrap(), socket);
        assert_eq!(Address::parse("unix:///run/abide.sock").unwrap(), socket);
    }

    #[test]
    fn https_has_its_own_port() {
        let Address::Https(address) = Address::parse("https://abide.example/x").unwrap() else {
            panic!("it is https")
        };
        assert_eq!((address.host.as_str(), address.port), ("abide.example", 443));
    }

    #[test]
    fn loopback_addresses_are_recognized_as_local() {
        for local in ["http://localhost:1", "http://127.0.0.1", "http://127.9.9.9", "http://[::1]:1"] {
            assert!(http(local).is_local(), "{local}");
        }
        for far in
            ["http://127.0.0.1.example", "http://localhost.example", "http://10.0.0.1", "http://0.0.0.0"]
        {
            assert!(!http(far).is_local(), "{far}");
        }
    }

    #[test]
    fn a_password_in_the_url_is_refused_and_not_repeated() {
        let message = refusal("http://alice:hunter2@host:1");
        assert!(message.contains("ABIDE_TOKEN") && !message.contains("hunter2"), "{message}");
    }

    #[test]
    fn an_invalid_server_url_is_rejected() {
        for text in ["localhost:8080", "ftp://x", "http//x", "http://", "/run/abide.sock", "a b"] {
            assert!(Address::parse(text).is_err(), "{text} was taken");
        }
    }
}
