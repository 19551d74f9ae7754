//! The accept loop: HTTP over TCP, TLS and Unix sockets, with a limit on everything a peer controls.
//!
//! Headers and bodies have deadlines, and errors of `accept` are survived. Clients that have not proven
//! who they are share a budget of connections, and have to read their answers; the answers of others
//! have no deadline, so that a followed log or an event stream may last for days.

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
pub use admission::Standing;
pub use deadline::BodyDeadline;
use http::Served;
use progress::Progress;
pub use unix::{ServeError, bind_unix};
use wire::{Opened, Wire};

/// The pause after the first failed `accept`; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What a peer may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long a handshake may take, how long the headers of a request, and how long a connection may
    /// wait between two requests (10 s each).
    pub header_read: Duration,
    /// How long the body of a request may take, from its headers to its last byte (30 s).
    pub body: Duration,
    /// How long a client that has not proven who it is may leave an answer unread (15 s).
    pub answer: Duration,
    /// The memory that the connections of such clients may need, in units of 32 KiB: so many for HTTP/1.1,
    /// which takes one for each connection, as many for HTTP/2, which takes 24, and a third of it for
    /// webhooks that may be authentic (1,536). If there is none left, a connection of the network that
    /// holds most makes room for a new one.
    pub strangers: u32,
    /// How many connections clients may have that have proven who they are (3,072): an agent keeps one
    /// for as long as it lives.
    pub known: usize,
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
            answer: Duration::from_secs(15),
            strangers: 1_536,
            known: 3_072,
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
    serve(listener, Wire::Plain, router, limits, shutdown).await;
}

/// Serves `router` on a TCP socket with TLS; see [`serve_tcp`].
pub async fn serve_tls(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    router: Router,
    limits: Limits,
    shutdown: CancellationToken,
) {
    serve(listener, Wire::Tls(acceptor), router, limits, shutdown).await;
}

/// Serves `router` on a Unix socket; see [`serve_tcp`].
pub async fn serve_unix(listener: UnixListener, router: Router, limits: Limits, shutdown: CancellationToken) {
    serve(listener, Wire::Plain, router, limits, shutdown).await;
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

async fn serve<L: Listener>(
    listener: L,
    wire: Wire,
    router: Router,
    limits: Limits,
    shutdown: CancellationToken,
) {
    let admission = Admission::new(limits.strangers, limits.known);
    let connections = TaskTracker::new();
    while let Some((stream, peer)) = shutdown.run_until_cancelled(next(&listener, &admission)).await {
        let standing = admission.admit(&peer);
        let served = Served { peer, standing, router: router.clone(), limits, shutdown: shutdown.clone() };
        connections.spawn(connection(stream, wire.clone(), served));
    }
    // Closed first, so that nobody waits for an answer that will not come.
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
                // Such as no file descriptor being left, of which strangers hold some.
                let made_room = admission.evict();
                tracing::warn!(%error, ?pause, made_room, "no connection can be accepted");
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

/// Opens a connection within the time that headers have, and serves it. A handshake that takes long
/// keeps nobody else waiting: this is a task of its own.
async fn connection<S>(stream: S, wire: Wire, served: Served)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (shutdown, standing) = (served.shutdown.clone(), served.standing.clone());
    let stream = Progress::new(stream, standing.clone(), served.limits.answer);
    let opening = tokio::time::timeout(served.limits.header_read, wire.open(stream));
    let opened = tokio::select! {
        opened = opening => opened,
        () = shutdown.cancelled() => return,
        () = standing.evicted() => return,
    };
    let peer = served.peer;
    let serving = async {
        match opened {
            Ok(Ok((Opened::Plain(stream), version))) => served.serve(stream, version).await,
            Ok(Ok((Opened::Tls(stream), version))) => served.serve(stream, version).await,
            // A peer can cause it at will, so it is no line of the usual log.
            Ok(Err(error)) => tracing::debug!(%error, ?peer, "no connection was made of it"),
            Err(_) => {}
        }
    };
    tokio::select! {
        () = serving => {}
        () = standing.evicted() => tracing::debug!(?peer, "closed to make room for others"),
    }
}
