//! The accept loop: HTTP over TCP, TLS and Unix sockets, with a limit on everything that a peer
//! controls.
//!
//! Headers and bodies have deadlines, and errors of `accept` do not end the loop. Unauthenticated
//! clients share a budget of connections and have to read their answers in time. Answers to other
//! clients have no deadline, so that a followed log or an event stream can last for days.

mod admission;
mod busy;
mod deadline;
mod http;
mod progress;
mod unix;
mod wire;

#[cfg(test)]
pub(in crate::api) mod tests;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use admission::Admission;
pub use admission::AdmissionGuard;
pub use deadline::BodyDeadline;
use http::HttpConnection;
use progress::ProgressGuard;
pub use unix::{ServeError, bind_unix};
use wire::{OpenedStream, Wire};

/// The pause after the first failed `accept`; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Limits on the resources of peers.
#[derive(Clone, Copy, Debug)]
pub struct ServeLimits {
    /// The time limit for a handshake, for the headers of a request, and for an idle connection
    /// between two requests (10 s each).
    pub header_read: Duration,
    /// The time limit for the body of a request, from its headers to its last byte (30 s).
    pub body: Duration,
    /// How long an unauthenticated client may leave an answer unread (15 s).
    pub answer: Duration,
    /// The memory for connections of unauthenticated clients, in units of 32 KiB (1,536). HTTP/1.1
    /// may use this number of units, one per connection; HTTP/2 may use the same number, 24 per
    /// connection; possibly authentic webhooks may use a third of it, and networks that
    /// have authenticated before another third. If no unit is left, a connection of the network that
    /// holds the most is closed to make room for a new one.
    pub strangers: u32,
    /// The maximum number of connections of authenticated clients (3,072). Each agent keeps one
    /// open.
    pub known: usize,
    /// The maximum number of headers in a request (100).
    pub headers: usize,
    /// The maximum length of the request line and the headers together, in bytes (32 KiB).
    pub header_bytes: usize,
    /// How long connections may take to end after the shutdown has begun (5 s).
    pub grace: Duration,
}

impl Default for ServeLimits {
    fn default() -> Self {
        Self {
            header_read: Duration::from_secs(10),
            body: Duration::from_secs(30),
            answer: Duration::from_secs(15),
            strangers: 1_536,
            known: 3_072,
            headers: 100,
            header_bytes: 32 * 1024,
            grace: Duration::from_secs(5),
        }
    }
}

/// The peer of a connection; an extension of every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The user ID that the kernel reports for a Unix socket.
    pub uid: Option<u32>,
    /// The address of a TCP connection.
    pub address: Option<SocketAddr>,
}

/// Serves `router` on a TCP socket until `shutdown` is cancelled and the connections have ended, or
/// the grace period is over.
pub async fn serve_tcp(
    listener: TcpListener,
    router: Router,
    limits: ServeLimits,
    shutdown: CancellationToken,
) {
    serve(listener, Wire::Plain, router, limits, shutdown).await;
}

/// Serves `router` on a TCP socket with TLS; see [`serve_tcp`].
pub async fn serve_tls(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    router: Router,
    limits: ServeLimits,
    shutdown: CancellationToken,
) {
    serve(listener, Wire::Tls(acceptor), router, limits, shutdown).await;
}

/// Serves `router` on a Unix socket; see [`serve_tcp`].
pub async fn serve_unix(
    listener: UnixListener,
    router: Router,
    limits: ServeLimits,
    shutdown: CancellationToken,
) {
    serve(listener, Wire::Plain, router, limits, shutdown).await;
}

/// The common interface of both kinds of sockets.
trait Listener: Send {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn accept_one(&self) -> impl Future<Output = io::Result<(Self::Stream, Peer)>> + Send;
}

impl Listener for TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn accept_one(&self) -> io::Result<(Self::Stream, Peer)> {
        let (stream, address) = self.accept().await?;
        // A failure here costs only latency.
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

async fn serve<L: Listener>(
    listener: L,
    wire: Wire,
    router: Router,
    limits: ServeLimits,
    shutdown: CancellationToken,
) {
    let admission = Admission::new(limits.strangers, limits.known);
    let connections = TaskTracker::new();
    while let Some((stream, peer)) = shutdown.run_until_cancelled(next(&listener, &admission)).await {
        let standing = admission.admit(&peer);
        let served =
            HttpConnection { peer, standing, router: router.clone(), limits, shutdown: shutdown.clone() };
        connections.spawn(connection(stream, wire.clone(), served));
    }
    // The listener closes first, so that no client waits for an answer that will not come.
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// Accepts the next connection.
async fn next<L: Listener>(listener: &L, admission: &Admission) -> (L::Stream, Peer) {
    let mut pause = FIRST_PAUSE;
    loop {
        match listener.accept_one().await {
            Ok(accepted) => return accepted,
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                // For example, no file descriptor is left, and unauthenticated clients hold some.
                let made_room = admission.evict();
                tracing::warn!(%error, ?pause, made_room, "failed to accept a connection");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// The peer disconnected before the accept, so a pause is unnecessary.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Opens a connection within the time limit of headers, and serves it. It runs as a separate task,
/// so that a slow handshake does not delay other connections.
async fn connection<S>(stream: S, wire: Wire, served: HttpConnection)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (shutdown, standing) = (served.shutdown.clone(), served.standing.clone());
    let stream = ProgressGuard::new(stream, standing.clone(), served.limits.answer);
    let opening = tokio::time::timeout(served.limits.header_read, wire.open(stream));
    let opened = tokio::select! {
        opened = opening => opened,
        () = shutdown.cancelled() => return,
        () = standing.evicted() => return,
    };
    let peer = served.peer;
    let serving = async {
        match opened {
            Ok(Ok((OpenedStream::Plain(stream), version))) => served.serve(stream, version).await,
            Ok(Ok((OpenedStream::Tls(stream), version))) => served.serve(stream, version).await,
            // A peer can cause this at will, so it is not logged by default.
            Ok(Err(error)) => tracing::debug!(%error, ?peer, "client closed before the handshake finished"),
            Err(_) => {}
        }
    };
    tokio::select! {
        () = serving => {}
        () = standing.evicted() => tracing::debug!(?peer, "closed to free a connection slot"),
    }
}
