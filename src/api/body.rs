//! Extractors for the parts of a request: its body, its query and its caller. Every problem with
//! them is a client error with a message.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::ApiState;
use super::access::Access;
use super::error::ApiError;

/// A JSON body. An empty body counts as an empty object, because most commands need no more.
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<ApiState> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &ApiState) -> Result<Self, ApiError> {
        let refused = |error: BytesRejection| ApiError::refused(error.status(), error.body_text());
        let bytes = Bytes::from_request(request, state).await.map_err(refused)?;
        let text = if bytes.is_empty() { b"{}" } else { bytes.as_ref() };
        let parsed = serde_json::from_slice(text);
        parsed.map(Self).map_err(|error| ApiError::bad_request(format!("invalid request body: {error}")))
    }
}

/// The query of a URL.
pub(super) struct QueryParams<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<ApiState> for QueryParams<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(asked)) => Ok(Self(asked)),
            Err(error) => Err(ApiError::refused(error.status(), error.body_text())),
        }
    }
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
