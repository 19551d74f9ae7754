//! `promote`: what one environment runs healthy becomes what another should run. Compare-and-set:
//! refused where what was seen is no longer so.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;

use super::shown;
use crate::api::ApiState;
use crate::api::body::{Body, By};
use crate::api::error::ApiError;
use crate::api::find::Found;
use crate::model::desired::{Desired, Image, Origin};
use crate::model::name::{Digest, EnvironmentName};
use crate::model::spec::Supply;
use crate::model::status::{Condition, Status};
use crate::model::view::Moved;
use crate::record::{Change, Guard};

/// What to promote.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct Promote {
    /// From where.
    from: String,
    /// The content that was seen there.
    digest: Option<String>,
}

/// `POST /api/v1/environments/{environment}/promote`, on the environment that is promoted to.
pub(in crate::api) async fn promote(
    State(api): State<ApiState>,
    found: Found,
    By(by): By,
    Body(body): Body<Promote>,
) -> Result<Json<Moved>, ApiError> {
    let from = api.find(&body.from)?.name;
    check_source(&found, &from)?;
    let source = api.desired.get(&from)?;
    let image = healthy_image(&source, api.status.status(&from)?.as_ref())?;
    if let Some(seen) = &body.digest {
        check_seen(&from, &image, seen)?;
    }
    let generation = source.entry.generation;
    let change = Change {
        revision: source.entry.revision,
        image: Some(image.clone()),
        origin: Origin::Promotion,
        by: Some(by),
        note: Some(format!("from {from} generation {generation}")),
        at: (api.clock)(),
        hold: None,
    };
    let guard = Guard { environment: from.clone(), generation };
    let desired = api.writer.submit(&found.name, change, &[guard]).await?;
    Ok(Json(api.recorded(&desired, &format!("{} of `{from}`", shown(&image)))))
}

/// The target's manifest names from where it takes promotions.
fn check_source(target: &Found, from: &EnvironmentName) -> Result<(), ApiError> {
    let to = &target.name;
    match &target.declared()?.supply {
        Supply::Promotion { from: declared } if declared == from => Ok(()),
        Supply::Promotion { from: declared } => {
            Err(ApiError::conflict(format!("`{to}` takes promotions from `{declared}`, not from `{from}`")))
        }
        Supply::Branch { .. } | Supply::Tag { .. } | Supply::Manual => Err(ApiError::unprocessable(format!(
            "`{to}` takes no promotions: its manifest has no `promote_from`"
        ))),
    }
}

/// The image that an environment runs healthy, byte for byte as it is recorded.
fn healthy_image(source: &Desired, status: Option<&Status>) -> Result<Image, ApiError> {
    let (from, generation) = (&source.environment, source.entry.generation);
    let refuse = |why: String| Err(ApiError::conflict(format!("`{from}` cannot be promoted: {why}")));
    let Some(status) = status else { return refuse("nothing is known of it yet".to_owned()) };
    if status.condition != Condition::Ready {
        return refuse(format!("it is {}: {}", status.condition.as_str(), status.message));
    }
    if status.observed_generation != generation {
        let ready = status.observed_generation;
        return refuse(format!("generation {generation} is recorded, and only {ready} is known to be ready"));
    }
    let Some(image) = &source.entry.image else {
        return refuse(format!("generation {generation} names no image yet"));
    };
    let running = status.running.as_ref().and_then(|running| running.image_id.as_ref());
    match (running, &image.id) {
        (Some(running), Some(recorded)) if running == recorded => Ok(image.clone()),
        (Some(running), Some(recorded)) => refuse(format!("it runs {running}, and {recorded} is recorded")),
        (Some(_), None) => refuse("the ID of its recorded image is not known yet".to_owned()),
        (None, _) => refuse("it does not run".to_owned()),
    }
}

/// What the caller saw is what would be promoted.
fn check_seen(from: &EnvironmentName, image: &Image, seen: &str) -> Result<(), ApiError> {
    let seen = Digest::new(seen).map_err(|error| ApiError::bad_request(error.to_string()))?;
    if image.id.as_ref() == Some(&seen) || image.digest.as_ref() == Some(&seen) {
        return Ok(());
    }
    let runs = image.shown_digest().map_or_else(|| "something else".to_owned(), Digest::to_string);
    Err(ApiError::conflict(format!("`{from}` runs {runs}, not {seen}: look at it again")))
}
