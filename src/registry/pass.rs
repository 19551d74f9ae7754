//! Forwards the registry requests of a remote engine with abide's credentials, and streams the answers back.

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, RANGE, USER_AGENT};
use hyper::{Method, Request, Response, StatusCode, Uri};

use super::client::{DEADLINE, ManifestQuery, REDIRECTS, RegistryClient, RepositoryPart, redirect};
use super::connect::{self, RegistryResponse};
use super::error::RegistryError;
use crate::model::reference::ImageRepository;
use crate::model::spec::RegistryAccess;
use crate::outbound::{AGENT, Allowed};

/// Request headers that are forwarded to the registry.
const PASSED: [hyper::header::HeaderName; 2] = [ACCEPT, RANGE];

/// One request for a part of a repository.
#[derive(Clone, Debug)]
pub struct RegistryRequest {
    /// `GET` or `HEAD`.
    pub method: Method,
    /// The repository.
    pub repository: ImageRepository,
    /// The part, such as `blobs/sha256:...`.
    pub part: String,
    /// The accepted media types and the requested range.
    pub headers: HeaderMap,
}

impl RegistryClient {
    /// Sends `wanted`, with credentials if the registry requires them, and follows redirects. The registry
    /// must begin its answer within 15 s. The body arrives as fast as it is read.
    ///
    /// # Errors
    /// Returns [`RegistryError`] if the registry gives no answer. A negative answer is not an error.
    pub async fn pass(
        &self,
        wanted: &RegistryRequest,
        access: &RegistryAccess,
    ) -> Result<Response<Incoming>, RegistryError> {
        let question = ManifestQuery {
            repository: &wanted.repository,
            reference: &wanted.part,
            kind: RepositoryPart::Manifest,
        };
        match tokio::time::timeout(DEADLINE, self.passed(wanted, &question, access)).await {
            Ok(answer) => answer,
            Err(_) => Err(question.unavailable("it sent an empty response".to_owned())),
        }
    }

    async fn passed(
        &self,
        wanted: &RegistryRequest,
        question: &ManifestQuery<'_>,
        access: &RegistryAccess,
    ) -> Result<Response<Incoming>, RegistryError> {
        let (address, reach, answer) = first(wanted, question, access).await?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        let credentials = self.keyring().credentials(wanted.repository.host(), access).await;
        let credentials = credentials.map_err(|error| question.denied(error.to_string()))?;
        let headers = answer.headers().clone();
        let refused = RegistryResponse { status: answer.status(), headers, body: Bytes::new(), reach };
        let proof = question.proof(&refused, credentials.as_ref()).await?;
        send(wanted, question, address, Some(proof)).await.map(|(_, answer)| answer)
    }
}

/// The first answer, and the address that gave it, as for abide's own queries.
async fn first(
    wanted: &RegistryRequest,
    question: &ManifestQuery<'_>,
    access: &RegistryAccess,
) -> Result<(Uri, Allowed, Response<Incoming>), RegistryError> {
    if access.plain_http || wanted.repository.host().is_loopback() {
        let address = question.address("http", &wanted.part)?;
        let (reach, answer) = send(wanted, question, address.clone(), None).await?;
        if answer.status() != StatusCode::BAD_REQUEST || access.plain_http {
            return Ok((address, reach, answer));
        }
    }
    let address = question.address("https", &wanted.part)?;
    let (reach, answer) = send(wanted, question, address.clone(), None).await?;
    Ok((address, reach, answer))
}

/// Sends the request and follows redirects. Redirected requests have no credentials, because those are for
/// this host only.
async fn send(
    wanted: &RegistryRequest,
    question: &ManifestQuery<'_>,
    mut address: Uri,
    mut proof: Option<HeaderValue>,
) -> Result<(Allowed, Response<Incoming>), RegistryError> {
    let mut from: Option<Allowed> = None;
    for _ in 0..=REDIRECTS {
        let mut request = Request::builder().method(&wanted.method).uri(address).header(USER_AGENT, AGENT);
        for (name, value) in wanted.headers.iter().filter(|(name, _)| PASSED.contains(name)) {
            request = request.header(name, value);
        }
        if let Some(proof) = proof.take() {
            request = request.header(AUTHORIZATION, proof);
        }
        let request = request.body(Full::<Bytes>::default());
        let request = request.map_err(|error| question.unavailable(error.to_string()))?;
        let opened = connect::open(request, from).await.map_err(|why| question.unavailable(why))?;
        let Some(next) = redirect(opened.1.status(), opened.1.headers()) else { return Ok(opened) };
        from = from.or(Some(opened.0));
        address = next;
    }
    Err(question.unavailable(format!("it redirects more than {REDIRECTS} times")))
}
