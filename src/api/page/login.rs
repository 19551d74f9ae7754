//! Login by a token or by a one-time code, and logout.

use std::time::Duration;

use askama::Template;
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use tokio::time::Instant;

use super::answer;
use super::form::Fields;
use super::frame::Frame;
use super::guard::Visit;
use super::one_time::VALID_FOR;
use super::site::safe_next;
use crate::api::ApiState;
use crate::api::access::NotLetIn;
use crate::api::body::{By, QueryParams};
use crate::api::error::ApiError;
use crate::model::access::{Holder, Role};
use crate::model::container::Secret;
use crate::model::credential::Credential;
use crate::model::time::Timestamp;
use crate::model::view::LoginLink;
use crate::record::NewSession;

const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// A session that may change something ends after this time without use,
const IDLE: Duration = Duration::from_secs(12 * 60 * 60);
/// and after this time in any case.
const ABSOLUTE: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// A viewer's session may be that of a screen on a wall.
const OF_VIEWER: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// The session of a user of this host.
const OF_LOCAL: Duration = IDLE;

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage {
    frame: Frame,
    next: String,
    has_signed_out: bool,
    refused: Option<&'static str>,
    idle_hours: u64,
    days: u64,
}

/// How the visitor got here.
#[derive(Debug, Default, Deserialize)]
pub(in crate::api) struct LoginQuery {
    next: Option<String>,
    /// Set after a logout.
    out: Option<String>,
}

/// `GET /login?next=`. It shows no name of anything.
pub(in crate::api) async fn login_form(
    visit: Visit,
    State(api): State<ApiState>,
    QueryParams(query): QueryParams<LoginQuery>,
) -> Result<Response, ApiError> {
    let next = query.next.as_deref().and_then(safe_next).unwrap_or("/");
    if visit.session.is_some() {
        return Ok(answer::see_other(&visit.site.path(next)));
    }
    answer::page(&visit, &form(&visit, &api, next, query.out.is_some(), None))
}

fn form(
    visit: &Visit,
    api: &ApiState,
    next: &str,
    has_signed_out: bool,
    refused: Option<&'static str>,
) -> LoginPage {
    LoginPage {
        frame: Frame::new(visit, api, "Sign in", ""),
        next: next.to_owned(),
        has_signed_out,
        refused,
        idle_hours: IDLE.as_secs() / HOUR.as_secs(),
        days: ABSOLUTE.as_secs() / DAY.as_secs(),
    }
}

/// `POST /login`: a token, or a code of `abide login`.
pub(in crate::api) async fn login(
    visit: Visit,
    State(api): State<ApiState>,
    fields: Fields,
) -> Result<Response, ApiError> {
    let next = fields.get("next").and_then(safe_next).unwrap_or("/").to_owned();
    let shown = fields.get("token").unwrap_or_default().trim();
    let now = (api.clock)();
    let Some((holder, idle, expires, by)) = recognize(&api, shown, now)? else {
        tracing::warn!(from = visit.from, "a login was refused");
        let refused = "That is neither a valid token nor an unused code. A code of `abide login` is valid for a minute.";
        let page = form(&visit, &api, &next, false, Some(refused));
        let mut response = answer::page_with(&visit, StatusCode::UNAUTHORIZED, &page)?;
        response.extensions_mut().insert(NotLetIn);
        return Ok(response);
    };
    // A new login is a new session, even in the same browser.
    if let Some(old) = &visit.session {
        api.token_writer.end_session(&old.id).await?;
    }
    let new = NewSession { holder, from: visit.from.clone(), idle, expires };
    let (session, secret) = api.token_writer.open_session(new, now).await?;
    tracing::info!(session = %session.id, by, from = visit.from, "signed in");
    let cookie = visit.site.set_cookie(&secret.text(), session.expires.since(now));
    with_cookie(answer::see_other(&visit.site.path(&next)), &cookie)
}

type Recognized = (Holder, Duration, Timestamp, String);

/// Who shows this text. The answer to the visitor is the same for every cause.
fn recognize(api: &ApiState, shown: &str, now: Timestamp) -> Result<Option<Recognized>, ApiError> {
    if let Some(credential) = Credential::parse(shown) {
        let token = api.tokens.verify(&credential, now)?.filter(|token| token.role.may_look());
        return Ok(token.map(|token| {
            let (idle, absolute) =
                if token.role == Role::Viewer { (OF_VIEWER, OF_VIEWER) } else { (IDLE, ABSOLUTE) };
            let expires = now.after(absolute);
            let expires = token.expires.map_or(expires, |ends| ends.min(expires));
            (Holder::Token { token: token.id }, idle, expires, format!("token {}", token.name))
        }));
    }
    let user = api.pages.codes.redeem(shown, Instant::now());
    Ok(user.map(|user| (Holder::Local { user: user.clone() }, OF_LOCAL, now.after(OF_LOCAL), user)))
}

/// `POST /logout`: ends the session here, not only in the browser.
pub(in crate::api) async fn logout(visit: Visit, State(api): State<ApiState>) -> Result<Response, ApiError> {
    if let Some(session) = &visit.session {
        api.token_writer.end_session(&session.id).await?;
        tracing::info!(session = %session.id, from = visit.from, "signed out");
    }
    let cookie = visit.site.set_cookie(&Secret::new(""), Duration::ZERO);
    with_cookie(answer::see_other(&visit.site.path("/login?out=1")), &cookie)
}

fn with_cookie(mut response: Response, cookie: &str) -> Result<Response, ApiError> {
    let mut cookie = HeaderValue::from_str(cookie)
        .map_err(|_| ApiError::unavailable("internal", "the cookie could not be made"))?;
    cookie.set_sensitive(true);
    response.headers_mut().insert(header::SET_COOKIE, cookie);
    Ok(response)
}

/// `POST /api/v1/login`, for users of this host only: a one-time link that signs its opener in as the caller.
pub(in crate::api) async fn login_link(
    State(api): State<ApiState>,
    By(user): By,
) -> Result<Response, ApiError> {
    let public = api.manifest.borrow().manifest.page.as_ref().map(|page| page.url.clone());
    let link = api.pages.link(public.as_ref(), &user, VALID_FOR);
    let (url, local_url) = link.ok_or_else(ApiError::no_daemon)?;
    tracing::info!(by = user, "a login link was made");
    let link = LoginLink { url, local_url, valid_seconds: VALID_FOR.as_secs() };
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(link)).into_response())
}
