//! `POST /api/v1/agent/answers/<id>`: streams an agent's answer to a question.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use futures::StreamExt as _;
use futures::stream::unfold;
use tokio::sync::mpsc;

use super::AgentCaller;
use crate::api::error::ApiError;
use crate::api::{ApiState, ControllerError, LogStream};
use crate::model::link::FAILED;

/// The number of chunks buffered for a slow reader; then the agent has to wait.
const WAITING: usize = 16;
/// The longest message about an unanswerable question, in bytes.
const LONGEST_FAILURE: usize = 16 * 1024;

/// Forwards an answer to the requester, until the answer ends or the requester is gone.
pub(in crate::api) async fn answer(
    State(api): State<ApiState>,
    caller: AgentCaller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let not_waiting = || ApiError::not_found("no request is waiting for this answer");
    if headers.contains_key(FAILED) {
        let why = axum::body::to_bytes(body, LONGEST_FAILURE).await;
        let why =
            why.map_or_else(|_| "no reason given".into(), |why| String::from_utf8_lossy(&why).into_owned());
        let is_delivered = api.hub.answer(&caller.agent, &id, Err(ControllerError(why)));
        return is_delivered.then_some(StatusCode::NO_CONTENT).ok_or_else(not_waiting);
    }
    let (pass, pieces) = mpsc::channel(WAITING);
    let stream: LogStream = unfold(pieces, async |mut pieces| Some((pieces.recv().await?, pieces))).boxed();
    if !api.hub.answer(&caller.agent, &id, Ok(stream)) {
        return Err(not_waiting());
    }
    // A followed log lasts as long as a client follows it.
    caller.lift_deadline();
    let mut body = body.into_data_stream();
    loop {
        let piece = tokio::select! {
            piece = body.next() => piece,
            () = pass.closed() => return Err(not_waiting()),
        };
        let Some(piece) = piece else { return Ok(StatusCode::NO_CONTENT) };
        if pass.send(piece.map_err(std::io::Error::other)).await.is_err() {
            return Err(not_waiting());
        }
    }
}
