//! Extractors for the parts of a request: its body, its query and its caller. Every problem with
//! them is a client error with a message.

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::ApiState;
use super::access::Access;
use super::error::ApiError;
use crate::model::reading;

/// A JSON body. An empty body counts as an empty object, because most commands need no more.
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<ApiState> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &ApiState) -> Result<Self, ApiError> {
        let refused = |error: BytesRejection| ApiError::refused(error.status(), error.body_text());
        let bytes = Bytes::from_request(request, state).await.map_err(refused)?;
        let text = if bytes.is_empty() { b"{}" } else { bytes.as_ref() };
        let parsed = reading::json(text);
        parsed.map(Self).map_err(|problem| ApiError::bad_request(format!("invalid request body: {problem}")))
    }
}

/// The query of a URL.
pub(super) struct QueryParams<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<ApiState> for QueryParams<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(asked)) => Ok(Self(asked)),
            Err(error) => Err(ApiError::refused(error.status(), query_problem(&error))),
        }
    }
}

/// Words a problem with a query, which the parser reports as `PARAMETER: MESSAGE`.
fn query_problem(error: &QueryRejection) -> String {
    let text = error.body_text();
    let text = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
    let is_name = |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.".contains(&b));
    let named = text.split_once(": ").filter(|(name, _)| is_name(name));
    let (parameter, message) = named.unwrap_or(("", text));
    format!("invalid query: {}", reading::sentence(parameter, message))
}

/// The caller and its permissions.
pub(super) struct Caller(pub(super) Access);

impl FromRequestParts<ApiState> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &ApiState) -> Result<Self, ApiError> {
        parts.extensions.get::<Access>().cloned().map(Self).ok_or_else(ApiError::unauthorized)
    }
}

/// The caller's name, as the server determined it.
pub(super) struct By(pub(super) String);

impl FromRequestParts<ApiState> for By {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &ApiState) -> Result<Self, ApiError> {
        let access = parts.extensions.get::<Access>().ok_or_else(ApiError::unauthorized)?;
        Ok(Self(access.by().to_owned()))
    }
}
