//! Gitea, Forgejo and Bitbucket: statuses of commits.

use serde_json::Value;

use super::super::super::call::ServiceResponse;
use super::super::super::lane::DeliveryRefusal;
use super::super::judged;
use super::{KnownForge, newest_of_each, rows, text};
use crate::model::checks::{CheckResult, ChecksQuery, CommitChecks, FoundCheck, RequiredCheck, is_own};
use crate::model::name::CommitId;
use crate::model::percent::encoded;

/// The rows of a page. Gitea has this limit unless its administrator changed it.
const PAGE: usize = 50;

fn judge_of(known: &KnownForge) -> impl Fn(&ServiceResponse) -> Result<(), DeliveryRefusal> {
    let what = format!("the repository {} or the commit", known.forge.spec.repository);
    move |answer| judged(answer, &what)
}

pub(super) async fn read_gitea(
    known: &KnownForge,
    query: &ChecksQuery,
) -> Result<CommitChecks, DeliveryRefusal> {
    let ChecksQuery { branch, commit, with_required, .. } = query;
    let repository = format!("/repos/{}", known.forge.spec.repository);
    let judge = judge_of(known);
    let next = |_: &ServiceResponse, page: &Value, path: &str| {
        let (base, number) = path.rsplit_once("&page=")?;
        let number: u32 = number.parse().ok()?;
        (rows(page).len() >= PAGE).then(|| format!("{base}&page={}", number + 1))
    };
    let path = format!("{repository}/commits/{commit}/statuses?limit={PAGE}&page=1");
    let statuses = known.list(path, &judge, rows, next).await?;
    // Contexts are case-sensitive here.
    let found = newest_of_each(&statuses, "context").into_iter().map(|status| {
        let result = match text(status, "status") {
            "success" | "warning" => CheckResult::Passed,
            "skipped" => CheckResult::Skipped,
            "pending" => CheckResult::Pending,
            _ => CheckResult::Failed,
        };
        FoundCheck::new(text(status, "context"), result)
    });
    let found = found.filter(|found| !is_own(&found.name)).collect();
    let mut required = Vec::new();
    if !with_required {
        return Ok(CommitChecks { found, required });
    }
    let answer = known.ask(&format!("{repository}/branches/{}", encoded(branch.as_str()))).await?;
    if answer.status != 404 {
        judge(&answer)?;
        let protection: Value = answer.json()?;
        if protection["enable_status_check"].as_bool() == Some(true) {
            let names = rows(&protection["status_check_contexts"]);
            required.extend(names.iter().filter_map(Value::as_str).map(RequiredCheck::named));
            required.retain(|check| !is_own(&check.name));
        }
    }
    Ok(CommitChecks { found, required })
}

pub(super) async fn read_cloud(
    known: &KnownForge,
    commit: &CommitId,
) -> Result<CommitChecks, DeliveryRefusal> {
    let repository = &known.forge.spec.repository;
    let path = format!("/repositories/{repository}/commit/{commit}/statuses?pagelen=100");
    let next = |_: &ServiceResponse, page: &Value, _: &str| known.path_of(page["next"].as_str()?);
    let statuses = known.list(path, judge_of(known), |page| rows(&page["values"]), next).await?;
    Ok(of_bitbucket(&statuses))
}

pub(super) async fn read_server(
    known: &KnownForge,
    commit: &CommitId,
) -> Result<CommitChecks, DeliveryRefusal> {
    // Statuses of all keys have an older path than the one of a single key.
    let path = format!("/rest/build-status/1.0/commits/{commit}?limit=100&start=0");
    let next = |_: &ServiceResponse, page: &Value, path: &str| {
        let start = page["nextPageStart"].as_u64().filter(|_| page["isLastPage"].as_bool() == Some(false))?;
        let (base, _) = path.rsplit_once("&start=")?;
        Some(format!("{base}&start={start}"))
    };
    let statuses = known.list(path, judge_of(known), |page| rows(&page["values"]), next).await?;
    Ok(of_bitbucket(&statuses))
}

/// Checks by key and by name: people see the name, and CI systems set the key.
fn of_bitbucket(statuses: &[Value]) -> CommitChecks {
    let is_ours = |status: &&Value| {
        text(status, "key").starts_with("abide-") && text(status, "name").starts_with("abide ")
    };
    let mut found = Vec::new();
    for status in statuses.iter().filter(|status| !is_ours(status)) {
        let result = match text(status, "state") {
            "SUCCESSFUL" => CheckResult::Passed,
            "INPROGRESS" => CheckResult::Pending,
            _ => CheckResult::Failed,
        };
        let name = Some(text(status, "name").to_owned()).filter(|name| !name.is_empty());
        found.push(FoundCheck { alias: name, ..FoundCheck::new(text(status, "key"), result) });
    }
    CommitChecks { found, required: Vec::new() }
}
