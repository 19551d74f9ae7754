//! One request on its own connection. abide calls other hosts rarely, so no connection is kept open.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{HOST, PROXY_AUTHORIZATION};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::reach::{Allowed, is_private};
use super::{Opened, SendError};
use crate::model::error::chain;
use crate::tls::AlpnProtocol;
use crate::tls::client::{Connector, Stream, Trust};
use crate::tls::proxy::Proxy;

/// The timeout of connecting to one address. A host may have another one that answers.
const CONNECT: Duration = Duration::from_secs(5);

/// Sends `request` to the host of its URL, through the environment's proxy if there is one.
pub(super) async fn open(
    request: Request<Full<Bytes>>,
    allowed: Allowed,
    authorities: &[PathBuf],
) -> Result<Opened, SendError> {
    let uri = request.uri().clone();
    allowed.check_scheme(&uri).map_err(SendError::NotAllowed)?;
    let authority = uri.authority().ok_or_else(|| SendError::Url("it has no host".to_owned()))?;
    if authority.as_str().contains('@') {
        return Err(SendError::Url("it contains credentials".to_owned()));
    }
    let host = authority.host().trim_matches(['[', ']']).to_owned();
    let is_plain = uri.scheme_str() == Some("http");
    let port = uri.port_u16().unwrap_or(if is_plain { 80 } else { 443 });
    let proxy = Proxy::of(if is_plain { "http" } else { "https" }, &host, port);
    let (stream, is_private) = match &proxy {
        Some(proxy) => through(proxy, &host, port, is_plain, allowed).await?,
        None => {
            let (stream, address) = connect(&host, port, allowed).await?;
            (stream, is_private(address.ip()))
        }
    };
    let response = if is_plain {
        exchange(stream, request, proxy.as_ref()).await?
    } else {
        let stream = connector(authorities, AlpnProtocol::Http1).await?.secure(&host, stream).await;
        exchange(stream.map_err(|error| SendError::Failed(chain(&error)))?, request, None).await?
    };
    Ok(Opened { response, is_plain, is_private })
}

/// A connection through a proxy, and whether it leads to a private address. It leads to the proxy itself if
/// the proxy forwards requests, and is a tunnel otherwise. The proxy resolves names, so their addresses are
/// only checked as far as this host can resolve them.
async fn through(
    proxy: &Proxy,
    host: &str,
    port: u16,
    is_plain: bool,
    allowed: Allowed,
) -> Result<(TcpStream, bool), SendError> {
    let found = tokio::net::lookup_host((host, port)).await;
    let is_private = found.is_ok_and(|mut found| found.any(|address| is_private(address.ip())));
    if is_private && !allowed.private {
        return Err(not_public(host));
    }
    let stream = if is_plain { proxy.connect().await } else { proxy.tunnel(host, port).await };
    Ok((stream.map_err(|error| SendError::Failed(error.to_string()))?, is_private))
}

/// Connects to the first reachable address among those that are allowed. It connects to the addresses that it
/// checked, so that the name cannot change its address in between.
async fn connect(host: &str, port: u16, allowed: Allowed) -> Result<(TcpStream, SocketAddr), SendError> {
    let found = tokio::net::lookup_host((host, port)).await;
    let found = found.map_err(|error| SendError::Failed(error.to_string()))?;
    let mut failed = not_public(host);
    for address in found.filter(|address| allowed.includes(address.ip())) {
        match tokio::time::timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok((stream, address)),
            Ok(Err(error)) => failed = SendError::Failed(error.to_string()),
            Err(_) => failed = SendError::Failed(format!("{address} does not respond")),
        }
    }
    Err(failed)
}

/// Connects to `host:port` for a protocol other than HTTP, in a tunnel if the environment names a proxy for TLS.
/// `host` is a name, or an address without brackets.
pub(super) async fn dial(host: &str, port: u16, allowed: Allowed) -> Result<TcpStream, SendError> {
    match Proxy::of("https", host, port) {
        Some(proxy) => Ok(through(&proxy, host, port, false, allowed).await?.0),
        None => Ok(connect(host, port, allowed).await?.0),
    }
}

/// Encrypts a connection to `host` for a protocol other than HTTP.
pub(super) async fn secure(host: &str, stream: TcpStream) -> Result<Stream, SendError> {
    let stream = connector(&[], AlpnProtocol::Other).await?.secure(host, stream).await;
    stream.map_err(|error| SendError::Failed(chain(&error)))
}

fn not_public(host: &str) -> SendError {
    SendError::NotAllowed(format!("{host} has no public address"))
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    mut request: Request<Full<Bytes>>,
    proxy: Option<&Proxy>,
) -> Result<Response<Incoming>, SendError> {
    let uri = request.uri().clone();
    let authority = uri.authority().map(hyper::http::uri::Authority::as_str).unwrap_or_default();
    let host = authority.parse().map_err(|_| SendError::Url("it has no host".to_owned()))?;
    request.headers_mut().insert(HOST, host);
    if let Some(proxy) = proxy {
        // A forwarding proxy needs the full URL of a request.
        let credentials = proxy.credentials().map(|credentials| (PROXY_AUTHORIZATION, credentials.clone()));
        request.headers_mut().extend(credentials);
    } else {
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = path.parse::<Uri>().map_err(|error| SendError::Url(error.to_string()))?;
    }
    let failed = |error: hyper::Error| SendError::Failed(chain(&error));
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    // The task ends with the body, read or dropped.
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(failed)
}

/// Trusts the authorities of this host and those in `authorities`.
async fn connector(authorities: &[PathBuf], protocol: AlpnProtocol) -> Result<Connector, SendError> {
    let trust = Trust::SystemAnd(authorities.to_vec());
    // This reads files, which may be slow.
    let made = tokio::task::spawn_blocking(move || Connector::new(&trust, protocol)).await;
    let made =
        made.map_err(|_| SendError::Failed("cannot read the CA certificates of this host".to_owned()))?;
    made.map_err(|error| SendError::Failed(chain(&error)))
}
