//! Reading: environments, history, events, plans.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use serde::Deserialize;

use super::body::Asked;
use super::error::ApiError;
use super::find::Found;
use super::view;
use super::{ApiState, ControllerError};
use crate::model::desired::{Entry, HistoryEntry};
use crate::model::event::Event;
use crate::model::link::Question;
use crate::model::name::{AgentName, EnvironmentName};
use crate::model::view::{EnvironmentView, HistoryView, Overview, PlanView};
use crate::record::RecordError;

/// The longest plan that an agent may tell, in bytes.
const LONGEST_PLAN: usize = 4 << 20;
/// How many events are answered where nothing is said of it.
const EVENTS: usize = 100;
/// How many are answered at most.
const MOST_EVENTS: usize = 10_000;

/// `GET /api/v1/environments`
pub(super) async fn all(State(api): State<ApiState>) -> Result<Json<Overview>, ApiError> {
    let environments = api.views()?;
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

/// Which events.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventsQuery {
    /// Only those with a higher sequence.
    after: Option<u64>,
    /// How many of the newest.
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
    if let Some(host) = found.host() {
        return Ok(Json(api.plan_there(host, found.name.clone()).await?));
    }
    let controller = api.controller.as_ref().ok_or_else(ApiError::no_daemon)?;
    Ok(Json(controller.preview(found.name).await?))
}

impl ApiState {
    /// The plan of an environment on another host.
    async fn plan_there(&self, host: &AgentName, environment: EnvironmentName) -> Result<PlanView, ApiError> {
        let answer = self.desk.ask(host, environment, Question::Plan).await?;
        let plan = axum::body::to_bytes(Body::from_stream(answer), LONGEST_PLAN).await;
        let plan = plan.ok().and_then(|plan| serde_json::from_slice(&plan).ok());
        plan.ok_or_else(|| ControllerError(format!("the answer of the agent {host} broke off")).into())
    }

    /// Every environment that the manifest declares or the record knows, in the order of names.
    pub(super) fn views(&self) -> Result<Vec<EnvironmentView>, RecordError> {
        self.names()?.iter().map(|name| self.view(name)).collect()
    }

    /// One environment.
    pub(super) fn view(&self, name: &EnvironmentName) -> Result<EnvironmentView, RecordError> {
        let manifest = self.manifest.borrow();
        let spec = manifest.manifest.environments.get(name);
        match self.desired.get(name).and_then(|desired| Ok((desired, self.status.status(name)?))) {
            Ok((desired, status)) => {
                let presence = spec.and_then(|spec| spec.host.as_ref()).map(|host| self.desk.presence(host));
                let build = self.controller.as_ref().and_then(|controller| controller.building(name));
                let view = view::environment(spec, desired, status, presence);
                Ok(view::with_build(view, build, (self.clock)()))
            }
            // One document that makes no sense must not hide every other environment.
            Err(error @ RecordError::Unreadable { .. }) => {
                Ok(view::unreadable(spec, name.clone(), error.to_string()))
            }
            Err(error) => Err(error),
        }
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
