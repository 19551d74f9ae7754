//! Credentials of a build for the registries of its base images.

use std::sync::Arc;

use bollard::moby::filesync::v1::auth_server::Auth;
use bollard::moby::filesync::v1::{
    CredentialsRequest, CredentialsResponse, FetchTokenRequest, FetchTokenResponse, GetTokenAuthorityRequest,
    GetTokenAuthorityResponse, VerifyTokenAuthorityRequest, VerifyTokenAuthorityResponse,
};
use futures::future::BoxFuture;
use hyper::header::HeaderName;
use tonic::{Request, Response, Status};

use crate::model::container::Secret;

/// The header in which the classic builder expects the credentials.
pub(super) const CONFIG: HeaderName = HeaderName::from_static("x-registry-config");
/// The method that BuildKit calls over a session to get credentials.
pub(super) const METHOD: &str = "/moby.filesync.v1.Auth/Credentials";

/// The credentials of a build for registries.
pub(crate) trait Logins: Send + Sync {
    /// Returns the credentials for the registry at `host`, when BuildKit needs them; `None` for anonymous
    /// access. The error explains why they are not available.
    fn login<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Option<BuildLogin>, String>>;

    /// Returns the credentials for all known registries, which the classic builder needs before it begins.
    fn all(&self) -> BoxFuture<'_, Secret>;
}

/// A name and a password, or an empty name and a token that replaces both.
pub(crate) struct BuildLogin {
    pub(crate) username: String,
    pub(crate) secret: Secret,
}

/// Answers BuildKit's requests. BuildKit uses the answer to fetch the registry's tokens itself.
pub(super) struct LoginServer(pub(super) Arc<dyn Logins>);

#[tonic::async_trait]
impl Auth for LoginServer {
    async fn credentials(
        &self,
        request: Request<CredentialsRequest>,
    ) -> Result<Response<CredentialsResponse>, Status> {
        let host = request.into_inner().host;
        let found = self.0.login(&host).await.map_err(Status::failed_precondition)?;
        let answer = found.map(|BuildLogin { username, secret }| CredentialsResponse {
            username,
            secret: secret.expose().to_owned(),
        });
        Ok(Response::new(answer.unwrap_or_default()))
    }

    async fn fetch_token(
        &self,
        _: Request<FetchTokenRequest>,
    ) -> Result<Response<FetchTokenResponse>, Status> {
        Err(by_itself())
    }

    async fn get_token_authority(
        &self,
        _: Request<GetTokenAuthorityRequest>,
    ) -> Result<Response<GetTokenAuthorityResponse>, Status> {
        Err(by_itself())
    }

    async fn verify_token_authority(
        &self,
        _: Request<VerifyTokenAuthorityRequest>,
    ) -> Result<Response<VerifyTokenAuthorityResponse>, Status> {
        Err(by_itself())
    }
}

fn by_itself() -> Status {
    Status::unimplemented("the builder fetches tokens itself")
}
