//! The connection to the controller: the agent opens it, and all traffic uses it.

use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::{self, SendRequest};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::model::container::Secret;
use crate::model::credential::Credential;
use crate::model::view::ErrorView;
use crate::tls::AlpnProtocol;
use crate::tls::client::{ConnectError, Connector, Trust, is_local};

/// The timeout for connecting, and for the first byte of an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The interval of pings to the controller, also on an idle connection ...
const PING_EVERY: Duration = Duration::from_secs(5);
/// ... and the time for an answer. Together: a half-open connection is found within 15 s.
const PING_WITHIN: Duration = Duration::from_secs(10);
/// The flow-control window of a stream, in bytes: a pull over a line of 1 Gbit/s and 30 ms needs 4 MiB.
const STREAM_WINDOW: u32 = 4 << 20;
/// The window for all streams together.
const CONNECTION_WINDOW: u32 = 16 << 20;
/// The largest piece that the controller may send, in bytes.
const FRAME: u32 = 256 * 1024;
/// The longest refusal that is read, in bytes.
const LONGEST_REFUSAL: usize = 16 * 1024;

/// A body that is sent to the controller.
pub(super) type BoxBody = UnsyncBoxBody<Bytes, io::Error>;

/// The address of the controller, and the agent's credentials.
pub(super) struct ControllerServer {
    /// The host without the brackets of an IPv6 address.
    host: String,
    port: u16,
    /// Verifies the controller; `None`: the connection is without TLS.
    tls: Option<Connector>,
    /// `https://host:port`.
    url: String,
    token: Secret,
}

/// The reason why the configuration of the controller is unusable.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoServer {
    /// The address is invalid.
    #[error("--server must be http://host:port or https://host, such as https://ci.example.com")]
    Address,
    /// Everyone on the network path could read the token.
    #[error(
        "refusing to send the token to {host} unencrypted: use an `https://` address, or an SSH tunnel \
        to a local one"
    )]
    PlainToken {
        /// The host.
        host: String,
    },
    /// The token is invalid.
    #[error("invalid token: pass the complete token that `abide token create` prints on the controller")]
    Token,
    /// TLS cannot be set up.
    #[error("cannot set up the connection to the controller")]
    Tls(#[from] ConnectError),
}

impl ControllerServer {
    /// The controller at `url`. If the token has a pin, the pin identifies the controller's key. Otherwise
    /// the CA certificates in the file `ca` verify it, or those that this host trusts.
    ///
    /// # Errors
    /// Returns [`NoServer`].
    pub(super) fn new(url: &str, token: &Secret, ca: Option<&Path>) -> Result<Self, NoServer> {
        let url: hyper::Uri = url.trim_end_matches('/').parse().map_err(|_| NoServer::Address)?;
        let (is_plain, port) = match url.scheme_str() {
            Some("http") => (true, 80),
            Some("https") => (false, 443),
            _ => return Err(NoServer::Address),
        };
        let authority =
            url.authority().filter(|_| matches!(url.path(), "" | "/")).ok_or(NoServer::Address)?;
        let port = authority.port_u16().unwrap_or(port);
        let credential = Credential::parse(token.expose().trim()).ok_or(NoServer::Token)?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        if is_plain && !is_local(&host) {
            return Err(NoServer::PlainToken { host });
        }
        let trust = match (credential.pin(), ca) {
            (Some(pin), _) => Trust::Pin(pin),
            (None, Some(file)) => Trust::File(file.to_owned()),
            (None, None) => Trust::System,
        };
        let tls = if is_plain { None } else { Some(Connector::new(&trust, AlpnProtocol::Http2)?) };
        let scheme = if is_plain { "http" } else { "https" };
        Ok(Self {
            host,
            port,
            tls,
            url: format!("{scheme}://{}:{port}", authority.host()),
            token: credential.bearer(),
        })
    }

    /// The URL for messages.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Connects.
    pub(super) async fn dial(&self) -> io::Result<ControllerConnection> {
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the connection timed out");
        tokio::time::timeout(PATIENCE * 2, self.connect()).await.map_err(late)?
    }

    async fn connect(&self) -> io::Result<ControllerConnection> {
        match &self.tls {
            Some(connector) => {
                let stream = connector.connect(&self.host, self.port).await.map_err(io::Error::other)?;
                self.speak(stream).await
            }
            None => {
                let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
                stream.set_nodelay(true)?;
                self.speak(stream).await
            }
        }
    }

    async fn speak<S>(&self, stream: S) -> io::Result<ControllerConnection>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let spoken = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_WITHIN)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME)
            .handshake(TokioIo::new(stream))
            .await;
        let (sender, connection) = spoken.map_err(io::Error::other)?;
        let ended = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to the controller ended");
            }
        });
        let bearer = HeaderValue::try_from(format!("Bearer {}", self.token.expose()));
        let mut bearer = bearer.map_err(|_| io::Error::other("the token contains invalid characters"))?;
        bearer.set_sensitive(true);
        let asker = ControllerClient { sender, bearer, base: self.url.clone() };
        Ok(ControllerConnection { asker, _connection: HangUp(ended) })
    }
}

/// A connection, for as long as this lives.
pub(super) struct ControllerConnection {
    /// Sends requests on it.
    pub(super) asker: ControllerClient,
    _connection: HangUp,
}

struct HangUp(JoinHandle<()>);

impl Drop for HangUp {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Sends requests to the controller. Cheap to clone; requests do not wait for each other.
#[derive(Clone)]
pub(super) struct ControllerClient {
    sender: SendRequest<BoxBody>,
    bearer: HeaderValue,
    base: String,
}

/// The reason why the controller gave no usable answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    /// The controller refused the request.
    #[error("{}", .view.as_ref().map_or_else(|| format!("the controller answered {}", .status), |view| view.message.clone()))]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// The error document, if the answer comes from a controller.
        view: Option<ErrorView>,
    },
    /// The connection broke.
    #[error("the connection was interrupted")]
    Broken(#[source] hyper::Error),
    /// No answer arrived in time.
    #[error("no answer within {}", humantime::format_duration(PATIENCE))]
    Silent,
    /// The request is invalid.
    #[error("cannot build the request")]
    Unsendable(#[source] hyper::http::Error),
}

impl ControllerClient {
    /// Posts a document.
    pub(super) async fn post<T: Serialize>(
        &self,
        path: &str,
        document: &T,
    ) -> Result<Response<Incoming>, AskError> {
        // Documents of the link only have keys that JSON allows.
        let body = serde_json::to_vec(document).unwrap_or_default();
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        self.accepted(Method::POST, path, headers, full_body(body.into())).await
    }

    /// Sends a request that must be accepted.
    pub(super) async fn accepted(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: BoxBody,
    ) -> Result<Response<Incoming>, AskError> {
        let response = tokio::time::timeout(PATIENCE, self.ask(method, path, headers, body));
        let response = response.await.map_err(|_| AskError::Silent)??;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let refusal = http_body_util::Limited::new(response.into_body(), LONGEST_REFUSAL).collect();
        let refusal = tokio::time::timeout(PATIENCE, refusal).await.ok().and_then(Result::ok);
        let view = refusal.and_then(|refusal| serde_json::from_slice(&refusal.to_bytes()).ok());
        Err(AskError::Refused { status, view })
    }

    /// Sends a request, and returns any answer. There is no deadline: sending a body may take long.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: BoxBody,
    ) -> Result<Response<Incoming>, AskError> {
        let request = Request::builder().method(method).uri(format!("{}{path}", self.base)).body(body);
        let mut request = request.map_err(AskError::Unsendable)?;
        *request.headers_mut() = headers;
        request.headers_mut().insert(AUTHORIZATION, self.bearer.clone());
        let mut sender = self.sender.clone();
        sender.ready().await.map_err(AskError::Broken)?;
        sender.send_request(request).await.map_err(AskError::Broken)
    }
}

/// A complete body.
pub(super) fn full_body(bytes: Bytes) -> BoxBody {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// A streamed body.
pub(super) fn streamed<S>(pieces: S) -> BoxBody
where
    S: TryStream<Ok = Bytes, Error = io::Error> + Send + 'static,
    S: futures::Stream<Item = Result<Bytes, io::Error>>,
{
    StreamBody::new(futures::TryStreamExt::map_ok(pieces, Frame::data)).boxed_unsync()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::credential::Pin;

    #[test]
    fn a_controller_url_gets_its_schemes_port_and_may_have_no_path() {
        let token = Credential::new("0123456789ab".parse().unwrap(), [7; 32]).text();
        let url =
            |text: &str| ControllerServer::new(text, &token, None).map(|server| server.url().to_owned());
        assert_eq!(url("http://localhost").unwrap(), "http://localhost:80");
        assert_eq!(url("http://127.0.0.1:8080/").unwrap(), "http://127.0.0.1:8080");
        assert_eq!(url("http://[::1]").unwrap(), "http://[::1]:80");
        for wrong in ["ci.example.com", "ftp://x", "https://x/abide", "unix:/x", ""] {
            assert!(matches!(url(wrong), Err(NoServer::Address)), "{wrong}");
        }
    }

    #[test]
    fn no_token_is_sent_to_another_host_in_plain_text() {
        let credential = Credential::new("0123456789ab".parse().unwrap(), [7; 32]);
        let pinned = credential.clone().pinned(Pin::parse(&"A".repeat(43)).unwrap()).text();
        for token in [credential.text(), pinned] {
            for url in ["http://ci.example.com", "http://192.0.2.1:8080", "http://[2001:db8::1]"] {
                let refused = ControllerServer::new(url, &token, None).map(|server| server.url().to_owned());
                assert!(matches!(refused, Err(NoServer::PlainToken { .. })), "{url}");
            }
        }
    }

    #[test]
    fn the_authorities_file_is_read_unless_the_token_has_a_pin() {
        let missing = Path::new("/nowhere/authorities.pem");
        let credential = Credential::new("0123456789ab".parse().unwrap(), [7; 32]);
        let pinned = credential.clone().pinned(Pin::parse(&"A".repeat(43)).unwrap()).text();
        let refused = ControllerServer::new("https://ci.example.com", &credential.text(), Some(missing));
        assert!(matches!(refused.map(|_| ()), Err(NoServer::Tls(ConnectError::Authorities { .. }))));
        assert!(ControllerServer::new("https://ci.example.com", &pinned, Some(missing)).is_ok());
    }

    #[test]
    fn a_pinned_token_needs_no_authorities_and_a_malformed_one_is_rejected() {
        let credential = Credential::new("0123456789ab".parse().unwrap(), [7; 32]);
        let pinned = credential.pinned(Pin::parse(&"A".repeat(43)).unwrap()).text();
        assert_eq!(ControllerServer::new("https://[::1]", &pinned, None).unwrap().url(), "https://[::1]:443");
        for wrong in ["", "abide_x", "Bearer abide_0123456789ab_x"] {
            assert!(
                matches!(ControllerServer::new("http://x", &Secret::new(wrong), None), Err(NoServer::Token)),
                "{wrong}"
            );
        }
    }
}
