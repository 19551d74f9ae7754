//! TLS on the accept loop: real handshakes, endless handshakes, and a thousand idle connections.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::tls::AlpnProtocol;
use crate::tls::client::{Connector, Stream, Trust};
use crate::tls::identity::Identity;

use super::*;

struct Place {
    server: Server,
    connector: Connector,
    _home: tempfile::TempDir,
}

async fn place(limits: ServeLimits) -> Place {
    let home = tempfile::tempdir().unwrap();
    let identity = Identity::made(&home.path().join("tls")).unwrap();
    let server = Server::start_tls(router(), limits, identity.acceptor().unwrap()).await;
    let trust = Trust::Pin(identity.pin().unwrap());
    let connector = Connector::new(&trust, AlpnProtocol::Http1).unwrap();
    Place { server, connector, _home: home }
}

impl Place {
    async fn connect(&self) -> Stream {
        self.connector.connect("127.0.0.1", self.server.address.port()).await.unwrap()
    }

    /// Sends `bytes` encrypted, and reads until the server closes.
    async fn exchange(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.unwrap();
        let mut all = Vec::new();
        let reading = stream.read_to_end(&mut all);
        // A close without TLS's close notification counts as closed.
        let _ = timeout(PATIENCE, reading).await.expect("the connection was never closed");
        String::from_utf8_lossy(&all).into_owned()
    }
}

/// The beginning of a handshake that announces 512 bytes.
const BEGUN: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";

const GET: &[u8] = b"GET /peer HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn the_peer_address_of_a_tls_request_is_known() {
    let place = place(hasty()).await;
    let answer = place.exchange(GET).await;
    assert_eq!(statuses(&answer), [200]);
    assert!(answer.contains("Peer { uid: None, address: Some(127.0.0.1:"), "{answer}");
}

#[tokio::test]
async fn framing_rules_are_the_same_over_tls() {
    let place = place(hasty()).await;
    for head in ["Content-Length: 5\r\nContent-Length: 6\r\n", "Transfer-Encoding: xchunked\r\n"] {
        let request = format!("POST / HTTP/1.1\r\nHost: x\r\n{head}\r\n0\r\n\r\n");
        assert_eq!(statuses(&place.exchange(request.as_bytes()).await), [400], "{head:?}");
    }
}

#[tokio::test]
async fn a_plain_request_is_pointed_to_https_and_reaches_no_handler() {
    let place = place(hasty()).await;
    let long =
        [b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 40000\r\n\r\n".as_slice(), &[b'x'; 40_000]].concat();
    for request in [GET, &long] {
        let mut stream = place.server.connect().await;
        stream.write_all(request).await.unwrap();
        stream.shutdown().await.unwrap();
        let answer = read_to_close(&mut stream).await;
        assert_eq!(statuses(&answer), [400]);
        assert!(answer.contains("https://"), "{answer}");
    }
}

#[tokio::test]
async fn unfinished_handshakes_time_out_without_delaying_others() {
    let place = place(ServeLimits { strangers: 60, ..hasty() }).await;
    let mut slow = Vec::new();
    for _ in 0..50 {
        let mut stream = place.server.connect().await;
        stream.write_all(BEGUN).await.unwrap();
        slow.push(stream);
    }
    assert_eq!(statuses(&place.exchange(GET).await), [200]);
    for stream in &mut slow {
        read_to_close(stream).await;
    }
}

#[tokio::test]
async fn a_handshake_byte_by_byte_does_not_extend_its_deadline() {
    let place = place(hasty()).await;
    let mut stream = place.server.connect().await;
    stream.write_all(BEGUN).await.unwrap();
    let closed = async {
        // At this pace the announced bytes do not arrive within the timeout of this test.
        while stream.write_all(b"\x01").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, closed).await.expect("a dribbled handshake was read for ever");
}

/// Both ends of a thousand connections are in this process; the default limit of many systems is
/// 1,024 files.
fn allow_more_files() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: limit.maximum.or(Some(16_384)), ..limit };
    setrlimit(Resource::Nofile, wanted).unwrap();
}

#[tokio::test]
async fn a_thousand_idle_connections_leave_room_for_a_good_request() {
    allow_more_files();
    let place =
        place(ServeLimits { header_read: PATIENCE * 10, strangers: 2_000, ..ServeLimits::default() }).await;
    let mut idle = Vec::new();
    for _ in 0..1_000 {
        idle.push(place.connect().await);
    }
    assert_eq!(statuses(&place.exchange(GET).await), [200]);
    place.server.shutdown.cancel();
}

#[tokio::test]
async fn unfinished_handshakes_are_evicted_for_new_connections() {
    let place = place(ServeLimits { strangers: 12, ..patient() }).await;
    let mut stuck = Vec::new();
    for _ in 0..30 {
        let mut stream = place.server.connect().await;
        stream.write_all(BEGUN).await.unwrap();
        stuck.push(stream);
    }
    assert_eq!(statuses(&place.exchange(GET).await), [200]);
}
