//! Settings in the engine's API: the table of the model has the place of each.

use bollard::models::{ContainerCreateBody, ContainerInspectResponse};
use serde_json::Value;

use super::{EngineError, Result};
use crate::model::options::{EngineField, Settings};

/// Returns the settings of an inspected container.
pub(super) fn seen(inspected: &ContainerInspectResponse) -> Settings {
    let config = json(inspected.config.as_ref());
    let host = json(inspected.host_config.as_ref());
    Settings::of_engine(|field| match field {
        EngineField::Config(name) => config.get(name).cloned(),
        EngineField::Host(name) => host.get(name).cloned(),
    })
}

fn json(part: Option<&impl serde::Serialize>) -> Value {
    part.and_then(|part| serde_json::to_value(part).ok()).unwrap_or_default()
}

/// Adds settings to a request to create a container.
pub(super) fn give_to(settings: &Settings, body: ContainerCreateBody) -> Result<ContainerCreateBody> {
    if settings.is_empty() {
        return Ok(body);
    }
    let refused =
        |error: serde_json::Error| EngineError::Refused(format!("an option cannot be sent: {error}"));
    let mut json = serde_json::to_value(body).map_err(refused)?;
    for (field, value) in settings.to_engine() {
        let there = match field {
            EngineField::Config(name) => &mut json[name],
            EngineField::Host(name) => &mut json["HostConfig"][name],
        };
        match (there, value) {
            (Value::Object(there), Value::Object(more)) => there.extend(more),
            (there, value) => *there = value,
        }
    }
    serde_json::from_value(json).map_err(refused)
}
