//! `rollback`: records an earlier good version and holds the environment.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;

use super::{reason, shown};
use crate::api::ApiState;
use crate::api::body::{Caller, JsonBody};
use crate::api::error::ApiError;
use crate::api::find::FoundEnvironment;
use crate::model::desired::{Entry, HistoryEntry, Hold, Image, Origin, Outcome};
use crate::model::evidence::Person;
use crate::model::name::Generation;
use crate::model::view::RecordChange;
use crate::record::{Change, Precondition};

/// Options of `rollback`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct Rollback {
    /// The generation; if missing, the last good one.
    to: Option<Generation>,
    /// The reason, as free text.
    reason: Option<String>,
    /// The generation that the client saw.
    seen: Option<Generation>,
}

/// `POST /api/v1/environments/{environment}/rollback`
pub(in crate::api) async fn rollback(
    State(api): State<ApiState>,
    found: FoundEnvironment,
    Caller(caller): Caller,
    JsonBody(body): JsonBody<Rollback>,
) -> Result<Json<RecordChange>, ApiError> {
    found.declared()?;
    api.seen(&found.name, body.seen)?;
    let Person { by, token } = caller.person();
    let current = api.desired.get(&found.name)?.entry;
    let seen = body.seen.unwrap_or(current.generation);
    let history = api.status.history(&found.name)?;
    let target = match body.to {
        Some(to) => exactly(&history, &current, to),
        None => last_good(&history, &current),
    };
    let (target, image) =
        target.map_err(|why| ApiError::conflict(format!("cannot roll back `{}`: {why}", found.name)))?;
    let at = (api.clock)();
    let back_to = format!("rolled back to generation {}", target.generation);
    let reason = match reason(body.reason)? {
        Some(reason) => format!("{back_to}: {reason}"),
        None => back_to,
    };
    let change = Change {
        revision: target.revision.clone(),
        image: Some(image.clone()),
        origin: Origin::Rollback,
        by: Some(by.clone()),
        token,
        note: Some(reason.clone()),
        at,
        hold: Some(Hold { reason, by, since: at, generation: None }),
    };
    let guard = Precondition { environment: found.name.clone(), generation: seen };
    let desired = api.writer.submit(&found.name, change, &[guard]).await?;
    let what = format!("{} of generation {}", shown(&image), target.generation);
    let mut moved = api.recorded(&desired, &what);
    moved.message.push_str("; it is held until `resume`");
    Ok(Json(moved))
}

/// Returns the newest earlier generation that became ready with another image.
fn last_good<'a>(history: &'a [HistoryEntry], current: &Entry) -> Result<(&'a Entry, Image), String> {
    let is_other = |image: &Image| current.image.as_ref().is_none_or(|current| !current.is_same(image));
    let good = history
        .iter()
        .filter(|kept| kept.entry.generation < current.generation && kept.outcome == Some(Outcome::Ready));
    good.filter_map(|kept| Some((&kept.entry, kept.entry.image.clone()?)))
        .find(|(_, image)| is_other(image))
        .ok_or_else(|| "no earlier generation became ready with another image".to_owned())
}

/// Returns the named generation.
fn exactly<'a>(
    history: &'a [HistoryEntry],
    current: &Entry,
    to: Generation,
) -> Result<(&'a Entry, Image), String> {
    if to == current.generation {
        return Err(format!("generation {to} is already the current one"));
    }
    let kept = history.iter().map(|kept| &kept.entry).find(|entry| entry.generation == to);
    let entry = kept.ok_or_else(|| format!("generation {to} is not in the history: see `abide history`"))?;
    let image = entry.image.clone().ok_or_else(|| format!("generation {to} never had an image"))?;
    Ok((entry, image))
}
