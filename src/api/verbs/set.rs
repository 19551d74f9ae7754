//! `set`: records a commit or an image by digest.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;

use super::{reason, shown};
use crate::api::ApiState;
use crate::api::access::Access;
use crate::api::body::{Caller, JsonBody};
use crate::api::error::ApiError;
use crate::api::find::FoundEnvironment;
use crate::api::gates::rejection_words;
use crate::model::desired::{Image, Origin};
use crate::model::evidence::Person;
use crate::model::name::{CommitId, Digest, Generation};
use crate::model::reference::check_reference;
use crate::model::spec::{EnvironmentSpec, Supply};
use crate::model::view::RecordChange;
use crate::record::Change;

/// The longest image reference, in bytes.
const LONGEST_REFERENCE: usize = 255;

/// Options of `set`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct Set {
    /// `name@sha256:...`, or an image ID.
    image: Option<String>,
    /// A full commit ID to build.
    commit: Option<String>,
    /// The reason, as free text.
    reason: Option<String>,
    /// The generation that the client saw.
    seen: Option<Generation>,
}

/// `POST /api/v1/environments/{environment}/set`
pub(in crate::api) async fn set(
    State(api): State<ApiState>,
    found: FoundEnvironment,
    Caller(caller): Caller,
    JsonBody(body): JsonBody<Set>,
) -> Result<Json<RecordChange>, ApiError> {
    let spec = found.declared()?;
    let guards = api.seen(&found.name, body.seen)?;
    let why = reason(body.reason)?;
    let (revision, image, what) = match (body.image, body.commit) {
        (Some(image), None) => {
            let image = parse_image(&image)?;
            check_reach(&found, &image)?;
            check_gates(&api, &found, &image, &caller, why.as_deref())?;
            let what = shown(&image);
            (None, Some(image), what)
        }
        (None, Some(commit)) => {
            let commit = buildable(spec, &commit)?;
            check_commit(&api, &found, &commit).await?;
            let what = format!("commit {}", commit.short());
            (Some(commit), None, what)
        }
        _ => return Err(ApiError::bad_request("give either an `image` or a `commit`")),
    };
    follows_nobody(&found)?;
    let at = (api.clock)();
    let Person { by, token } = caller.person();
    let (by, origin, note, hold) = (Some(by), Origin::Set, why, None);
    let change = Change { revision, image, origin, by, token, note, at, hold };
    let desired = api.writer.submit(&found.name, change, &guards).await?;
    Ok(Json(api.recorded(&desired, &what)))
}

/// Checks that nobody gets around the gates of promotions: only an admin sets an image there, with a reason
/// for the record.
fn check_gates(
    api: &ApiState,
    found: &FoundEnvironment,
    image: &Image,
    caller: &Access,
    why: Option<&str>,
) -> Result<(), ApiError> {
    let spec = found.declared()?;
    let Supply::Promotion { from } = &spec.supply else { return Ok(()) };
    let rejected = api.rejection_of(image)?;
    let is_free = !spec.gates.is_gated() && rejected.is_none();
    if is_free || (caller.role().may_administer() && why.is_some()) {
        return Ok(());
    }
    let (to, rejected) = (&found.name, rejected.as_ref().map(rejection_words));
    let what = rejected.unwrap_or_else(|| format!("`{to}` takes images through its gates"));
    Err(ApiError::gates_closed(format!(
        "{what}: `abide promote {from} {to}` goes through them, `abide rollback {to}` passes them, and an admin can \
         set an image with a `--reason`"
    )))
}

/// Checks that another host can pull the image.
fn check_reach(found: &FoundEnvironment, image: &Image) -> Result<(), ApiError> {
    match found.host() {
        Some(host) if image.digest.is_none() => Err(ApiError::unprocessable(format!(
            "the agent {host} runs `{}` and cannot use image IDs of this host: name the image as in its \
            registry, `name@sha256:...`",
            found.name
        ))),
        _ => Ok(()),
    }
}

/// A commit that git does not have would fail only later, out of the caller's sight. If git does not
/// answer now, the commit is recorded, and the build tries again until it does.
async fn check_commit(api: &ApiState, found: &FoundEnvironment, commit: &CommitId) -> Result<(), ApiError> {
    let Some(controller) = &api.controller else { return Ok(()) };
    match controller.has_commit(found.name.clone(), commit.clone()).await {
        Ok(false) => Err(ApiError::unprocessable(format!(
            "commit {commit} is not on any branch of the repository of {}: `git push` it first, or \
            choose one that `git log` shows",
            found.name
        ))),
        Ok(true) | Err(_) => Ok(()),
    }
}

/// Refuses a replica that follows the first one.
fn follows_nobody(found: &FoundEnvironment) -> Result<(), ApiError> {
    let slot = found.spec().and_then(|spec| spec.replica.as_ref()).filter(|slot| !slot.is_first());
    slot.map_or(Ok(()), |slot| {
        let (name, of) = (&found.name, &slot.of);
        Err(ApiError::conflict(format!(
            "`{name}` runs the same version as all replicas of `{of}`: name `{of}`"
        )))
    })
}

/// Checks that this environment builds commits.
fn buildable(spec: &EnvironmentSpec, commit: &str) -> Result<CommitId, ApiError> {
    let commit = CommitId::new(commit).map_err(|error| ApiError::bad_request(error.to_string()))?;
    if matches!(spec.supply, Supply::Branch { .. }) {
        return Ok(commit);
    }
    Err(ApiError::unprocessable("it tracks no branch, so nothing is built for it: set an `image`"))
}

/// Parses an image by digest. A tag is rejected, because it may change.
pub(super) fn parse_image(text: &str) -> Result<Image, ApiError> {
    let wrong = |error: crate::model::name::InvalidName| ApiError::bad_request(error.to_string());
    match text.split_once('@') {
        Some((reference, digest)) if is_reference(reference) => {
            let digest = Digest::new(digest).map_err(wrong)?;
            Ok(Image { reference: Some(reference.to_owned()), digest: Some(digest), id: None })
        }
        None if text.starts_with("sha256:") => {
            let id = Digest::new(text).map_err(wrong)?;
            Ok(Image { reference: None, digest: None, id: Some(id) })
        }
        _ => {
            let shown: String = text.chars().filter(|c| !c.is_control()).take(80).collect();
            Err(ApiError::bad_request(format!(
                "`{shown}` has no digest: give `name@sha256:...`, as in a registry, or the image ID \
                `sha256:...`"
            )))
        }
    }
}

/// Checks the characters of a reference, so that nothing else reaches a log or the engine.
fn is_reference(text: &str) -> bool {
    text.len() <= LONGEST_REFERENCE && check_reference(text).is_ok()
}
