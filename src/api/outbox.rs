//! The outbox: its items, retries, and test messages to channels.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;

use super::ApiState;
use super::body::JsonBody;
use super::error::ApiError;
use crate::model::name::ChannelName;
use crate::model::outbox::{OutboxItem, OutboxTarget};
use crate::model::view::{OutboxRetried, TestSent};
use crate::record::RecordError;

/// An item that fails for so long is worth a warning before abide gives up on it.
const WORTH_A_WARNING: Duration = Duration::from_secs(5 * 60);

/// `GET /api/v1/outbox`
pub(super) async fn list(State(api): State<ApiState>) -> Result<Json<Vec<OutboxItem>>, ApiError> {
    Ok(Json(api.outbox.items()?))
}

/// What to retry.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RetryBody {
    /// Only items of this target.
    target: Option<String>,
}

/// `POST /api/v1/outbox/retry`
pub(super) async fn retry(
    State(api): State<ApiState>,
    JsonBody(RetryBody { target }): JsonBody<RetryBody>,
) -> Result<Json<OutboxRetried>, ApiError> {
    let target: Option<OutboxTarget> = match target.map(|target| target.parse()) {
        None => None,
        Some(Ok(target)) => Some(target),
        Some(Err(error)) => return Err(ApiError::unprocessable(error.to_string())),
    };
    let items = api.outbox.retry(target, (api.clock)()).await?;
    let message = match items {
        0 => "nothing failed: there is nothing to retry".to_owned(),
        1 => format!("one item is sent again{}", api.when()),
        items => format!("{items} items are sent again{}", api.when()),
    };
    Ok(Json(OutboxRetried { items, message }))
}

/// Options of a test message.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TestBody {
    /// Whether to return the message instead of sending it.
    #[serde(default)]
    print: bool,
}

/// `POST /api/v1/notify/{channel}/test`
pub(super) async fn test(
    State(api): State<ApiState>,
    Path(channel): Path<String>,
    JsonBody(TestBody { print }): JsonBody<TestBody>,
) -> Result<Json<TestSent>, ApiError> {
    let channel = ChannelName::new(channel).map_err(|error| ApiError::unprocessable(error.to_string()))?;
    api.fresh_manifest().await;
    if !api.manifest.borrow().manifest.channels.contains_key(&channel) {
        let message = format!("the manifest declares no channel `{channel}`: add `[notify.{channel}]`");
        return Err(ApiError::not_found(message));
    }
    let notifier = api.notifier.as_ref().ok_or_else(ApiError::no_daemon)?;
    match notifier.test(channel, print).await {
        Ok(text) => Ok(Json(TestSent { text })),
        Err(error) => Err(ApiError::unavailable("not-delivered", error.0)),
    }
}

impl ApiState {
    /// One warning for each target that needs attention.
    pub(super) fn outbox_warnings(&self) -> Result<Vec<String>, RecordError> {
        let now = (self.clock)();
        let items = self.outbox.items()?;
        let mut warnings = Vec::new();
        for of_target in items.chunk_by(|a, b| a.target == b.target) {
            let Some(target) = of_target.first().map(|item| &item.target) else { continue };
            let dead: Vec<&OutboxItem> = of_target.iter().filter(|item| item.dead.is_some()).collect();
            let is_failing = |item: &&OutboxItem| {
                item.dead.is_none()
                    && item.attempts > 0
                    && item.at.is_none_or(|at| now.since(at) > WORTH_A_WARNING)
            };
            let failing: Vec<&OutboxItem> = of_target.iter().filter(is_failing).collect();
            let why = |items: &[&OutboxItem]| {
                items.iter().rev().find_map(|item| item.error.clone()).unwrap_or_default()
            };
            if !dead.is_empty() {
                warnings.push(format!(
                    "{target}: {} could not be delivered: {}. `abide outbox` lists them; `abide outbox retry` \
                     sends them again",
                    counted(dead.len()),
                    why(&dead)
                ));
            } else if !failing.is_empty() {
                warnings.push(format!(
                    "{target}: {} cannot be delivered yet: {}",
                    counted(failing.len()),
                    why(&failing)
                ));
            }
        }
        Ok(warnings)
    }
}

fn counted(items: usize) -> String {
    if items == 1 { "one item".to_owned() } else { format!("{items} items") }
}
