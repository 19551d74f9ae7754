//! `POST /api/v1/agent/session`: the controller's side of a session. The answer is a stream with
//! one JSON line for each message to the agent, for as long as both sides live.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures::stream::unfold;
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use super::AgentCaller;
use super::connections::AgentSession;
use crate::api::ApiState;
use crate::api::body::JsonBody as Json;
use crate::api::error::ApiError;
use crate::model::desired::Forget;
use crate::model::error::chain;
use crate::model::link::{Assigned, Assignment, ForgetThere, Hello, ToAgent, VERSION};
use crate::model::name::{AgentName, EnvironmentName};
use crate::model::spec::{EnvironmentSpec, Manifest};
use crate::record::RecordError;

/// The interval of keep-alive lines, which are empty. An agent that receives nothing for three
/// intervals knows that the connection is dead, whatever proxies are in between.
const BEAT: Duration = Duration::from_secs(15);

/// The longest ID of an agent's record, in bytes; it is stored with every report.
const LONGEST_INSTANCE: usize = 128;

/// Serves the session of an agent.
pub(in crate::api) async fn session(
    State(api): State<ApiState>,
    caller: AgentCaller,
    Json(hello): Json<Hello>,
) -> Result<Response, ApiError> {
    if hello.version != VERSION {
        return Err(ApiError::unprocessable(format!(
            "the agent uses version {} of the link protocol and this controller uses {VERSION}: install \
            the same version of abide on both",
            hello.version
        )));
    }
    if hello.instance.len() > LONGEST_INSTANCE {
        return Err(ApiError::unprocessable(format!(
            "`instance` must have at most {LONGEST_INSTANCE} bytes"
        )));
    }
    let Ok(session) = api.hub.enter(caller.agent.clone(), &hello) else {
        return Err(ApiError::conflict(format!(
            "another agent with the token of `{}` connected later: give each host its own token",
            caller.agent
        )));
    };
    let talk = Talk { api, session, last_sent: None, beat: Instant::now() + BEAT, is_over: false };
    let lines = unfold(talk, |mut talk| async move {
        let line = talk.next().await?;
        Some((Ok::<_, std::convert::Infallible>(line), talk))
    });
    let headers = [(header::CONTENT_TYPE, "application/x-ndjson"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Body::from_stream(lines)).into_response())
}

struct Talk {
    api: ApiState,
    session: AgentSession,
    /// The last assignment sent; an equal one is not sent again.
    last_sent: Option<Arc<Assignment>>,
    beat: Instant,
    is_over: bool,
}

impl Talk {
    /// Returns the next line with its line break, or `None` at the end.
    async fn next(&mut self) -> Option<String> {
        if self.is_over {
            return None;
        }
        if self.last_sent.is_none()
            && let Some(line) = self.assignment()
        {
            return Some(line);
        }
        loop {
            let AgentSession { wakeup, questions, superseded, closed, .. } = &mut self.session;
            tokio::select! {
                // The end of the session takes precedence over pending messages.
                biased;
                () = closed.cancelled() => return None,
                () = superseded.cancelled() => {
                    self.is_over = true;
                    return self.line(&ToAgent::Superseded);
                }
                ask = questions.recv() => return self.line(&ToAgent::Ask(ask?)),
                () = wakeup.notified() => if let Some(line) = self.assignment() {
                    return Some(line);
                },
                () = sleep_until(self.beat) => {
                    self.beat = Instant::now() + BEAT;
                    return Some("\n".to_owned());
                }
            }
        }
    }

    /// Returns the agent's assignment if it changed. If the record cannot be read, nothing is sent:
    /// the agent keeps its assignment and gets the new one after the next wakeup.
    fn assignment(&mut self) -> Option<String> {
        let assignment = match self.api.assignment(&self.session.agent) {
            Ok(assignment) => Arc::new(assignment),
            Err(error) => {
                warn!(agent = %self.session.agent, error = %chain(&error), "cannot prepare the \
                    assignment for an agent");
                return None;
            }
        };
        if self.last_sent.as_ref() == Some(&assignment) {
            return None;
        }
        let line = self.line(&ToAgent::Assignment(Box::new(assignment.as_ref().clone())));
        self.last_sent = Some(assignment);
        line
    }

    /// A message that cannot be serialized, which does not happen, ends the session.
    fn line(&mut self, message: &ToAgent) -> Option<String> {
        self.beat = Instant::now() + BEAT;
        let mut line = serde_json::to_string(message).ok()?;
        line.push('\n');
        Some(line)
    }
}

impl ApiState {
    /// Returns all environments that an agent has to run.
    fn assignment(&self, agent: &AgentName) -> Result<Assignment, RecordError> {
        let state = Arc::clone(&self.manifest.borrow());
        let all = state.manifest.environments.iter();
        let of_agent = all.filter(|(_, spec)| spec.host.as_ref() == Some(agent));
        let environments = of_agent
            .map(|(name, spec)| {
                let mark = state.mark(name);
                self.assigned(name, EnvironmentSpec { mark, ..spec.clone() })
            })
            .collect::<Result<_, _>>()?;
        let forget = self.to_forget(agent, &state.manifest)?;
        Ok(Assignment { network: state.manifest.network.clone(), environments, forget, misread: Vec::new() })
    }

    /// Returns what users asked to remove on the host of an agent, of environments that it does not run.
    fn to_forget(&self, agent: &AgentName, manifest: &Manifest) -> Result<Vec<ForgetThere>, RecordError> {
        let mut found = Vec::new();
        for environment in self.hub.left_on(agent) {
            let Some(Forget { stop, left, by, at }) = self.desired.get(&environment)?.forget else {
                continue;
            };
            let declared = manifest.environments.get(&environment);
            let runs_there = declared.is_some_and(|spec| spec.host.as_ref() == Some(agent));
            let is_meant = match left {
                None => declared.is_none(),
                Some(left) => !runs_there && left.agents.contains(agent),
            };
            if is_meant {
                found.push(ForgetThere { environment, stop, by, at });
            }
        }
        Ok(found)
    }

    fn assigned(&self, name: &EnvironmentName, spec: EnvironmentSpec) -> Result<Assigned, RecordError> {
        let desired = self.desired.get(name)?;
        let held = desired.hold.as_ref().and_then(|hold| hold.generation);
        let held = match held.filter(|held| *held != desired.entry.generation) {
            Some(held) => self.desired.entry(name, held)?,
            None => None,
        };
        let cursor = self.hub.reports().cursor(name)?;
        Ok(Assigned { spec, desired, held, heard: cursor })
    }
}
