//! Limits on the addresses that a request may reach, checked when abide connects: a URL that a stranger chose
//! must not make abide contact an address that only abide can reach.

use std::net::IpAddr;

use hyper::Uri;

use crate::model::address::is_public;

/// The addresses that a request may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// Whether `http://` is allowed.
    pub plain: bool,
    /// Whether addresses are allowed that are not public.
    pub private: bool,
}

impl Allowed {
    /// Every address, for URLs of operators.
    pub const ANY: Self = Self { plain: true, private: true };
    /// Only public addresses, and only with TLS.
    #[cfg(test)]
    pub const PUBLIC: Self = Self { plain: false, private: false };

    /// Checks whether a URL with this scheme may be requested.
    ///
    /// # Errors
    /// Returns the reason for a refusal, as a clause.
    pub(crate) fn check_scheme(self, target: &Uri) -> Result<(), String> {
        match target.scheme_str() {
            Some("https") => Ok(()),
            Some("http") if self.plain => Ok(()),
            Some("http") => Err(format!("{} is not https", shown(target))),
            _ => Err(format!("{} is neither https nor http", shown(target))),
        }
    }

    /// Whether a network address may be connected to.
    pub(crate) fn includes(self, address: IpAddr) -> bool {
        self.private || !is_private(address)
    }
}

/// Scheme and host of a URL, without parts that may be secret.
pub(crate) fn shown(uri: &Uri) -> String {
    let host = uri.host().unwrap_or("an address without a host");
    let text = format!("{}://{host}", uri.scheme_str().unwrap_or("?"));
    text.chars().filter(|c| !c.is_control()).take(120).collect()
}

/// Whether an address belongs to this host, to a private network, or to nobody.
pub(crate) fn is_private(address: IpAddr) -> bool {
    !is_public(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_only_reached_if_allowed() {
        for address in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "0.0.0.0",
            "100.64.0.1",
            "::1",
            "fd00::1",
            "fe80::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
        ] {
            let address = address.parse().unwrap();
            assert!(!Allowed::PUBLIC.includes(address) && Allowed::ANY.includes(address), "{address}");
        }
        for address in ["93.184.216.34", "2606:2800:220:1::1", "100.128.0.1", "64:ff9b::5db8:d822"] {
            assert!(Allowed::PUBLIC.includes(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn plain_requests_are_only_sent_if_allowed() {
        for uri in ["http://auth.example.com/token", "ftp://a/b", "/token"] {
            assert!(Allowed::PUBLIC.check_scheme(&uri.parse().unwrap()).is_err(), "{uri}");
        }
        assert!(Allowed::PUBLIC.check_scheme(&"https://auth.example.com/token".parse().unwrap()).is_ok());
        assert!(Allowed::ANY.check_scheme(&"http://localhost:5001/token".parse().unwrap()).is_ok());
        assert!(Allowed::ANY.check_scheme(&"ftp://a/b".parse().unwrap()).is_err());
    }
}
