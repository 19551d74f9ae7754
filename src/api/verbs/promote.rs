//! `promote`: the image that one environment runs healthy becomes the desired image of another.
//! Compare-and-set: refused if the image has changed since the client saw it.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;

use super::{moved, shown};
use crate::api::ApiState;
use crate::api::body::{Body, By};
use crate::api::error::ApiError;
use crate::api::find::Found;
use crate::model::desired::{Desired, Entry, HistoryEntry, Image, Origin, Outcome};
use crate::model::name::{AgentName, CommitId, Digest, EnvironmentName, Generation};
use crate::model::spec::Supply;
use crate::model::status::{Condition, Reason, Status};
use crate::model::view::Moved;
use crate::record::{Change, Guard};

/// Options of `promote`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct Promote {
    /// The source environment.
    from: String,
    /// The image to promote, even if FROM has another one in progress.
    digest: Option<String>,
    /// The image that the client saw there.
    seen: Option<String>,
}

/// `POST /api/v1/environments/{environment}/promote`; the path names the target environment.
pub(in crate::api) async fn promote(
    State(api): State<ApiState>,
    found: Found,
    By(by): By,
    Body(body): Body<Promote>,
) -> Result<Json<Moved>, ApiError> {
    let from = api.find(&body.from)?.name;
    check_source(&found, &from)?;
    api.fresh_manifest().await;
    let meant = digest(body.digest.as_deref())?;
    let source = api.desired.get(&from)?.entry;
    let serving = api.serving(&from, meant.as_ref())?;
    let image = &serving.image;
    if let Some(host) = found.host() {
        check_reach(&from, image, host)?;
    }
    for seen in [meant, digest(body.seen.as_deref())?].iter().flatten() {
        check_seen(&from, image, seen)?;
    }
    if let Some(unchanged) = api.is_there_already(&found.name, &serving)? {
        return Ok(Json(unchanged));
    }
    let change = Change {
        revision: serving.revision.clone(),
        image: Some(image.clone()),
        origin: Origin::Promotion,
        by: Some(by),
        note: Some(format!("from {from} generation {}", serving.generation)),
        at: (api.clock)(),
        hold: None,
    };
    let guard = Guard { environment: from.clone(), generation: source.generation };
    let desired = api.writer.submit(&found.name, change, &[guard]).await?;
    Ok(Json(api.recorded(&desired, &format!("{} of `{from}`", shown(image)))))
}

/// The version that an environment runs healthy.
struct Serving {
    generation: Generation,
    revision: Option<CommitId>,
    image: Image,
}

impl ApiState {
    /// Returns the version that `from` runs healthy. While a push is unprocessed or a newer
    /// generation is in progress, the client must name this image explicitly.
    fn serving(&self, from: &EnvironmentName, meant: Option<&Digest>) -> Result<Serving, ApiError> {
        let state = Arc::clone(&self.manifest.borrow());
        let facts = self.facts(from, &state.manifest)?;
        let refuse = |why: String| Err(ApiError::conflict(format!("cannot promote `{from}`: {why}")));
        let Some(status) = &facts.status else { return refuse("its state is not known yet".to_owned()) };
        let settled = facts.settled();
        let is_here = facts.spec.is_none_or(|spec| spec.host.is_none());
        match (facts.unanswered(), meant, settled.condition) {
            (Some((what, _)), None, Condition::Ready) => {
                refuse(format!("{what}; wait for it (`abide wait {from}`), or name the image with --digest"))
            }
            (_, _, Condition::Ready) => {
                let Entry { generation, revision, .. } = facts.desired.entry.clone();
                let image = healthy_image(&facts.desired, status, is_here)?;
                Ok(Serving { generation, revision, image })
            }
            (_, Some(meant), Condition::Progressing) => {
                let history = self.status.history(from)?;
                match still_serving(&history, status, is_here, meant) {
                    Some(serving) => Ok(serving),
                    None => refuse(format!("{meant} is not its healthy image: {}", settled.message)),
                }
            }
            _ => refuse(format!("its status is {}: {}", settled.condition.as_str(), settled.message)),
        }
    }

    /// Returns the answer if `to` already runs this image or is updating to it; nothing is recorded
    /// then.
    fn is_there_already(&self, to: &EnvironmentName, serving: &Serving) -> Result<Option<Moved>, ApiError> {
        let state = Arc::clone(&self.manifest.borrow());
        let facts = self.facts(to, &state.manifest)?;
        let (settled, entry) = (facts.settled(), &facts.desired.entry);
        let is_same = entry.image.as_ref().is_some_and(|image| image.is_same(&serving.image));
        // A promotion retries a failed generation.
        let is_well =
            matches!(settled.condition, Condition::Ready | Condition::Progressing | Condition::Held)
                && settled.reason != Reason::RolledBack
                && entry.origin != Some(Origin::AutomaticRollback);
        if !(is_same && is_well) {
            return Ok(None);
        }
        let (what, generation) = (shown(&serving.image), entry.generation);
        let message = format!("no change: generation {generation} of `{to}` already has {what}");
        Ok(Some(moved(&facts.desired, false, message)))
    }
}

/// Returns the generation with this image that was ready and keeps serving under a newer one.
fn still_serving(
    history: &[HistoryEntry],
    status: &Status,
    is_here: bool,
    meant: &Digest,
) -> Option<Serving> {
    let ready = history.iter().find(|kept| kept.outcome == Some(Outcome::Ready))?;
    let Entry { generation, revision, image, .. } = &ready.entry;
    let image = image.clone().filter(|image| has_digest(image, meant))?;
    let running = status.running.as_ref()?;
    let runs_it = !is_here || running.image_id.is_some() && running.image_id == image.id;
    runs_it.then(|| Serving { generation: *generation, revision: revision.clone(), image })
}

fn digest(text: Option<&str>) -> Result<Option<Digest>, ApiError> {
    text.map(Digest::new).transpose().map_err(|error| ApiError::bad_request(error.to_string()))
}

fn has_digest(image: &Image, digest: &Digest) -> bool {
    image.id.as_ref() == Some(digest) || image.digest.as_ref() == Some(digest)
}

/// Checks that the target's manifest allows promotions from this environment.
fn check_source(target: &Found, from: &EnvironmentName) -> Result<(), ApiError> {
    let to = &target.name;
    match &target.declared()?.supply {
        Supply::Promotion { from: declared } if declared == from => Ok(()),
        Supply::Promotion { from: declared } => Err(ApiError::conflict(format!(
            "`{to}` accepts promotions from `{declared}`, not from \
                `{from}`"
        ))),
        Supply::Branch { .. } | Supply::Tag { .. } | Supply::Manual => Err(ApiError::unprocessable(format!(
            "`{to}` does not accept promotions: its manifest has no `promote_from`"
        ))),
    }
}

/// Returns the image that an environment runs healthy, byte for byte as recorded.
///
/// Image IDs are names within one engine, so they are compared only for containers on this host; an
/// agent has compared them itself.
fn healthy_image(source: &Desired, status: &Status, is_here: bool) -> Result<Image, ApiError> {
    let (from, generation) = (&source.environment, source.entry.generation);
    let refuse = |why: String| Err(ApiError::conflict(format!("cannot promote `{from}`: {why}")));
    let Some(image) = &source.entry.image else {
        return refuse(format!("generation {generation} has no image yet"));
    };
    let running = status.running.as_ref().and_then(|running| running.image_id.as_ref());
    match (running, &image.id) {
        (Some(_), _) if !is_here => Ok(image.clone()),
        (Some(running), Some(recorded)) if running == recorded => Ok(image.clone()),
        (Some(running), Some(recorded)) => refuse(format!("it runs {running}, but {recorded} is recorded")),
        (Some(_), None) => refuse("the ID of its recorded image is not known yet".to_owned()),
        (None, _) => refuse("its container is not running".to_owned()),
    }
}

/// Checks that another host can pull the image by its digest.
fn check_reach(from: &EnvironmentName, image: &Image, host: &AgentName) -> Result<(), ApiError> {
    if image.digest.is_some() && image.reference.is_some() {
        return Ok(());
    }
    Err(ApiError::unprocessable(format!(
        "the image of `{from}` is in no registry, so the agent {host} cannot pull it: add `push` to \
        `[environment.{from}]`, build it again, then promote it"
    )))
}

/// Checks that the image to promote is the one that the caller saw.
fn check_seen(from: &EnvironmentName, image: &Image, seen: &Digest) -> Result<(), ApiError> {
    if has_digest(image, seen) {
        return Ok(());
    }
    let runs = image.shown_digest().map_or_else(|| "another image".to_owned(), Digest::to_string);
    Err(ApiError::conflict(format!("`{from}` runs {runs}, not {seen}: check it and promote again")))
}
