//! Errors of the API: a status, a word for scripts, a sentence for users.

use axum::Json;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};

use super::access::AccessRule;
use super::{ControllerError, page};
use crate::model::access::Role;
use crate::model::error::chain;
use crate::model::view::ErrorView;
use crate::record::{RecordError, TokenError, WriteError};

/// An error answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    pub(super) status: StatusCode,
    pub(super) view: ErrorView,
}

impl ApiError {
    fn new(status: StatusCode, error: &str, message: impl Into<String>) -> Self {
        Self { status, view: ErrorView { error: error.to_owned(), message: message.into() } }
    }

    /// The caller has no valid token. The text is the same for every cause.
    pub(super) fn unauthorized() -> Self {
        let message = "missing or invalid token: send `Authorization: Bearer abide_...`";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }

    /// The caller of this role lacks the permission of `rule`. The text is the same whether or not the thing exists.
    pub(super) fn forbidden(rule: AccessRule, role: &Role) -> Self {
        let message = format!(
            "the role of this token ({role}) does not allow this request, which needs {}",
            rule.words()
        );
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    /// The role of a visitor of the web page lacks the permission.
    pub(super) fn forbidden_page(rule: AccessRule, role: &Role) -> Self {
        let message = format!("you are signed in as {role}, and that needs {}", rule.words());
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    /// A page of another site sent the request, or a client other than a browser.
    pub(super) fn another_site() -> Self {
        let message = "this request was not sent by a page of abide, so nothing was done: open the page and send its \
                       form again. Behind a proxy, `[page] url` in the manifest has to be the address in the browser";
        Self::new(StatusCode::FORBIDDEN, "another-site", message)
    }

    /// Too many requests without a valid token.
    pub(super) fn too_many_failures() -> Self {
        let message = "too many requests without a valid token: retry later";
        Self::new(StatusCode::TOO_MANY_REQUESTS, "too-many-failures", message)
    }

    /// The thing does not exist.
    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", message)
    }

    /// The request is malformed.
    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", message)
    }

    /// The state differs from what the request assumes.
    pub(super) fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", message)
    }

    /// A gate of the promotion is closed.
    pub(super) fn gates_closed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "gates-closed", message)
    }

    /// The request is valid, but not for this thing.
    pub(super) fn unprocessable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "unprocessable", message)
    }

    /// A required part is unavailable; `error` names it.
    pub(super) fn unavailable(error: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error, message)
    }

    /// The request needs a daemon.
    pub(super) fn no_daemon() -> Self {
        Self::unavailable("no-daemon", "no daemon is running: start one with `abide daemon`")
    }

    /// An error of axum itself, with axum's status if that is a client error.
    pub(super) fn refused(status: StatusCode, message: impl Into<String>) -> Self {
        let status = if status.is_client_error() { status } else { StatusCode::BAD_REQUEST };
        let error = if status == StatusCode::PAYLOAD_TOO_LARGE { "too-large" } else { "bad-request" };
        Self::new(status, error, message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.view.clone())).into_response();
        // The web page shows it in its own way.
        response.extensions_mut().insert(self);
        response
    }
}

impl From<RecordError> for ApiError {
    /// The one place that logs record errors.
    fn from(error: RecordError) -> Self {
        let message = chain(&error);
        tracing::error!(message, "record error");
        let word = if matches!(error, RecordError::DiskFull) { "disk-full" } else { "record-unavailable" };
        Self::unavailable(word, message)
    }
}

impl From<WriteError> for ApiError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Record(error) => error.into(),
            WriteError::Stale { .. } => Self::conflict(error.to_string()),
            WriteError::Disagreeing(_) => Self::unprocessable(error.to_string()),
            WriteError::NoExport(_) => Self::bad_request(error.to_string()),
        }
    }
}

impl From<TokenError> for ApiError {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Record(error) => error.into(),
            TokenError::NameTaken(_) => Self::conflict(error.to_string()),
            TokenError::NoRandomness(_) => Self::unavailable("no-randomness", chain(&error)),
        }
    }
}

impl From<ControllerError> for ApiError {
    fn from(error: ControllerError) -> Self {
        Self::unavailable("engine-unavailable", error.0)
    }
}

/// Answers a request for an unknown path.
pub(super) async fn no_route(uri: Uri, headers: HeaderMap) -> Response {
    let for_browsers = page::guard::no_page(&uri, headers.get(header::ACCEPT));
    for_browsers.unwrap_or_else(|| {
        let message = format!("unknown path `{}`: the API begins with `/api/v1/`", uri.path());
        ApiError::not_found(message).into_response()
    })
}

/// Answers a request with the wrong method.
pub(super) async fn no_method(method: Method, uri: Uri) -> ApiError {
    let message = format!("method {method} is not allowed for `{}`", uri.path());
    ApiError::refused(StatusCode::METHOD_NOT_ALLOWED, message)
}
