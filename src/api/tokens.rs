//! Creates, lists and revokes tokens. Only the answer that creates a token contains its text.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::ApiState;
use super::body::{By, JsonBody};
use super::error::ApiError;
use crate::model::access::{AuditStamp, Role, Token};
use crate::model::name::{AgentName, EnvironmentName, TokenId, TokenName};
use crate::model::time::Timestamp;
use crate::model::view::IssuedToken;
use crate::record::NewToken;

/// The name of a role.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RoleWord {
    Viewer,
    Deployer,
    Tester,
    Runner,
    Admin,
    Agent,
}

/// The token to create.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateTokenRequest {
    /// Its name; the default for an agent's token is the name of the agent.
    name: Option<TokenName>,
    role: RoleWord,
    /// The environments of a deployer, tester or runner.
    #[serde(default)]
    environments: Vec<EnvironmentName>,
    /// The agent, for a token of an agent.
    agent: Option<AgentName>,
    /// Its lifetime, such as `90d`; if missing, it is valid until revoked.
    expires: Option<String>,
}

/// `GET /api/v1/tokens`
pub(super) async fn list(State(api): State<ApiState>) -> Result<Json<Vec<Token>>, ApiError> {
    Ok(Json(api.tokens.all()?))
}

/// `POST /api/v1/tokens`
pub(super) async fn create(
    State(api): State<ApiState>,
    By(by): By,
    JsonBody(wanted): JsonBody<CreateTokenRequest>,
) -> Result<Response, ApiError> {
    let issued = issue(&api, wanted, by).await?;
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(issued)).into_response())
}

/// Creates a token.
pub(super) async fn issue(
    api: &ApiState,
    wanted: CreateTokenRequest,
    by: String,
) -> Result<IssuedToken, ApiError> {
    let now = (api.clock)();
    let expires = wanted.expires.as_deref().map(|text| expiry(text, now)).transpose()?;
    let (name, role) = (name(&wanted)?, role(api, wanted)?);
    let new = NewToken { name, role, expires };
    let (about, credential) = api.token_writer.create(new, AuditStamp { at: now, by }).await?;
    tracing::info!(token = %about.id, name = %about.name, role = %about.role, by = about.created.by, "token \
        created");
    let credential = api.pin.map_or(credential.clone(), |pin| credential.pinned(pin));
    Ok(IssuedToken { token: credential.text(), about })
}

/// `DELETE /api/v1/tokens/{token}`, by its ID or by the name of a valid one.
pub(super) async fn revoke(
    State(api): State<ApiState>,
    Path(text): Path<String>,
    By(by): By,
) -> Result<Json<Token>, ApiError> {
    let id = find(&api, &text, (api.clock)())?;
    let revoked = revoke_token(&api, &id, by).await?;
    revoked.map(Json).ok_or_else(|| unknown(&text))
}

/// Revokes a token; `None`: there is none with this ID.
pub(super) async fn revoke_token(
    api: &ApiState,
    id: &TokenId,
    by: String,
) -> Result<Option<Token>, ApiError> {
    let at = (api.clock)();
    let token = api.token_writer.revoke(id, AuditStamp { at, by }).await?;
    let Some(token) = token else { return Ok(None) };
    if let Some(revocation) = token.revoked.as_ref().filter(|revocation| revocation.at == at) {
        tracing::info!(token = %token.id, name = %token.name, by = revocation.by, "token revoked");
    }
    Ok(Some(token))
}

fn find(api: &ApiState, text: &str, now: Timestamp) -> Result<TokenId, ApiError> {
    if let Ok(id) = TokenId::new(text)
        && api.tokens.get(&id)?.is_some()
    {
        return Ok(id);
    }
    let all = api.tokens.all()?.into_iter();
    let named = all.filter(|token| token.is_in_force(now)).find(|token| token.name.as_str() == text);
    named.map(|token| token.id).ok_or_else(|| unknown(text))
}

fn unknown(text: &str) -> ApiError {
    // A client that pastes a whole token here must not get it back.
    let is_name = TokenName::new(text).is_ok() && text.len() <= 40;
    let shown = if is_name { format!("`{text}`") } else { "the given text".to_owned() };
    ApiError::not_found(format!(
        "{shown} is neither the ID of a token nor the name of a valid one: see \
        `abide token list`"
    ))
}

fn expiry(text: &str, now: Timestamp) -> Result<Timestamp, ApiError> {
    let refused = |why: String| ApiError::bad_request(format!("invalid `expires`: {why}"));
    let duration = humantime::parse_duration(text).map_err(|error| refused(error.to_string()))?;
    if duration.is_zero() {
        return Err(refused("the duration must be more than zero".to_owned()));
    }
    Ok(now.after(duration))
}

fn name(wanted: &CreateTokenRequest) -> Result<TokenName, ApiError> {
    let of_agent = wanted.agent.as_ref().and_then(|agent| TokenName::new(agent.as_str()).ok());
    wanted.name.clone().or(of_agent).ok_or_else(|| {
        ApiError::bad_request("missing `name`: the record shows it beside each change made with the token")
    })
}

fn role(api: &ApiState, wanted: CreateTokenRequest) -> Result<Role, ApiError> {
    let CreateTokenRequest { role, environments, agent, .. } = wanted;
    let only = |what: &str, role: &str| Err(ApiError::bad_request(format!("`{what}` is only for {role}")));
    if !environments.is_empty() && !matches!(role, RoleWord::Deployer | RoleWord::Tester | RoleWord::Runner) {
        return only("environments", "a deployer, a tester or a runner");
    }
    if agent.is_some() && !matches!(role, RoleWord::Agent) {
        return only("agent", "an agent");
    }
    match (role, agent) {
        (RoleWord::Viewer, _) => Ok(Role::Viewer),
        (RoleWord::Admin, _) => Ok(Role::Admin),
        (RoleWord::Deployer, _) if environments.is_empty() => {
            Err(ApiError::bad_request("missing `environments`: list the ones that the deployer may change"))
        }
        (RoleWord::Deployer, _) => {
            environments.iter().try_for_each(|name| api.target(name.as_str()).map(drop))?;
            Ok(Role::Deployer { environments: environments.into_iter().collect() })
        }
        (RoleWord::Tester, _) if environments.is_empty() => Err(ApiError::bad_request(
            "missing `environments`: name those whose images the tester may approve and reject",
        )),
        (RoleWord::Tester, _) => {
            environments.iter().try_for_each(|name| api.target(name.as_str()).map(drop))?;
            Ok(Role::Tester { environments: environments.into_iter().collect() })
        }
        (RoleWord::Runner, _) if environments.is_empty() => Err(ApiError::bad_request(
            "missing `environments`: name those in whose containers the runner may run commands",
        )),
        (RoleWord::Runner, _) => {
            environments.iter().try_for_each(|name| api.find(name.as_str()).map(drop))?;
            Ok(Role::Runner { environments: environments.into_iter().collect() })
        }
        (RoleWord::Agent, Some(agent)) => Ok(Role::Agent { agent }),
        (RoleWord::Agent, None) => Err(ApiError::bad_request("missing `agent`: give the name of the agent")),
    }
}
