//! HTTP/2 against real sockets: the requests of an agent, and attacks.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;

use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2::{self, SendRequest};
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::*;

type Sender = SendRequest<Empty<axum::body::Bytes>>;

async fn client(server: &Server) -> Sender {
    let stream = TokioIo::new(server.connect().await);
    let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn ask(path: &str) -> Request<Empty<axum::body::Bytes>> {
    Request::get(format!("http://x{path}")).body(Empty::new()).unwrap()
}

/// A frame: length, kind, flags and stream, then the payload.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A complete `GET / HTTP/2`, by entries of HPACK's static table, with the host `x`.
fn get(stream: u32) -> Vec<u8> {
    const END_OF_STREAM_AND_HEADERS: u8 = 0x5;
    frame(1, END_OF_STREAM_AND_HEADERS, stream, &[0x82, 0x86, 0x84, 0x41, 0x01, b'x'])
}

fn preface() -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &frame(4, 0, 0, &[])].concat()
}

/// Whether the server closes the connection that sent `bytes`.
async fn is_closed_after(server: &Server, bytes: &[u8]) -> bool {
    let mut stream = server.connect().await;
    let _ = stream.write_all(bytes).await;
    let mut answer = [0; 4096];
    let closed = async { while let Ok(1..) = stream.read(&mut answer).await {} };
    timeout(PATIENCE, closed).await.is_ok()
}

#[tokio::test]
async fn one_connection_carries_many_requests_at_once() {
    let server = Server::start(router(), hasty()).await;
    let mut sender = client(&server).await;
    let stream = sender.send_request(ask("/stream")).await.unwrap();
    let quick = sender.send_request(ask("/peer")).await.unwrap();
    let peer = quick.into_body().collect().await.unwrap().to_bytes();
    assert!(peer.starts_with(b"Peer { uid: None, address: Some(127.0.0.1:"));
    let ticks = stream.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(ticks, "tick ".repeat(6));
}

#[tokio::test]
async fn an_idle_http_2_connection_is_closed_and_a_busy_one_is_not() {
    let server = Server::start(router(), hasty()).await;
    let (mut idle, mut busy) = (client(&server).await, client(&server).await);
    idle.send_request(ask("/peer")).await.unwrap();
    let answer = busy.send_request(ask("/stream")).await.unwrap();
    let closed = async {
        while idle.ready().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, closed).await.expect("an idle connection was kept");
    // It takes three times as long as the idle limit of a connection.
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "tick ".repeat(6));
}

#[tokio::test]
async fn an_http_2_body_has_a_deadline_unless_lifted() {
    async fn read(deadline: BodyDeadline, is_lifted: bool, body: Body) -> StatusCode {
        if is_lifted {
            deadline.lift();
        }
        match axum::body::to_bytes(body, 1_000).await {
            Ok(_) => StatusCode::OK,
            Err(_) => StatusCode::REQUEST_TIMEOUT,
        }
    }
    let read_with = |is_lifted| {
        axum::routing::post(async move |Extension(deadline), body: Body| {
            read(deadline, is_lifted, body).await
        })
    };
    let router = Router::new().route("/held", read_with(false)).route("/lifted", read_with(true));
    let server = Server::start(router, hasty()).await;
    let stream = TokioIo::new(server.connect().await);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let mut statuses = Vec::new();
    for path in ["/held", "/lifted"] {
        let pieces = stream::iter(0..3).then(async |_| {
            tokio::time::sleep(Duration::from_millis(200)).await;
            Ok::<_, io::Error>("x")
        });
        let body = Body::from_stream(pieces.boxed());
        let request = Request::post(format!("http://x{path}")).body(body).unwrap();
        statuses.push(sender.send_request(request).await.unwrap().status());
    }
    assert_eq!(statuses, [StatusCode::REQUEST_TIMEOUT, StatusCode::OK]);
}

#[tokio::test]
async fn rapidly_reset_streams_are_limited() {
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&most);
    let slow = Router::new().route("/", get_slowly(running, counted));
    let server = Server::start(slow, patient()).await;
    let mut flood = preface();
    for number in 0..20_000 {
        let stream = 2 * number + 1;
        flood.extend(get(stream));
        flood.extend(frame(3, 0, stream, &8_u32.to_be_bytes()));
    }
    assert!(is_closed_after(&server, &flood).await, "the flood was taken for good");
    assert!(most.load(SeqCst) <= 128, "{} at once", most.load(SeqCst));
    let answer = client(&server).await.send_request(ask("/peer")).await.unwrap();
    assert_eq!(answer.status(), StatusCode::NOT_FOUND, "others are answered all the same");
}

/// A handler that counts how many of its calls run at once.
fn get_slowly(running: Arc<AtomicUsize>, most: Arc<AtomicUsize>) -> axum::routing::MethodRouter {
    struct Running(Arc<AtomicUsize>);
    impl Drop for Running {
        fn drop(&mut self) {
            self.0.fetch_sub(1, SeqCst);
        }
    }
    axum::routing::get(async move || {
        most.fetch_max(running.fetch_add(1, SeqCst) + 1, SeqCst);
        let _running = Running(running);
        tokio::time::sleep(Duration::from_secs(1)).await;
    })
}

#[tokio::test]
async fn floods_of_useless_frames_end_the_connection() {
    let server = Server::start(router(), patient()).await;
    const END_OF_HEADERS: u8 = 0x4;
    let open = frame(1, END_OF_HEADERS, 1, &[0x83, 0x86, 0x84, 0x41, 0x01, b'x']);
    let unfinished = frame(1, 0, 1, &[0x82, 0x86, 0x84]);
    // An unindexed header that never ends.
    let piece = [&[0x00, 0x01, b'a', 0x7f, 0x81, 0x7e][..], &[b'b'; 16_000]].concat();
    let floods = [
        ("empty data", [open, frame(0, 0, 1, &[]).repeat(50_000)].concat()),
        ("continuations", [unfinished, frame(9, 0, 1, &piece).repeat(100)].concat()),
        ("a frame that is too long", frame(0, 0, 1, &[0; 100_000])),
    ];
    for (what, flood) in floods {
        let bytes = [preface(), flood].concat();
        assert!(is_closed_after(&server, &bytes).await, "{what} kept the connection");
    }
    let answer = client(&server).await.send_request(ask("/peer")).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
}

#[tokio::test]
async fn http_1_smuggling_headers_are_rejected_in_http_2() {
    let server = Server::start(router(), hasty()).await;
    for (name, value) in
        [("transfer-encoding", "chunked"), ("connection", "close"), ("content-length", "5, 6")]
    {
        let literal = [&[0x00, u8::try_from(name.len()).unwrap()], name.as_bytes()].concat();
        let literal = [literal, vec![u8::try_from(value.len()).unwrap()], value.as_bytes().to_vec()].concat();
        let headers = [&[0x82, 0x86, 0x84, 0x41, 0x01, b'x'][..], &literal].concat();
        let bytes = [preface(), frame(1, 0x5, 1, &headers)].concat();
        let mut stream = server.connect().await;
        stream.write_all(&bytes).await.unwrap();
        let (mut all, mut piece) = (Vec::new(), [0; 4096]);
        let reset = async {
            while !all.windows(5).any(|window| window == [3, 0, 0, 0, 0]) {
                let read = stream.read(&mut piece).await.unwrap_or(0);
                assert!(read > 0, "{name}: closed without a reset: {all:?}");
                all.extend_from_slice(&piece[..read]);
            }
        };
        timeout(PATIENCE, reset).await.expect("a malformed request was not reset");
    }
}

/// Settings that let no byte of an answer through.
fn closed_window() -> Vec<u8> {
    const INITIAL_WINDOW: [u8; 2] = [0, 4];
    let settings = [&INITIAL_WINDOW[..], &0_u32.to_be_bytes()].concat();
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &frame(4, 0, 0, &settings)].concat()
}

#[tokio::test]
async fn a_flow_control_window_that_stays_closed_ends_the_connection() {
    let limits = ServeLimits { answer: Duration::from_millis(300), ..patient() };
    let server = Server::start(router(), limits).await;
    let mut request = get(1);
    // `:path` is the literal `/peer`, whose answer does not fit.
    request.splice(9.., [&[0x82, 0x86, 0x04, 5][..], b"/peer", &[0x41, 1, b'x']].concat());
    request[..3].copy_from_slice(&[0, 0, 12]);
    let bytes = [closed_window(), request].concat();
    let start = Instant::now();
    assert!(is_closed_after(&server, &bytes).await, "an answer that is let through by nobody is kept");
    // Otherwise the server closed it because this peer answers no pings.
    assert!(start.elapsed() < PATIENCE / 2, "it was kept for {:?}", start.elapsed());
}

#[tokio::test]
async fn a_slowly_produced_response_does_not_count_as_unread() {
    let limits = ServeLimits { answer: Duration::from_millis(100), ..hasty() };
    let server = Server::start(router(), limits).await;
    let answer = client(&server).await.send_request(ask("/stream")).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "tick ".repeat(6));
}

#[tokio::test]
async fn requests_waiting_for_their_bodies_give_way_to_newer_ones() {
    let server = Server::start(router(), ServeLimits { body: PATIENCE, ..patient() }).await;
    let stream = TokioIo::new(server.connect().await);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let never = || Body::from_stream(stream::pending::<Result<&'static str, io::Error>>());
    let mut waiting = Vec::new();
    for _ in 0..12 {
        let request = Request::post("http://x/").body(never()).unwrap();
        waiting.push(sender.send_request(request));
    }
    let complete = Request::post("http://x/").body(Body::from("abc")).unwrap();
    assert_eq!(sender.send_request(complete).await.unwrap().status(), StatusCode::OK);
    for answer in waiting.drain(..5) {
        assert_eq!(answer.await.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
    }
    for answer in waiting {
        assert!(timeout(Duration::from_millis(50), answer).await.is_err(), "one that fits was turned away");
    }
}
