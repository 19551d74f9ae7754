//! The address at which the daemon serves webhooks, the API and the web page.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The listener of the daemon for the network; also an extension of every request that came by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DaemonListener {
    /// Its address.
    pub address: SocketAddr,
    /// Whether it uses TLS.
    pub is_tls: bool,
}

impl DaemonListener {
    /// Whether only programs of this host can connect.
    pub fn is_local(&self) -> bool {
        self.address.ip().to_canonical().is_loopback()
    }

    /// The address at which programs of this host reach it.
    pub fn local_address(&self) -> SocketAddr {
        let ip = match self.address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            ip => ip,
        };
        SocketAddr::new(ip, self.address.port())
    }

    /// Its scheme in URLs.
    pub fn scheme(&self) -> &'static str {
        if self.is_tls { "https" } else { "http" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_at_all_addresses_is_reached_at_the_loopback_address() {
        for (listens, reached) in [
            ("0.0.0.0:8080", "127.0.0.1:8080"),
            ("[::]:8080", "[::1]:8080"),
            ("192.0.2.7:1", "192.0.2.7:1"),
            ("127.0.0.1:2", "127.0.0.1:2"),
        ] {
            let listener = DaemonListener { address: listens.parse().unwrap(), is_tls: false };
            assert_eq!(listener.local_address(), reached.parse().unwrap());
        }
    }
}
