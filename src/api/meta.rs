//! Health checks: whether the process lives, and whether it works.

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::error::ApiError;
use super::{ApiState, Liveness};
use crate::model::time::Timestamp;

/// How many full checks in a row may be missed.
const ROUNDS: u32 = 3;

/// `GET /healthz`: succeeds if the process answers.
pub(super) async fn healthz() -> Response {
    ([(header::CACHE_CONTROL, "no-store")], "ok\n").into_response()
}

/// `GET /readyz`: the record is readable and writable, and the controller has checked everything
/// recently.
pub(super) async fn readyz(State(api): State<ApiState>) -> Result<Response, ApiError> {
    api.desired.try_read()?;
    let written = api.desired.try_write().await;
    written.map_err(|why| ApiError::unavailable("not-ready", why.to_string()))?;
    if let Some(controller) = &api.controller {
        check(&controller.alive(), (api.clock)()).map_err(|why| ApiError::unavailable("not-ready", why))?;
    }
    Ok(([(header::CACHE_CONTROL, "no-store")], "ready\n").into_response())
}

fn check(liveness: &Liveness, now: Timestamp) -> Result<(), String> {
    let Liveness { engine, observed, resync } = liveness;
    let engine = if *engine { "" } else { "; the Docker Engine does not respond" };
    let Some(observed) = observed else {
        return Err(format!("the containers have not been observed yet{engine}"));
    };
    let age = now.since(*observed);
    if age > *resync * ROUNDS {
        let ago = humantime::format_duration(std::time::Duration::from_secs(age.as_secs()));
        return Err(format!("the last full observation was {ago} ago{engine}"));
    }
    Ok(())
}
