//! Exports and imports the whole record.

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use super::ApiState;
use super::body::JsonBody;
use super::error::ApiError;
use crate::model::name::EnvironmentName;
use crate::record::Export;

/// `GET /api/v1/export`
pub(super) async fn export(State(api): State<ApiState>) -> Result<Json<Export>, ApiError> {
    Ok(Json(api.desired.export()?))
}

/// The answer to an import.
#[derive(Debug, Serialize)]
pub(super) struct Imported {
    /// The environments that the record has now.
    environments: Vec<EnvironmentName>,
    /// A sentence for users.
    message: String,
}

/// `POST /api/v1/import`
pub(super) async fn import(
    State(api): State<ApiState>,
    JsonBody(export): JsonBody<Export>,
) -> Result<Json<Imported>, ApiError> {
    let environments: Vec<_> =
        export.environments.iter().map(|environment| environment.desired.environment.clone()).collect();
    let is_moved = api.desired.export()?.id != export.id;
    api.writer.import(export).await?;
    let count = environments.len();
    let mut message =
        format!("imported the record of {count} environment{}", if count == 1 { "" } else { "s" });
    if is_moved && api.controller.is_some() {
        // Containers carry the record's ID, and the controller reads it only at its start.
        message.push_str("; the record has a new ID: restart the daemon to use it");
    }
    Ok(Json(Imported { environments, message }))
}
