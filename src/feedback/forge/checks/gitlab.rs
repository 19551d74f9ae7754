//! GitLab: the pipeline of a commit, and its jobs by name.

use serde_json::Value;

use super::super::super::call::ServiceResponse;
use super::super::super::lane::DeliveryRefusal;
use super::super::judged;
use super::{KnownForge, newest_of_each, rows, text};
use crate::model::checks::{CheckResult, ChecksQuery, CommitChecks, FoundCheck, RequiredCheck, is_own};
use crate::model::percent::encoded;

/// The name under which the whole pipeline is a check.
const PIPELINE: &str = "pipeline";

pub(super) async fn read(known: &KnownForge, query: &ChecksQuery) -> Result<CommitChecks, DeliveryRefusal> {
    let ChecksQuery { branch, commit, .. } = query;
    let project = format!("/projects/{}", encoded(&known.forge.spec.repository));
    let judge =
        |answer: &ServiceResponse| judged(answer, &format!("the project {}", known.forge.spec.repository));
    let next = |answer: &ServiceResponse, _: &Value, path: &str| {
        let page: u32 = answer.header("x-next-page")?.trim().parse().ok()?;
        let base = path.split("&page=").next()?;
        Some(format!("{base}&page={page}"))
    };
    let of = encoded(branch.as_str());
    let path = format!("{project}/pipelines?sha={commit}&ref={of}&per_page=100");
    let pipelines = known.list(path, judge, rows, next).await?;
    // Statuses from outside, abide's included, form a separate pipeline.
    let own = pipelines.iter().filter(|pipeline| text(pipeline, "source") != "external");
    let newest = own.max_by_key(|pipeline| pipeline["id"].as_u64());
    let path = format!("{project}/repository/commits/{commit}/statuses?ref={of}&per_page=100");
    let jobs = known.list(path, judge, rows, next).await?;
    let mut found = Vec::new();
    if let Some(pipeline) = newest {
        let id = pipeline["id"].as_u64().unwrap_or_default();
        // Old versions do not show the pipeline of a status.
        let is_inside = |job: &&Value| job["pipeline_id"].as_u64().is_none_or(|of| of == id);
        let is_part = jobs.iter().filter(is_inside).any(|job| is_own(text(job, "name")));
        found.push(match is_part {
            false => check(PIPELINE, pipeline),
            true => {
                let mut parts: Vec<Value> = jobs.iter().filter(is_inside).cloned().collect();
                // Trigger jobs are listed apart. Since GitLab 19.2, they are also at `trigger_jobs`.
                for kind in ["jobs", "bridges"] {
                    let path = format!("{project}/pipelines/{id}/{kind}?per_page=100");
                    parts.extend(known.list(path, judge, rows, next).await?);
                }
                FoundCheck::new(PIPELINE, without_own(pipeline, &parts))
            }
        });
    }
    found.extend(newest_of_others(&jobs).into_iter().map(|job| check(text(job, "name"), job)));
    Ok(CommitChecks { found, required: vec![RequiredCheck::named(PIPELINE)] })
}

/// The newest job of each name, without statuses of abide.
fn newest_of_others(jobs: &[Value]) -> Vec<&Value> {
    newest_of_each(jobs.iter().filter(|job| !is_own(text(job, "name"))), "name")
}

/// The result of a pipeline that contains statuses of abide. GitLab counts them like jobs, so the pipeline itself
/// would wait for abide, and abide for the pipeline.
fn without_own(pipeline: &Value, parts: &[Value]) -> CheckResult {
    let parts = newest_of_others(parts);
    if parts.is_empty() {
        return check(PIPELINE, pipeline).result;
    }
    let (mut has_passed, mut has_failed) = (false, false);
    for part in parts {
        let may_fail = part["allow_failure"].as_bool() == Some(true);
        match text(part, "status") {
            "success" => has_passed = true,
            "failed" | "canceled" | "canceling" if may_fail => has_passed = true,
            "failed" | "canceled" | "canceling" => has_failed = true,
            // A skipped part depends on another one, whose result counts.
            "skipped" => {}
            "manual" if may_fail => {}
            _ => return CheckResult::Pending,
        }
    }
    if has_passed && !has_failed { CheckResult::Passed } else { CheckResult::Failed }
}

/// A pipeline or job. One that waits for a person is not green before that person acts.
fn check(name: &str, of: &Value) -> FoundCheck {
    let result = match text(of, "status") {
        "success" => CheckResult::Passed,
        "failed" | "canceled" | "canceling" | "skipped" => CheckResult::Failed,
        _ => CheckResult::Pending,
    };
    FoundCheck::new(name, result)
}
