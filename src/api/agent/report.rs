//! `POST /api/v1/agent/report`: what an agent knows of its environments.

use axum::extract::State;

use super::AgentCaller;
use crate::api::ApiState;
use crate::api::body::Body;
use crate::api::error::ApiError;
use crate::model::link::{Receipt, Report};

/// Keeps a report. Only the session that was let in last has a say, and only of environments that
/// the manifest gives to this agent; of others nothing is said, not even that they exist.
pub(in crate::api) async fn report(
    State(api): State<ApiState>,
    caller: AgentCaller,
    Body(report): Body<Report>,
) -> Result<axum::Json<Receipt>, ApiError> {
    if !api.desk.is_live(&caller.agent, &report.instance, report.epoch) {
        return Err(ApiError::conflict("this session is not the agent's: begin another"));
    }
    let environments = api.desk.environments(&caller.agent);
    let receipt = api.desk.hearer().hear(environments, report, (api.clock)()).await?;
    Ok(axum::Json(receipt))
}
