//! `/attach`: a command that a person runs, over an upgraded HTTP/1.1 connection.

use std::future::pending;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::mpsc;

use super::access::TokenGuard;
use super::body::{Caller, JsonBody};
use super::error::ApiError;
use super::find::FoundEnvironment;
use super::{ApiState, AttachChannels};
use crate::model::attach::{
    AttachInput, AttachMessage as _, AttachOutput, AttachReader, AttachRequest, PROTOCOL,
};

/// The bytes that are read at once.
const BUFFER: usize = 16 * 1024;

/// `POST /api/v1/environments/{environment}/attach`
pub(super) async fn attach(
    State(api): State<ApiState>,
    found: FoundEnvironment,
    Caller(caller): Caller,
    upgrade: Option<Extension<OnUpgrade>>,
    JsonBody(request): JsonBody<AttachRequest>,
) -> Result<Response, ApiError> {
    let needed = || {
        let message = format!(
            "this request needs HTTP/1.1 and the headers `Connection: Upgrade` and `Upgrade: {PROTOCOL}`"
        );
        ApiError::unprocessable(message)
    };
    let Extension(upgrade) = upgrade.ok_or_else(needed)?;
    found.declared()?;
    let by = caller.by().to_owned();
    let channels = match found.host() {
        Some(host) => api.hub.attach(host, found.name.clone(), request, by).await?,
        None => {
            let controller = api.controller.as_ref().ok_or_else(ApiError::no_daemon)?;
            controller.attach(found.name.clone(), request, by).await?
        }
    };
    tokio::spawn(serve(upgrade, channels, caller.token_guard().cloned()));
    let headers = [
        (header::CONNECTION, HeaderValue::from_static("Upgrade")),
        (header::UPGRADE, HeaderValue::from_static(PROTOCOL)),
    ];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}

/// Passes messages in both directions, until the command has ended, the client is gone, or its token is no
/// longer valid.
async fn serve(upgrade: OnUpgrade, channels: AttachChannels, token_guard: Option<TokenGuard>) {
    let Ok(upgraded) = upgrade.await else { return };
    let (read, write) = tokio::io::split(TokioIo::new(upgraded));
    let revoked = async move {
        match token_guard {
            Some(token_guard) => token_guard.ended().await,
            None => pending().await,
        }
    };
    tokio::select! {
        () = send(write, channels.output) => {}
        () = receive(read, channels.input) => {}
        () = revoked => {}
    }
}

async fn send(mut write: WriteHalf<TokioIo<Upgraded>>, mut output: mpsc::Receiver<AttachOutput>) {
    while let Some(message) = output.recv().await {
        if write.write_all(&message.encode()).await.is_err() {
            return;
        }
    }
    let _ = write.shutdown().await;
}

async fn receive(mut read: ReadHalf<TokioIo<Upgraded>>, input: mpsc::Sender<AttachInput>) {
    let (mut reader, mut buffer) = (AttachReader::default(), vec![0; BUFFER]);
    while let Ok(length @ 1..) = read.read(&mut buffer).await {
        let Ok(messages) = reader.push(buffer.get(..length).unwrap_or_default()) else { return };
        for message in messages {
            if input.send(message).await.is_err() {
                // The command has ended, and its result may still be on the way to the client.
                pending::<()>().await;
            }
        }
    }
}
