//! Requests of agents: processes on other hosts, each with its token.

mod answers;
mod attach;
mod connections;
mod registry;
mod report;
mod session;

use axum::Json;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use serde::Serialize;

use super::access::{Access, AccessRule, TokenGuard};
use super::error::ApiError;
use super::serve::BodyDeadline;
use crate::model::name::{AgentName, TokenId};

pub(super) use answers::answer;
pub(super) use attach::input;
pub(super) use connections::LeftOver;
pub use connections::{AgentHub, Presence};
pub(super) use registry::pull;
pub use registry::{Images, TunnelRequest};
pub(super) use report::report;
pub(super) use session::session;

/// The agent that sent the request. Only routes below `/api/v1/agent/` have one; their rule lets
/// only agents through.
pub struct AgentCaller {
    /// The name of its host in the manifest.
    pub agent: AgentName,
    /// Its token. Everything that is open for the agent ends with it; answers end automatically.
    pub token_guard: TokenGuard,
    deadline: Option<BodyDeadline>,
}

impl AgentCaller {
    /// Removes the deadline of this request's body, because it is one direction of a link, not an
    /// upload.
    pub fn lift_deadline(&self) {
        if let Some(deadline) = &self.deadline {
            deadline.lift();
        }
    }
}

impl<S: Sync> FromRequestParts<S> for AgentCaller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let access = parts.extensions.get::<Access>().ok_or_else(ApiError::unauthorized)?;
        let (Some(agent), Some(token_guard)) = (access.role().agent(), access.token_guard()) else {
            return Err(ApiError::forbidden(AccessRule::Agent, access.role()));
        };
        let deadline = parts.extensions.get::<BodyDeadline>().cloned();
        Ok(Self { agent: agent.clone(), token_guard: token_guard.clone(), deadline })
    }
}

/// The identity of an agent, as the controller knows it.
#[derive(Serialize)]
pub(super) struct AgentIdentity {
    agent: AgentName,
    token: TokenId,
}

/// `GET /api/v1/agent/self`: lets an agent check whether its token is valid, and for which agent.
pub(super) async fn itself(caller: AgentCaller) -> Json<AgentIdentity> {
    Json(AgentIdentity { agent: caller.agent, token: caller.token_guard.id().clone() })
}
