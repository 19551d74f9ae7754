//! Commands that people run on this host, through the controller.

use std::io;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::unfold;
use http_body_util::BodyExt as _;
use hyper::Method;
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use tokio::sync::mpsc;

use super::server::{BoxBody, ControllerClient, full_body, streamed};
use crate::controller::{AttachedSession, Controller};
use crate::model::attach::{AttachInput, AttachMessage as _, AttachReader, AttachRequest};
use crate::model::error::chain;
use crate::model::name::EnvironmentName;

/// Starts a command and returns its output as the body of an answer. Its input is fetched from the controller.
///
/// # Errors
/// A sentence, if it cannot be started.
pub(super) async fn attach(
    controller: &Controller,
    server: &ControllerClient,
    environment: &EnvironmentName,
    (input, request, by): (String, AttachRequest, String),
) -> Result<BoxBody, String> {
    if !input.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err("invalid id of an input".to_owned());
    }
    let path = format!("/api/v1/agent/inputs/{input}");
    let fetched = server.accepted(Method::GET, &path, HeaderMap::new(), full_body(Bytes::new())).await;
    let fetched = fetched.map_err(|error| chain(&error))?;
    let AttachedSession { input, output } = controller.attach(environment, request, &by).await?;
    tokio::spawn(pass_on(fetched.into_body(), input));
    let messages = unfold(output, async |mut output| {
        let message = output.recv().await?;
        Some((Ok::<_, io::Error>(Bytes::from(message.encode())), output))
    });
    Ok(streamed(messages.boxed()))
}

/// Passes input on until the controller ends it, which ends the session.
async fn pass_on(mut body: Incoming, input: mpsc::Sender<AttachInput>) {
    let mut reader = AttachReader::default();
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(bytes) = frame.into_data() else { continue };
        let Ok(messages) = reader.push(&bytes) else { return };
        for message in messages {
            if input.send(message).await.is_err() {
                return;
            }
        }
    }
}
