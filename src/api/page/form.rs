//! The fields of a form.

use std::collections::BTreeMap;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::header;

use crate::api::ApiState;
use crate::api::error::ApiError;

/// The fields of a form by name. A repeated field has its first value.
#[derive(Clone, Debug, Default)]
pub(in crate::api) struct Fields(BTreeMap<String, String>);

impl Fields {
    /// The value of a field, even if it is empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The values of the fields whose names begin with `prefix`, by the rest of their names.
    pub(super) fn of(&self, prefix: &str) -> BTreeMap<String, String> {
        let named =
            |(name, value): (&String, &String)| Some((name.strip_prefix(prefix)?.to_owned(), value.clone()));
        self.0.iter().filter_map(named).collect()
    }

    /// The value of a field that is not empty.
    pub(super) fn filled(&self, name: &str) -> Option<String> {
        self.get(name).map(str::trim).filter(|value| !value.is_empty()).map(str::to_owned)
    }
}

impl FromRequest<ApiState> for Fields {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &ApiState) -> Result<Self, ApiError> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let is_form = kind.is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"));
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|error| ApiError::refused(error.status(), error.body_text()))?;
        if !is_form && !bytes.is_empty() {
            return Err(ApiError::bad_request("the body must be a form"));
        }
        let mut fields = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(&bytes) {
            fields.entry(name.into_owned()).or_insert_with(|| value.into_owned());
        }
        Ok(Self(fields))
    }
}
