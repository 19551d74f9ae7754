//! Answers to the controller's requests: plans and output.

use std::io;
use std::sync::Arc;

use futures::StreamExt as _;
use hyper::Method;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::attach::attach;
use super::server::{BoxBody, ControllerClient, full_body, streamed};
use crate::controller::Controller;
use crate::model::link::{Ask, FAILED, Question};
use crate::model::name::EnvironmentName;

/// The maximum number of concurrent answers; more wait.
const AT_ONCE: usize = 16;

/// Answers requests from the state of the reconcile loop.
#[derive(Clone)]
pub(super) struct Answers {
    controller: Controller,
    permits: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl Answers {
    pub(super) fn new(controller: Controller) -> Self {
        Self { controller, permits: Arc::new(Semaphore::new(AT_ONCE)), tasks: TaskTracker::new() }
    }

    /// Starts to answer in the background. The answer ends with its connection.
    pub(super) fn begin(&self, asker: ControllerClient, ask: Ask) {
        let answers = self.clone();
        self.tasks.spawn(async move {
            let Ask { id, environment, question } = ask;
            // Commands of people last long, and have separate permits.
            let _permit = match question {
                Question::Attach { .. } => None,
                Question::Plan | Question::Usage | Question::Logs(_) => Some(answers.permits.acquire().await),
            };
            let (headers, body) = match answers.to(&asker, &environment, question).await {
                Ok(body) => (HeaderMap::new(), body),
                Err(why) => (failed(), full_body(why.into())),
            };
            let path = format!("/api/v1/agent/answers/{id}");
            if let Err(error) = asker.ask(Method::POST, &path, headers, body).await {
                debug!(%environment, %error, "the controller rejected an answer");
            }
        });
    }

    async fn to(
        &self,
        asker: &ControllerClient,
        environment: &EnvironmentName,
        question: Question,
    ) -> Result<BoxBody, String> {
        match question {
            Question::Attach { input, request, by } => {
                attach(&self.controller, asker, environment, (input, request, by)).await
            }
            Question::Plan => {
                let plan = self.controller.preview(environment).await?;
                let plan = plan.ok_or_else(|| format!("this host has not accepted {environment} yet"))?;
                Ok(full_body(serde_json::to_vec(&plan).map_err(|error| error.to_string())?.into()))
            }
            Question::Usage => {
                let usage = self.controller.usage(environment).await?;
                Ok(full_body(serde_json::to_vec(&usage).map_err(|error| error.to_string())?.into()))
            }
            Question::Logs(options) => {
                let output = self.controller.output(environment, options).await?;
                Ok(streamed(output.map(|piece: io::Result<_>| piece)))
            }
        }
    }
}

fn failed() -> HeaderMap {
    HeaderMap::from_iter([(HeaderName::from_static(FAILED), HeaderValue::from_static("true"))])
}
