//! `POST /api/v1/agent/report`: the states that an agent reports.

use axum::extract::State;

use super::AgentCaller;
use crate::api::ApiState;
use crate::api::body::JsonBody;
use crate::api::error::ApiError;
use crate::model::link::{AgentReport, Receipt, SimilarRequests};

/// The most requests that one report may count, because each is added to a histogram. An agent reports every five
/// seconds.
const MOST_REQUESTS: u64 = 500_000;

/// Stores a report. Only the newest session may report, and only about environments that the
/// manifest assigns to this agent. The answer reveals nothing about others, not even their
/// existence.
pub(in crate::api) async fn report(
    State(api): State<ApiState>,
    caller: AgentCaller,
    JsonBody(mut report): JsonBody<AgentReport>,
) -> Result<axum::Json<Receipt>, ApiError> {
    if !api.hub.is_live(&caller.agent, &report.instance, report.epoch) {
        return Err(ApiError::conflict("this session is not the agent's current one: start a new session"));
    }
    if let Some(left) = report.left.take() {
        let volumes = report.left_volumes.take().unwrap_or_default();
        api.hub.note_left(&caller.agent, left, volumes).await?;
    }
    let environments = api.hub.environments(&caller.agent);
    let runs = report.environments.iter().filter(|one| one.status.running.is_some());
    let runs = runs.map(|one| one.status.environment.clone()).filter(|name| environments.contains(name));
    api.hub.note_runs(&caller.agent, runs.collect()).await?;
    let mut left = MOST_REQUESTS;
    for tally in std::mem::take(&mut report.requests) {
        let count = tally.count.min(left);
        if environments.contains(&tally.environment) && count > 0 {
            left -= count;
            api.metrics.reported_requests(SimilarRequests { count, ..tally }, (api.clock)());
        }
    }
    let receipt = api.hub.reports().record(environments, report, (api.clock)()).await?;
    Ok(axum::Json(receipt))
}
