//! Queries registries for the content of image names. Every query has a deadline.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ACCEPT, AUTHORIZATION, HeaderValue, LOCATION, USER_AGENT};
use hyper::{HeaderMap, Method, Request, StatusCode, Uri};
use sha2::{Digest as _, Sha256};

use super::challenge::{self, Challenge};
use super::connect::{self, RegistryResponse};
use super::error::RegistryError;
use super::keyring::{Credentials, Keyring};
use super::platforms;
use super::retry_after;
use super::token::{self, TokenServiceError};
use crate::model::name::Digest;
use crate::model::reference::{DOCKER_HUB, ImageRepository, TaggedImage};
use crate::model::spec::RegistryAccess;
use crate::outbound::{AGENT, Allowed};

/// The deadline of one query with all its requests. A frozen registry would never answer.
pub(super) const DEADLINE: Duration = Duration::from_secs(15);
/// The manifest types that an engine can pull: for one platform or for several, OCI and Docker.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";
/// The header with the digest of an answer.
const DIGEST: &str = "docker-content-digest";
/// The real host of Docker Hub's API.
const DOCKER_HUB_API: &str = "registry-1.docker.io";
/// The maximum number of followed redirects.
pub(super) const REDIRECTS: usize = 3;

/// Queries registries.
#[derive(Clone, Debug, Default)]
pub struct RegistryClient {
    keyring: Keyring,
}

impl RegistryClient {
    /// Creates a client that finds its credentials in `keyring`.
    #[cfg(test)]
    pub fn new(keyring: Keyring) -> Self {
        Self { keyring }
    }

    /// The source of its credentials.
    pub fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// The current digest of a tag.
    ///
    /// # Errors
    /// Returns [`RegistryError`] if the query fails.
    pub async fn digest(
        &self,
        image: &TaggedImage,
        access: &RegistryAccess,
    ) -> Result<Digest, RegistryError> {
        self.within_deadline(&image.repository, image.tag(), access).await
    }

    /// Whether the registry has a digest.
    ///
    /// # Errors
    /// Returns [`RegistryError`] if the query fails. A missing digest is not an error.
    pub async fn has(
        &self,
        repository: &ImageRepository,
        digest: &Digest,
        access: &RegistryAccess,
    ) -> Result<bool, RegistryError> {
        match self.within_deadline(repository, digest.as_str(), access).await {
            Ok(found) => Ok(found == *digest),
            Err(RegistryError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The platforms of a multi-platform image, such as `linux/arm64`; empty if the name is that of a single
    /// image.
    ///
    /// # Errors
    /// Returns [`RegistryError`] if the query fails.
    pub async fn platforms(
        &self,
        repository: &ImageRepository,
        digest: &Digest,
        access: &RegistryAccess,
    ) -> Result<Vec<String>, RegistryError> {
        let question =
            ManifestQuery { repository, reference: digest.as_str(), kind: RepositoryPart::Manifest };
        let ask = async {
            let credentials = self.keyring.credentials(repository.host(), access).await;
            let credentials = credentials.map_err(|error| question.denied(error.to_string()))?;
            question.ask(Method::GET, access, credentials.as_ref()).await
        };
        match tokio::time::timeout(DEADLINE, ask).await {
            Ok(answer) => Ok(platforms::of_index(&answer?.body)),
            Err(_) => Err(question.late()),
        }
    }

    /// The manifest of a tag or digest; `None`: the registry does not have it. That of a digest has that digest.
    ///
    /// # Errors
    /// Returns [`RegistryError`] if the query fails.
    pub async fn content(
        &self,
        repository: &ImageRepository,
        (kind, reference): (RepositoryPart, &str),
        access: &RegistryAccess,
    ) -> Result<Option<Bytes>, RegistryError> {
        let question = ManifestQuery { repository, reference, kind };
        let ask = async {
            let credentials = self.keyring.credentials(repository.host(), access).await;
            let credentials = credentials.map_err(|error| question.denied(error.to_string()))?;
            question.ask(Method::GET, access, credentials.as_ref()).await
        };
        let body = match tokio::time::timeout(DEADLINE, ask).await {
            Ok(Ok(answer)) => answer.body,
            Ok(Err(RegistryError::NotFound { .. })) => return Ok(None),
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(question.late()),
        };
        let sum: [u8; 32] = Sha256::digest(&body).into();
        match Digest::new(reference) {
            Ok(named) if kind != RepositoryPart::Referrers && named != Digest::of_sha256(&sum) => {
                Err(question.unavailable(format!("it answers with other content than {named}")))
            }
            _ => Ok(Some(body)),
        }
    }

    async fn within_deadline(
        &self,
        repository: &ImageRepository,
        reference: &str,
        access: &RegistryAccess,
    ) -> Result<Digest, RegistryError> {
        let question = ManifestQuery { repository, reference, kind: RepositoryPart::Manifest };
        match tokio::time::timeout(DEADLINE, self.manifest(&question, access)).await {
            Ok(answer) => answer,
            Err(_) => Err(question.late()),
        }
    }

    async fn manifest(
        &self,
        question: &ManifestQuery<'_>,
        access: &RegistryAccess,
    ) -> Result<Digest, RegistryError> {
        let host = question.repository.host();
        let credentials = self.keyring.credentials(host, access).await;
        let credentials = credentials.map_err(|error| question.denied(error.to_string()))?;
        let answer = question.ask(Method::HEAD, access, credentials.as_ref()).await?;
        if let Some(digest) = question.digest_header(&answer)? {
            return Ok(digest);
        }
        // Older registries send no digest header, so abide hashes the answer.
        let answer = question.ask(Method::GET, access, credentials.as_ref()).await?;
        let sum: [u8; 32] = Sha256::digest(&answer.body).into();
        let found = Digest::of_sha256(&sum);
        match question.digest_header(&answer)? {
            Some(digest_header) if digest_header != found => Err(question.unavailable(format!(
                "it reports {found} for \
                {digest_header}"
            ))),
            _ => Ok(found),
        }
    }
}

/// A query for a manifest.
pub(super) struct ManifestQuery<'a> {
    pub(super) repository: &'a ImageRepository,
    /// A tag or digest.
    pub(super) reference: &'a str,
    pub(super) kind: RepositoryPart,
}

/// A part of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepositoryPart {
    /// A manifest, by tag or digest.
    Manifest,
    /// A blob, by digest.
    Blob,
    /// The index of the manifests that refer to a digest.
    Referrers,
}

impl ManifestQuery<'_> {
    /// The answer, if the manifest exists.
    async fn ask(
        &self,
        method: Method,
        access: &RegistryAccess,
        credentials: Option<&Credentials>,
    ) -> Result<RegistryResponse, RegistryError> {
        let (address, mut answer) = self.first(&method, access).await?;
        if answer.status == StatusCode::UNAUTHORIZED {
            let proof = self.proof(&answer, credentials).await?;
            answer = self.send(&method, address, Some(proof)).await?;
        }
        match answer.status {
            StatusCode::OK => Ok(answer),
            StatusCode::NOT_FOUND => Err(self.not_found()),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(self.denied(format!("it answered {}", answer.status)))
            }
            status => Err(self.put_off(format!("it answered {status}"), retry_after::read(&answer.headers))),
        }
    }

    /// The first answer, and the address that gave it. This host's own registries may use TLS or not, and
    /// nothing declares which: a TLS server answers a plain request with 400.
    async fn first(
        &self,
        method: &Method,
        access: &RegistryAccess,
    ) -> Result<(Uri, RegistryResponse), RegistryError> {
        let is_plain = access.plain_http || self.repository.host().is_loopback();
        if is_plain {
            let address = self.address("http", &self.manifest_part())?;
            let answer = self.send(method, address.clone(), None).await?;
            if answer.status != StatusCode::BAD_REQUEST || access.plain_http {
                return Ok((address, answer));
            }
        }
        let address = self.address("https", &self.manifest_part())?;
        Ok((address.clone(), self.send(method, address, None).await?))
    }

    fn manifest_part(&self) -> String {
        let folder = match self.kind {
            RepositoryPart::Manifest => "manifests",
            RepositoryPart::Blob => "blobs",
            RepositoryPart::Referrers => "referrers",
        };
        format!("{folder}/{}", self.reference)
    }

    /// The URL of a part of the repository.
    pub(super) fn address(&self, scheme: &str, part: &str) -> Result<Uri, RegistryError> {
        let host = match self.repository.host().as_str() {
            DOCKER_HUB => DOCKER_HUB_API,
            host => host,
        };
        let address = format!("{scheme}://{host}/v2/{}/{part}", self.repository.path());
        address.parse().map_err(|_| self.unavailable("its address is invalid".to_owned()))
    }

    /// Sends the query and follows redirects. Redirected requests have no credentials, because those are for
    /// this host only.
    async fn send(
        &self,
        method: &Method,
        address: Uri,
        proof: Option<HeaderValue>,
    ) -> Result<RegistryResponse, RegistryError> {
        let mut from: Option<Allowed> = None;
        let (mut address, mut proof) = (address, proof);
        for _ in 0..=REDIRECTS {
            let mut builder = Request::builder().method(method).uri(address.clone());
            builder = builder.header(ACCEPT, MANIFESTS).header(USER_AGENT, AGENT);
            if let Some(proof) = proof.take() {
                builder = builder.header(AUTHORIZATION, proof);
            }
            let request = builder.body(Full::<Bytes>::default());
            let request = request.map_err(|error| self.unavailable(error.to_string()))?;
            let answer = connect::ask(request, from).await.map_err(|why| self.unavailable(why))?;
            let Some(next) = redirect(answer.status, &answer.headers) else { return Ok(answer) };
            from = from.or(Some(answer.reach));
            address = next;
        }
        Err(self.unavailable(format!("it redirects more than {REDIRECTS} times")))
    }

    pub(super) async fn proof(
        &self,
        refused: &RegistryResponse,
        credentials: Option<&Credentials>,
    ) -> Result<HeaderValue, RegistryError> {
        let nothing = || self.denied("it requires credentials, and none are configured".to_owned());
        match (challenge::read(&refused.headers), credentials) {
            (Some(Challenge::Basic), Some(Credentials::Password { username, password })) => {
                token::basic(username, password).ok_or_else(nothing)
            }
            (Some(Challenge::Bearer { realm, service, scope }), _) => {
                let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", self.repository.path()));
                let bearer = token::bearer(&realm, service.as_deref(), &scope, credentials, refused.reach);
                bearer.await.map_err(|error| match error {
                    TokenServiceError::Unavailable(why, retry_after) => self.put_off(why, retry_after),
                    TokenServiceError::Denied(why) => self.denied(why),
                })
            }
            (Some(Challenge::Basic), _) => Err(nothing()),
            (None, _) => Err(self.denied("it requires an unsupported kind of authentication".to_owned())),
        }
    }

    /// The digest in the registry's header.
    fn digest_header(&self, answer: &RegistryResponse) -> Result<Option<Digest>, RegistryError> {
        let Some(digest_header) = answer.headers.get(DIGEST) else { return Ok(None) };
        let digest = digest_header.to_str().ok().and_then(|text| Digest::new(text).ok());
        digest.map(Some).ok_or_else(|| self.unavailable("it reports an invalid digest".to_owned()))
    }

    pub(super) fn unavailable(&self, why: String) -> RegistryError {
        self.put_off(why, None)
    }

    fn late(&self) -> RegistryError {
        self.unavailable(format!("no answer within {}", humantime::format_duration(DEADLINE)))
    }

    /// The error for a registry that does not answer at the moment, with its `Retry-After`.
    fn put_off(&self, why: String, retry_after: Option<Duration>) -> RegistryError {
        let why = match retry_after {
            Some(pause) => {
                format!("{why}, and asks to wait {}", humantime::format_duration(pause))
            }
            None => why,
        };
        RegistryError::Unavailable { registry: self.repository.host().to_string(), why, retry_after }
    }

    pub(super) fn denied(&self, why: String) -> RegistryError {
        RegistryError::Denied { registry: self.repository.host().to_string(), name: self.name(), why }
    }

    fn not_found(&self) -> RegistryError {
        RegistryError::NotFound { registry: self.repository.host().to_string(), name: self.name() }
    }

    fn name(&self) -> String {
        let separator = if self.reference.contains(':') { '@' } else { ':' };
        format!("{}{separator}{}", self.repository.path(), self.reference)
    }
}

/// The target of a redirect; only absolute URLs are followed.
pub(crate) fn redirect(status: StatusCode, headers: &HeaderMap) -> Option<Uri> {
    if !status.is_redirection() {
        return None;
    }
    let target: Uri = headers.get(LOCATION)?.to_str().ok()?.parse().ok()?;
    target.host().is_some().then_some(target)
}
