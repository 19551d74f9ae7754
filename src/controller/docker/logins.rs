//! Who a build is at the registries of its base images.

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

/// Where the classic builder looks for what it shows to registries.
pub(super) const CONFIG: HeaderName = HeaderName::from_static("x-registry-config");
/// What BuildKit may ask, over a session.
pub(super) const METHOD: &str = "/moby.filesync.v1.Auth/Credentials";

/// What proves a build to registries.
pub(crate) trait Logins: Send + Sync {
    /// To the one at `host`, when BuildKit comes to it; `None`: it is nobody there. An error is why
    /// that cannot be had, in words.
    fn login<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Option<Login>, String>>;

    /// To all that are known, as the classic builder wants it before it begins.
    fn all(&self) -> BoxFuture<'_, Secret>;
}

/// A name and a password; or no name, and a token that stands for both.
pub(crate) struct Login {
    pub(crate) username: String,
    pub(crate) secret: Secret,
}

/// Answers BuildKit. It fetches the tokens of a registry itself, with what it is told here.
pub(super) struct Asked(pub(super) Arc<dyn Logins>);

#[tonic::async_trait]
impl Auth for Asked {
    async fn credentials(
        &self,
        request: Request<CredentialsRequest>,
    ) -> Result<Response<CredentialsResponse>, Status> {
        let host = request.into_inner().host;
        let found = self.0.login(&host).await.map_err(Status::failed_precondition)?;
        let answer = found.map(|Login { username, secret }| CredentialsResponse {
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
