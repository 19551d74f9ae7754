//! Who may see a page. Runs before every page, as `access::guard` runs before every route of the API.

use std::sync::Arc;

use axum::body::{Body, HttpBody as _};
use axum::extract::{FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::site::PageSite;
use super::{answer, headers};
use crate::api::ApiState;
use crate::api::access::{Access, AccessRule, SessionAccess, audit, environment};
use crate::api::error::ApiError;
use crate::api::serve::{AdmissionGuard, Peer};
use crate::model::access::{BrowserSession, Holder, Role};
use crate::model::credential::SessionSecret;
use crate::model::name::EnvironmentName;
use crate::record::TokenReader;

/// One request to a page, as its handler sees it.
#[derive(Clone)]
pub(in crate::api) struct Visit {
    pub(super) site: PageSite,
    /// The visitor; `None` before the login.
    pub(super) access: Option<Access>,
    /// The session of the cookie.
    pub(super) session: Option<BrowserSession>,
    /// The address of the client.
    pub(super) from: Option<String>,
    /// The path and query of the request, without the site's prefix.
    pub(super) here: String,
    /// Whether the client reads compressed answers.
    pub(super) takes_gzip: bool,
    /// The version of the page that the client has.
    pub(super) has: Option<String>,
}

impl Visit {
    fn of(site: PageSite, parts: &Parts) -> Self {
        let text = |name| parts.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let takes_gzip = text(header::ACCEPT_ENCODING).is_some_and(takes_gzip);
        let peer = parts.extensions.get::<Peer>().and_then(|peer| peer.address);
        Self {
            site,
            access: parts.extensions.get::<Access>().cloned(),
            session: None,
            from: peer.map(|peer| peer.ip().to_canonical().to_string()),
            here: parts.uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string),
            takes_gzip,
            has: text(header::IF_NONE_MATCH).map(str::to_owned),
        }
    }

    /// Whether the visitor may change `environment`.
    pub(super) fn may_move(&self, environment: &EnvironmentName) -> bool {
        self.access.as_ref().is_some_and(|access| access.role().may_move(environment))
    }

    /// Whether the visitor may approve and reject the images of `environment`.
    pub(super) fn may_judge(&self, environment: &EnvironmentName) -> bool {
        self.access.as_ref().is_some_and(|access| access.role().may_judge(environment))
    }

    /// Whether the visitor may do what concerns the whole daemon.
    pub(super) fn may_administer(&self) -> bool {
        self.access.as_ref().is_some_and(|access| access.role().may_administer())
    }

    /// Gives the visitor the access of the cookie's session.
    async fn sign_in(&mut self, api: &ApiState, parts: &mut Parts) {
        let now = (api.clock)();
        for secret in self.site.secrets(&parts.headers) {
            let Some((session, access)) = access_of(api, &secret, self.from.as_deref()) else { continue };
            if TokenReader::is_session_worth_noting(&session, now) {
                note_use(api, secret);
            }
            if let Some(standing) = parts.extensions.get::<AdmissionGuard>() {
                standing.prove();
            }
            // A token in a header is more explicit than a cookie.
            if self.access.is_none() {
                parts.extensions.insert(access.clone());
                self.access = Some(access);
            }
            self.session = Some(session);
            return;
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Visit {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        parts.extensions.get::<Arc<Self>>().map(|visit| Self::clone(visit)).ok_or_else(ApiError::unauthorized)
    }
}

/// Whether a list of codings contains gzip with a weight other than zero.
fn takes_gzip(codings: &str) -> bool {
    codings.split(',').any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, "q=1"));
        let weight = weight.trim().strip_prefix("q=").unwrap_or("1");
        name.trim() == "gzip" && weight.parse::<f32>().is_ok_and(|weight| weight > 0.0)
    })
}

/// The session with this secret and its access, if both the session and its token are valid.
fn access_of(api: &ApiState, secret: &SessionSecret, from: Option<&str>) -> Option<(BrowserSession, Access)> {
    let now = (api.clock)();
    let found = api.tokens.session(secret, now).and_then(|session| {
        let Some(session) = session else { return Ok(None) };
        let token = match &session.holder {
            Holder::Local { .. } => None,
            Holder::Token { token } => match api.tokens.get(token)?.filter(|token| token.is_in_force(now)) {
                Some(token) => Some(token),
                None => return Ok(None),
            },
        };
        Ok(Some((session, token)))
    });
    match found {
        Ok(found) => {
            let (session, token) = found?;
            let of_token = token.as_ref().map(|token| token.id.clone());
            let held = SessionAccess {
                token: of_token,
                secret: secret.clone(),
                tokens: api.tokens.clone(),
                clock: api.clock,
            };
            let from = from.unwrap_or("socket");
            let (role, by) = match (&session.holder, token) {
                (Holder::Token { .. }, Some(token)) => {
                    (token.role, format!("token {} ({from}, page)", token.name))
                }
                (Holder::Token { .. }, None) => return None,
                (Holder::Local { user }, _) => (Role::Admin, format!("{user} (page)")),
            };
            Some((session, Access::of_session(role, by, held)))
        }
        Err(error) => {
            let error: &(dyn std::error::Error + 'static) = &error;
            tracing::error!(error, "a session could not be looked up, so it gives no access");
            None
        }
    }
}

/// Runs in the background, so that the request need not wait for it.
fn note_use(api: &ApiState, secret: SessionSecret) {
    let (writer, now) = (api.token_writer.clone(), (api.clock)());
    tokio::spawn(async move {
        if let Err(error) = writer.session_used(&secret, now).await {
            let error: &(dyn std::error::Error + 'static) = &error;
            tracing::warn!(error, "the use of a session could not be noted");
        }
    });
}

/// Passes a request to its page if `rule` allows it, and dresses every answer.
pub(in crate::api) async fn guard(
    rule: AccessRule,
    route: &'static str,
    api: ApiState,
    request: Request,
    next: Next,
) -> Response {
    let (mut parts, body) = request.into_parts();
    let Some(site) = PageSite::of(&api, &parts) else { return misdirected() };
    let is_https = site.is_public_https;
    let mut visit = Visit::of(site, &parts);
    visit.sign_in(&api, &mut parts).await;
    let visit = Arc::new(visit);
    let response = match refusal(rule, route, &visit, &mut parts).await {
        Some(refusal) => refusal,
        None => {
            parts.extensions.insert(Arc::clone(&visit));
            let (method, named) = (parts.method.clone(), environment(&mut parts).await);
            let response = next.run(Request::from_parts(parts, body)).await;
            if let (AccessRule::Move | AccessRule::Judge | AccessRule::Administer, Some(access)) =
                (rule, &visit.access)
            {
                audit(access, &method, route, named.as_ref(), response.status());
            }
            response
        }
    };
    let error = response.extensions().get::<ApiError>().cloned();
    let mut response = error.map_or(response, |error| answer::failure(&visit, &api, &error));
    headers::add(response.headers_mut(), is_https);
    match visit.access.as_ref().and_then(Access::session).cloned() {
        Some(held) if response.body().size_hint().exact().is_none() => {
            response.map(|body| Body::new(held.bind(body)))
        }
        _ => response,
    }
}

/// Why the request does not reach its page.
async fn refusal(
    rule: AccessRule,
    route: &'static str,
    visit: &Visit,
    parts: &mut Parts,
) -> Option<Response> {
    if !visit.site.is_own_request(parts) {
        tracing::info!(route, from = visit.from, "refused: a page of another site sent this request");
        return Some(ApiError::another_site().into_response());
    }
    if rule == AccessRule::Anyone {
        return None;
    }
    let Some(access) = &visit.access else {
        // A stream follows no redirect, and its script has to know that the session has ended.
        let is_stream = route == "/hints" || route.ends_with("/follow");
        return Some(if is_stream {
            StatusCode::UNAUTHORIZED.into_response()
        } else {
            to_login(visit, route, parts)
        });
    };
    let named = environment(parts).await;
    if rule.allows(access, named.as_ref()) {
        return None;
    }
    audit(access, &parts.method, route, named.as_ref(), StatusCode::FORBIDDEN);
    Some(ApiError::forbidden_page(rule, access.role()).into_response())
}

/// Sends the visitor to the login, and from there back to this page. A form is not sent again.
fn to_login(visit: &Visit, route: &'static str, parts: &Parts) -> Response {
    let is_read = parts.method.is_safe();
    let path = parts.uri.path();
    let here = match path.rsplit_once('/') {
        _ if is_read => visit.here.as_str(),
        Some((page, _)) if route.starts_with("/environments/") => page,
        _ => "/",
    };
    let query: String = form_urlencoded::Serializer::new(String::new()).append_pair("next", here).finish();
    answer::see_other(&visit.site.path(&format!("/login?{query}")))
}

/// The host of the request is not one of this listener.
fn misdirected() -> Response {
    let text = "This address is not one of abide's. Use http://abide.localhost, localhost or 127.0.0.1 with abide's \
                port, or declare `[page] url` in the manifest.\n";
    let mut response = (StatusCode::MISDIRECTED_REQUEST, text).into_response();
    headers::add(response.headers_mut(), false);
    response
}

/// A path that no route has, for a browser; `None` for programs.
pub(in crate::api) fn no_page(uri: &Uri, accepts: Option<&HeaderValue>) -> Option<Response> {
    let is_browser = accepts
        .and_then(|accepts| accepts.to_str().ok())
        .is_some_and(|accepts| accepts.contains("text/html"));
    let is_api = ["/api/", "/v2/", "/webhooks/"].iter().any(|prefix| uri.path().starts_with(prefix));
    if !is_browser || is_api {
        return None;
    }
    let text = "There is no such page. The board is at the root of this site.\n";
    let mut response = (StatusCode::NOT_FOUND, text).into_response();
    headers::add(response.headers_mut(), false);
    Some(response)
}
