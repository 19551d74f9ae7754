//! Read requests: environments, history, events, plans.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use serde::Deserialize;

use super::body::Asked;
use super::error::ApiError;
use super::find::Found;
use super::view::{self, Facts};
use super::{ApiState, ControllerError};
use crate::model::desired::{Entry, HistoryEntry};
use crate::model::event::Event;
use crate::model::link::Question;
use crate::model::name::{AgentName, EnvironmentName};
use crate::model::spec::{EnvironmentSpec, Manifest};
use crate::model::status::{Condition, Reason};
use crate::model::view::{EnvironmentView, HistoryView, Overview, PlanView};
use crate::record::RecordError;

/// The longest plan accepted from an agent, in bytes.
const LONGEST_PLAN: usize = 4 << 20;
/// The default number of events in an answer.
const EVENTS: usize = 100;
/// The maximum number of events in an answer.
const MOST_EVENTS: usize = 10_000;

/// The environments to return.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OverviewQuery {
    /// Only this environment.
    environment: Option<String>,
}

/// `GET /api/v1/environments?environment=`
pub(super) async fn all(
    State(api): State<ApiState>,
    Asked(query): Asked<OverviewQuery>,
) -> Result<Json<Overview>, ApiError> {
    let environments = match query.environment {
        None => api.apart(ApiState::views).await?,
        Some(only) => vec![api.view(&api.find(&only)?.name)?],
    };
    let mut warnings: Vec<String> = api.manifest.borrow().problem.iter().cloned().collect();
    warnings.extend(api.controller.iter().flat_map(|controller| controller.warnings()));
    Ok(Json(Overview { environments, warnings, daemon: api.controller.is_some() }))
}

/// `GET /api/v1/environments/{environment}`
pub(super) async fn one(
    State(api): State<ApiState>,
    found: Found,
) -> Result<Json<EnvironmentView>, ApiError> {
    Ok(Json(api.view(&found.name)?))
}

/// `GET /api/v1/environments/{environment}/history`
pub(super) async fn history(
    State(api): State<ApiState>,
    found: Found,
) -> Result<Json<Vec<HistoryView>>, ApiError> {
    let kept = api.status.history(&found.name)?;
    Ok(Json(kept.into_iter().map(history_view).collect()))
}

fn history_view(HistoryEntry { entry, outcome }: HistoryEntry) -> HistoryView {
    let Entry { generation, revision, image, recipe: _, origin, by, note, at } = entry;
    HistoryView { generation, image, revision, origin, by, note, at, outcome }
}

/// The events to return.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventsQuery {
    /// Only events with a higher sequence number.
    after: Option<u64>,
    /// The number of newest events.
    limit: Option<usize>,
}

/// `GET /api/v1/environments/{environment}/events?after=&limit=`
pub(super) async fn events(
    State(api): State<ApiState>,
    found: Found,
    Asked(query): Asked<EventsQuery>,
) -> Result<Json<Vec<Event>>, ApiError> {
    api.events(Some(&found.name), &query)
}

/// `GET /api/v1/events?after=&limit=`
pub(super) async fn all_events(
    State(api): State<ApiState>,
    Asked(query): Asked<EventsQuery>,
) -> Result<Json<Vec<Event>>, ApiError> {
    api.events(None, &query)
}

/// `GET /api/v1/environments/{environment}/plan`
pub(super) async fn plan(State(api): State<ApiState>, found: Found) -> Result<Json<PlanView>, ApiError> {
    api.fresh_manifest().await;
    let found = api.find(found.name.as_str())?;
    let plan = match (found.spec(), found.host()) {
        (None, _) => undeclared(found.name.clone()),
        (Some(_), Some(host)) => api.plan_there(host, found.name.clone()).await?,
        (Some(_), None) => {
            let controller = api.controller.as_ref().ok_or_else(ApiError::no_daemon)?;
            controller.preview(found.name.clone()).await?
        }
    };
    let problem = api.manifest.borrow().problem.clone();
    Ok(Json(with_status(plan, &api.view(&found.name)?, problem)))
}

fn undeclared(environment: EnvironmentName) -> PlanView {
    let difference = "it is no longer in the manifest; its container keeps running, unmanaged".to_owned();
    let (differences, message) = (vec![difference], String::new());
    PlanView { environment, differences, steps: Vec::new(), message, differs: true }
}

/// Adds what the status knows but no step shows: a failed build, a push that is not processed yet,
/// a rejected edit of the manifest.
fn with_status(mut plan: PlanView, view: &EnvironmentView, problem: Option<String>) -> PlanView {
    if let Some(problem) = problem {
        plan.differences.push(format!("the edited manifest is invalid: {problem}"));
    }
    if plan.differences.is_empty() && plan.steps.is_empty() && !is_as_recorded(view) {
        let (status, reason) = (view.status.as_str(), view.reason.as_str());
        plan.differences.push(format!("{status} ({reason}): {}", view.message));
    }
    plan.differs = !(plan.differences.is_empty() && plan.steps.is_empty());
    plan
}

/// Whether the status means that the recorded image runs and serves, or that nothing is recorded.
fn is_as_recorded(view: &EnvironmentView) -> bool {
    match view.status {
        Condition::Ready | Condition::RolledBack | Condition::Held => true,
        Condition::Progressing | Condition::Degraded | Condition::Blocked => {
            view.reason == Reason::NothingRecorded && view.running.is_none()
        }
    }
}

impl ApiState {
    /// Requests the plan of an environment on another host.
    async fn plan_there(&self, host: &AgentName, environment: EnvironmentName) -> Result<PlanView, ApiError> {
        let answer = self.desk.ask(host, environment, Question::Plan).await?;
        let plan = axum::body::to_bytes(Body::from_stream(answer), LONGEST_PLAN).await;
        let plan = plan.ok().and_then(|plan| serde_json::from_slice(&plan).ok());
        plan.ok_or_else(|| ControllerError(format!("the response of the agent {host} was incomplete")).into())
    }

    /// Runs `work` on a thread that may block. Reading a document of each environment takes long if
    /// there are many, and would delay unrelated requests.
    pub(super) async fn apart<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, RecordError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let api = self.clone();
        match tokio::task::spawn_blocking(move || work(&api)).await {
            Ok(done) => Ok(done?),
            Err(error) => {
                tracing::error!(%error, "request failed");
                Err(ApiError::unavailable("internal", "the request failed: see the log of the daemon"))
            }
        }
    }

    /// Returns every environment that is declared or recorded, ordered by name.
    pub(super) fn views(&self) -> Result<Vec<EnvironmentView>, RecordError> {
        self.names()?.iter().map(|name| self.view(name)).collect()
    }

    /// Returns one environment.
    pub(super) fn view(&self, name: &EnvironmentName) -> Result<EnvironmentView, RecordError> {
        let state = Arc::clone(&self.manifest.borrow());
        match self.facts(name, &state.manifest) {
            Ok(facts) => {
                let build = self.controller.as_ref().and_then(|controller| controller.building(name));
                let mut view = view::environment(facts);
                view.warnings.extend(self.left_elsewhere(name, state.manifest.environments.get(name)));
                Ok(view::with_build(view, build, (self.clock)()))
            }
            // One unreadable document must not hide all other environments.
            Err(error @ RecordError::Unreadable { .. }) => {
                let spec = state.manifest.environments.get(name);
                Ok(view::unreadable(spec, name.clone(), error.to_string()))
            }
            Err(error) => Err(error),
        }
    }

    /// Warnings of containers on hosts that ran an environment once and do not any more.
    fn left_elsewhere(&self, name: &EnvironmentName, spec: Option<&EnvironmentSpec>) -> Vec<String> {
        let host = spec.and_then(|spec| spec.host.as_ref());
        let here =
            self.controller.as_ref().filter(|_| host.is_some()).map(|controller| controller.containers(name));
        let here = here.filter(|containers| !containers.is_empty());
        let here = here.map(|containers| ("the controller's host".to_owned(), containers));
        let there = self.desk.left_of(name, host).into_iter();
        let there = there.map(|(agent, containers)| (format!("the host of the agent {agent}"), containers));
        let runs_on = match (spec, host) {
            (None, _) => "the manifest does not declare it".to_owned(),
            (Some(_), None) => "it runs on the controller's host".to_owned(),
            (Some(_), Some(host)) => format!("it runs on the host of the agent {host}"),
        };
        let words = |(place, containers): (String, Vec<String>)| {
            let names = containers.join(" ");
            format!(
                "{name} still has {} on {place}, although {runs_on}: both may serve and write. To remove \
                the rest, run there: docker rm -f {names}",
                containers.join(", ")
            )
        };
        here.into_iter().chain(there).map(words).collect()
    }

    /// Collects the facts about one environment.
    pub(super) fn facts<'a>(
        &self,
        name: &EnvironmentName,
        manifest: &'a Manifest,
    ) -> Result<Facts<'a>, RecordError> {
        let spec = manifest.environments.get(name);
        // The status comes first: a change of the record between the two reads then makes the older
        // status outdated.
        let status = self.status.status(name)?;
        Ok(Facts {
            spec,
            mark: manifest.mark(name),
            desired: self.desired.get(name)?,
            status,
            presence: spec.and_then(|spec| spec.host.as_ref()).map(|host| self.desk.presence(host)),
            look: self.controller.as_ref().map(|controller| controller.look(name)),
        })
    }

    fn events(
        &self,
        environment: Option<&EnvironmentName>,
        query: &EventsQuery,
    ) -> Result<Json<Vec<Event>>, ApiError> {
        let limit = query.limit.unwrap_or(EVENTS).min(MOST_EVENTS);
        Ok(Json(self.status.events(environment, query.after, limit)?))
    }
}
