//! One request on its own connection. Registry queries are rare, so no connection is kept open.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{HOST, PROXY_AUTHORIZATION};
use hyper::{HeaderMap, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::reach::{self, Reach};
use crate::model::error::chain;
use crate::tls::Protocol;
use crate::tls::client::{Connector, Trust};
use crate::tls::proxy::Proxy;

/// The longest answer that is read, in bytes: registries accept no longer manifests.
const LONGEST_ANSWER: usize = 4 << 20;
/// Docker's folder for certificates of registries, with a subfolder for each host.
const CERTIFICATES: &str = "/etc/docker/certs.d";

/// A complete answer.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// The scheme and kind of address that it came from.
    pub(super) reach: Reach,
}

/// Sends `request` to the host of its URL, and reads the whole answer. See [`open`].
///
/// # Errors
/// Returns the failure, as a clause.
pub(super) async fn ask(request: Request<Full<Bytes>>, from: Option<Reach>) -> Result<Answer, String> {
    let (reach, answer) = open(request, from).await?;
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, LONGEST_ANSWER).collect().await;
    let body = body.map_err(|error| format!("its answer broke off: {error}"))?.to_bytes();
    Ok(Answer { status: head.status, headers: head.headers, body, reach })
}

/// Sends `request` to the host of its URL, through the environment's proxy if there is one. The caller reads
/// the answer's body as it arrives. `from` limits the allowed addresses; `None` allows any address, because
/// the URL comes from the manifest or the record.
///
/// # Errors
/// Returns the failure, as a clause.
pub(super) async fn open(
    request: Request<Full<Bytes>>,
    from: Option<Reach>,
) -> Result<(Reach, Response<Incoming>), String> {
    let uri = request.uri().clone();
    if let Some(from) = from {
        from.check_scheme(&uri)?;
    }
    let host = uri.host().ok_or("its address names no host")?.trim_matches(['[', ']']).to_owned();
    let is_plain = uri.scheme_str() == Some("http");
    let port = uri.port_u16().unwrap_or(if is_plain { 80 } else { 443 });
    let proxy = Proxy::of(if is_plain { "http" } else { "https" }, &host, port);
    let (stream, is_private) = match &proxy {
        Some(proxy) => through(proxy, &host, port, is_plain, from).await?,
        None => {
            let (stream, address) = connect(&host, port, from).await?;
            (stream, reach::is_private(address.ip()))
        }
    };
    let reach = Reach { is_plain, is_private };
    if is_plain {
        return Ok((reach, exchange(stream, request, proxy.as_ref()).await?));
    }
    let authority = uri.authority().map(|authority| authority.as_str().to_owned()).unwrap_or_default();
    let connector = connector(&authority).await?;
    let stream = connector.secure(&host, stream).await.map_err(|error| chain(&error))?;
    Ok((reach, exchange(stream, request, None).await?))
}

/// A connection through a proxy, and whether it leads to a private address. It leads to the proxy itself if
/// the proxy forwards requests, and is a tunnel otherwise. The proxy resolves names, so their addresses are
/// only checked as far as this host can resolve them.
async fn through(
    proxy: &Proxy,
    host: &str,
    port: u16,
    is_plain: bool,
    from: Option<Reach>,
) -> Result<(TcpStream, bool), String> {
    let found = tokio::net::lookup_host((host, port)).await;
    let is_private = found.is_ok_and(|mut found| found.any(|address| reach::is_private(address.ip())));
    if is_private && from.is_some_and(|from| !from.is_private) {
        return Err(format!("{host} has no address that it may send us to"));
    }
    let stream = if is_plain { proxy.connect().await } else { proxy.tunnel(host, port).await };
    Ok((stream.map_err(|error| error.to_string())?, is_private))
}

/// Connects to the first reachable address among those that are allowed. It connects to the addresses that it
/// checked, so that the name cannot change its address in between.
async fn connect(host: &str, port: u16, from: Option<Reach>) -> Result<(TcpStream, SocketAddr), String> {
    let found = tokio::net::lookup_host((host, port)).await.map_err(|error| error.to_string())?;
    let mut why = format!("{host} has no address that it may send us to");
    for address in found.filter(|address| from.is_none_or(|from| from.allows(address.ip()))) {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok((stream, address)),
            Err(error) => why = error.to_string(),
        }
    }
    Err(why)
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    mut request: Request<Full<Bytes>>,
    proxy: Option<&Proxy>,
) -> Result<Response<Incoming>, String> {
    let uri = request.uri().clone();
    let authority = uri.authority().map(hyper::http::uri::Authority::as_str).unwrap_or_default();
    let host = authority.parse().map_err(|_| "its address names no host".to_owned())?;
    request.headers_mut().insert(HOST, host);
    if let Some(proxy) = proxy {
        // A forwarding proxy needs the full URL of a request.
        request
            .headers_mut()
            .extend(proxy.credentials().map(|credentials| (PROXY_AUTHORIZATION, credentials.clone())));
    } else {
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = path.parse::<Uri>().map_err(|error| error.to_string())?;
    }
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| chain(&error))?;
    // The task ends with the body, read or dropped.
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(|error| chain(&error))
}

/// The certificates that this host trusts, plus those for this registry only, as in Docker.
async fn connector(authority: &str) -> Result<Connector, String> {
    let folder = Path::new(CERTIFICATES).join(authority);
    // This reads files, which may be slow.
    let made = tokio::task::spawn_blocking(move || {
        Connector::new(&Trust::SystemAnd(certificates_in(&folder)), Protocol::Http1)
    });
    let made = made.await.map_err(|_| "the certificates of this machine cannot be read".to_owned())?;
    made.map_err(|error| chain(&error))
}

/// The `*.crt` files of a folder; empty if the folder is missing.
fn certificates_in(folder: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files.map(|file| file.path()).filter(|path| path.extension().is_some_and(|end| end == "crt")).collect()
}
