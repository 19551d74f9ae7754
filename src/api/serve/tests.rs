//! The server against real sockets, byte for byte.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use axum::Extension;
use axum::body::Body;
use axum::routing::{any, get};
use futures::{StreamExt as _, stream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout};

use super::*;

mod encrypted;
mod http2;

/// Long enough for a busy host; a test that waits this long fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// Deadlines that a test can wait for.
pub(in crate::api) fn hasty() -> ServeLimits {
    ServeLimits {
        header_read: Duration::from_millis(300),
        body: Duration::from_millis(300),
        grace: Duration::from_millis(200),
        ..ServeLimits::default()
    }
}

/// A server on its own port, stopped when dropped.
pub(in crate::api) struct Server {
    address: SocketAddr,
    shutdown: CancellationToken,
    done: Option<tokio::task::JoinHandle<()>>,
}

impl Server {
    /// Starts a server with TLS.
    async fn start_tls(router: Router, limits: ServeLimits, acceptor: TlsAcceptor) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let done = tokio::spawn(serve_tls(listener, acceptor, router, limits, shutdown.clone()));
        Self { address, shutdown, done: Some(done) }
    }

    pub(in crate::api) async fn start(router: Router, limits: ServeLimits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let done = tokio::spawn(serve_tcp(listener, router, limits, shutdown.clone()));
        Self { address, shutdown, done: Some(done) }
    }

    pub(in crate::api) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends `bytes` and returns the answer until the server closes the connection. This side does
    /// not close it.
    pub(in crate::api) async fn exchange(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        // The server may close the connection before it has read everything.
        let _ = stream.write_all(bytes).await;
        read_to_close(&mut stream).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// Reads until the other side closes; a reset counts as closed.
pub(in crate::api) async fn read_to_close(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    let reading = async {
        let mut chunk = [0; 4096];
        while let Ok(length @ 1..) = stream.read(&mut chunk).await {
            all.extend_from_slice(&chunk[..length]);
        }
    };
    timeout(PATIENCE, reading).await.expect("the connection was never closed");
    String::from_utf8_lossy(&all).into_owned()
}

/// The status codes of all answers in `text`.
pub(in crate::api) fn statuses(text: &str) -> Vec<u16> {
    text.match_indices("HTTP/1.").filter_map(|(at, _)| text.get(at + 9..at + 12)?.parse().ok()).collect()
}

fn router() -> Router {
    Router::new()
        .route("/", any(async |body: axum::body::Bytes| format!("got {}", body.len())))
        .route("/peer", get(async |Extension(peer): Extension<Peer>| format!("{peer:?}")))
        .route("/stream", get(async || Body::from_stream(ticks())))
}

/// A response that lasts longer than every deadline of [`hasty`].
fn ticks() -> impl stream::Stream<Item = Result<&'static str, io::Error>> {
    stream::iter(0..6).then(async |_| {
        tokio::time::sleep(Duration::from_millis(150)).await;
        Ok("tick ")
    })
}

#[tokio::test]
async fn a_connection_is_reused_after_a_request() {
    let server = Server::start(router(), hasty()).await;
    let request = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc";
    let answers = server.exchange(format!("{request}{request}").as_bytes()).await;
    assert_eq!(statuses(&answers), [200, 200]);
    assert_eq!(answers.matches("got 3").count(), 2);
}

#[tokio::test]
async fn idle_connections_and_slow_headers_are_closed() {
    let server = Server::start(router(), hasty()).await;
    for begin in ["", "GET / HT", "GET / HTTP/1.1\r\nHost: x\r\nX-"] {
        let start = Instant::now();
        let answer = server.exchange(begin.as_bytes()).await;
        assert!(!answer.contains(" 200 "), "{answer}");
        assert!(start.elapsed() >= Duration::from_millis(250), "{begin:?} was not waited for");
    }
}

#[tokio::test]
async fn headers_that_arrive_byte_by_byte_do_not_extend_their_deadline() {
    let server = Server::start(router(), hasty()).await;
    let mut stream = server.connect().await;
    let closed = async {
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, closed).await.expect("dribbled headers were read for ever");
}

#[tokio::test]
async fn a_body_that_does_not_arrive_fails_and_closes_the_connection() {
    let server = Server::start(router(), hasty()).await;
    let start = Instant::now();
    let answer = server.exchange(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 30\r\n\r\nabc").await;
    assert_eq!(statuses(&answer), [400], "{answer}");
    assert!(start.elapsed() >= Duration::from_millis(250));
}

#[tokio::test]
async fn a_response_may_last_longer_than_every_deadline() {
    let server = Server::start(router(), hasty()).await;
    let answer = server.exchange(b"GET /stream HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert_eq!(answer.matches("tick").count(), 6);
}

#[tokio::test]
async fn ambiguous_framing_is_refused_and_the_connection_closed() {
    let server = Server::start(router(), hasty()).await;
    let smuggled = "GET /peer HTTP/1.1\r\nHost: x\r\n\r\n";
    for head in [
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5, 6\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 99999999999999999999999\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        " Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding:\u{b}chunked\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: gzip\r\n",
    ] {
        let request = format!("POST / HTTP/1.1\r\nHost: x\r\n{head}\r\n0\r\n\r\n{smuggled}");
        let answer = server.exchange(request.as_bytes()).await;
        assert_eq!(statuses(&answer), [400], "{head:?}: {answer}");
    }
}

#[tokio::test]
async fn nothing_is_read_after_a_request_with_both_a_length_and_chunks() {
    let server = Server::start(router(), hasty()).await;
    let smuggled = "GET /peer HTTP/1.1\r\nHost: x\r\n\r\n";
    for head in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 60\r\n",
    ] {
        let request = format!("POST / HTTP/1.1\r\nHost: x\r\n{head}\r\n0\r\n\r\n{smuggled}");
        let answer = server.exchange(request.as_bytes()).await;
        assert_eq!(statuses(&answer).len(), 1, "{head:?}: {answer}");
        assert!(answer.contains("connection: close"), "{answer}");
    }
}

#[tokio::test]
async fn oversized_and_too_many_headers_are_rejected() {
    let server = Server::start(router(), hasty()).await;
    let long = format!("GET / HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\n\r\n", "x".repeat(40_000));
    let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "X-Many: x\r\n".repeat(200));
    for request in [long, many] {
        assert_eq!(statuses(&server.exchange(request.as_bytes()).await), [431]);
    }
}

#[tokio::test]
async fn bytes_that_are_not_http_are_rejected() {
    let server = Server::start(router(), hasty()).await;
    for garbage in
        [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX\r\n\r\n"]
    {
        let answer = server.exchange(garbage).await;
        assert!(!answer.contains(" 200 "), "{answer}");
    }
}

/// Limits that close no connection for being idle.
fn patient() -> ServeLimits {
    ServeLimits { header_read: PATIENCE * 10, ..hasty() }
}

#[tokio::test]
async fn a_new_connection_is_served_when_one_client_holds_them_all() {
    let server = Server::start(router(), ServeLimits { strangers: 12, ..patient() }).await;
    let mut held = Vec::new();
    for begin in ["", "GET / HT", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc"].repeat(10) {
        let mut stream = server.connect().await;
        stream.write_all(begin.as_bytes()).await.unwrap();
        held.push(stream);
    }
    let request = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    assert_eq!(statuses(&server.exchange(request).await), [200]);
    for stream in &mut held[..6] {
        assert_eq!(read_to_close(stream).await, "", "those that sent nothing for longest are closed");
    }
}

/// Connections that come from several addresses in turn.
struct Elsewhere {
    listener: TcpListener,
    addresses: std::sync::Mutex<std::vec::IntoIter<&'static str>>,
}

impl Listener for Elsewhere {
    type Stream = TcpStream;

    async fn accept_one(&self) -> io::Result<(TcpStream, Peer)> {
        let (stream, _) = self.listener.accept_one().await?;
        let next = self.addresses.lock().unwrap().next().unwrap_or("192.0.2.1:4");
        Ok((stream, Peer { uid: None, address: Some(next.parse().unwrap()) }))
    }
}

#[tokio::test]
async fn connections_of_the_busiest_network_are_closed_for_others() {
    let mut addresses = vec!["192.0.2.2:1"];
    addresses.extend(["192.0.2.1:1", "[::ffff:192.0.2.1]:2"].repeat(30));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let elsewhere = Elsewhere { listener, addresses: std::sync::Mutex::new(addresses.into_iter()) };
    let limits = ServeLimits { strangers: 40, ..patient() };
    let shutdown = CancellationToken::new();
    let done = tokio::spawn(serve(elsewhere, Wire::Plain, router(), limits, shutdown.clone()));
    let server = Server { address, shutdown, done: Some(done) };
    let mut quiet = server.connect().await;
    let mut held = Vec::new();
    for _ in 0..60 {
        held.push(server.connect().await);
    }
    for stream in &mut held[..20] {
        assert_eq!(read_to_close(stream).await, "");
    }
    quiet.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    assert_eq!(statuses(&read_to_close(&mut quiet).await), [200], "it came first, and others hold more");
}

/// A page longer than the socket buffers.
fn long_page() -> Router {
    Router::new().route("/long", get(async || "x".repeat(32 << 20))).route(
        "/known",
        get(async |Extension(standing): Extension<AdmissionGuard>| {
            standing.prove();
            "x".repeat(32 << 20)
        }),
    )
}

#[tokio::test]
async fn an_unread_response_closes_a_strangers_connection() {
    let limits = ServeLimits { answer: Duration::from_millis(300), ..patient() };
    let server = Server::start(long_page(), limits).await;
    let mut streams = [server.connect().await, server.connect().await];
    for (stream, path) in streams.iter_mut().zip(["/long", "/known"]) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
    }
    // Gives the server time to cut off the unread answer before the test reads it.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let [unread, known] = &mut streams;
    assert!(read_to_close(unread).await.len() < 32 << 20);
    assert!(read_to_close(known).await.len() > 32 << 20);
}

/// Refuses the first connections, as if no file descriptor were left.
struct Exhausted {
    listener: TcpListener,
    failures: std::sync::atomic::AtomicU32,
}

impl Listener for Exhausted {
    type Stream = TcpStream;

    async fn accept_one(&self) -> io::Result<(TcpStream, Peer)> {
        use std::sync::atomic::Ordering::SeqCst;
        const EMFILE: i32 = 24;
        match self.failures.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)) {
            Ok(_) => Err(io::Error::from_raw_os_error(EMFILE)),
            Err(_) => self.listener.accept_one().await,
        }
    }
}

#[tokio::test]
async fn accepting_backs_off_when_file_descriptors_run_out() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let exhausted = Exhausted { listener, failures: 2.into() };
    let done = tokio::spawn(serve(exhausted, Wire::Plain, router(), hasty(), shutdown.clone()));
    let server = Server { address, shutdown, done: Some(done) };
    let start = Instant::now();
    let answer = server.exchange(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert_eq!(statuses(&answer), [200]);
    assert!(start.elapsed() >= FIRST_PAUSE * 3, "it did not pause longer each time");
}

#[tokio::test]
async fn a_shutdown_closes_idle_connections_at_once_and_others_after_a_grace() {
    let mut server = Server::start(router(), patient()).await;
    let mut idle = server.connect().await;
    let mut busy = server.connect().await;
    busy.write_all(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut first = [0; 12];
    busy.read_exact(&mut first).await.unwrap();
    server.shutdown.cancel();
    timeout(PATIENCE, server.done.take().unwrap()).await.expect("the server never ended").unwrap();
    assert_eq!(read_to_close(&mut idle).await, "");
    let rest = read_to_close(&mut busy).await;
    assert!(rest.matches("tick").count() < 6, "the grace never ended");
    assert!(TcpStream::connect(server.address).await.is_err(), "the port is still open");
}

#[tokio::test]
async fn the_handler_receives_the_peers_uid_or_address() {
    let server = Server::start(router(), hasty()).await;
    let request = b"GET /peer HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 10.0.0.1\r\nConnection: close\r\n\r\n";
    let answer = server.exchange(request).await;
    assert!(answer.contains("Peer { uid: None, address: Some(127.0.0.1:"), "{answer}");

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("abide.sock");
    let shutdown = CancellationToken::new();
    tokio::spawn(serve_unix(bind_unix(&path).unwrap(), router(), hasty(), shutdown.clone()));
    let mut stream = UnixStream::connect(&path).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let own = std::fs::metadata(folder.path()).unwrap().uid();
    assert!(answer.contains(&format!("Peer {{ uid: Some({own}), address: None }}")), "{answer}");
    shutdown.cancel();
}

#[tokio::test]
async fn a_socket_is_limited_to_owner_and_group_and_leaves_no_other_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("abide.sock");
    let _listener = bind_unix(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn a_live_socket_is_not_taken_over_and_a_stale_one_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("abide.sock");
    let live = bind_unix(&path).unwrap();
    let error = bind_unix(&path).unwrap_err();
    assert!(error.to_string().starts_with("another abide daemon already listens on"), "{error}");
    drop(live);
    assert!(path.exists(), "a stale socket was expected");
    let _again = bind_unix(&path).unwrap();
    assert!(UnixStream::connect(&path).await.is_ok());
}

#[tokio::test]
async fn a_file_that_is_not_a_socket_is_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("abide.sock");
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(bind_unix(&path), Err(ServeError::NoSocket(_))));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("elsewhere", &path).unwrap();
    assert!(matches!(bind_unix(&path), Err(ServeError::NoSocket(_))));
}

#[tokio::test]
async fn an_overlong_socket_path_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let deep = folder.path().join("x".repeat(100));
    let error = bind_unix(&deep.join("abide.sock")).unwrap_err();
    assert!(error.to_string().contains("too long"), "{error}");
    let missing = bind_unix(&folder.path().join("missing").join("abide.sock")).unwrap_err();
    assert!(matches!(missing, ServeError::Bind(..)), "{missing}");
}
