//! `/v2/`: the registry for agents. An agent can pull only from repositories of images that are
//! recorded for its environments, and only by digest: any digest of such a repository, because the
//! layers of an image are digests too. The controller adds its own credentials if the registry
//! requires them.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures::future::BoxFuture;

use super::AgentCaller;
use crate::api::error::ApiError;
use crate::api::{ApiState, ControllerError};
use crate::model::desired::Image;
use crate::model::name::{AgentName, Digest};
use crate::model::reference::ImageRepository;
use crate::record::RecordError;

/// The response headers passed on to the engine. `Location` is not among them, because redirects
/// are followed here.
const ANSWERED: [header::HeaderName; 7] = [
    header::CONTENT_TYPE,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::ACCEPT_RANGES,
    header::ETAG,
    header::LAST_MODIFIED,
    header::HeaderName::from_static("docker-content-digest"),
];

/// Access to registries.
pub trait Images: Send + Sync {
    /// Requests something from the registry of a repository, and streams its answer.
    fn fetch(&self, wanted: TunnelRequest) -> BoxFuture<'static, Result<Response, ControllerError>>;
}

/// A request of an engine to a registry.
#[derive(Clone, Debug)]
pub struct TunnelRequest {
    /// `GET` or `HEAD`.
    pub method: Method,
    /// The recorded repository.
    pub repository: ImageRepository,
    /// The part of the repository, such as `manifests/sha256:...`.
    pub part: String,
    /// The accepted media types and the requested range.
    pub headers: HeaderMap,
}

/// Forwards a pull to the registry of the image.
pub(in crate::api) async fn pull(
    State(api): State<ApiState>,
    caller: AgentCaller,
    method: Method,
    Path(path): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let nothing = || ApiError::not_found("no such image");
    let (name, part) = parse(&path).ok_or_else(nothing)?;
    let images = api.images.as_ref().ok_or_else(ApiError::no_daemon)?;
    let (mut absent, mut trouble) = (None, None);
    for repository in api.repositories(&caller.agent, name)? {
        let headers = headers.clone();
        let wanted = TunnelRequest { method: method.clone(), repository, part: part.to_owned(), headers };
        match images.fetch(wanted).await {
            Ok(found) => match found.status() {
                StatusCode::NOT_FOUND => absent = Some(found),
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    tracing::warn!(agent = %caller.agent, path, status = %found.status(), "the registry \
                        denied a pull for an agent");
                    let words = "the registry denies access to the controller";
                    trouble = Some(ApiError::unavailable("registry-denied", words));
                }
                _ => return Ok(stripped(found)),
            },
            Err(error) => {
                tracing::warn!(agent = %caller.agent, path, %error, "a registry request for an agent \
                    failed");
                let words = "the registry does not respond";
                trouble = Some(ApiError::unavailable("registry-unavailable", words));
            }
        }
    }
    // Reported before "not found", which an engine treats as final: a repository that denies access
    // may still have the image.
    match trouble {
        Some(trouble) => Err(trouble),
        None => absent.map(stripped).ok_or_else(nothing),
    }
}

fn stripped(answer: Response) -> Response {
    let (parts, body) = answer.into_parts();
    let headers = parts.headers.iter().filter(|(name, _)| ANSWERED.contains(name));
    let headers: HeaderMap = headers.map(|(name, value)| (name.clone(), value.clone())).collect();
    let mut response = (parts.status, headers, Body::new(body)).into_response();
    response
        .headers_mut()
        .entry(header::CONTENT_TYPE)
        .or_insert(header::HeaderValue::from_static("application/json"));
    response
}

/// Splits the path into the repository and `manifests/` or `blobs/` with a digest. Tags are not
/// supported.
fn parse(path: &str) -> Option<(&str, &str)> {
    let (at, kind) = ["/manifests/", "/blobs/"].iter().find_map(|kind| Some((path.rfind(kind)?, kind)))?;
    let (name, part) = (&path[..at], &path[at + 1..]);
    let digest = Digest::new(&path[at + kind.len()..]).is_ok();
    (digest && !name.is_empty()).then_some((name, part))
}

impl ApiState {
    /// Returns the recorded repositories of an agent's environments with the path `name`. There are
    /// several only if two registries have the same path.
    fn repositories(&self, agent: &AgentName, name: &str) -> Result<BTreeSet<ImageRepository>, RecordError> {
        let mut found = BTreeSet::new();
        for environment in self.hub.environments(agent) {
            let desired = self.desired.get(&environment)?;
            let held = desired.hold.as_ref().and_then(|hold| hold.generation);
            let held = held.map(|held| self.desired.entry(&environment, held)).transpose()?.flatten();
            let images = [desired.entry.image, held.and_then(|held| held.image)];
            found.extend(images.into_iter().flatten().filter_map(|image| of_path(image, name)));
        }
        Ok(found)
    }
}

fn of_path(image: Image, name: &str) -> Option<ImageRepository> {
    image.reference?.parse::<ImageRepository>().ok().filter(|repository| repository.path() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_manifests_and_blobs_by_digest_are_routed() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for kind in ["manifests", "blobs"] {
            let path = format!("keepwork/prod/{kind}/{digest}");
            assert_eq!(parse(&path), Some(("keepwork/prod", &path[14..])));
        }
        let odd = format!("a/blobs/b/manifests/{digest}");
        assert_eq!(parse(&odd).unwrap().0, "a/blobs/b");
        for nothing in
            ["keepwork/prod/manifests/latest", "keepwork/prod/tags/list", "_catalog", "", "/manifests/"]
        {
            assert_eq!(parse(nothing), None, "{nothing}");
        }
        assert_eq!(parse(&format!("/blobs/{digest}")), None);
        assert_eq!(parse(&format!("a/blobs/uploads/{digest}")), None);
    }
}
