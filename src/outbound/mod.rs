//! Requests to other hosts over HTTP: registries, forges, chat services, certificate authorities.
//!
//! [`Client`] uses the environment's proxies, limits time and length of every answer, and can refuse private
//! addresses when it connects. It follows redirects only within one host, because another host must get
//! neither headers nor body.

mod connection;
mod reach;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue, LOCATION, USER_AGENT};
use hyper::{HeaderMap, Method, Response, StatusCode, Uri};
use tokio::net::TcpStream;

use crate::tls::client::Stream;
pub use reach::Allowed;
pub(crate) use reach::shown;

/// The user agent of abide.
pub const AGENT: &str = concat!("abide/", env!("CARGO_PKG_VERSION"));
/// The deadline of a request, unless it names another one.
const DEADLINE: Duration = Duration::from_secs(15);
/// The longest answer in bytes, unless a request names another length.
const LONGEST_ANSWER: usize = 1 << 20;
/// The maximum number of followed redirects.
const REDIRECTS: usize = 3;

/// Sends requests. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    allowed: Allowed,
    authorities: Vec<PathBuf>,
}

/// A request with its limits.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The URL: `https://` or `http://`.
    pub url: Uri,
    /// The headers. `Host` and, unless it is set, `User-Agent` are added.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// The deadline of the whole answer.
    pub deadline: Duration,
    /// The longest answer in bytes; a longer one is an error.
    pub longest_answer: usize,
}

/// A whole answer, whatever its status.
#[derive(Clone, Debug)]
pub struct FullResponse {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

/// An answer whose body has not been read.
pub(crate) struct Opened {
    pub(crate) response: Response<Incoming>,
    /// Whether it came without TLS.
    pub(crate) is_plain: bool,
    /// Whether it came from an address that is not public.
    pub(crate) is_private: bool,
}

/// A failed request, as a clause. It names no more of the URL than its host, because the rest may be secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The URL or a header is invalid.
    #[error("invalid URL: {0}")]
    Url(String),
    /// The URL or the address of its host is not allowed.
    #[error("{0}")]
    NotAllowed(String),
    /// It redirects to another host, or too often.
    #[error("{0}")]
    Redirected(String),
    /// The request could not be sent, or the answer broke off.
    #[error("{0}")]
    Failed(String),
    /// The answer did not arrive in time.
    #[error("no answer within {}", humantime::format_duration(*.0))]
    Late(Duration),
    /// The answer is too long.
    #[error("its response exceeds {0} bytes")]
    TooLong(usize),
}

impl Request {
    /// A request with an empty body.
    pub fn new(method: Method, url: Uri) -> Self {
        let (headers, body) = (HeaderMap::new(), Bytes::new());
        Self { method, url, headers, body, deadline: DEADLINE, longest_answer: LONGEST_ANSWER }
    }

    /// The same request with this header.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// The same request with this body.
    #[must_use]
    pub fn with_body(self, body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..self }
    }
}

impl Default for Client {
    /// A client that may reach every address, and trusts the authorities of this host.
    fn default() -> Self {
        Self { allowed: Allowed::ANY, authorities: Vec::new() }
    }
}

impl Client {
    /// The same client, which reaches only these addresses.
    #[must_use]
    pub fn allowing(self, allowed: Allowed) -> Self {
        Self { allowed, ..self }
    }

    /// The same client, which also trusts the authorities in these PEM files.
    #[must_use]
    pub fn trusting(self, authorities: Vec<PathBuf>) -> Self {
        Self { authorities, ..self }
    }

    /// Sends a request and reads the whole answer. Follows redirects to the same scheme, host and port.
    ///
    /// # Errors
    /// Returns [`SendError`] if there is no complete answer. An answer of any status counts as a success.
    pub async fn send(&self, request: Request) -> Result<FullResponse, SendError> {
        let (deadline, longest) = (request.deadline, request.longest_answer);
        let answer = async { read(self.follow(request).await?.response, longest).await };
        tokio::time::timeout(deadline, answer).await.unwrap_or(Err(SendError::Late(deadline)))
    }

    async fn follow(&self, request: Request) -> Result<Opened, SendError> {
        let mut url = request.url.clone();
        for _ in 0..=REDIRECTS {
            let opened = self.open(request.to(&url)?).await?;
            let Some(next) = target(&request.method, &url, &opened.response)? else { return Ok(opened) };
            url = next;
        }
        Err(SendError::Redirected(format!("it redirects more than {REDIRECTS} times")))
    }

    /// Sends one request and follows no redirect. The caller limits time and length of the answer.
    pub(crate) async fn open(&self, request: hyper::Request<Full<Bytes>>) -> Result<Opened, SendError> {
        connection::open(request, self.allowed, &self.authorities).await
    }
}

impl Request {
    fn to(&self, url: &Uri) -> Result<hyper::Request<Full<Bytes>>, SendError> {
        let request = hyper::Request::builder().method(&self.method).uri(url);
        let mut request =
            request.body(Full::new(self.body.clone())).map_err(|error| SendError::Url(error.to_string()))?;
        *request.headers_mut() = self.headers.clone();
        request.headers_mut().entry(USER_AGENT).or_insert(HeaderValue::from_static(AGENT));
        Ok(request)
    }
}

/// Connects to `host:port` for a protocol other than HTTP, through the environment's proxy if there is one.
/// `host` is a name, or an address without brackets.
///
/// # Errors
/// Returns [`SendError`] if no allowed address of the host answers.
pub async fn dial(host: &str, port: u16, allowed: Allowed) -> Result<TcpStream, SendError> {
    connection::dial(host, port, allowed).await
}

/// Encrypts a connection to `host`, whose certificate an authority of this host's list must have signed.
///
/// # Errors
/// Returns [`SendError`] if the certificate is rejected or the handshake fails.
pub async fn secure(host: &str, stream: TcpStream) -> Result<Stream, SendError> {
    connection::secure(host, stream).await
}

/// Reads the whole body of an answer.
pub(crate) async fn read(response: Response<Incoming>, longest: usize) -> Result<FullResponse, SendError> {
    let (head, body) = response.into_parts();
    let body = Limited::new(body, longest).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() {
            SendError::TooLong(longest)
        } else {
            SendError::Failed(format!("its response was interrupted: {error}"))
        }
    })?;
    Ok(FullResponse { status: head.status, headers: head.headers, body: body.to_bytes() })
}

/// The URL that an answer redirects to, if the request is to be repeated there. A `POST` is only repeated if
/// the answer requires the same method.
fn target(method: &Method, url: &Uri, response: &Response<Incoming>) -> Result<Option<Uri>, SendError> {
    let is_repeated = match response.status() {
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => true,
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => [Method::GET, Method::HEAD].contains(method),
        _ => false,
    };
    let Some(location) = response.headers().get(LOCATION).filter(|_| is_repeated) else { return Ok(None) };
    let unreadable = || SendError::Redirected("it redirects to an invalid address".to_owned());
    let next: Uri = location.to_str().ok().and_then(|text| text.parse().ok()).ok_or_else(unreadable)?;
    let next = if next.authority().is_some() {
        next
    } else {
        let mut parts = url.clone().into_parts();
        parts.path_and_query = next.into_parts().path_and_query;
        Uri::from_parts(parts).map_err(|_| unreadable())?
    };
    if (next.scheme(), next.authority()) != (url.scheme(), url.authority()) {
        return Err(SendError::Redirected(format!("it redirects to {}", shown(&next))));
    }
    Ok(Some(next))
}
