//! `maintenance`: the proxy answers for an environment.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;

use super::{moved, reason};
use crate::api::ApiState;
use crate::api::body::{By, JsonBody};
use crate::api::error::ApiError;
use crate::api::find::FoundEnvironment;
use crate::model::desired::Maintenance;
use crate::model::name::Generation;
use crate::model::view::RecordChange;

/// How long the proxy may take to apply a configuration.
const PROXY: Duration = Duration::from_secs(10);
/// The interval of questions whether it did.
const ASK_EVERY: Duration = Duration::from_millis(20);

/// Options of `maintenance`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct MaintenanceBody {
    /// Whether it begins or ends.
    on: bool,
    /// The reason, as free text.
    reason: Option<String>,
    /// The generation that the client saw.
    seen: Option<Generation>,
}

/// `POST /api/v1/environments/{environment}/maintenance`
pub(in crate::api) async fn maintenance(
    State(api): State<ApiState>,
    found: FoundEnvironment,
    By(by): By,
    JsonBody(body): JsonBody<MaintenanceBody>,
) -> Result<Json<RecordChange>, ApiError> {
    let (name, reason, at) = (&found.name, reason(body.reason)?, (api.clock)());
    if body.on {
        is_behind_a_proxy(&found, &api)?;
    }
    let guards = api.seen(name, body.seen)?;
    let was_on = api.desired.get(name)?.maintenance.is_some();
    let wanted = body.on.then(|| Maintenance { reason, by: by.clone(), since: at });
    let desired = api.writer.seeing(guards).maintain(name, wanted, &by, at).await?;
    let is_applied = wait_for_proxy(&found, &api, body.on).await;
    let host = found.spec().and_then(|spec| spec.host.as_ref());
    let when = match host.filter(|host| !api.hub.presence(host).connected) {
        Some(host) => format!(", as soon as the agent {host} is connected"),
        None => api.when().to_owned(),
    };
    let message = match (was_on, body.on) {
        _ if !is_applied => {
            let (done, within) = (if body.on { "on" } else { "off" }, humantime::format_duration(PROXY));
            format!(
                "maintenance of `{name}` is recorded as {done}, but the proxy did not apply it within {within}: \
                 `abide status` shows why"
            )
        }
        (true, true) => format!("`{name}` is in maintenance already"),
        (false, false) => format!("`{name}` was not in maintenance"),
        (false, true) => format!("the proxy answers 503 for `{name}`{when}"),
        (true, false) => format!("the proxy passes requests to `{name}` again{when}"),
    };
    Ok(Json(moved(&desired, was_on != body.on, message)))
}

/// Waits until the proxy of this host serves as recorded. The proxy of another host follows its agent.
async fn wait_for_proxy(found: &FoundEnvironment, api: &ApiState, is_on: bool) -> bool {
    let is_here = found.spec().is_some_and(|spec| spec.host.is_none());
    let Some(controller) = api.controller.as_ref().filter(|_| is_here) else { return true };
    let applied = async {
        while controller.in_maintenance(&found.name).is_some_and(|applied| applied != is_on) {
            tokio::time::sleep(ASK_EVERY).await;
        }
    };
    tokio::time::timeout(PROXY, applied).await.is_ok()
}

/// Only a proxy can answer for a program. Whether another host has one, its agent reports.
fn is_behind_a_proxy(found: &FoundEnvironment, api: &ApiState) -> Result<(), ApiError> {
    let spec = found.declared()?;
    let name = &found.name;
    let is_served = spec.can_be_proxied() && (spec.publish.is_some() || !spec.hostnames.is_empty());
    let declare = match &spec.host {
        Some(host) if api.hub.proxy(host).is_some_and(|proxy| proxy.http.is_none()) => {
            format!("`[front]` in `policy.toml` of the agent {host}")
        }
        None if api.manifest.borrow().manifest.front.is_none() => "`[front]`".to_owned(),
        _ if !is_served => "`[front]`".to_owned(),
        _ => return Ok(()),
    };
    Err(ApiError::unprocessable(format!(
        "`{name}` is not behind the proxy, which would answer for it: declare {declare}, and a `hostname` or a port"
    )))
}
