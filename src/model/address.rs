//! Network addresses that belong to everyone, and those that do not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether `address` is a public one: not of this host, of a private network, or reserved.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, d] = address.octets();
    let is_special = address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_broadcast()
        || address.is_multicast()
        || address.is_documentation()
        || a == 0
        || a >= 240
        // Shared address space of carriers.
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        // Benchmarks.
        || (a == 198 && (b == 18 || b == 19))
        // Relays from 6to4.
        || (a == 192 && b == 88 && c == 99)
        // The host's own services in Azure.
        || [a, b, c, d] == [168, 63, 129, 16];
    !is_special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    if let Some(v4) = address.to_ipv4_mapped().or_else(|| translated(address)) {
        return is_public_v4(v4);
    }
    let segments = address.segments();
    let is_special = address.is_loopback()
        || address.is_unspecified()
        || address.is_multicast()
        || address.is_unique_local()
        || address.is_unicast_link_local()
        // Translations of IPv4 addresses, which would hide a private one: local NAT64, 6to4, Teredo.
        || segments[..3] == [0x64, 0xff9b, 1]
        || segments[0] == 0x2002
        || (segments[0] == 0x2001 && segments[1] == 0)
        // Discard, ORCHID, documentation.
        || (segments[0] == 0x100 && segments[1..4] == [0, 0, 0])
        || (segments[0] == 0x2001 && (0x10..0x30).contains(&segments[1]))
        || (segments[0] == 0x2001 && segments[1] == 0xdb8)
        // The deprecated form of IPv4 addresses.
        || segments[..6] == [0; 6];
    !is_special
}

/// The IPv4 address in an address of the well-known NAT64 prefix, `64:ff9b::/96`.
fn translated(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, high, low] = address.segments();
    let is_nat64 = [a, b, c, d, e, f] == [0x64, 0xff9b, 0, 0, 0, 0];
    let ([w, x], [y, z]) = (high.to_be_bytes(), low.to_be_bytes());
    is_nat64.then(|| Ipv4Addr::new(w, x, y, z))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_globally_routable_addresses_are_public() {
        for inside in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.17.0.1",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "168.63.129.16",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:10::1",
            "2001:20::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "ff02::1",
        ] {
            assert!(!is_public(inside.parse().unwrap()), "{inside}");
        }
        for outside in [
            "1.1.1.1",
            "93.184.216.34",
            "100.128.0.1",
            "168.63.129.17",
            "2606:2800:220:1::1",
            "64:ff9b::5db8:d822",
        ] {
            assert!(is_public(outside.parse().unwrap()), "{outside}");
        }
    }
}
