//! Jobs: their schedules, runs and output.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;

use super::body::QueryParams;
use super::error::ApiError;
use super::logs::{JobLogsQuery, output_of_job};
use super::{ApiState, ManifestState};
use crate::model::job::{JobSpec, JobView};
use crate::model::name::{EnvironmentName, JobName};

/// The maximum number of wrong letters for a name to be suggested.
const TYPING_ERRORS: usize = 2;

/// `GET /api/v1/jobs`
pub(super) async fn list(State(api): State<ApiState>) -> Result<Json<Vec<JobView>>, ApiError> {
    Ok(Json(api.jobs()?))
}

/// `GET /api/v1/jobs/{job}`
pub(super) async fn one(
    State(api): State<ApiState>,
    Path(job): Path<String>,
) -> Result<Json<JobView>, ApiError> {
    let manifest = Arc::clone(&api.manifest.borrow());
    let (environment, name, spec) = find(&manifest, &job)?;
    Ok(Json(api.job(environment, name, spec)?))
}

/// `GET /api/v1/jobs/{job}/logs?follow=&tail=&timestamps=`
pub(super) async fn logs(
    State(api): State<ApiState>,
    Path(job): Path<String>,
    QueryParams(query): QueryParams<JobLogsQuery>,
) -> Result<Response, ApiError> {
    let manifest = Arc::clone(&api.manifest.borrow());
    let (environment, name, _) = find(&manifest, &job)?;
    output_of_job(&api, environment, name, &query).await
}

impl ApiState {
    /// All declared jobs, by name.
    ///
    /// # Errors
    /// The record cannot be read.
    pub(super) fn jobs(&self) -> Result<Vec<JobView>, ApiError> {
        let manifest = Arc::clone(&self.manifest.borrow());
        let views = all(&manifest).map(|(environment, name, spec)| self.job(environment, name, spec));
        let mut views = views.collect::<Result<Vec<_>, _>>()?;
        views.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(views)
    }

    /// The declared jobs of one environment, by name.
    ///
    /// # Errors
    /// The record cannot be read.
    pub(super) fn jobs_of(&self, environment: &EnvironmentName) -> Result<Vec<JobView>, ApiError> {
        let manifest = Arc::clone(&self.manifest.borrow());
        let own = all(&manifest).filter(|(of, _, _)| *of == environment);
        own.map(|(environment, name, spec)| self.job(environment, name, spec)).collect()
    }

    fn job(
        &self,
        environment: &EnvironmentName,
        name: &JobName,
        spec: &JobSpec,
    ) -> Result<JobView, ApiError> {
        let status = self.status.status(environment)?;
        let report = status.as_ref().and_then(|status| status.jobs.get(name));
        let manifest = self.manifest.borrow();
        let host = manifest.manifest.environments.get(environment).and_then(|spec| spec.host.as_ref());
        let host = host.map(ToString::to_string);
        Ok(JobView::new((name.clone(), environment.clone()), spec, report, host))
    }
}

fn all(manifest: &ManifestState) -> impl Iterator<Item = (&EnvironmentName, &JobName, &JobSpec)> {
    let environments = manifest.manifest.environments.iter();
    environments.flat_map(|(name, spec)| spec.jobs.iter().map(move |(job, spec)| (name, job, spec)))
}

/// Finds a job by the name that a user typed.
fn find<'m>(
    manifest: &'m ManifestState,
    text: &str,
) -> Result<(&'m EnvironmentName, &'m JobName, &'m JobSpec), ApiError> {
    let shown: String = text.chars().filter(|c| !c.is_control()).take(80).collect();
    let mut found = all(manifest).filter(|(_, name, _)| name.as_str() == text);
    if let Some(found) = found.next() {
        return Ok(found);
    }
    let distance = |name: &JobName| strsim::osa_distance(&shown, name.as_str());
    let near = all(manifest).map(|(_, name, _)| name).min_by_key(|name| distance(name));
    Err(ApiError::not_found(match near {
        None => format!("unknown job `{shown}`; the manifest declares none, such as `[job.{shown}]`"),
        Some(near) if distance(near) <= TYPING_ERRORS => {
            format!("unknown job `{shown}`; did you mean `{near}`?")
        }
        Some(_) => {
            let mut names: Vec<_> = all(manifest).map(|(_, name, _)| name.as_str()).collect();
            names.sort_unstable();
            format!("unknown job `{shown}`; known jobs: {}", names.join(", "))
        }
    }))
}
