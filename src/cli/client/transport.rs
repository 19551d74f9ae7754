//! Transports of the API: a Unix socket, TCP, or a router in this process.

use std::path::PathBuf;
use std::time::Duration;

use axum::body::Body;
use hyper::client::conn::http1;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tower::ServiceExt as _;

use super::ClientError;
use super::address::HttpAddress;
use crate::tls::client::{ConnectError, Connector};

/// Without this limit, a host that drops packets would block the command for minutes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The slowest request is a plan, for which the daemon queries git and the engine.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// The way to the API.
#[derive(Clone, Debug)]
pub(crate) enum ApiTransport {
    /// The daemon's socket.
    Unix(PathBuf),
    /// The daemon's TCP port.
    Http(HttpAddress),
    /// The same with TLS.
    Https(HttpAddress, Connector),
    /// The same API within this process, if no daemon runs.
    InProcess(axum::Router),
}

impl ApiTransport {
    /// The server, for messages.
    pub(crate) fn place(&self) -> String {
        match self {
            Self::Unix(path) => path.display().to_string(),
            Self::Http(address) => format!("http://{}{}", address.authority, address.prefix),
            Self::Https(address, _) => format!("https://{}{}", address.authority, address.prefix),
            Self::InProcess(_) => "the record".to_owned(),
        }
    }

    /// The `Host` header; a socket has a fixed one.
    pub(crate) fn authority(&self) -> &str {
        match self {
            Self::Http(address) | Self::Https(address, _) => &address.authority,
            Self::Unix(_) | Self::InProcess(_) => "localhost",
        }
    }

    /// The path prefix.
    pub(crate) fn prefix(&self) -> &str {
        match self {
            Self::Http(address) | Self::Https(address, _) => &address.prefix,
            Self::Unix(_) | Self::InProcess(_) => "",
        }
    }

    /// Sends `request`. The body of the answer may still be arriving when this returns.
    ///
    /// # Errors
    /// [`ClientError`] if the server is unreachable or does not answer in time.
    pub(crate) async fn send(&self, request: Request<Body>) -> Result<Response<Body>, ClientError> {
        let answer = match self {
            Self::InProcess(router) => return Ok(ask_router(router.clone(), request).await),
            Self::Unix(path) => {
                let stream = self.connected(UnixStream::connect(path)).await?;
                timeout(ANSWER_TIMEOUT, exchange(stream, request)).await
            }
            Self::Http(address) => {
                let stream = self.connected(TcpStream::connect((&*address.host, address.port))).await?;
                timeout(ANSWER_TIMEOUT, exchange(stream, request)).await
            }
            Self::Https(address, connector) => {
                let stream = connector.connect(&address.host, address.port).await;
                let stream = stream.map_err(|error| self.unconnected(error))?;
                timeout(ANSWER_TIMEOUT, exchange(stream, request)).await
            }
        };
        match answer {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(source)) => Err(ClientError::Exchange { place: self.place(), source }),
            Err(_) => Err(self.silent(ANSWER_TIMEOUT)),
        }
    }

    async fn connected<S>(
        &self,
        connecting: impl Future<Output = std::io::Result<S>>,
    ) -> Result<S, ClientError> {
        match timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(source)) => Err(ClientError::Unreachable { place: self.place(), source }),
            Err(_) => Err(self.silent(CONNECT_TIMEOUT)),
        }
    }

    fn unconnected(&self, error: ConnectError) -> ClientError {
        match error {
            ConnectError::Unreachable(source) => ClientError::Unreachable { place: self.place(), source },
            ConnectError::Silent => self.silent(CONNECT_TIMEOUT),
            source => ClientError::Insecure { place: self.place(), source },
        }
    }

    fn silent(&self, after: Duration) -> ClientError {
        ClientError::Silent { place: self.place(), seconds: after.as_secs() }
    }
}

async fn ask_router(router: axum::Router, request: Request<Body>) -> Response<Body> {
    match router.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// One connection per request: the daemon is near, so keep-alive would gain nothing.
async fn exchange<S>(stream: S, request: Request<Body>) -> Result<Response<Body>, hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "the connection ended early");
        }
    });
    let response = sender.send_request(request).await?;
    Ok(response.map(Body::new))
}
