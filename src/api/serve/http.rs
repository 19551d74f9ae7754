//! HTTP on one connection, with a limit on everything that its peer controls.

use std::convert::Infallible;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderValue, Request, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::admission::AdmissionGuard;
use super::busy::RequestCounter;
use super::deadline::Deadline;
use super::wire::HttpVersion;
use super::{Peer, ServeLimits};

/// The maximum number of concurrent requests on one HTTP/2 connection. An agent has a few, and one
/// for each layer that its engine pulls.
const STREAMS: u32 = 128;
/// The maximum number of unanswered requests of an unauthenticated client; each holds a head and
/// the beginning of a body.
pub(super) const UNANSWERED: usize = 8;
/// The receive window of HTTP/2, in bytes.
const WINDOW: u32 = 256 * 1024;
/// The ping interval of HTTP/2. A vanished peer is detected within 15 s: a ping is sent after an
/// interval without data, and has to be answered within [`PONG_WITHIN`].
const PING_EVERY: Duration = Duration::from_secs(5);
const PONG_WITHIN: Duration = Duration::from_secs(10);

/// A connection to serve.
pub(super) struct HttpConnection {
    pub(super) peer: Peer,
    pub(super) standing: AdmissionGuard,
    pub(super) router: Router,
    pub(super) limits: ServeLimits,
    /// Stops the connection.
    pub(super) shutdown: CancellationToken,
}

impl HttpConnection {
    /// Serves the router on a connection until it ends, or until `shutdown` and the grace period
    /// are over.
    pub(super) async fn serve<S>(self, stream: S, version: HttpVersion)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let peer = self.peer;
        let ended = match version {
            HttpVersion::Http1 => self.serve_http1(stream).await,
            HttpVersion::Http2 => self.serve_http2(stream).await,
        };
        if let Err(error) = ended {
            // A peer can cause this at will, so it is not logged by default.
            tracing::debug!(%error, ?peer, "connection ended");
        }
    }

    async fn serve_http1<S>(self, stream: S) -> hyper::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (limits, shutdown) = (self.limits, self.shutdown.clone());
        let service = service_fn(move |request| self.answer(request));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_read)
            .max_headers(limits.headers)
            .max_header_size(limits.header_bytes)
            // The buffer in each direction, at least 8 KiB.
            .max_buf_size(limits.header_bytes.max(8 * 1024))
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut connection = pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => ended,
            () = shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::time::timeout(limits.grace, connection).await.unwrap_or(Ok(()))
            }
        }
    }

    async fn serve_http2<S>(self, stream: S) -> hyper::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (limits, shutdown, standing) = (self.limits, self.shutdown.clone(), self.standing.clone());
        let activity = RequestCounter::default();
        let on_request = activity.clone();
        let service = service_fn(move |request| self.answer_or_give_way(&on_request, request));
        // Resets beyond hyper's own limits end the connection: 20 for streams not accepted yet,
        // 1,024 for invalid streams.
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PONG_WITHIN)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => return ended,
            () = shutdown.cancelled() => {}
            () = activity.idle_for(limits.header_read) => {}
            // An orderly end would have to wait for the peer again.
            () = stalled(&activity, &standing, limits.answer) => return Ok(()),
        }
        connection.as_mut().graceful_shutdown();
        tokio::time::timeout(limits.grace, connection).await.unwrap_or(Ok(()))
    }

    /// Answers a request, unless newer requests of an unauthenticated client displace it.
    fn answer_or_give_way(
        &self,
        activity: &RequestCounter,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response, Infallible>> + use<> {
        let is_known = self.standing.is_proven();
        let busy = activity.begin((!is_known).then_some(UNANSWERED));
        if !is_known && !busy.is_first() {
            self.standing.multiplexes();
        }
        let (answer, displaced) = (self.answer(request), busy.displaced());
        async move {
            let response = tokio::select! {
                biased;
                response = answer => response?,
                () = displaced.cancelled() => too_many(),
            };
            Ok(busy.until_sent(response))
        }
    }

    /// Passes a request to the router, with its peer and a deadline for its body.
    fn answer(
        &self,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response, Infallible>> + use<> {
        // If a request has both a length and chunks, hyper uses the chunks and drops the length,
        // but a proxy may have used the length. Closing the connection prevents a next request that
        // the two would split differently.
        let is_chunked = request.headers().contains_key(header::TRANSFER_ENCODING);
        let mut request = request.map(|body| Deadline::new(body, self.limits.body));
        let handle = request.body().handle();
        request.extensions_mut().insert(handle);
        request.extensions_mut().insert(self.peer);
        request.extensions_mut().insert(self.standing.clone());
        let answer = self.router.clone().oneshot(request);
        async move {
            let mut response = answer.await?;
            if is_chunked {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(response)
        }
    }
}

/// Returns once an unauthenticated client leaves an answer unread for too long.
async fn stalled(activity: &RequestCounter, standing: &AdmissionGuard, limit: Duration) {
    activity.stalled_for(limit).await;
    if standing.is_proven() {
        std::future::pending::<()>().await;
    }
}

/// The answer to a displaced request.
fn too_many() -> Response {
    let retry = [(header::RETRY_AFTER, HeaderValue::from_static("5"))];
    (StatusCode::SERVICE_UNAVAILABLE, retry, "too many requests at once on this connection\n").into_response()
}
