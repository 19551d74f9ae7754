//! The registry as this host's own Docker Engine reaches it: on the loopback address, which engines trust
//! without configuration, and from there through the link to the controller.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::server::{BoxBody, ControllerClient, full_body};

/// How long a request waits for a link that is down: an interruption of a second should delay a pull by no
/// more than that second. Engines wait longer for the first byte of a registry.
const WAIT_FOR_LINK: Duration = Duration::from_secs(30);
/// Headers of a request that are forwarded to the registry.
const ASKED: [HeaderName; 5] =
    [header::ACCEPT, header::RANGE, header::IF_NONE_MATCH, header::IF_RANGE, header::USER_AGENT];
/// Hop-by-hop headers, which are not forwarded.
const OF_ONE_HOP: [HeaderName; 4] =
    [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE, header::TE];
/// The pause after a failed accept.
const PAUSE: Duration = Duration::from_millis(500);

/// Serves the registry to this host.
pub(super) struct Tunnel {
    listener: TcpListener,
    address: SocketAddr,
    link: watch::Receiver<Option<ControllerClient>>,
}

impl Tunnel {
    /// Listens on a port of the loopback address; zero: any that is free.
    pub(super) async fn bind(
        port: u16,
        link: watch::Receiver<Option<ControllerClient>>,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address, link })
    }

    /// The prefix of the names of images that are pulled through it.
    pub(super) fn registry(&self) -> String {
        self.address.to_string()
    }

    /// Serves until stopped.
    pub(super) async fn run(self, stop: CancellationToken) {
        let tasks = TaskTracker::new();
        while let Some(accepted) = stop.run_until_cancelled(self.listener.accept()).await {
            match accepted {
                Ok((stream, _)) => {
                    let serving = serve(stream, self.address, self.link.clone());
                    let stop = stop.clone();
                    tasks.spawn(async move { stop.run_until_cancelled(serving).await });
                }
                Err(error) => {
                    warn!(%error, "cannot accept a connection to the registry");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        tasks.close();
        tasks.wait().await;
    }
}

async fn serve(stream: TcpStream, address: SocketAddr, link: watch::Receiver<Option<ControllerClient>>) {
    let service = service_fn(move |request| {
        let link = link.clone();
        async move { Ok::<_, Infallible>(answer(request, address, link).await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(30))
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = serving.await {
        debug!(%error, "a connection to the registry ended");
    }
}

async fn answer(
    request: Request<Incoming>,
    address: SocketAddr,
    link: watch::Receiver<Option<ControllerClient>>,
) -> Response<BoxBody> {
    if let Some(refusal) = refusal(&request, address) {
        return refusal;
    }
    if matches!(request.uri().path(), "/v2" | "/v2/") {
        return respond(StatusCode::OK, "{}");
    }
    let Some(asker) = up(link).await else {
        return respond(
            StatusCode::SERVICE_UNAVAILABLE,
            "the controller is unreachable, so its registry is \
            too",
        );
    };
    let path = request.uri().path_and_query().map_or("/v2/", |path| path.as_str());
    let asked = request.headers().iter().filter(|(name, _)| ASKED.contains(name));
    let headers = asked.map(|(name, value)| (name.clone(), value.clone())).collect();
    match asker.ask(request.method().clone(), path, headers, full_body(Default::default())).await {
        Ok(response) => passed_on(response),
        Err(error) => {
            debug!(%error, "a registry request failed");
            respond(StatusCode::BAD_GATEWAY, "cannot reach the registry through the controller")
        }
    }
}

/// Only pulls, and only from this host itself, are allowed: a web page that reaches the address under
/// another host name is not an engine.
fn refusal(request: &Request<Incoming>, address: SocketAddr) -> Option<Response<BoxBody>> {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let local = [address.to_string(), format!("localhost:{}", address.port())];
    if !local.iter().any(|local| local == host) {
        return Some(respond(
            StatusCode::FORBIDDEN,
            "this registry is only for the Docker Engine of this host",
        ));
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Some(respond(
            StatusCode::METHOD_NOT_ALLOWED,
            "this registry is read-only: push to the \
            controller's registry",
        ));
    }
    let path = request.uri().path();
    (path != "/v2" && !path.starts_with("/v2/")).then(|| {
        respond(
            StatusCode::NOT_FOUND,
            "only paths below \
        /v2/ exist",
        )
    })
}

/// The link, once it is up.
async fn up(mut link: watch::Receiver<Option<ControllerClient>>) -> Option<ControllerClient> {
    let up = tokio::time::timeout(WAIT_FOR_LINK, link.wait_for(Option::is_some)).await;
    up.ok()?.ok()?.clone()
}

fn passed_on(response: Response<Incoming>) -> Response<BoxBody> {
    let (mut parts, body) = response.into_parts();
    parts.version = hyper::Version::HTTP_11;
    OF_ONE_HOP.iter().for_each(|name| drop(parts.headers.remove(name)));
    Response::from_parts(parts, body.map_err(std::io::Error::other).boxed_unsync())
}

fn respond(status: StatusCode, words: &'static str) -> Response<BoxBody> {
    let mut response = Response::new(full_body(words.into()));
    *response.status_mut() = status;
    let headers = [("docker-distribution-api-version", "registry/2.0"), ("content-type", "application/json")];
    let headers =
        headers.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
    response.headers_mut().extend(HeaderMap::from_iter(headers));
    response
}
