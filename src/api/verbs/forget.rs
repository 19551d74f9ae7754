//! `forget`: removes the record of an environment that left the manifest.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;

use super::moved;
use crate::api::ApiState;
use crate::api::body::{Body, By};
use crate::api::error::ApiError;
use crate::api::find::Found;
use crate::model::desired::Forget;
use crate::model::view::Moved;

/// Options of `forget`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct ForgetBody {
    /// Whether to stop and remove the containers too.
    #[serde(default)]
    stop: bool,
}

/// `POST /api/v1/environments/{environment}/forget`
pub(in crate::api) async fn forget(
    State(api): State<ApiState>,
    found: Found,
    By(by): By,
    Body(ForgetBody { stop }): Body<ForgetBody>,
) -> Result<Json<Moved>, ApiError> {
    let name = &found.name;
    if found.spec().is_some() {
        return Err(ApiError::conflict(format!(
            "the manifest still declares `{name}`: remove it from the manifest first"
        )));
    }
    let containers =
        api.controller.as_ref().map(|controller| controller.containers(name)).unwrap_or_default();
    if !containers.is_empty() && !stop {
        let containers = containers.join(", ");
        return Err(ApiError::conflict(format!(
            "{containers} still exists: `abide forget {name} --stop` stops and removes it, and keeps its \
            volumes"
        )));
    }
    let volumes: Vec<String> = api.status.memory(name)?.volumes.into_iter().collect();
    let desired = api.writer.forget(name, Forget { stop, by, at: (api.clock)() }).await?;
    let kept = match volumes.as_slice() {
        [] => String::new(),
        volumes => format!("; its volumes are kept: {}", volumes.join(", ")),
    };
    Ok(Json(moved(&desired, true, format!("`{name}` is removed from the record{}{kept}", api.when()))))
}
