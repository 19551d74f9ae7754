//! Limits on the addresses that a registry names for its token service and redirects: it must not make abide
//! contact addresses that only abide can reach.

use std::net::IpAddr;

use hyper::Uri;

/// The connection to the registry itself, which limits the addresses that it may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reach {
    /// Without TLS.
    pub(super) is_plain: bool,
    /// At an address that is not public.
    pub(super) is_private: bool,
}

impl Reach {
    /// Checks whether an address with this scheme may be contacted.
    ///
    /// # Errors
    /// Returns the reason for a refusal, as a clause.
    pub(super) fn check_scheme(self, target: &Uri) -> Result<(), String> {
        match target.scheme_str() {
            Some("https") => Ok(()),
            Some("http") if self.is_plain => Ok(()),
            _ => Err(format!("it sends us to {}, which is not https", shown(target))),
        }
    }

    /// Whether a network address may be connected to.
    pub(super) fn allows(self, address: IpAddr) -> bool {
        self.is_private || !is_private(address)
    }
}

/// Scheme and host of a URL, without parts that may be secret.
pub(super) fn shown(uri: &Uri) -> String {
    let host = uri.host().unwrap_or("an address without a host");
    let text = format!("{}://{host}", uri.scheme_str().unwrap_or("?"));
    text.chars().filter(|c| !c.is_control()).take(120).collect()
}

/// Whether an address belongs to this host, to a private network, or to nobody.
pub(super) fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            v4.is_loopback()
                || v4.is_private()
                || v4.is_link_local()
                || v4.is_broadcast()
                || v4.is_multicast()
                || a == 0
                // Shared address space of carriers.
                || (a == 100 && (64..128).contains(&b))
        }
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => is_private(IpAddr::V4(v4)),
            None => {
                v6.is_loopback()
                    || v6.is_unspecified()
                    || v6.is_multicast()
                    || v6.is_unique_local()
                    || v6.is_unicast_link_local()
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_registry_cannot_send_us_inside() {
        let public = Reach { is_plain: false, is_private: false };
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
        ] {
            assert!(!public.allows(address.parse().unwrap()), "{address}");
        }
        for address in ["93.184.216.34", "2606:2800:220:1::1", "100.128.0.1"] {
            assert!(public.allows(address.parse().unwrap()), "{address}");
        }
        for uri in ["http://auth.example.com/token", "ftp://a/b", "/token"] {
            assert!(public.check_scheme(&uri.parse().unwrap()).is_err(), "{uri}");
        }
        assert!(public.check_scheme(&"https://auth.example.com/token".parse().unwrap()).is_ok());
    }

    #[test]
    fn a_registry_of_this_machine_may() {
        let local = Reach { is_plain: true, is_private: true };
        assert!(local.allows("127.0.0.1".parse().unwrap()));
        assert!(local.check_scheme(&"http://localhost:5001/token".parse().unwrap()).is_ok());
    }
}
