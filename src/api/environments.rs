//! Read requests: environments, history, events, plans.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::agent::LeftOver;
use super::body::QueryParams;
use super::error::ApiError;
use super::find::{CommandTarget, FoundEnvironment};
use super::gates::{rejection_of, rejection_words};
use super::view::{self, EnvironmentFacts};
use super::{ApiState, ControllerError, ManifestState};
use crate::model::access::Token;
use crate::model::desired::{Entry, Forget, HistoryEntry};
use crate::model::event::Event;
use crate::model::evidence::Evidence;
use crate::model::link::Question;
use crate::model::mount::Mount;
use crate::model::name::{AgentName, EnvironmentName};
use crate::model::spec::EnvironmentSpec;
use crate::model::status::{Condition, Reason};
use crate::model::usage::ResourceUsage;
use crate::model::view::{BuildProgress, EnvironmentView, GroupView, HistoryView, Overview, PlanView};
use crate::record::RecordError;

/// The longest answer accepted from an agent, in bytes.
const LONGEST_ANSWER: usize = 4 << 20;
/// The default number of events in an answer.
const EVENTS: usize = 100;
/// The maximum number of events in an answer.
const MOST_EVENTS: usize = 10_000;

/// The environments to return.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OverviewQuery {
    /// Only this environment, or the members of this group.
    environment: Option<String>,
}

/// `GET /api/v1/environments?environment=`
pub(super) async fn all(
    State(api): State<ApiState>,
    QueryParams(query): QueryParams<OverviewQuery>,
) -> Result<Json<Overview>, ApiError> {
    let environments = match &query.environment {
        None => api.apart(ApiState::views).await?,
        Some(only) => {
            let target = api.target(only)?;
            target.environments().map(|name| api.view(name)).collect::<Result<_, _>>()?
        }
    };
    let mut warnings = api.manifest.borrow().warnings();
    warnings.extend(api.controller.iter().flat_map(|controller| controller.warnings()));
    warnings.extend(api.outbox_warnings()?);
    let groups = match &query.environment {
        // A member alone does not show the state of its group.
        Some(only) if api.target(only)?.group.is_none() => Vec::new(),
        _ => GroupView::all(&environments),
    };
    Ok(Json(Overview { environments, warnings, daemon: api.controller.is_some(), groups }))
}

/// `GET /api/v1/environments/{environment}`
pub(super) async fn one(
    State(api): State<ApiState>,
    found: FoundEnvironment,
) -> Result<Json<EnvironmentView>, ApiError> {
    Ok(Json(api.view(&found.name)?))
}

/// `GET /api/v1/environments/{environment}/history`
pub(super) async fn history(
    State(api): State<ApiState>,
    found: FoundEnvironment,
) -> Result<Json<Vec<HistoryView>>, ApiError> {
    let kept = api.status.history(&found.name)?;
    Ok(Json(kept.into_iter().map(history_view).collect()))
}

pub(super) fn history_view(HistoryEntry { entry, outcome }: HistoryEntry) -> HistoryView {
    let Entry { generation, revision, image, recipe: _, origin, by, token: _, note, at, together: _ } = entry;
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

impl EventsQuery {
    fn limit(&self) -> usize {
        self.limit.unwrap_or(EVENTS).min(MOST_EVENTS)
    }
}

/// `GET /api/v1/environments/{environment}/events?after=&limit=`
pub(super) async fn events(
    State(api): State<ApiState>,
    target: CommandTarget,
    QueryParams(query): QueryParams<EventsQuery>,
) -> Result<Json<Vec<Event>>, ApiError> {
    let mut events = Vec::new();
    for name in target.environments() {
        events.extend(api.events(Some(name), &query)?.0);
    }
    events.sort_by_key(|event| event.sequence);
    let surplus = events.len().saturating_sub(query.limit());
    events.drain(..surplus);
    Ok(Json(events))
}

/// `GET /api/v1/events?after=&limit=`
pub(super) async fn all_events(
    State(api): State<ApiState>,
    QueryParams(query): QueryParams<EventsQuery>,
) -> Result<Json<Vec<Event>>, ApiError> {
    let limit = query.limit();
    Ok(Json(api.apart(move |api| api.status.events(None, query.after, limit)).await?))
}

/// `GET /api/v1/environments/{environment}/plan`
pub(super) async fn plan(
    State(api): State<ApiState>,
    found: FoundEnvironment,
) -> Result<Json<PlanView>, ApiError> {
    api.fresh_manifest().await;
    let found = api.find(found.name.as_str())?;
    let plan = match (found.spec(), found.host()) {
        (None, _) => undeclared(found.name.clone()),
        (Some(_), Some(host)) => api.asked_there(host, found.name.clone(), Question::Plan).await?,
        (Some(_), None) => {
            let controller = api.controller.as_ref().ok_or_else(ApiError::no_daemon)?;
            controller.preview(found.name.clone()).await?
        }
    };
    let problem = api.manifest.borrow().problem.clone();
    Ok(Json(with_status(plan, &api.view(&found.name)?, problem)))
}

/// `GET /api/v1/environments/{environment}/stats`
pub(super) async fn stats(
    State(api): State<ApiState>,
    found: FoundEnvironment,
) -> Result<Json<Option<ResourceUsage>>, ApiError> {
    if let Some(host) = found.host() {
        return Ok(Json(api.asked_there(host, found.name.clone(), Question::Usage).await?));
    }
    let controller = api.controller.as_ref().ok_or_else(ApiError::no_daemon)?;
    Ok(Json(controller.usage(found.name.clone()).await?))
}

/// The plan of an environment that left the manifest: abide does nothing with it. Its status explains the difference.
fn undeclared(environment: EnvironmentName) -> PlanView {
    let (differences, steps, upkeep) = (Vec::new(), Vec::new(), Vec::new());
    PlanView { environment, differences, steps, upkeep, message: String::new(), differs: true }
}

/// Adds the parts of the status that no step shows: a failed build, a push that is not processed yet,
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

/// The containers that an environment left on a host which does not run it any more.
pub(super) struct Left {
    /// The agent on that host; `None`: it is the controller's.
    pub(super) agent: Option<AgentName>,
    /// Whether that agent is disconnected.
    is_away: bool,
    /// Whether it can never connect, because it has no valid token.
    pub(super) is_gone: bool,
    pub(super) containers: Vec<String>,
    pub(super) volumes: Vec<String>,
}

impl Left {
    /// The host, as a clause.
    pub(super) fn place(&self) -> String {
        match &self.agent {
            None => "the controller's host".to_owned(),
            Some(agent) => format!("the host of the agent {agent}"),
        }
    }

    /// When it is removed, if not now.
    pub(super) fn when(&self) -> &'static str {
        if self.is_away && !self.is_gone { ", as soon as that agent is connected" } else { "" }
    }

    /// Whether a request is about this host.
    fn is_meant_by(&self, request: &Forget) -> bool {
        match (&request.left, &self.agent) {
            (None, _) => request.stop,
            (Some(left), None) => left.here,
            (Some(left), Some(agent)) => left.agents.contains(agent),
        }
    }
}

impl ApiState {
    /// Asks the agent on another host about an environment.
    async fn asked_there<T: DeserializeOwned>(
        &self,
        host: &AgentName,
        environment: EnvironmentName,
        question: Question,
    ) -> Result<T, ApiError> {
        let answer = self.hub.ask(host, environment, question).await?;
        let answer = axum::body::to_bytes(Body::from_stream(answer), LONGEST_ANSWER).await;
        let answer = answer.ok().and_then(|answer| serde_json::from_slice(&answer).ok());
        answer
            .ok_or_else(|| ControllerError(format!("the response of the agent {host} was incomplete")).into())
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
        let rejections = self.desired.rejections()?;
        let view = |name| {
            let (view, build) = self.view_among(name, &rejections)?;
            Ok(view::with_build(view, build, (self.clock)()))
        };
        self.names()?.iter().map(view).collect()
    }

    /// Returns one environment.
    pub(super) fn view(&self, name: &EnvironmentName) -> Result<EnvironmentView, RecordError> {
        let (view, build) = self.view_apart_from_build(name)?;
        Ok(view::with_build(view, build, (self.clock)()))
    }

    /// Returns one environment and its running build, whose duration is not part of any sentence.
    pub(super) fn view_apart_from_build(
        &self,
        name: &EnvironmentName,
    ) -> Result<(EnvironmentView, Option<BuildProgress>), RecordError> {
        self.view_among(name, &self.desired.rejections()?)
    }

    /// Returns the same. `rejections` are those in effect, which callers of many views read once.
    pub(super) fn view_among(
        &self,
        name: &EnvironmentName,
        rejections: &[Evidence],
    ) -> Result<(EnvironmentView, Option<BuildProgress>), RecordError> {
        let state = Arc::clone(&self.manifest.borrow());
        match self.facts(name, &state) {
            Ok(facts) => {
                let forget = facts.desired.forget.clone();
                let view = view::environment(facts);
                let mut view = self.with_left(view, state.manifest.environments.get(name), forget.as_ref());
                if let Some(image) = &view.image {
                    view.warnings.extend(rejection_of(rejections, image).map(rejection_words));
                }
                view.waiting = self.waiting(name, &state.manifest)?;
                Ok((view, self.controller.as_ref().and_then(|controller| controller.building(name))))
            }
            // One unreadable document must not hide all other environments.
            Err(error @ RecordError::Unreadable { .. }) => {
                let spec = state.manifest.environments.get(name);
                Ok((view::unreadable(spec, name.clone(), error.to_string()), None))
            }
            Err(error) => Err(error),
        }
    }

    /// The containers that an environment left on hosts which do not run it any more.
    pub(super) fn left_elsewhere(&self, name: &EnvironmentName, spec: Option<&EnvironmentSpec>) -> Vec<Left> {
        let host = spec.and_then(|spec| spec.host.as_ref());
        let here = self.controller.as_ref().filter(|_| spec.is_none() || host.is_some());
        let here = here.map(|controller| controller.containers(name)).filter(|found| !found.is_empty());
        let here = here.map(|containers| Left {
            agent: None,
            is_away: false,
            is_gone: false,
            containers,
            volumes: Vec::new(),
        });
        let there =
            self.hub.left_of(name, host).into_iter().map(|LeftOver { agent, containers, volumes }| {
                let is_away = !self.hub.presence(&agent).connected;
                let is_named = !containers.is_empty();
                let container = || spec.map_or_else(|| name.to_string(), |spec| spec.container.to_string());
                let containers = if is_named { containers } else { vec![container()] };
                // Until the agent reports its leftovers, everything declared counts as one.
                let declared = spec.into_iter().flat_map(|spec| &spec.volumes).filter_map(Mount::volume);
                let volumes = match is_named {
                    true => volumes,
                    false => declared.map(|volume| volume.as_str().to_owned()).collect(),
                };
                let is_gone = is_away && !self.has_token(&agent);
                Left { agent: Some(agent), is_away, is_gone, containers, volumes }
            });
        here.into_iter().chain(there).collect()
    }

    /// Whether an agent has a valid token.
    fn has_token(&self, agent: &AgentName) -> bool {
        let now = (self.clock)();
        let is_its = |token: &Token| token.role.agent() == Some(agent) && token.is_in_force(now);
        // If they cannot be read, it may have one.
        self.tokens.all().map_or(true, |tokens| tokens.iter().any(is_its))
    }

    /// Adds the leftovers of the environment on other hosts to its view: until it is removed, both may serve and
    /// write.
    fn with_left(
        &self,
        mut view: EnvironmentView,
        spec: Option<&EnvironmentSpec>,
        forget: Option<&Forget>,
    ) -> EnvironmentView {
        let runs_on = match (spec, spec.and_then(|spec| spec.host.as_ref())) {
            (None, _) => "the manifest does not declare it".to_owned(),
            (Some(_), None) => "it runs on the controller's host".to_owned(),
            (Some(_), Some(host)) => format!("it runs on the host of the agent {host}"),
        };
        let name = &view.environment;
        for left in self.left_elsewhere(name, spec) {
            let (place, containers) = (left.place(), left.containers.join(", "));
            if forget.is_some_and(|request| left.is_meant_by(request)) {
                view.forgetting.push(format!("{containers} on {place}{}", left.when()));
                view.warnings.push(format!(
                    "{name} still has {containers} on {place}, although {runs_on}: it is to be removed{}",
                    left.when()
                ));
            } else if spec.is_some() || left.agent.is_some() {
                // The status of an environment that is not declared names its containers here.
                let note = if left.is_gone { " (that agent has no valid token any more)" } else { "" };
                view.warnings.push(format!(
                    "{name} still has {containers} on {place}{note}, although {runs_on}: both may serve and write. `abide \
                     forget {name} --stop` removes that; or run there: docker rm -f {}",
                    left.containers.join(" ")
                ));
            }
        }
        view
    }

    /// Collects the facts about one environment.
    pub(super) fn facts<'a>(
        &self,
        name: &EnvironmentName,
        state: &'a ManifestState,
    ) -> Result<EnvironmentFacts<'a>, RecordError> {
        let spec = state.manifest.environments.get(name);
        // The status comes first: a change of the record between the two reads then makes the older
        // status outdated.
        let status = self.status.status(name)?;
        Ok(EnvironmentFacts {
            spec,
            mark: state.mark(name),
            desired: self.desired.get(name)?,
            status,
            presence: spec.and_then(|spec| spec.host.as_ref()).map(|host| self.hub.presence(host)),
            look: self.controller.as_ref().map(|controller| controller.look(name)),
        })
    }

    fn events(
        &self,
        environment: Option<&EnvironmentName>,
        query: &EventsQuery,
    ) -> Result<Json<Vec<Event>>, ApiError> {
        Ok(Json(self.status.events(environment, query.after, query.limit())?))
    }
}
