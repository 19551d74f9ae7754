//! HTTP on one connection, with a limit on everything that its peer controls.

use std::convert::Infallible;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderValue, Request, header};
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::busy::Activity;
use super::deadline::Deadline;
use super::wire::Version;
use super::{Limits, Peer};

/// How many requests one connection of HTTP/2 may have under way. An agent has a few, and one for
/// each layer that its engine pulls.
const STREAMS: u32 = 128;
/// A peer of HTTP/2 that is gone without a word is found within 15 s: it is pinged when nothing came
/// for the first time, and has the second to answer.
const PING_EVERY: Duration = Duration::from_secs(5);
const PONG_WITHIN: Duration = Duration::from_secs(10);

/// Serves `router` on a connection until it ends, or `shutdown` and the grace are over.
pub(super) async fn serve<S>(
    stream: S,
    version: Version,
    peer: Peer,
    router: Router,
    limits: Limits,
    shutdown: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let ended = match version {
        Version::Http1 => serve_http1(stream, peer, router, limits, shutdown).await,
        Version::Http2 => serve_http2(stream, peer, router, limits, shutdown).await,
    };
    if let Err(error) = ended {
        // A peer can cause it at will, so it is no line of the usual log.
        tracing::debug!(%error, ?peer, "connection ended");
    }
}

async fn serve_http1<S>(
    stream: S,
    peer: Peer,
    router: Router,
    limits: Limits,
    shutdown: CancellationToken,
) -> hyper::Result<()>
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
    tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(limits.grace, connection).await.unwrap_or(Ok(()))
        }
    }
}

async fn serve_http2<S>(
    stream: S,
    peer: Peer,
    router: Router,
    limits: Limits,
    shutdown: CancellationToken,
) -> hyper::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let activity = Activity::default();
    let on_request = activity.clone();
    let service = service_fn(move |request| {
        let busy = on_request.begin();
        let answer = answer(router.clone(), peer, limits.body, request);
        async move { answer.await.map(|response| busy.until_sent(response)) }
    });
    // Resets beyond hyper's own limits end the connection: of streams that were not looked at yet
    // (20), and of those that were wrong (1,024).
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PONG_WITHIN)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = shutdown.cancelled() => {}
        () = activity.idle_for(limits.header_read) => {}
    }
    connection.as_mut().graceful_shutdown();
    tokio::time::timeout(limits.grace, connection).await.unwrap_or(Ok(()))
}

/// Hands a request to the router, with its peer, and a deadline for its body.
async fn answer(
    router: Router,
    peer: Peer,
    deadline: Duration,
    request: Request<Incoming>,
) -> Result<Response, Infallible> {
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
