//! Images on their way between engine and registry. Errors come inside the stream, and a registry
//! that freezes makes the engine wait for ever, so what counts is progress.

use std::time::Duration;

use bollard::Docker;
use bollard::query_parameters::{CreateImageOptionsBuilder, PushImageOptionsBuilder};
use futures::{Stream, StreamExt};
use hyper::header::{HeaderName, HeaderValue};

use super::{Engine, EngineError, Result};
use crate::model::container::Secret;
use crate::model::desired::Image;
use crate::model::name::Digest;

/// Where the engine looks for what it shows to a registry.
const PROOF: HeaderName = HeaderName::from_static("x-registry-auth");

impl Engine {
    /// Pulls `reference@digest` and says what it is called here. `patience` is how long the engine
    /// may say nothing.
    pub(crate) async fn pull(
        &self,
        reference: &str,
        digest: &Digest,
        proof: Option<&Secret>,
        patience: Duration,
        progress: &mut (impl FnMut(String) + Send),
    ) -> Result<Image> {
        let docker = proven(self.docker().await?, proof);
        let name = format!("{reference}@{digest}");
        let options = CreateImageOptionsBuilder::default().from_image(&name).build();
        let mut lines = docker.create_image(Some(options), None, None);
        while let Some(line) = next(&mut lines, "pulling", &name, patience).await? {
            if let Some(detail) = line.error_detail.and_then(|detail| detail.message) {
                return Err(EngineError::Refused(detail));
            }
            if let Some(status) = line.status {
                progress(status);
            }
        }
        let id = self.image_id(&name).await?;
        // No verdict on the registry, which has it: someone removed it here in between.
        let id = id.ok_or_else(|| EngineError::Refused(format!("{name} was pulled, and is gone again")))?;
        Ok(Image { reference: Some(reference.to_owned()), digest: Some(digest.clone()), id: Some(id) })
    }

    /// Pushes `repository:tag`, and gives the digest that the engine says it has there.
    pub(crate) async fn push(
        &self,
        repository: &str,
        tag: &str,
        proof: Option<&Secret>,
        patience: Duration,
        progress: &mut (impl FnMut(String) + Send),
    ) -> Result<Digest> {
        let docker = proven(self.docker().await?, proof);
        let name = format!("{repository}:{tag}");
        let options = PushImageOptionsBuilder::default().tag(tag).build();
        let mut lines = docker.push_image(repository, Some(options), None);
        let mut pushed = None;
        while let Some(line) = next(&mut lines, "pushing", &name, patience).await? {
            if let Some(detail) = line.error_detail.and_then(|detail| detail.message) {
                return Err(EngineError::Refused(detail));
            }
            if let Some(status) = line.status {
                pushed = told(tag, &status).or(pushed);
                progress(status);
            }
        }
        pushed.ok_or_else(|| EngineError::Refused(format!("the engine does not say which digest {name} has")))
    }
}

/// The digest in `tag: digest: sha256:... size: 528`. What else the engine sends of it is not the
/// same in all versions.
fn told(tag: &str, status: &str) -> Option<Digest> {
    let rest = status.strip_prefix(tag)?.strip_prefix(": digest: ")?;
    Digest::new(rest.split(' ').next()?).ok()
}

/// The next line of a transfer.
pub(super) async fn next<T>(
    lines: &mut (impl Stream<Item = std::result::Result<T, bollard::errors::Error>> + Unpin),
    doing: &'static str,
    name: &str,
    patience: Duration,
) -> Result<Option<T>> {
    match tokio::time::timeout(patience, lines.next()).await {
        Ok(line) => Ok(line.transpose()?),
        Err(_) => Err(EngineError::Stalled { what: format!("{doing} {name}"), patience }),
    }
}

/// The same connection, which shows `proof` with each request.
pub(super) fn proven(docker: Docker, proof: Option<&Secret>) -> Docker {
    match proof {
        Some(proof) => showing(docker, PROOF, proof),
        None => docker,
    }
}

/// The same connection, with a header in each request. Set here, since the client library writes
/// base64 that the engine does not always read.
pub(super) fn showing(docker: Docker, header: HeaderName, secret: &Secret) -> Docker {
    let Ok(mut value) = HeaderValue::from_str(secret.expose()) else { return docker };
    value.set_sensitive(true);
    docker.with_request_modifier(move |mut request| {
        request.headers_mut().insert(header.clone(), value.clone());
        request
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_of_a_push_is_in_its_last_status() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let line = format!("sha-0123: digest: {digest} size: 528");
        assert_eq!(told("sha-0123", &line).unwrap().as_str(), digest);
        for other in
            ["Preparing", "sha-0123: digest: ", "sha-0123: digest: sha256:x size: 1", "other: digest: x"]
        {
            assert_eq!(told("sha-0123", other), None, "{other}");
        }
        assert_eq!(told("sha-01", &line), None);
    }
}
