//! `canary`: a person decides about a version that serves a part of the visitors.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;

use super::{moved, reason};
use crate::api::ApiState;
use crate::api::body::{By, JsonBody};
use crate::api::error::ApiError;
use crate::api::find::FoundEnvironment;
use crate::model::canary::{Canary, CanaryDecision, CanaryOrder};
use crate::model::name::Generation;
use crate::model::view::RecordChange;
use crate::record::Precondition;

/// Options of `canary`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct CanaryBody {
    /// What becomes of it.
    decision: CanaryDecision,
    /// The reason, as free text.
    reason: Option<String>,
    /// The generation that the client saw.
    seen: Option<Generation>,
}

/// `POST /api/v1/environments/{environment}/canary`
pub(in crate::api) async fn canary(
    State(api): State<ApiState>,
    found: FoundEnvironment,
    By(by): By,
    JsonBody(body): JsonBody<CanaryBody>,
) -> Result<Json<RecordChange>, ApiError> {
    let (name, reason, at) = (&found.name, reason(body.reason)?, (api.clock)());
    found.declared()?;
    let mut guards = api.seen(name, body.seen)?;
    let canary = api.status.status(name)?.and_then(|status| status.canary);
    let before = api.desired.get(name)?;
    let canary =
        canary.filter(|canary| canary.is_under_way() && canary.generation == before.entry.generation);
    let Some(Canary { generation, .. }) = canary else {
        return Err(ApiError::conflict(format!(
            "nothing was changed: `{name}` has no canary now; `abide status {name}` shows what it runs"
        )));
    };
    if before.hold.is_some() {
        return Err(ApiError::conflict(format!(
            "nothing was changed: the canary of `{name}` is paused by a hold; `abide resume {name}` ends that"
        )));
    }
    guards.push(Precondition { environment: name.clone(), generation });
    let decision = body.decision;
    let order = CanaryOrder { generation, decision, by, reason, at };
    let desired = api.writer.seeing(guards).order_canary(name, order).await?;
    let when = api.when();
    let message = match decision {
        CanaryDecision::Promote => format!("generation {generation} of `{name}` takes over{when}"),
        CanaryDecision::Abort => {
            format!("the canary of `{name}` is removed, and its record returns to the old version{when}")
        }
    };
    Ok(Json(moved(&desired, true, message)))
}
