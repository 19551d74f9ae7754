//! The accept loop: HTTP/1.1 over TCP and Unix sockets, with a limit on everything a peer controls.
//!
//! Headers and bodies have deadlines, connections are counted, and errors of `accept` are survived.
//! Responses have none, so that a followed log or an event stream may last for days.

mod deadline;
mod unix;

#[cfg(test)]
pub(in crate::api) mod tests;

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderValue, Request, header};
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

pub use deadline::BodyDeadline;
use deadline::Deadline;
pub use unix::{ServeError, bind_unix};

/// The pause after the first failed `accept`; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What a peer may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long the headers of a request may take, and how long a connection may wait between two
    /// requests (10 s).
    pub header_read: Duration,
    /// How long the body of a request may take, from its headers to its last byte (30 s).
    pub body: Duration,
    /// How many connections there may be at once (1,024). More of them wait in the kernel's queue.
    pub connections: usize,
    /// How many headers a request may have (100).
    pub headers: usize,
    /// How long the request line and the headers may be together, in bytes (32 KiB).
    pub header_bytes: usize,
    /// How long connections may take to end once the shutdown has begun (5 s).
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_read: Duration::from_secs(10),
            body: Duration::from_secs(30),
            connections: 1_024,
            headers: 100,
            header_bytes: 32 * 1024,
            grace: Duration::from_secs(5),
        }
    }
}

/// Who is at the other end of a connection; an extension of every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The user, as the kernel tells it of a Unix socket.
    pub uid: Option<u32>,
    /// The address of a TCP connection.
    pub address: Option<SocketAddr>,
}

/// Serves `router` on a TCP socket until `shutdown` is cancelled and the connections have ended, or
/// their grace is over.
pub async fn serve_tcp(listener: TcpListener, router: Router, limits: Limits, shutdown: CancellationToken) {
    serve(listener, router, limits, shutdown).await;
}

/// Serves `router` on a Unix socket; see [`serve_tcp`].
pub async fn serve_unix(listener: UnixListener, router: Router, limits: Limits, shutdown: CancellationToken) {
    serve(listener, router, limits, shutdown).await;
}

/// What both kinds of sockets have in common.
trait Listener: Send {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn accept_one(&self) -> impl Future<Output = io::Result<(Self::Stream, Peer)>> + Send;
}

impl Listener for TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn accept_one(&self) -> io::Result<(Self::Stream, Peer)> {
        let (stream, address) = self.accept().await?;
        // Only latency is at stake where the socket refuses this.
        let _ = stream.set_nodelay(true);
        Ok((stream, Peer { uid: None, address: Some(address) }))
    }
}

impl Listener for UnixListener {
    type Stream = tokio::net::UnixStream;

    async fn accept_one(&self) -> io::Result<(Self::Stream, Peer)> {
        let (stream, _) = self.accept().await?;
        let uid = stream.peer_cred().ok().map(|peer| peer.uid());
        Ok((stream, Peer { uid, address: None }))
    }
}

async fn serve<L: Listener>(listener: L, router: Router, limits: Limits, shutdown: CancellationToken) {
    let slots = Arc::new(Semaphore::new(limits.connections.clamp(1, Semaphore::MAX_PERMITS)));
    let connections = TaskTracker::new();
    while let Some(Some((stream, peer, slot))) = shutdown.run_until_cancelled(next(&listener, &slots)).await {
        let connection = connection(stream, peer, router.clone(), limits, shutdown.clone());
        connections.spawn(async move {
            connection.await;
            drop(slot);
        });
    }
    // Closed first, so that nobody waits for an answer that will not come.
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// The next connection, once there is room for it.
async fn next<L: Listener>(
    listener: &L,
    slots: &Arc<Semaphore>,
) -> Option<(L::Stream, Peer, OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.ok()?;
    let mut pause = FIRST_PAUSE;
    loop {
        match listener.accept_one().await {
            Ok((stream, peer)) => return Some((stream, peer, slot)),
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                // Such as no file descriptor being left: it passes when connections end.
                tracing::warn!(%error, ?pause, "no connection can be accepted");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// The peer was gone before it was accepted: no reason to pause.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

async fn connection<S>(stream: S, peer: Peer, router: Router, limits: Limits, shutdown: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| answer(router.clone(), peer, limits.body, request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_read)
        .max_headers(limits.headers)
        .max_header_size(limits.header_bytes)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(limits.grace, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        // A peer can cause it at will, so it is no line of the usual log.
        tracing::debug!(%error, ?peer, "connection ended");
    }
}

/// Hands a request to the router, with its peer, and a deadline for its body.
async fn answer(
    router: Router,
    peer: Peer,
    deadline: Duration,
    request: Request<Incoming>,
) -> Result<Response, std::convert::Infallible> {
    // Where a length stands beside the chunks, hyper goes by the chunks and drops the length, but a
    // proxy in front may have gone by the length. Closing leaves no next request to disagree about.
    let is_chunked = request.headers().contains_key(header::TRANSFER_ENCODING);
    let mut request = request.map(|body| Deadline::new(body, deadline));
    let handle = request.body().handle();
    request.extensions_mut().insert(handle);
    request.extensions_mut().insert(peer);
    let mut response = router.oneshot(request).await?;
    if is_chunked {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}
