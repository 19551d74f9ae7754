//! How a request reaches the API: over a socket, over TCP, or within this process.

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

/// A host that drops packets would else keep us for minutes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The slowest question is a plan, for which the daemon asks git and the engine.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Where requests go.
#[derive(Clone, Debug)]
pub(crate) enum Transport {
    /// The daemon's socket.
    Unix(PathBuf),
    /// The daemon's TCP port.
    Http(HttpAddress),
    /// The same with TLS.
    Https(HttpAddress, Connector),
    /// The same API, in this process, where no daemon runs.
    InProcess(axum::Router),
}

impl Transport {
    /// The place, for people.
    pub(crate) fn place(&self) -> String {
        match self {
            Self::Unix(path) => path.display().to_string(),
            Self::Http(address) => format!("http://{}{}", address.authority, address.prefix),
            Self::Https(address, _) => format!("https://{}{}", address.authority, address.prefix),
            Self::InProcess(_) => "the record".to_owned(),
        }
    }

    /// The `Host` header; a socket has none of its own.
    pub(crate) fn authority(&self) -> &str {
        match self {
            Self::Http(address) | Self::Https(address, _) => &address.authority,
            Self::Unix(_) | Self::InProcess(_) => "localhost",
        }
    }

    /// The path before every other.
    pub(crate) fn prefix(&self) -> &str {
        match self {
            Self::Http(address) | Self::Https(address, _) => &address.prefix,
            Self::Unix(_) | Self::InProcess(_) => "",
        }
    }

    /// Sends `request`; its answer's body may still be on its way.
    ///
    /// # Errors
    /// [`ClientError`] where nobody is there or no answer comes in time.
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

/// One connection a request: the daemon is near, and nothing has to be kept alive.
async fn exchange<S>(stream: S, request: Request<Body>) -> Result<Response<Body>, hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "the connection ended early");
        }
    });
    let response = sender.send_request(request).await?;
    Ok(response.map(Body::new))
}
