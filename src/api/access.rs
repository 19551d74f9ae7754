//! Access control: who may use which route.
//!
//! [`socket::name_caller`] and [`gate::authenticate`] identify the caller and store it as an
//! [`Access`] in the request's extensions. `guard` runs before every route and compares that with
//! the route's `AccessRule`. A request without an [`Access`] is refused.

mod failures;
pub mod gate;
mod lease;
mod session;
pub mod socket;

use std::net::SocketAddr;

use axum::extract::{FromRequestParts as _, RawPathParams, Request};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

pub use lease::TokenGuard;
pub(super) use session::SessionAccess;

use super::error::ApiError;
use crate::model::access::{Role, Token};
use crate::model::evidence::Person;
use crate::model::name::EnvironmentName;

/// The caller and its permissions.
#[derive(Clone)]
pub struct Access {
    role: Role,
    by: String,
    /// The token of the caller; `None` for a caller on this host's socket.
    token_guard: Option<TokenGuard>,
    /// The session of the caller; `None` unless a browser's cookie gave the access.
    session: Option<SessionAccess>,
}

impl Access {
    /// A user of this host, who may do everything; `by` is their name for the record.
    pub fn local(by: impl Into<String>) -> Self {
        Self { role: Role::Admin, by: by.into(), token_guard: None, session: None }
    }

    /// The holder of a token. The record then names the token and the address, in a form that is
    /// not a valid user name on this host.
    pub(super) fn of_token(token: Token, from: Option<SocketAddr>, token_guard: TokenGuard) -> Self {
        let from = from.map_or_else(|| "socket".to_owned(), |from| from.ip().to_canonical().to_string());
        Self {
            role: token.role,
            by: format!("token {} ({from})", token.name),
            token_guard: Some(token_guard),
            session: None,
        }
    }

    /// The holder of a session of the web page.
    pub(super) fn of_session(role: Role, by: String, session: SessionAccess) -> Self {
        Self { role, by, token_guard: None, session: Some(session) }
    }

    /// The role of the caller.
    pub fn role(&self) -> &Role {
        &self.role
    }

    /// The caller's name for the record: `alice`, or `token ci (192.0.2.7)`.
    pub fn by(&self) -> &str {
        &self.by
    }

    /// The caller as the author of a change or of evidence.
    pub fn person(&self) -> Person {
        let of_guard = self.token_guard.as_ref().map(|token_guard| token_guard.id().clone());
        let of_session = || self.session.as_ref().and_then(|session| session.token.clone());
        Person { by: self.by.clone(), token: of_guard.or_else(of_session) }
    }

    /// The token of the caller, if it used one.
    pub fn token_guard(&self) -> Option<&TokenGuard> {
        self.token_guard.as_ref()
    }

    /// The session of the caller, if a browser's cookie gave the access.
    pub(super) fn session(&self) -> Option<&SessionAccess> {
        self.session.as_ref()
    }

    /// Whether the kernel has named the caller, a user of this host, for this very request.
    fn is_local(&self) -> bool {
        self.token_guard.is_none() && self.session.is_none()
    }
}

/// The permission that a route requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AccessRule {
    /// None.
    Anyone,
    /// To read.
    Look,
    /// To change the environment that the path names.
    Move,
    /// To approve and reject the images of the environment that the path names.
    Judge,
    /// To run commands in the containers of the environment that the path names.
    Run,
    /// To do everything.
    Administer,
    /// To be an agent.
    Agent,
    /// To be a user of this host, on the socket.
    Local,
}

impl AccessRule {
    /// Describes the permission, and how to get it.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Anyone => "no permission",
            Self::Look => {
                "a role that reads: an admin creates one with `abide token create --role viewer NAME`"
            }
            Self::Move => {
                "the role admin, or deployer of this environment: an admin creates one with `abide token create \
                 --role deployer --environment ENV NAME`"
            }
            Self::Judge => {
                "the role admin, or tester of this environment: an admin creates one with `abide token create \
                 --role tester --environment ENV NAME`"
            }
            Self::Run => {
                "the role admin, or runner of this environment: an admin creates one with `abide token create \
                 --role runner --environment ENV NAME`"
            }
            Self::Administer => {
                "the role admin: an admin creates one with `abide token create --role admin NAME`"
            }
            Self::Agent => {
                "the token of an agent: an admin creates one with `abide token create --agent NAME`"
            }
            Self::Local => "a user on the daemon's host, through its socket",
        }
    }

    pub(super) fn allows(self, access: &Access, environment: Option<&EnvironmentName>) -> bool {
        let role = access.role();
        match self {
            Self::Anyone => true,
            Self::Look => role.may_look(),
            Self::Move => environment.is_some_and(|environment| role.may_move(environment)),
            Self::Judge => environment.is_some_and(|environment| role.may_judge(environment)),
            Self::Run => environment.is_some_and(|environment| role.may_run(environment)),
            Self::Administer => role.may_administer(),
            Self::Agent => role.agent().is_some(),
            Self::Local => access.is_local(),
        }
    }
}

/// Marks an answer to a client without a valid token.
#[derive(Clone, Copy)]
pub(super) struct NotLetIn;

/// Passes a request to its handler if `rule` allows it. Refusals use constant texts, which reveal
/// neither what was wrong with the token nor what exists behind the route.
pub(super) async fn guard(rule: AccessRule, route: &'static str, request: Request, next: Next) -> Response {
    if rule == AccessRule::Anyone {
        return next.run(request).await;
    }
    let (mut parts, body) = request.into_parts();
    let Some(access) = parts.extensions.get::<Access>().cloned() else { return not_let_in() };
    let environment = environment(&mut parts).await;
    if !rule.allows(&access, environment.as_ref()) {
        audit(&access, &parts.method, route, environment.as_ref(), StatusCode::FORBIDDEN);
        return ApiError::forbidden(rule, access.role()).into_response();
    }
    if !matches!(rule, AccessRule::Move | AccessRule::Judge | AccessRule::Run | AccessRule::Administer) {
        return next.run(Request::from_parts(parts, body)).await;
    }
    let method = parts.method.clone();
    let response = next.run(Request::from_parts(parts, body)).await;
    audit(&access, &method, route, environment.as_ref(), response.status());
    response
}

/// The environment that the path names.
pub(super) async fn environment(parts: &mut Parts) -> Option<EnvironmentName> {
    let named = RawPathParams::from_request_parts(parts, &()).await.ok()?;
    let (_, text) = named.iter().find(|(name, _)| *name == "environment")?;
    EnvironmentName::new(text).ok()
}

/// Logs requests that may change something, and those that were refused. Logs the route instead of
/// the path, because a client may have put a token into the path.
pub(super) fn audit(
    access: &Access,
    method: &Method,
    route: &str,
    environment: Option<&EnvironmentName>,
    status: StatusCode,
) {
    let environment = environment.map(tracing::field::display);
    let (by, status) = (access.by(), status.as_u16());
    tracing::info!(by, role = %access.role(), %method, route, environment, status, "asked");
}

fn not_let_in() -> Response {
    let mut response = ApiError::unauthorized().into_response();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response.extensions_mut().insert(NotLetIn);
    response
}
