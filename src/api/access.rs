//! Who may come in, and what for.
//!
//! [`socket::name_caller`] and [`gate::authenticate`] say who asks, as an [`Access`] in the request's
//! extensions; `guard` stands before every route and compares it with the route's `Rule`. Where
//! nobody said who asks, nobody is let in.

mod failures;
pub mod gate;
mod lease;
pub mod socket;

use std::net::SocketAddr;

use axum::extract::{FromRequestParts as _, RawPathParams, Request};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

pub use lease::Lease;

use super::error::ApiError;
use crate::model::access::{Role, Token};
use crate::model::name::EnvironmentName;

/// Who asks, and what they may do.
#[derive(Clone)]
pub struct Access {
    role: Role,
    by: String,
    /// The token that let them in; `None`: they are on this machine's socket.
    lease: Option<Lease>,
}

impl Access {
    /// Someone of this machine, who may do everything; `by` is their name for the record.
    pub fn local(by: impl Into<String>) -> Self {
        Self { role: Role::Admin, by: by.into(), lease: None }
    }

    /// The holder of a token. The record then names token and address, in a form that no user of
    /// this machine can have for a name.
    fn of_token(token: Token, from: Option<SocketAddr>, lease: Lease) -> Self {
        let from = from.map_or_else(|| "socket".to_owned(), |from| from.ip().to_canonical().to_string());
        Self { role: token.role, by: format!("token {} ({from})", token.name), lease: Some(lease) }
    }

    /// What they may do.
    pub fn role(&self) -> &Role {
        &self.role
    }

    /// Their name for the record: `alice`, or `token ci (192.0.2.7)`.
    pub fn by(&self) -> &str {
        &self.by
    }

    /// The token that let them in, where one did.
    pub fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }
}

/// What a route asks of who comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// Nothing.
    Anyone,
    /// To be allowed to look.
    Look,
    /// To be allowed to move the environment that the path names.
    Move,
    /// To be allowed everything.
    Administer,
    /// To be an agent.
    Agent,
}

impl Rule {
    fn allows(self, role: &Role, environment: Option<&EnvironmentName>) -> bool {
        match self {
            Self::Anyone => true,
            Self::Look => role.may_look(),
            Self::Move => environment.is_some_and(|environment| role.may_move(environment)),
            Self::Administer => role.may_administer(),
            Self::Agent => role.agent().is_some(),
        }
    }
}

/// Marks an answer to someone who has not shown a good token.
#[derive(Clone, Copy)]
pub(super) struct NotLetIn;

/// Lets a request on to its handler where `rule` allows it. What is refused is refused in constant
/// words: they tell neither what was wrong with a token nor what there is behind the door.
pub(super) async fn guard(rule: Rule, route: &'static str, request: Request, next: Next) -> Response {
    if rule == Rule::Anyone {
        return next.run(request).await;
    }
    let (mut parts, body) = request.into_parts();
    let Some(access) = parts.extensions.get::<Access>().cloned() else { return not_let_in() };
    let environment = environment(&mut parts).await;
    if !rule.allows(access.role(), environment.as_ref()) {
        audit(&access, &parts.method, route, environment.as_ref(), StatusCode::FORBIDDEN);
        return ApiError::forbidden().into_response();
    }
    if !matches!(rule, Rule::Move | Rule::Administer) {
        return next.run(Request::from_parts(parts, body)).await;
    }
    let method = parts.method.clone();
    let response = next.run(Request::from_parts(parts, body)).await;
    audit(&access, &method, route, environment.as_ref(), response.status());
    response
}

/// The environment that the path names.
async fn environment(parts: &mut Parts) -> Option<EnvironmentName> {
    let named = RawPathParams::from_request_parts(parts, &()).await.ok()?;
    let (_, text) = named.iter().find(|(name, _)| *name == "environment")?;
    EnvironmentName::new(text).ok()
}

/// Who asked for what may move something, or was not allowed to ask at all. The route is logged, and
/// not the path: someone may have put a token there.
fn audit(
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
