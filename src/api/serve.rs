//! The accept loop: HTTP over TCP, TLS and Unix sockets, with a limit on everything a peer controls.
//!
//! Headers and bodies have deadlines, connections are counted, and errors of `accept` are survived.
//! Responses have none, so that a followed log or an event stream may last for days.

mod busy;
mod deadline;
mod http;
mod share;
mod unix;
mod wire;

#[cfg(test)]
pub(in crate::api) mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use deadline::BodyDeadline;
use share::{Share, Shares};
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
    /// How many connections there may be at once (4,096): an agent keeps one for as long as it lives.
    /// More of them wait in the kernel's queue.
    pub connections: usize,
    /// How many of them one address on another machine may have (half of all); more are closed. A
    /// proxy in front is one address.
    pub of_one_address: usize,
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
            connections: 4_096,
            of_one_address: 2_048,
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
    let slots = Arc::new(Semaphore::new(limits.connections.clamp(1, Semaphore::MAX_PERMITS)));
    let room = Room { slots, shares: Shares::new(limits.of_one_address) };
    let connections = TaskTracker::new();
    while let Some(Some((stream, peer, place))) = shutdown.run_until_cancelled(next(&listener, &room)).await {
        let connection = connection(stream, wire.clone(), peer, router.clone(), limits, shutdown.clone());
        connections.spawn(async move {
            connection.await;
            drop(place);
        });
    }
    // Closed first, so that nobody waits for an answer that will not come.
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// Where there is room for connections.
struct Room {
    slots: Arc<Semaphore>,
    shares: Shares,
}

/// The room that a connection takes, until it is dropped.
type Place = (OwnedSemaphorePermit, Share);

/// The next connection, once there is room for it.
async fn next<L: Listener>(listener: &L, room: &Room) -> Option<(L::Stream, Peer, Place)> {
    let slot = Arc::clone(&room.slots).acquire_owned().await.ok()?;
    let mut pause = FIRST_PAUSE;
    loop {
        match listener.accept_one().await {
            Ok((stream, peer)) => match room.shares.take(&peer) {
                Some(share) => return Some((stream, peer, (slot, share))),
                // To wait would keep others waiting too, behind it in the kernel's queue.
                None => tracing::debug!(?peer, "closed: its address has too many connections"),
            },
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

/// Opens a connection within the time that headers have, and serves it. A handshake that takes long
/// keeps nobody else waiting: this is a task of its own.
async fn connection<S>(
    stream: S,
    wire: Wire,
    peer: Peer,
    router: Router,
    limits: Limits,
    shutdown: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let opening = tokio::time::timeout(limits.header_read, wire.open(stream));
    let Some(Ok(opened)) = shutdown.run_until_cancelled(opening).await else { return };
    match opened {
        Ok((Opened::Plain(stream), version)) => {
            http::serve(stream, version, peer, router, limits, shutdown).await;
        }
        Ok((Opened::Tls(stream), version)) => {
            http::serve(stream, version, peer, router, limits, shutdown).await;
        }
        // A peer can cause it at will, so it is no line of the usual log.
        Err(error) => tracing::debug!(%error, ?peer, "no connection was made of it"),
    }
}
