//! `forget`: removes the record of an environment that left the manifest, or what a declared one left on other
//! hosts.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;

use super::moved;
use crate::api::ApiState;
use crate::api::body::{By, JsonBody};
use crate::api::environments::Left;
use crate::api::error::ApiError;
use crate::api::find::ExactEnvironment;
use crate::model::desired::{Forget, LeftOn};
use crate::model::name::{EnvironmentName, Generation};
use crate::model::view::RecordChange;

/// Options of `forget`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct ForgetBody {
    /// Whether to stop and remove the containers too.
    #[serde(default)]
    stop: bool,
    /// The generation that the client saw.
    seen: Option<Generation>,
}

/// `POST /api/v1/environments/{environment}/forget`
pub(in crate::api) async fn forget(
    State(api): State<ApiState>,
    ExactEnvironment(found): ExactEnvironment,
    By(by): By,
    JsonBody(ForgetBody { stop, seen }): JsonBody<ForgetBody>,
) -> Result<Json<RecordChange>, ApiError> {
    let name = &found.name;
    let writer = api.writer.seeing(api.seen(name, seen)?);
    let all = api.left_elsewhere(name, found.spec());
    let (gone, left): (Vec<_>, Vec<_>) = all.into_iter().partition(|left| left.is_gone);
    if left.is_empty() && gone.is_empty() && found.spec().is_some() {
        return Err(ApiError::conflict(format!(
            "the manifest still declares `{name}`, and no other host has containers of it: remove it from the \
             manifest first"
        )));
    }
    if !left.is_empty() && !stop {
        return Err(ApiError::conflict(format!(
            "{} still exists: `abide forget {name} --stop` stops and removes it, and keeps its volumes",
            list(&left)
        )));
    }
    for agent in gone.iter().filter_map(|left| left.agent.as_ref()) {
        api.hub.drop_left(agent, name).await?;
    }
    let lost = if gone.is_empty() {
        String::new()
    } else {
        format!("; not removed, because the agent has no valid token: {}", list(&gone))
    };
    if left.is_empty() && found.spec().is_some() {
        let message = format!("the note about what `{name}` left is dropped{lost}");
        return Ok(Json(moved(&api.desired.get(name)?, true, message)));
    }
    let hosts = found.spec().map(|_| LeftOn {
        here: left.iter().any(|left| left.agent.is_none()),
        agents: left.iter().filter_map(|left| left.agent.clone()).collect(),
    });
    let kept = kept(&api, name, found.spec().is_none(), &left)?;
    let request = Forget { stop, left: hosts, by, at: (api.clock)() };
    let desired = writer.forget(name, request).await?;
    let (removed, when) = (list(&left), api.when());
    let message = match found.spec() {
        Some(_) => format!("`{name}` stays as it is; removing {removed}{when}{kept}{lost}"),
        None if left.iter().any(|left| left.agent.is_some()) => {
            format!("`{name}` is removed from the record{when} after {removed}{kept}{lost}")
        }
        None => format!("`{name}` is removed from the record{when}{kept}{lost}"),
    };
    Ok(Json(moved(&desired, true, message)))
}

/// Names the leftovers on each host.
fn list(left: &[Left]) -> String {
    let all: Vec<_> = left
        .iter()
        .map(|left| format!("{} on {}{}", left.containers.join(", "), left.place(), left.when()))
        .collect();
    all.join("; ")
}

/// Names the volumes that outlive the environment on the hosts that are cleared.
fn kept(api: &ApiState, name: &EnvironmentName, is_gone: bool, left: &[Left]) -> Result<String, ApiError> {
    let is_here = is_gone || left.iter().any(|left| left.agent.is_none());
    let mut volumes = if is_here { api.status.memory(name)?.volumes } else { BTreeSet::new() };
    volumes.extend(left.iter().flat_map(|left| left.volumes.iter().cloned()));
    if volumes.is_empty() {
        return Ok(String::new());
    }
    let volumes: Vec<_> = volumes.into_iter().collect();
    Ok(format!("; its volumes are kept: {}", volumes.join(", ")))
}
