//! Tokens: for registries that require a token of their token service instead of a password.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use hyper::{Method, Request, StatusCode, Uri};
use serde::Deserialize;

use super::connect;
use super::keyring::Credentials;
use super::retry_after;
use crate::model::container::Secret;
use crate::outbound::{AGENT, Allowed, shown};

/// The reason why no token was issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TokenServiceError {
    /// The token service does not answer. It may have sent a `Retry-After`.
    Unavailable(String, Option<Duration>),
    /// The token service refuses to issue a token.
    Denied(String),
}

#[derive(Deserialize)]
struct TokenResponse {
    token: Option<String>,
    access_token: Option<String>,
}

/// `Authorization` with name and password.
pub(super) fn basic(username: &str, password: &Secret) -> Option<HeaderValue> {
    let pair = format!("{username}:{}", password.expose());
    sensitive(&format!("Basic {}", STANDARD.encode(pair)))
}

/// `Authorization` with a token for `scope` from the service at `realm`.
pub(super) async fn bearer(
    realm: &str,
    service: Option<&str>,
    scope: &str,
    credentials: Option<&Credentials>,
    from: Allowed,
) -> Result<HeaderValue, TokenServiceError> {
    let denied = TokenServiceError::Denied;
    let realm: Uri = realm.parse().map_err(|_| denied("its token service has no address".to_owned()))?;
    let request = request(&realm, service, scope, credentials);
    let request = request.ok_or_else(|| denied("cannot query its token service".to_owned()))?;
    let shown = shown(&realm);
    let put_off = |why: String, retry_after| {
        TokenServiceError::Unavailable(format!("its token service {shown}: {why}"), retry_after)
    };
    let at_service = |why: String| put_off(why, None);
    let answer = connect::ask(request, Some(from)).await.map_err(at_service)?;
    match answer.status {
        StatusCode::OK => {}
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST => {
            return Err(TokenServiceError::Denied(format!(
                "its token service {shown} answered {}",
                answer.status
            )));
        }
        status => return Err(put_off(format!("it answered {status}"), retry_after::read(&answer.headers))),
    }
    // The parser's message would repeat secrets.
    let given: TokenResponse = serde_json::from_slice(&answer.body)
        .map_err(|_| at_service("its response has no token".to_owned()))?;
    let token = given.token.or(given.access_token).filter(|token| !token.is_empty());
    token
        .and_then(|token| sensitive(&format!("Bearer {token}")))
        .ok_or_else(|| at_service("its response has no token".to_owned()))
}

/// A `GET` with name and password, or OAuth's refresh by `POST` if there is an identity token.
fn request(
    realm: &Uri,
    service: Option<&str>,
    scope: &str,
    credentials: Option<&Credentials>,
) -> Option<Request<Full<Bytes>>> {
    let mut form = form_urlencoded::Serializer::new(String::new());
    if let Some(service) = service {
        form.append_pair("service", service);
    }
    form.append_pair("scope", scope);
    let builder = Request::builder().header(USER_AGENT, AGENT);
    if let Some(Credentials::IdentityToken(token)) = credentials {
        form.append_pair("client_id", "abide").append_pair("grant_type", "refresh_token");
        form.append_pair("refresh_token", token.expose());
        let builder = builder.method(Method::POST).uri(realm.clone());
        let builder = builder.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        return builder.body(Full::from(form.finish())).ok();
    }
    let separator = if realm.query().is_some() { '&' } else { '?' };
    let mut builder = builder.uri(format!("{realm}{separator}{}", form.finish()));
    if let Some(Credentials::Password { username, password }) = credentials {
        builder = builder.header(AUTHORIZATION, basic(username, password)?);
    }
    builder.body(Full::default()).ok()
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}
