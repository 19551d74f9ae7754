//! What an agent asks: a process on another host that dialled in with a token of its own.

use axum::Json;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use serde::Serialize;

use super::access::{Access, Lease};
use super::error::ApiError;
use super::serve::BodyDeadline;
use crate::model::name::{AgentName, TokenId};

/// The agent that asks. Only routes below `/api/v1/agent/` have one, and their rule sees to it that
/// nobody else gets that far.
pub struct AgentCaller {
    /// Its host's name in the manifest.
    pub agent: AgentName,
    /// Its token: whatever is open for the agent ends with it. Answers do so by themselves.
    pub lease: Lease,
    deadline: Option<BodyDeadline>,
}

impl AgentCaller {
    /// From now on the body of this request may take as long as it likes: it is one direction of a
    /// link, and no upload.
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
        let (Some(agent), Some(lease)) = (access.role().agent(), access.lease()) else {
            return Err(ApiError::forbidden());
        };
        let deadline = parts.extensions.get::<BodyDeadline>().cloned();
        Ok(Self { agent: agent.clone(), lease: lease.clone(), deadline })
    }
}

/// Who the controller takes an agent for.
#[derive(Serialize)]
pub(super) struct Itself {
    agent: AgentName,
    token: TokenId,
}

/// `GET /api/v1/agent/self`: lets an agent find out whether its token is good, and for what.
pub(super) async fn itself(caller: AgentCaller) -> Json<Itself> {
    Json(Itself { agent: caller.agent, token: caller.lease.id().clone() })
}
