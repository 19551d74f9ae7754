//! `rollback`: records an earlier good version and holds the environment.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;

use super::{moved, reason, shown};
use crate::api::ApiState;
use crate::api::body::{Caller, JsonBody};
use crate::api::error::ApiError;
use crate::api::find::CommandTarget;
use crate::model::desired::{Desired, Entry, HistoryEntry, Hold, Image, Origin};
use crate::model::name::Generation;
use crate::model::time::Timestamp;
use crate::model::view::{RecordChange, SeenGenerations};
use crate::record::{Change, Precondition};

/// Options of `rollback`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct Rollback {
    /// The generation; if missing, the last good one.
    to: Option<Generation>,
    /// The reason, as free text.
    reason: Option<String>,
    /// The generations that the client saw.
    seen: Option<SeenGenerations>,
}

/// `POST /api/v1/environments/{environment}/rollback`
pub(in crate::api) async fn rollback(
    State(api): State<ApiState>,
    target: CommandTarget,
    Caller(caller): Caller,
    JsonBody(body): JsonBody<Rollback>,
) -> Result<Json<RecordChange>, ApiError> {
    target.is_whole("rolled back")?;
    target.is_one_for("to", body.to.is_some())?;
    let seen = api.seen_of(&target, body.seen)?;
    let (at, person, why) = ((api.clock)(), caller.person(), reason(body.reason)?);
    let currents = target
        .members
        .iter()
        .map(|found| {
            found.declared()?;
            Ok((found.name.clone(), api.desired.get(&found.name)?.entry))
        })
        .collect::<Result<BTreeMap<_, _>, ApiError>>()?;
    let newest = currents.values().map(|entry| entry.at).max();
    let (mut changes, mut holds, mut guards, mut done) =
        (BTreeMap::new(), BTreeMap::new(), seen, BTreeMap::new());
    for (name, current) in &currents {
        guards.push(Precondition { environment: name.clone(), generation: current.generation });
        let hold = |reason: &str| Hold {
            reason: reason.to_owned(),
            by: person.by.clone(),
            since: at,
            generation: Some(current.generation),
        };
        let history = api.status.history(name)?;
        let goal = member_goal(&history, current, newest, body.to)
            .map_err(|why| ApiError::conflict(format!("cannot roll back `{name}`: {why}")))?;
        let Some((back, image)) = goal else {
            holds.insert(name.clone(), hold(why.as_deref().unwrap_or("its group was rolled back")));
            continue;
        };
        let back_to = format!("rolled back to generation {}", back.generation);
        let note = why.as_ref().map_or(back_to.clone(), |why| format!("{back_to}: {why}"));
        let change = Change {
            revision: back.revision.clone(),
            image: Some(image.clone()),
            origin: Origin::Rollback,
            by: Some(person.by.clone()),
            token: person.token.clone(),
            note: Some(note.clone()),
            at,
            hold: Some(hold(&note)),
        };
        done.insert(name.clone(), format!("{} of generation {}", shown(image), back.generation));
        changes.insert(name.clone(), change);
    }
    let all = api.writer.submit_together(changes, holds, &guards).await?;
    let answer = |desired: &Desired| match done.get(&desired.environment) {
        Some(what) => {
            let mut moved = api.recorded(desired, what);
            moved.message.push_str("; it is held until `resume`");
            moved
        }
        None => {
            let name = &desired.environment;
            moved(
                desired,
                true,
                format!("`{name}` did not change last, so it keeps its version, and is held"),
            )
        }
    };
    Ok(Json(target.answer(all.iter().map(answer).collect())))
}

/// The generation to return to: the named one, or the last good one. A group goes back by one change: the newest one,
/// of as many members as it had. `None`: this member did not change by it.
pub(in crate::api) fn member_goal<'a>(
    history: &'a [HistoryEntry],
    current: &Entry,
    newest: Option<Timestamp>,
    to: Option<Generation>,
) -> Result<Option<(&'a Entry, &'a Image)>, String> {
    if Some(current.at) != newest {
        return Ok(None);
    }
    let goal = match to {
        Some(to) => exactly(history, current, to)?,
        None => HistoryEntry::last_good(history, current)
            .ok_or_else(|| "no earlier generation became ready with another image".to_owned())?,
    };
    Ok(Some(goal))
}

/// Returns the named generation.
fn exactly<'a>(
    history: &'a [HistoryEntry],
    current: &Entry,
    to: Generation,
) -> Result<(&'a Entry, &'a Image), String> {
    if to == current.generation {
        return Err(format!("generation {to} is already the current one"));
    }
    let kept = history.iter().map(|kept| &kept.entry).find(|entry| entry.generation == to);
    let entry = kept.ok_or_else(|| format!("generation {to} is not in the history: see `abide history`"))?;
    let image = entry.image.as_ref().ok_or_else(|| format!("generation {to} never had an image"))?;
    Ok((entry, image))
}
