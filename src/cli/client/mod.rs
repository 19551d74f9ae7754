//! Client of the API: one method per request.

mod address;
pub(crate) mod sse;
#[cfg(test)]
mod tests;
mod transport;

use std::io;

use axum::body::{Body, Bytes};
use futures::{StreamExt as _, stream::BoxStream};
use hyper::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, HeaderValue, UPGRADE};
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) use address::{Address, HttpAddress};
pub(crate) use transport::ApiTransport;

use super::exit::CliExit;
use super::output::text::{one_line, shorten};
use crate::model::access::Token;
use crate::model::attach::{AttachRequest, PROTOCOL};
use crate::model::container::Secret;
use crate::model::credential::Credential;
use crate::model::event::Event;
use crate::model::job::JobView;
use crate::model::name::{ChannelName, EnvironmentName, JobName};
use crate::model::outbox::OutboxItem;
use crate::model::reading;
use crate::model::usage::ResourceUsage;
use crate::model::view::{
    EnvironmentView, ErrorView, EvidenceView, GroupView, HistoryView, IssuedToken, LoginLink, OutboxRetried,
    Overview, PlanView, RecordChange, TestSent, WaitView,
};
use crate::tls::client::ConnectError;

/// The longest answer read into memory, in bytes.
const LONGEST_ANSWER: usize = 256 * 1024 * 1024;
/// The number of characters shown of an answer that does not come from abide.
const SHOWN_OF_FOREIGN_ANSWER: usize = 200;

/// Why a request got no usable answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// `--server` is not a valid address.
    #[error("invalid address in --server or ABIDE_SERVER: {reason}")]
    Address {
        /// The problem.
        reason: &'static str,
    },
    /// Anyone on the network path could read the token.
    #[error(
        "refusing to send the token to {place} unencrypted: use an `https://` address, or an SSH tunnel \
        to a local one"
    )]
    PlainToken {
        /// The server.
        place: String,
    },
    /// The connection could not verify the daemon; nothing was sent.
    #[error("cannot connect securely to {place}")]
    Insecure {
        /// The server.
        place: String,
        /// The cause.
        source: ConnectError,
    },
    /// The daemon requires a token, and none was sent.
    #[error("{place} requires a token: set ABIDE_TOKEN or --token-file")]
    NoToken {
        /// The server.
        place: String,
    },
    /// The daemon rejected the token.
    #[error("{place} rejected the token: unknown, expired or revoked")]
    BadToken {
        /// The server.
        place: String,
    },
    /// The token has characters that an HTTP header cannot carry.
    #[error("the token in ABIDE_TOKEN contains invalid characters")]
    Token,
    /// The command needs a daemon, and none listens on the socket.
    #[error("no daemon answers on {place}, and `{verb}` needs one: start it with `abide daemon`")]
    NeedsDaemon {
        /// The command.
        verb: &'static str,
        /// The socket.
        place: String,
    },
    /// The socket exists, but this user has no permission to use it.
    #[error(
        "permission denied on the daemon's socket {place}: run as root, or join its group (`sudo usermod \
        --append --groups {group} $USER`, then log in again)"
    )]
    NotInGroup {
        /// The socket.
        place: String,
        /// The group that owns it, by name if it has one.
        group: String,
    },
    /// Nothing listens, or the way there is blocked.
    #[error("cannot reach the daemon at {place}; is it running?")]
    Unreachable {
        /// The server.
        place: String,
        /// The cause.
        source: io::Error,
    },
    /// The server did not answer in time.
    #[error("no answer from {place} within {seconds} s")]
    Silent {
        /// The server.
        place: String,
        /// The timeout in seconds.
        seconds: u64,
    },
    /// The connection broke before an answer arrived.
    #[error(
        "the connection to {place} was interrupted; run the command again, and check the daemon's log if it repeats"
    )]
    Exchange {
        /// The server.
        place: String,
        /// The cause.
        source: hyper::Error,
    },
    /// The connection broke within the answer.
    #[error(
        "the response of {place} was interrupted; run the command again, and check the daemon's log if it repeats"
    )]
    Body {
        /// The server.
        place: String,
        /// The cause.
        source: axum::Error,
    },
    /// The daemon refused the request.
    #[error("{}", view.message)]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The daemon's error.
        view: ErrorView,
    },
    /// The server is not abide.
    #[error("{place} does not seem to be abide: it answered {status}: {text}")]
    Foreign {
        /// The server.
        place: String,
        /// The HTTP status.
        status: StatusCode,
        /// The beginning of its answer.
        text: String,
    },
    /// The answer has a format unknown to this version.
    #[error(
        "cannot read the response of {place}: {problem}. Is the daemon a different version? Compare `abide --version`"
    )]
    Shape {
        /// The server.
        place: String,
        /// The mismatch.
        problem: String,
    },
    /// The stream of events is malformed.
    #[error("cannot follow the events of {place}")]
    Stream {
        /// The server.
        place: String,
        /// The cause.
        source: sse::TooLong,
    },
}

impl ClientError {
    /// The exit code of this error.
    pub(crate) fn exit(&self) -> CliExit {
        match self {
            Self::Address { .. } | Self::Token | Self::PlainToken { .. } => CliExit::Usage,
            Self::Insecure { source, .. } if source.is_passing() => CliExit::Unreachable,
            Self::NeedsDaemon { .. }
            | Self::NotInGroup { .. }
            | Self::Unreachable { .. }
            | Self::Silent { .. }
            | Self::Exchange { .. }
            | Self::Body { .. } => CliExit::Unreachable,
            Self::Refused { status: 400 | 404 | 422, .. } => CliExit::Usage,
            Self::Refused { status: 503, view } if view.error == "no-daemon" => CliExit::Unreachable,
            Self::Insecure { .. }
            | Self::NoToken { .. }
            | Self::BadToken { .. }
            | Self::Refused { .. }
            | Self::Foreign { .. }
            | Self::Shape { .. }
            | Self::Stream { .. } => CliExit::No,
        }
    }

    /// Whether a retry may help, for example because the daemon is restarting.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Refused { status, .. } => *status >= 500,
            Self::Foreign { status, .. } => status.is_server_error(),
            other => other.exit() == CliExit::Unreachable,
        }
    }
}

/// The connection to a command in a container.
pub(crate) type AttachStream = TokioIo<Upgraded>;

/// Sends requests to the API.
#[derive(Clone, Debug)]
pub(crate) struct ApiClient {
    transport: ApiTransport,
    authorization: Option<HeaderValue>,
}

impl ApiClient {
    /// Creates a client that sends `token` with every request.
    ///
    /// # Errors
    /// [`ClientError::Token`] if the token does not fit into a header.
    pub(crate) fn new(transport: ApiTransport, token: Option<&Secret>) -> Result<Self, ClientError> {
        let authorization = token.map(bearer).transpose()?;
        Ok(Self { transport, authorization })
    }

    /// Returns all environments.
    pub(crate) async fn overview(&self) -> Result<Overview, ClientError> {
        self.get("/environments").await
    }

    /// Returns one environment.
    pub(crate) async fn environment(&self, name: &EnvironmentName) -> Result<EnvironmentView, ClientError> {
        self.get(&format!("/environments/{name}")).await
    }

    /// Returns the progress towards a goal; `query` names the goal as a URL query.
    pub(crate) async fn wait(&self, name: &EnvironmentName, query: &str) -> Result<WaitView, ClientError> {
        self.get(&format!("/environments/{name}/wait?{query}")).await
    }

    /// Returns one environment with the global warnings.
    pub(crate) async fn overview_of(&self, name: &EnvironmentName) -> Result<Overview, ClientError> {
        self.get(&format!("/environments?environment={name}")).await
    }

    /// Returns the group of this name; `None`: it is an environment.
    pub(crate) async fn group(&self, name: &EnvironmentName) -> Result<Option<GroupView>, ClientError> {
        let overview = self.overview_of(name).await?;
        Ok(overview.groups.into_iter().find(|group| group.group.as_str() == name.as_str()))
    }

    /// Returns the evidence about the images of an environment, and the state of its promotions.
    pub(crate) async fn evidence(&self, name: &EnvironmentName) -> Result<EvidenceView, ClientError> {
        self.get(&format!("/environments/{name}/evidence")).await
    }

    /// Returns the generations of an environment, newest first.
    pub(crate) async fn history(&self, name: &EnvironmentName) -> Result<Vec<HistoryView>, ClientError> {
        self.get(&format!("/environments/{name}/history")).await
    }

    /// Returns the steps that the daemon would take for an environment now.
    pub(crate) async fn plan(&self, name: &EnvironmentName) -> Result<PlanView, ClientError> {
        self.get(&format!("/environments/{name}/plan")).await
    }

    /// Returns the resource usage of an environment's container; `None` if nothing runs.
    pub(crate) async fn usage(&self, name: &EnvironmentName) -> Result<Option<ResourceUsage>, ClientError> {
        self.get(&format!("/environments/{name}/stats")).await
    }

    /// Returns the newest `limit` events after event `after`, of one environment or of all, oldest
    /// first.
    pub(crate) async fn events(
        &self,
        name: Option<&EnvironmentName>,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Vec<Event>, ClientError> {
        let folder = name.map_or_else(String::new, |name| format!("/environments/{name}"));
        let after = after.map_or_else(String::new, |sequence| format!("&after={sequence}"));
        let mut events: Vec<Event> = self.get(&format!("{folder}/events?limit={limit}{after}")).await?;
        events.sort_by_key(|event| event.sequence);
        Ok(events)
    }

    /// Updates the record of an environment by the command `verb`.
    pub(crate) async fn act(
        &self,
        name: &EnvironmentName,
        verb: &str,
        body: &impl Serialize,
    ) -> Result<RecordChange, ClientError> {
        self.post(&format!("/environments/{name}/{verb}"), body).await
    }

    /// Requests a reconcile of every environment.
    pub(crate) async fn sync_all(&self) -> Result<Vec<RecordChange>, ClientError> {
        self.post("/sync", &serde_json::json!({})).await
    }

    /// Creates a one-time link to the web page.
    pub(crate) async fn login_link(&self) -> Result<LoginLink, ClientError> {
        self.post("/login", &serde_json::json!({})).await
    }

    /// Streams the whole record as the JSON text that `import` accepts.
    pub(crate) async fn export(&self) -> Result<BoxStream<'static, Result<Bytes, ClientError>>, ClientError> {
        self.parts("/export").await
    }

    /// Replaces the record with an exported one; returns the daemon's answer.
    pub(crate) async fn import(&self, export: Body) -> Result<serde_json::Value, ClientError> {
        let answer = self.fetch(Method::POST, "/import", export).await?;
        if answer.is_empty() { Ok(serde_json::Value::Null) } else { self.decode(&answer) }
    }

    /// Creates a token.
    pub(crate) async fn create_token(&self, wanted: &impl Serialize) -> Result<IssuedToken, ClientError> {
        self.post("/tokens", wanted).await
    }

    /// Returns everything that is not delivered to forges and channels.
    pub(crate) async fn outbox(&self) -> Result<Vec<OutboxItem>, ClientError> {
        self.get("/outbox").await
    }

    /// Sends failed items again.
    pub(crate) async fn retry_outbox(&self, request: &impl Serialize) -> Result<OutboxRetried, ClientError> {
        self.post("/outbox/retry", request).await
    }

    /// Sends a test message to a channel.
    pub(crate) async fn test_channel(
        &self,
        channel: &ChannelName,
        request: &impl Serialize,
    ) -> Result<TestSent, ClientError> {
        self.post(&format!("/notify/{channel}/test"), request).await
    }

    /// Returns all tokens.
    pub(crate) async fn tokens(&self) -> Result<Vec<Token>, ClientError> {
        self.get("/tokens").await
    }

    /// Revokes the token with this ID or name.
    pub(crate) async fn revoke_token(&self, which: &str) -> Result<Token, ClientError> {
        let answer = self.fetch(Method::DELETE, &format!("/tokens/{which}"), Body::empty()).await?;
        self.decode(&answer)
    }

    /// Streams the output of a container or a build; `query` is a URL query, or empty.
    pub(crate) async fn logs(
        &self,
        name: &EnvironmentName,
        query: &str,
    ) -> Result<BoxStream<'static, Result<Bytes, ClientError>>, ClientError> {
        self.parts(&format!("/environments/{name}/logs?{query}")).await
    }

    /// Returns all jobs.
    pub(crate) async fn jobs(&self) -> Result<Vec<JobView>, ClientError> {
        self.get("/jobs").await
    }

    /// Returns one job with its latest runs.
    pub(crate) async fn job(&self, job: &JobName) -> Result<JobView, ClientError> {
        self.get(&format!("/jobs/{job}")).await
    }

    /// Streams the output of the last run of a job; `query` is a URL query, or empty.
    pub(crate) async fn job_logs(
        &self,
        job: &JobName,
        query: &str,
    ) -> Result<BoxStream<'static, Result<Bytes, ClientError>>, ClientError> {
        self.parts(&format!("/jobs/{job}/logs?{query}")).await
    }

    /// Starts a command in a container of an environment.
    pub(crate) async fn attach(
        &self,
        name: &EnvironmentName,
        request: &AttachRequest,
    ) -> Result<AttachStream, ClientError> {
        let body = serde_json::to_vec(request).map_err(|error| self.misshapen(reading::words(&error)))?;
        let path = format!("/environments/{name}/attach");
        let mut request = self.request(Method::POST, &path, Body::from(body))?;
        request.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        request.headers_mut().insert(UPGRADE, HeaderValue::from_static(PROTOCOL));
        let response = self.transport.send(request).await?;
        let status = response.status();
        if status != StatusCode::SWITCHING_PROTOCOLS {
            let text = self.read(response.into_body()).await?;
            return Err(self.refusal(status, &text));
        }
        let place = self.transport.place();
        let upgraded = hyper::upgrade::on(response).await;
        upgraded.map(TokioIo::new).map_err(|source| ClientError::Exchange { place, source })
    }

    /// Opens the stream of events.
    pub(crate) async fn watch(&self) -> Result<EventStream, ClientError> {
        let body = self.accepted(Method::GET, "/watch", Body::empty()).await?;
        let pieces = body.into_data_stream().boxed();
        Ok(EventStream { place: self.transport.place(), pieces, parser: sse::Parser::default() })
    }

    /// Streams an answer as it arrives.
    async fn parts(&self, path: &str) -> Result<BoxStream<'static, Result<Bytes, ClientError>>, ClientError> {
        let body = self.accepted(Method::GET, path, Body::empty()).await?;
        let place = self.transport.place();
        let pieces = body.into_data_stream();
        Ok(pieces.map(move |piece| piece.map_err(|error| broke_off(&place, error))).boxed())
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let answer = self.fetch(Method::GET, path, Body::empty()).await?;
        self.decode(&answer)
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| self.misshapen(reading::words(&error)))?;
        let answer = self.fetch(Method::POST, path, Body::from(body)).await?;
        self.decode(&answer)
    }

    async fn fetch(&self, method: Method, path: &str, body: Body) -> Result<Bytes, ClientError> {
        let answer = self.accepted(method, path, body).await?;
        self.read(answer).await
    }

    /// Sends a request and checks the status of the answer.
    async fn accepted(&self, method: Method, path: &str, body: Body) -> Result<Body, ClientError> {
        let request = self.request(method, path, body)?;
        tracing::debug!(method = %request.method(), uri = %request.uri(), place = %self.transport.place(), "asking");
        let response = self.transport.send(request).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(response.into_body());
        }
        let text = self.read(response.into_body()).await?;
        Err(self.refusal(status, &text))
    }

    fn request(&self, method: Method, path: &str, body: Body) -> Result<Request<Body>, ClientError> {
        let uri = format!("{}/api/v1{path}", self.transport.prefix());
        let mut request = Request::builder()
            .method(method)
            .uri(uri)
            .header(HOST, self.transport.authority())
            .header(CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(|_| ClientError::Address { reason: "the path is too long for a URL" })?;
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization.clone());
        }
        Ok(request)
    }

    async fn read(&self, body: Body) -> Result<Bytes, ClientError> {
        let bytes = axum::body::to_bytes(body, LONGEST_ANSWER).await;
        bytes.map_err(|error| broke_off(&self.transport.place(), error))
    }

    fn refusal(&self, status: StatusCode, text: &[u8]) -> ClientError {
        if let Ok(view) = serde_json::from_slice::<ErrorView>(text) {
            if status == StatusCode::UNAUTHORIZED && view.error == "unauthorized" {
                let place = self.transport.place();
                return match self.authorization {
                    Some(_) => ClientError::BadToken { place },
                    None => ClientError::NoToken { place },
                };
            }
            return ClientError::Refused { status: status.as_u16(), view };
        }
        let text = shorten(&one_line(&String::from_utf8_lossy(text)), SHOWN_OF_FOREIGN_ANSWER);
        ClientError::Foreign { place: self.transport.place(), status, text }
    }

    fn decode<T: DeserializeOwned>(&self, answer: &[u8]) -> Result<T, ClientError> {
        reading::json(answer).map_err(|problem| self.misshapen(problem))
    }

    fn misshapen(&self, problem: String) -> ClientError {
        ClientError::Shape { place: self.transport.place(), problem }
    }
}

fn broke_off(place: &str, source: axum::Error) -> ClientError {
    ClientError::Body { place: place.to_owned(), source }
}

/// The header carries no pin, because the pin is for the client only.
fn bearer(token: &Secret) -> Result<HeaderValue, ClientError> {
    let shown = Credential::parse(token.expose()).map_or_else(|| token.clone(), |token| token.bearer());
    let mut value =
        HeaderValue::from_str(&format!("Bearer {}", shown.expose())).map_err(|_| ClientError::Token)?;
    value.set_sensitive(true);
    Ok(value)
}

/// The daemon's stream of events.
pub(crate) struct EventStream {
    place: String,
    pieces: BoxStream<'static, Result<Bytes, axum::Error>>,
    parser: sse::Parser,
}

impl EventStream {
    /// Returns the environment of the next event, or `None` once the stream has ended.
    ///
    /// Dropping the returned future loses nothing.
    ///
    /// # Errors
    /// [`ClientError`] if the stream breaks off.
    pub(crate) async fn next(&mut self) -> Result<Option<EnvironmentName>, ClientError> {
        loop {
            while let Some(event) = self.parser.next() {
                if let Some(environment) = spoken_of(&event) {
                    return Ok(Some(environment));
                }
            }
            let Some(piece) = self.pieces.next().await else { return Ok(None) };
            let piece = piece.map_err(|error| broke_off(&self.place, error))?;
            let pushed = self.parser.push(&piece);
            pushed.map_err(|source| ClientError::Stream { place: self.place.clone(), source })?;
        }
    }
}

/// Both kinds of events name their environment; kinds that later daemons add are skipped.
fn spoken_of(event: &sse::ServerEvent) -> Option<EnvironmentName> {
    #[derive(serde::Deserialize)]
    struct EventSubject {
        environment: EnvironmentName,
    }
    if !matches!(event.name.as_str(), "environment" | "event") {
        return None;
    }
    serde_json::from_str::<EventSubject>(&event.data).ok().map(|named| named.environment)
}
