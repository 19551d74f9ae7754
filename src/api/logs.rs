//! `/logs`: the output of a container, from the controller, or of a build, from its file.

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::body::QueryParams;
use super::error::ApiError;
use super::find::FoundEnvironment;
use super::tail::{self, Follow, Start};
use super::{ApiState, LogStream};
use crate::model::link::Question;
use crate::model::logs::LogOptions;
use crate::model::name::{EnvironmentName, JobName};
use crate::model::one_off::Hook;
use crate::model::time::Timestamp;

/// The output to return.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogsQuery {
    /// Whether to keep sending new output.
    #[serde(default)]
    follow: bool,
    /// Only the last lines.
    tail: Option<usize>,
    /// Only newer lines, in RFC 3339.
    since: Option<Timestamp>,
    /// The output of a build instead of the container.
    #[serde(default)]
    build: bool,
    /// The end of the output of the previous container.
    #[serde(default)]
    previous: bool,
    /// The output of the last command before or after a release.
    command: Option<Hook>,
    /// Whether each line begins with its time.
    #[serde(default)]
    timestamps: bool,
    /// The number of the build.
    number: Option<u64>,
}

/// `GET /api/v1/environments/{environment}/logs?follow=&tail=&since=&timestamps=&previous=&command=&build=&number=`
pub(super) async fn logs(
    State(api): State<ApiState>,
    found: FoundEnvironment,
    QueryParams(query): QueryParams<LogsQuery>,
) -> Result<Response, ApiError> {
    let is_of_build = query.build || query.number.is_some();
    if query.timestamps && (query.previous || is_of_build) {
        return Err(ApiError::bad_request(
            "`timestamps` cannot be combined with `previous`, `build` or `number`: that output has no times",
        ));
    }
    let stream = if is_of_build {
        build_log(&api, &found.name, &query).await?
    } else {
        let LogsQuery { follow, tail, since, previous, command: hook, timestamps, .. } = query;
        if previous && (follow || since.is_some()) {
            return Err(ApiError::bad_request("`previous` cannot be combined with `follow` or `since`"));
        }
        if previous && hook.is_some() {
            return Err(ApiError::bad_request("`previous` cannot be combined with `command`"));
        }
        let options = LogOptions { follow, tail, since, previous, hook, timestamps, ..LogOptions::default() };
        if let Some(host) = found.host() {
            return Ok(plain(api.hub.ask(host, found.name.clone(), Question::Logs(options)).await?));
        }
        let controller = api.controller.as_ref().ok_or_else(ApiError::no_daemon)?;
        controller.logs(found.name, options).await?
    };
    Ok(plain(stream))
}

/// The output of a job to return.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct JobLogsQuery {
    /// Whether to keep sending new output until the run ends.
    #[serde(default)]
    follow: bool,
    /// Only the last lines.
    tail: Option<usize>,
    /// Whether each line begins with its time.
    #[serde(default)]
    timestamps: bool,
}

/// The output of the last run of a job.
pub(super) async fn output_of_job(
    api: &ApiState,
    environment: &EnvironmentName,
    job: &JobName,
    query: &JobLogsQuery,
) -> Result<Response, ApiError> {
    let JobLogsQuery { follow, tail, timestamps } = *query;
    let job = Some(job.clone());
    let options = LogOptions { follow, tail, timestamps, job, ..LogOptions::default() };
    let found = api.find(environment.as_str())?;
    if let Some(host) = found.host() {
        return Ok(plain(api.hub.ask(host, found.name.clone(), Question::Logs(options)).await?));
    }
    let controller = api.controller.as_ref().ok_or_else(ApiError::no_daemon)?;
    Ok(plain(controller.logs(found.name, options).await?))
}

/// Sends output as plain text.
fn plain(stream: LogStream) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        // A container may print anything; browsers must not render it as a page.
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, Body::from_stream(stream)).into_response()
}

async fn build_log(
    api: &ApiState,
    environment: &EnvironmentName,
    query: &LogsQuery,
) -> Result<LogStream, ApiError> {
    let number = match query.number {
        Some(number) => number,
        None => newest_build(api, environment)?,
    };
    let start = query.tail.map_or(Start::At(0), Start::Last);
    build_output(api, environment, number, start, query.follow).await
}

/// The log of a build of an environment, followed until the build ends if `follow` is set.
pub(super) async fn build_output(
    api: &ApiState,
    environment: &EnvironmentName,
    number: u64,
    start: Start,
    follow: bool,
) -> Result<LogStream, ApiError> {
    let path = api.logs_dir.join(format!("{number}.log"));
    let is_over = {
        let (api, environment) = (api.clone(), environment.clone());
        move || is_over(&api, &environment, number)
    };
    let follow = if follow { Follow::Until(Box::new(is_over)) } else { Follow::No };
    tail::open(&path, start, follow).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            ApiError::not_found(format!("the log of build {number} is no longer stored"))
        }
        kind => {
            ApiError::unavailable("log-unavailable", format!("cannot read the log of build {number}: {kind}"))
        }
    })
}

/// The running build, else the last one with a permanent result.
fn newest_build(api: &ApiState, environment: &EnvironmentName) -> Result<u64, ApiError> {
    let running = api.controller.as_ref().and_then(|controller| controller.building(environment));
    if let Some(build) = running {
        return Ok(build.number);
    }
    let newest = api.status.builds(environment, 1)?.first().map(|build| build.number);
    newest.ok_or_else(|| ApiError::not_found(format!("`{environment}` has no builds yet")))
}

/// Whether the log is complete. A build has a record once it has a permanent result. The record
/// belongs to the environment that first requested the build, which need not be this one.
fn is_over(api: &ApiState, environment: &EnvironmentName, number: u64) -> bool {
    let Some(controller) = &api.controller else { return true };
    if controller.building(environment).is_some_and(|build| build.number == number) {
        return false;
    }
    let is_recorded = |name: &EnvironmentName| {
        let builds = api.status.builds(name, usize::MAX).unwrap_or_default();
        builds.iter().any(|build| build.number == number)
    };
    is_recorded(environment) || api.names().unwrap_or_default().iter().any(is_recorded)
}
