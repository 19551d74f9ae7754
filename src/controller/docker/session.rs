//! A session of BuildKit: the connection over which it asks the client of a build for secrets and registry
//! credentials.
//!
//! bollard's implementation is private, has no secrets and never closes, so abide makes the connection
//! itself. The messages are bollard's.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use bollard::health::health_check_response::ServingStatus;
use bollard::health::health_server::{Health, HealthServer};
use bollard::health::{HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse};
use bollard::moby::buildkit::secrets::v1::secrets_server::{Secrets, SecretsServer};
use bollard::moby::buildkit::secrets::v1::{GetSecretRequest, GetSecretResponse};
use bollard::moby::filesync::v1::auth_server::AuthServer;
use futures::Stream;
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, UPGRADE};
use hyper::upgrade::Upgraded;
use hyper::{Request as HttpRequest, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::{TcpStream, UnixStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Request, Response, Status};

use super::logins::{self, LoginServer, Logins};
use super::{EngineError, QUICK, Result, silence};
use crate::model::container::Secret;

/// The engine's socket by default.
const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";
/// The method that the engine calls over a session, in addition to [`logins::METHOD`].
const METHOD: &str = "/moby.buildkit.secrets.v1.Secrets/GetSecret";
/// Size in bytes of the buffer between the engine's connection and the server of a session.
const ON_THE_WAY: usize = 64 * 1024;

/// An open session; it ends when this is dropped.
pub(super) struct BuildSession {
    /// The id that a build passes to use this session.
    pub(super) id: String,
    _end: DropGuard,
}

impl BuildSession {
    /// Opens a session that serves these secrets, by id, and `logins`.
    pub(super) async fn open(
        host: Option<&str>,
        secrets: BTreeMap<String, Secret>,
        logins: Arc<dyn Logins>,
    ) -> Result<Self> {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let opening = tokio::time::timeout(QUICK, connect(host, &id));
        let connection = match opening.await {
            Ok(connection) => connection?,
            Err(_) => return Err(EngineError::Deadline { call: "open a build session", within: QUICK }),
        };
        let end = CancellationToken::new();
        let (near, far) = tokio::io::duplex(ON_THE_WAY);
        tokio::spawn(end.clone().run_until_cancelled_owned(carry(connection, near)));
        tokio::spawn(end.clone().run_until_cancelled_owned(serve(far, secrets, logins)));
        Ok(Self { id, _end: end.drop_guard() })
    }
}

/// Returns whether a session can be opened to the engine at `host`.
pub(super) fn can_reach(host: Option<&str>) -> bool {
    EngineAddress::of(host).is_some()
}

/// Returns the Unix socket of the engine at `host`; `None` if it listens elsewhere.
pub(super) fn socket(host: Option<&str>) -> Option<PathBuf> {
    match EngineAddress::of(host)? {
        EngineAddress::Socket(path) => Some(path.into()),
        EngineAddress::Address(_) => None,
    }
}

/// The address of an engine to which a session can be opened.
enum EngineAddress {
    Socket(String),
    Address(String),
}

impl EngineAddress {
    fn of(host: Option<&str>) -> Option<Self> {
        let named = host.map(str::to_owned).or_else(|| std::env::var("DOCKER_HOST").ok());
        let host = named.filter(|host| !host.is_empty()).unwrap_or_else(|| DEFAULT_HOST.to_owned());
        if let Some(path) = host.strip_prefix("unix://") {
            return Some(Self::Socket(path.to_owned()));
        }
        let address = host.strip_prefix("tcp://").or_else(|| host.strip_prefix("http://"))?;
        let is_plain = std::env::var_os("DOCKER_TLS_VERIFY").is_none();
        is_plain.then(|| Self::Address(address.trim_end_matches('/').to_owned()))
    }
}

/// Returns a connection that the engine has turned into a session.
async fn connect(host: Option<&str>, id: &str) -> Result<Upgraded> {
    let lost = |error: std::io::Error| EngineError::Unreachable(silence::reason(&error));
    match EngineAddress::of(host) {
        Some(EngineAddress::Socket(path)) => {
            upgrade(UnixStream::connect(path).await.map_err(lost)?, id).await
        }
        Some(EngineAddress::Address(address)) => {
            upgrade(TcpStream::connect(address).await.map_err(lost)?, id).await
        }
        None => Err(EngineError::Refused("BuildKit needs a Unix socket or plain TCP".to_owned())),
    }
}

async fn upgrade(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, id: &str) -> Result<Upgraded> {
    let lost = |error: hyper::Error| EngineError::Unreachable(silence::reason(&error));
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
    tokio::spawn(connection.with_upgrades());
    let request = HttpRequest::post("/session")
        .header(HOST, "docker")
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "h2c")
        .header("X-Docker-Expose-Session-Uuid", id)
        .header("X-Docker-Expose-Session-Grpc-Method", METHOD)
        .header("X-Docker-Expose-Session-Grpc-Method", logins::METHOD)
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|error| EngineError::Refused(error.to_string()))?;
    let response = sender.send_request(request).await.map_err(lost)?;
    match response.status() {
        StatusCode::SWITCHING_PROTOCOLS => hyper::upgrade::on(response).await.map_err(lost),
        status => Err(EngineError::Refused(format!("the engine did not open a BuildKit session: {status}"))),
    }
}

async fn carry(connection: Upgraded, mut near: DuplexStream) {
    // Either end may close first, and neither end waits for the rest of the other's data.
    let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(connection), &mut near).await;
}

async fn serve(connection: DuplexStream, secrets: BTreeMap<String, Secret>, logins: Arc<dyn Logins>) {
    let incoming = futures::stream::iter([Ok::<_, std::io::Error>(connection)]);
    let router = tonic::transport::Server::builder()
        .add_service(HealthServer::new(Alive))
        .add_service(SecretsServer::new(Handed(secrets)))
        .add_service(AuthServer::new(LoginServer(logins)));
    // A build whose session breaks reports the error itself.
    let _ = router.serve_with_incoming(incoming).await;
}

/// The secrets of one build.
struct Handed(BTreeMap<String, Secret>);

#[tonic::async_trait]
impl Secrets for Handed {
    async fn get_secret(
        &self,
        request: Request<GetSecretRequest>,
    ) -> std::result::Result<Response<GetSecretResponse>, Status> {
        let id = request.into_inner().id;
        match self.0.get(&id) {
            Some(secret) => Ok(Response::new(GetSecretResponse { data: secret.expose().into() })),
            None => Err(Status::not_found(format!("secret {id} is not declared in the manifest"))),
        }
    }
}

/// Answers the health check. The engine checks every few seconds, and drops a session that does not answer.
struct Alive;

#[tonic::async_trait]
impl Health for Alive {
    type WatchStream = Pin<Box<dyn Stream<Item = std::result::Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> std::result::Result<Response<HealthCheckResponse>, Status> {
        Ok(Response::new(HealthCheckResponse { status: ServingStatus::Serving.into() }))
    }

    async fn list(
        &self,
        _: Request<HealthListRequest>,
    ) -> std::result::Result<Response<HealthListResponse>, Status> {
        Err(Status::unimplemented("a session has one state"))
    }

    async fn watch(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> std::result::Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("a session's state never changes"))
    }
}
