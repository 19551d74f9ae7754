//! Free ports for the servers of tests.
//!
//! The unit tests and the benchmarks include this file too, so it uses nothing of this folder.

use std::hash::{BuildHasher as _, RandomState};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::ops::Range;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// The range of ports: below those that Linux gives to the clients of other tests (`ip_local_port_range`),
/// so that nobody else can get a port between this choice and its use.
const RANGE: Range<u16> = 10_000..32_768;

/// Returns different ports that are free on all addresses, for TCP and UDP. No port is returned twice by a
/// process, and processes begin at random places.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    [(); N].map(|()| free_port())
}

/// Returns a port as [`free_ports`] does.
pub(crate) fn free_port() -> u16 {
    static NEXT: LazyLock<AtomicU64> =
        LazyLock::new(|| AtomicU64::new(RandomState::new().hash_one("first") >> 1));
    let mut candidates = RANGE.map(|_| {
        let offset = NEXT.fetch_add(1, Ordering::Relaxed) % RANGE.len() as u64;
        RANGE.start + u16::try_from(offset).unwrap()
    });
    let free = |port: &u16| {
        let address = (Ipv4Addr::UNSPECIFIED, *port);
        TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
    };
    candidates.find(free).expect("no port is free")
}
