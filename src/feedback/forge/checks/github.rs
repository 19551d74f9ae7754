//! GitHub: check runs, statuses, and what rules require.

use serde_json::Value;

use super::super::super::call::ServiceResponse;
use super::super::super::lane::DeliveryRefusal;
use super::super::github;
use super::{KnownForge, rows, text};
use crate::model::checks::{CheckResult, ChecksQuery, CommitChecks, FoundCheck, RequiredCheck, is_own};
use crate::model::name::BranchName;
use crate::model::percent::encoded;

pub(super) async fn read(known: &KnownForge, query: &ChecksQuery) -> Result<CommitChecks, DeliveryRefusal> {
    let ChecksQuery { branch, commit, with_required, .. } = query;
    let repository = format!("/repos/{}", known.forge.spec.repository);
    let judge = |answer: &ServiceResponse| github::judge(&known.forge, answer);
    let next = |answer: &ServiceResponse, _: &Value, _: &str| known.linked(answer);
    let path = format!("{repository}/commits/{commit}/check-runs?filter=latest&per_page=100");
    let runs = known.list(path, judge, |page| rows(&page["check_runs"]), next).await?;
    let path = format!("{repository}/commits/{commit}/status?per_page=100");
    let statuses = known.list(path, judge, |page| rows(&page["statuses"]), next).await?;
    // Suites of apps that never run stay queued. They have no runs, so they are not checks.
    let found = runs.iter().filter_map(run).chain(statuses.iter().filter_map(status));
    let found = found.filter(|found| !is_own(&found.name)).collect();
    let required = match with_required {
        true => required(known, &repository, branch).await?,
        false => Vec::new(),
    };
    Ok(CommitChecks { found, required })
}

/// A check run. Every state before `completed` waits, also those that only Actions has.
fn run(run: &Value) -> Option<FoundCheck> {
    let name = run["name"].as_str()?;
    let result = match (text(run, "status"), text(run, "conclusion")) {
        ("completed", "success") => CheckResult::Passed,
        ("completed", "neutral" | "skipped") => CheckResult::Skipped,
        ("completed", _) => CheckResult::Failed,
        _ => CheckResult::Pending,
    };
    Some(FoundCheck { app: run["app"]["id"].as_u64(), ..FoundCheck::new(name, result) })
}

fn status(status: &Value) -> Option<FoundCheck> {
    let result = match text(status, "state") {
        "success" => CheckResult::Passed,
        "pending" => CheckResult::Pending,
        _ => CheckResult::Failed,
    };
    Some(FoundCheck::new(status["context"].as_str()?, result))
}

/// The checks that rulesets or the protection of the branch require. The summary of the protection is shown to
/// every reader; its details only to administrators.
async fn required(
    known: &KnownForge,
    repository: &str,
    branch: &BranchName,
) -> Result<Vec<RequiredCheck>, DeliveryRefusal> {
    let branch = encoded(branch.as_str());
    let mut required = Vec::new();
    let rules = known.ask(&format!("{repository}/rules/branches/{branch}?per_page=100")).await?;
    // Servers before 3.11 have no rules.
    if rules.status != 404 {
        github::judge(&known.forge, &rules)?;
        let of_rule = |rule: &Value| rows(&rule["parameters"]["required_status_checks"]);
        let checks = rows(&rules.json()?).iter().flat_map(of_rule).collect::<Vec<_>>();
        required.extend(checks.iter().filter_map(|check| named(check, "integration_id")));
    }
    let summary = known.ask(&format!("{repository}/branches/{branch}")).await?;
    // A branch that is gone requires nothing; git reports that.
    if summary.status != 404 {
        github::judge(&known.forge, &summary)?;
        let summary: Value = summary.json()?;
        let protection = &summary["protection"]["required_status_checks"];
        let checks = rows(&protection["checks"]);
        required.extend(checks.iter().filter_map(|check| named(check, "app_id")));
        let contexts = rows(&protection["contexts"]);
        let contexts = contexts.iter().filter_map(Value::as_str);
        let is_known = |context: &&str| !required.iter().any(|known: &RequiredCheck| known.name == *context);
        let more: Vec<RequiredCheck> = contexts.filter(is_known).map(RequiredCheck::named).collect();
        required.extend(more);
    }
    required.retain(|check| !is_own(&check.name));
    Ok(required)
}

fn named(check: &Value, app: &str) -> Option<RequiredCheck> {
    Some(RequiredCheck { name: check["context"].as_str()?.to_owned(), app: check[app].as_u64() })
}
