//! The listening sockets of a container's programs, from the kernel of this host.

use std::collections::BTreeSet;
use std::io;
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
    if !is_of(pid, container) {
        return None;
    }
    let mut found = sockets(&std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).ok()?);
    // Without IPv6 there is no such file.
    found.extend(sockets(&std::fs::read_to_string(format!("/proc/{pid}/net/tcp6")).unwrap_or_default()));
    Some(found)
}

/// Whether a process of `container`, whose first process is `pid`, owns the socket that takes connections to
/// `address`, with the inode of that socket. For containers in the host's network, whose table has the sockets
/// of all programs of the host. `proven` is an inode that is known to be the container's. `None` if this host
/// does not show it: the process is on another host, or access is denied.
pub(super) fn owner(
    pid: u32,
    container: &str,
    address: SocketAddr,
    proven: Option<u64>,
) -> Option<Result<u64, ()>> {
    if !is_of(pid, container) {
        return None;
    }
    let table = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/net/{name}"));
    let inodes = answering(&[table("tcp").ok()?, table("tcp6").unwrap_or_default()], address);
    match proven.filter(|inode| inodes.contains(inode)) {
        Some(inode) => Some(Ok(inode)),
        // It was closed meanwhile.
        None if inodes.is_empty() => None,
        None => opened_by(container, &inodes).ok().map(|found| found.ok_or(())),
    }
}

/// The inodes of the sockets that take connections to `address`: those of exactly this address, else those of
/// all addresses.
fn answering(tables: &[String], address: SocketAddr) -> BTreeSet<u64> {
    let lines = || tables.iter().flat_map(|table| table.lines().skip(1));
    let inodes = |is_it: &dyn Fn(IpAddr) -> bool| -> BTreeSet<u64> {
        let of_port = lines().filter(|line| {
            listener(line).is_some_and(|socket| socket.port() == address.port() && is_it(socket.ip()))
        });
        of_port.filter_map(|line| line.split_whitespace().nth(9)?.parse().ok()).collect()
    };
    let exact = inodes(&|ip| ip == address.ip());
    if exact.is_empty() { inodes(&|ip| ip.is_unspecified()) } else { exact }
}

/// The first of `inodes` that a process of `container` has open; `None`: no process of it has one.
///
/// # Errors
/// Returns [`io::Error`] if the open files of one of its processes cannot be read.
fn opened_by(container: &str, inodes: &BTreeSet<u64>) -> io::Result<Option<u64>> {
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if !is_of(pid, container) {
            continue;
        }
        let files = match std::fs::read_dir(entry.path().join("fd")) {
            // It ended meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            files => files?,
        };
        let links = files.flatten().filter_map(|file| std::fs::read_link(file.path()).ok());
        let found =
            links.filter_map(|link| socket_inode(link.to_str()?)).find(|inode| inodes.contains(inode));
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// The inode in `socket:[123]`.
fn socket_inode(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// Whether a process belongs to a container. In another process namespace, the number belongs to another
/// process.
fn is_of(pid: u32, container: &str) -> bool {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    !container.is_empty() && groups.contains(container)
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

    #[cfg(target_endian = "little")]
    #[test]
    fn the_socket_of_an_address_comes_before_one_of_all_addresses() {
        let four = format!(
            "{HEAD}   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 11 1\n   \
             1: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 12 1\n   \
             2: 00000000:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 13 1\n"
        );
        let six = format!(
            "{HEAD}   0: 00000000000000000000000000000000:1F91 00000000000000000000000000000000:0000 0A \
             00000000:00000000 00:00000000 00000000 0 0 14 1\n"
        );
        let tables = [four, six];
        let found =
            |port| answering(&tables, (Ipv4Addr::LOCALHOST, port).into()).into_iter().collect::<Vec<_>>();
        assert_eq!((found(8080), found(8081), found(1)), (vec![11], vec![13, 14], vec![]));
    }

    #[test]
    fn the_process_that_listens_is_found_by_its_open_files() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let tables = [std::fs::read_to_string("/proc/self/net/tcp").unwrap()];
        let inodes = answering(&tables, listener.local_addr().unwrap());
        assert_eq!(inodes.len(), 1, "{inodes:?}");
        // No cgroup has this name.
        assert_eq!(opened_by("no-such-container", &inodes).unwrap(), None);
        let links = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let mut links = links.filter_map(|file| std::fs::read_link(file.path()).ok());
        assert!(links.any(|link| socket_inode(link.to_str().unwrap()) == inodes.first().copied()));
        assert_eq!(socket_inode("pipe:[1]"), None);
    }

    #[test]
    fn the_ports_a_program_does_listen_on_are_reported() {
        let message = |sockets: &[&str]| {
            let sockets: Vec<SocketAddr> = sockets.iter().map(|text| text.parse().unwrap()).collect();
            nothing_listens(4000, Some(&sockets))
        };
        let what = "nothing listens on port 4000 in the container";
        assert_eq!(message(&["127.0.0.1:3000"]), format!("{what} (the program listens on 127.0.0.1:3000)"));
        assert!(message(&["127.0.0.1:4000", "0.0.0.0:1"]).contains("only on 127.0.0.1:4000"));
        assert_eq!(message(&[]), format!("{what} (the program does not listen on any port yet)"));
        assert_eq!(nothing_listens(4000, None), what);
    }

    #[test]
    fn the_sockets_of_a_foreign_process_are_not_read() {
        assert_eq!(listening(std::process::id(), &"ab".repeat(32)), None);
        assert_eq!(listening(std::process::id(), ""), None);
    }
}
