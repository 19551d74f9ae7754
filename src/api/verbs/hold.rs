//! `hold` and `resume`: an environment or a group stops and resumes applying changes.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::State;
use serde::Deserialize;

use super::{moved, reason};
use crate::api::ApiState;
use crate::api::body::{By, JsonBody};
use crate::api::error::ApiError;
use crate::api::find::CommandTarget;
use crate::model::desired::{Desired, Hold, Outcome};
use crate::model::memory::Memory;
use crate::model::name::{EnvironmentName, Generation};
use crate::model::status::{Condition, Status};
use crate::model::view::{RecordChange, SeenGenerations};
use crate::record::RecordError;

/// Options of `hold`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct HoldBody {
    /// The reason, as free text.
    reason: String,
    /// The generations that the client saw.
    seen: Option<SeenGenerations>,
}

/// Options of `resume`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct ResumeBody {
    /// The generations that the client saw.
    seen: Option<SeenGenerations>,
}

/// `POST /api/v1/environments/{environment}/hold`
pub(in crate::api) async fn hold(
    State(api): State<ApiState>,
    target: CommandTarget,
    By(by): By,
    JsonBody(body): JsonBody<HoldBody>,
) -> Result<Json<RecordChange>, ApiError> {
    let Some(reason) = reason(Some(body.reason))? else {
        return Err(ApiError::bad_request(
            "missing `reason`: it is shown to everyone who finds the \
            environment held",
        ));
    };
    target.is_whole("held")?;
    let guards = api.seen_of(&target, body.seen)?;
    let since = (api.clock)();
    let mut holds = BTreeMap::new();
    for name in target.environments() {
        let (before, status, memory) =
            (api.desired.get(name)?, api.status.status(name)?, api.status.memory(name)?);
        let generation = match kept(&before, status.as_ref(), &memory) {
            // The reconcile state of an agent's environment is with the agent.
            None if before.hold.is_none() => last_ready(&api, name)?,
            kept => kept,
        };
        holds.insert(name.clone(), Hold { reason: reason.clone(), by: by.clone(), since, generation });
    }
    let all = api.writer.seeing(guards).hold_together(holds).await?;
    Ok(Json(target.answer(all.iter().map(held).collect())))
}

fn held(desired: &Desired) -> RecordChange {
    let name = &desired.environment;
    let what = match desired.hold.as_ref().and_then(|hold| hold.generation) {
        Some(generation) => format!("`{name}` is held at generation {generation}"),
        None => format!("`{name}` is held; no version of it was ever ready, so nothing is started"),
    };
    moved(desired, true, format!("{what}; later changes are recorded and take effect on `resume`"))
}

/// The generation to keep: the held one if there is one, the current one if it is ready, else the
/// last one that was ready.
fn kept(desired: &Desired, status: Option<&Status>, memory: &Memory) -> Option<Generation> {
    if let Some(hold) = &desired.hold {
        return hold.generation;
    }
    let current = desired.entry.generation;
    let is_ready = status
        .is_some_and(|status| status.condition == Condition::Ready && status.observed_generation == current);
    if is_ready { Some(current) } else { memory.good.as_ref().map(|good| good.generation) }
}

/// Returns the newest generation in the history that became ready.
fn last_ready(api: &ApiState, name: &EnvironmentName) -> Result<Option<Generation>, RecordError> {
    let history = api.status.history(name)?;
    let ready = history.into_iter().find(|kept| kept.outcome == Some(Outcome::Ready));
    Ok(ready.map(|kept| kept.entry.generation))
}

/// `POST /api/v1/environments/{environment}/resume`
pub(in crate::api) async fn resume(
    State(api): State<ApiState>,
    target: CommandTarget,
    By(by): By,
    JsonBody(body): JsonBody<ResumeBody>,
) -> Result<Json<RecordChange>, ApiError> {
    target.is_whole("resumed")?;
    let guards = api.seen_of(&target, body.seen)?;
    let mut were_held = BTreeSet::new();
    for name in target.environments() {
        if api.desired.get(name)?.hold.is_some() {
            were_held.insert(name.clone());
        }
    }
    let names = target.environments().cloned().collect();
    let all = api.writer.seeing(guards).resume_together(names, (api.clock)(), Some(&by)).await?;
    let answer = |desired: &Desired| {
        let (name, generation) = (&desired.environment, desired.entry.generation);
        let was_held = were_held.contains(name);
        let message = if was_held {
            format!("`{name}` is resumed; generation {generation} takes effect{}", api.when())
        } else {
            format!("`{name}` was not held")
        };
        moved(desired, was_held, message)
    };
    Ok(Json(target.answer(all.iter().map(answer).collect())))
}
