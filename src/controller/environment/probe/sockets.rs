//! The listening sockets of a container's programs, from the kernel of this host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The state of a listening socket in the kernel's tables.
const LISTEN: &str = "0A";
/// The address of the engine's own name server in each container.
const NAME_SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11));
/// Listening addresses that a sentence names.
const NAMED: usize = 4;

/// Every TCP socket that listens in the network namespace of `container`, whose process is `pid`. `None` if
/// this host does not show them: the process is on another host, or access is denied.
pub(super) fn listening(pid: u32, container: &str) -> Option<Vec<SocketAddr>> {
    // In another process namespace, the number belongs to another process.
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    if container.is_empty() || !groups.contains(container) {
        return None;
    }
    let mut found = sockets(&std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).ok()?);
    // Without IPv6 there is no such file.
    found.extend(sockets(&std::fs::read_to_string(format!("/proc/{pid}/net/tcp6")).unwrap_or_default()));
    Some(found)
}

fn sockets(table: &str) -> Vec<SocketAddr> {
    let mut found: Vec<SocketAddr> = table.lines().skip(1).filter_map(listener).collect();
    found.retain(|socket| socket.ip() != NAME_SERVER);
    found.sort_by_key(SocketAddr::port);
    found.dedup();
    found
}

/// `sl local_address rem_address st ...`, with the address as the host's words in hexadecimal.
fn listener(line: &str) -> Option<SocketAddr> {
    let mut columns = line.split_whitespace().skip(1);
    let (local, state) = (columns.next()?, columns.nth(1)?);
    let (address, port) = local.split_once(':').filter(|_| state == LISTEN)?;
    let address = match address.len() {
        8 => IpAddr::V4(word(address)?.into()),
        32 => {
            let mut bytes = [0; 16];
            for (at, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(address.get(8 * at..8 * at + 8)?)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(address, u16::from_str_radix(port, 16).ok()?))
}

fn word(text: &str) -> Option<[u8; 4]> {
    u32::from_str_radix(text, 16).ok().map(u32::to_ne_bytes)
}

/// Whether a socket takes connections from outside the container.
pub(super) fn is_open(socket: SocketAddr, port: u16) -> bool {
    socket.port() == port && !socket.ip().is_loopback()
}

/// Returns why no program answers on `port`, as a sentence.
pub(super) fn nothing_listens(port: u16, sockets: Option<&[SocketAddr]>) -> String {
    let what = format!("nothing listens on port {port} in the container");
    let Some(sockets) = sockets else { return what };
    let inside = sockets.iter().find(|socket| socket.port() == port && socket.ip().is_loopback());
    if let Some(inside) = inside {
        return format!(
            "{what} (the program listens only on {inside}, which is not reachable from outside; make it \
            listen on 0.0.0.0)"
        );
    }
    let named: Vec<String> = sockets.iter().take(NAMED).map(ToString::to_string).collect();
    match named.as_slice() {
        [] => format!("{what} (the program does not listen on any port yet)"),
        named => format!("{what} (the program listens on {})", named.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n";

    #[cfg(target_endian = "little")]
    #[test]
    fn listening_sockets_are_read_from_the_kernels_tables() {
        let table = format!(
            "{HEAD}   0: 0100007F:0BB8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0\n   \
             1: 0B00007F:A12B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0\n   \
             2: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0\n   \
             3: 030011AC:1F90 020011AC:D431 01 00000000:00000000 00:00000000 00000000     0\n"
        );
        let found: Vec<String> = sockets(&table).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["127.0.0.1:3000", "0.0.0.0:8080"], "neither a connection nor the name server");
        let six = format!(
            "{HEAD}   0: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A x\n   1: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A x\n"
        );
        let found: Vec<String> = sockets(&six).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["[::1]:80", "[::]:8080"]);
        assert!(sockets("").is_empty() && sockets("\nx\n1: 2:3 4 0A\n").is_empty());
    }

    #[test]
    fn it_is_said_where_it_listens_in_place_of_its_port() {
        let said = |sockets: &[&str]| {
            let sockets: Vec<SocketAddr> = sockets.iter().map(|text| text.parse().unwrap()).collect();
            nothing_listens(4000, Some(&sockets))
        };
        let what = "nothing listens on port 4000 in the container";
        assert_eq!(said(&["127.0.0.1:3000"]), format!("{what} (the program listens on 127.0.0.1:3000)"));
        assert!(said(&["127.0.0.1:4000", "0.0.0.0:1"]).contains("only on 127.0.0.1:4000"));
        assert_eq!(said(&[]), format!("{what} (the program does not listen on any port yet)"));
        assert_eq!(nothing_listens(4000, None), what);
    }

    #[test]
    fn a_process_of_someone_else_tells_nothing() {
        assert_eq!(listening(std::process::id(), &"ab".repeat(32)), None);
        assert_eq!(listening(std::process::id(), ""), None);
    }
}
