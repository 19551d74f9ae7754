//! Commands that people run on the host of an agent. Their input is the response to a request of the agent; their
//! output is the answer to a question.

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use futures::StreamExt as _;
use futures::stream::unfold;
use tokio::sync::mpsc;

use super::{AgentCaller, AgentHub};
use crate::api::error::ApiError;
use crate::api::{ApiState, AttachChannels, ControllerError, LogStream};
use crate::model::attach::{AttachInput, AttachMessage as _, AttachOutput, AttachReader, AttachRequest};
use crate::model::link::Question;
use crate::model::name::{AgentName, EnvironmentName};

/// The number of messages that wait for a slow reader.
const WAITING: usize = 16;

/// The input of a command that an agent is about to run.
pub(super) struct WaitingInput {
    pub(super) agent: AgentName,
    pub(super) messages: mpsc::Receiver<AttachInput>,
}

impl AgentHub {
    /// Starts a command on the host of an agent.
    ///
    /// # Errors
    /// A sentence, if the agent is disconnected or cannot start it.
    pub(in crate::api) async fn attach(
        &self,
        agent: &AgentName,
        environment: EnvironmentName,
        request: AttachRequest,
        by: String,
    ) -> Result<AttachChannels, ControllerError> {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let (input, messages) = mpsc::channel(WAITING);
        self.inputs().insert(id.clone(), WaitingInput { agent: agent.clone(), messages });
        let asked = self.ask(agent, environment, Question::Attach { input: id.clone(), request, by }).await;
        self.inputs().remove(&id);
        let (outputs, output) = mpsc::channel(WAITING);
        tokio::spawn(forward(asked?, outputs));
        Ok(AttachChannels { input, output })
    }
}

/// Reads messages from an answer.
async fn forward(mut answer: LogStream, outputs: mpsc::Sender<AttachOutput>) {
    let mut reader = AttachReader::default();
    while let Some(Ok(bytes)) = answer.next().await {
        let Ok(messages) = reader.push(&bytes) else { return };
        for message in messages {
            if outputs.send(message).await.is_err() {
                return;
            }
        }
    }
}

/// `GET /api/v1/agent/inputs/<id>`: streams the input of a command to the agent that runs it.
pub(in crate::api) async fn input(
    State(api): State<ApiState>,
    caller: AgentCaller,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let messages = {
        let mut inputs = api.hub.inputs();
        let is_its = inputs.get(&id).is_some_and(|waiting| waiting.agent == caller.agent);
        if is_its { inputs.remove(&id).map(|waiting| waiting.messages) } else { None }
    };
    let messages = messages.ok_or_else(|| ApiError::not_found("no command waits for this input"))?;
    let bytes = unfold(messages, async |mut messages| {
        let message = messages.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(Bytes::from(message.encode())), messages))
    });
    Ok(Body::from_stream(bytes).into_response())
}
