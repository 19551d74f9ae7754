//! GitLab.

use serde_json::{Value, json};

use super::super::call::{ServiceRequest, ServiceResponse};
use super::super::lane::DeliveryRefusal;
use super::{ForgeConnection, RemoteStatus, context, judged};
use crate::model::outbox::Projection;
use crate::model::outbox::commit::Phase;
use crate::model::percent::encoded;

/// The longest URL and branch that GitLab accepts.
const LONGEST: usize = 255;

fn project(forge: &ForgeConnection) -> String {
    format!("/projects/{}", encoded(&forge.spec.repository))
}

fn judge(forge: &ForgeConnection, answer: &ServiceResponse) -> Result<(), DeliveryRefusal> {
    judged(answer, &format!("the project {} or the commit", forge.spec.repository))
}

pub(super) async fn shown(
    forge: &ForgeConnection,
    row: &Projection,
) -> Result<Option<RemoteStatus>, DeliveryRefusal> {
    let (project, name) = (project(forge), encoded(&context(row)));
    let path = format!("{project}/repository/commits/{}/statuses?name={name}&per_page=100", row.revision);
    let answer = forge.send(ServiceRequest::get(forge.url(&path))).await?;
    judge(forge, &answer)?;
    let statuses: Vec<Value> = answer.json()?;
    Ok(RemoteStatus::newest(&statuses, "name", &context(row)))
}

pub(super) async fn show(
    forge: &ForgeConnection,
    row: &Projection,
    wanted: &RemoteStatus,
) -> Result<(), DeliveryRefusal> {
    let place = forge.place(row);
    let mut body = json!({ "state": wanted.state, "name": context(row), "description": wanted.description });
    if let Some(page) = place.page.filter(|page| page.len() <= LONGEST) {
        body["target_url"] = page.into();
    }
    if let Some(branch) = place.branch.filter(|branch| branch.as_str().len() <= LONGEST) {
        body["ref"] = branch.as_str().into();
    }
    let path = format!("{}/statuses/{}", project(forge), row.revision);
    let answer = forge.send(ServiceRequest::post(forge.url(&path), body.to_string())).await?;
    if is_refused_transition(&answer) {
        // GitLab rejects a transition to the state that it shows, and from running back to pending.
        let now = shown(forge, row).await?.map(|remote| remote.state);
        let is_open = matches!(wanted.state.as_str(), "pending" | "running");
        return match now.as_deref() {
            Some(state) if state == wanted.state => Ok(()),
            Some("pending" | "running") if is_open => Ok(()),
            _ => Err(DeliveryRefusal::permanent(format!(
                "GitLab rejects the state {}{}",
                wanted.state,
                answer.excerpt()
            ))),
        };
    }
    judge(forge, &answer)
}

fn is_refused_transition(answer: &ServiceResponse) -> bool {
    answer.status == 400 && String::from_utf8_lossy(&answer.body).to_lowercase().contains("cannot transition")
}

/// Finds or creates the deployment of the row's generation. GitLab keeps no id of ours: an open deployment of the
/// commit is the one of an attempt that was cut off.
pub(super) async fn create(forge: &ForgeConnection, row: &Projection) -> Result<String, DeliveryRefusal> {
    let deployments = format!("{}/deployments", project(forge));
    let path = format!("{deployments}?environment={}&order_by=id&sort=desc&per_page=20", row.environment);
    let answer = forge.send(ServiceRequest::get(forge.url(&path))).await?;
    judge(forge, &answer)?;
    let known: Vec<Value> = answer.json()?;
    let is_ours = |known: &Value| {
        known["sha"].as_str() == Some(row.revision.as_str())
            && matches!(known["status"].as_str(), Some("created" | "running"))
    };
    let deployment = match known.into_iter().find(is_ours) {
        Some(found) => found,
        None => begin(forge, row, &deployments).await?,
    };
    show_environment(forge, row, &deployment["environment"]).await?;
    let id = deployment["id"].as_u64().map(|id| id.to_string());
    id.ok_or_else(|| DeliveryRefusal::passing("GitLab's answer has no id of a deployment"))
}

async fn begin(forge: &ForgeConnection, row: &Projection, path: &str) -> Result<Value, DeliveryRefusal> {
    let branch = forge.place(row).branch;
    let body = json!({
        "environment": row.environment,
        "sha": row.revision,
        "ref": branch.as_ref().map_or(row.revision.as_str(), |branch| branch.as_str()),
        "tag": false,
        "status": "running",
    });
    let answer = forge.send(ServiceRequest::post(forge.url(path), body.to_string())).await?;
    judge(forge, &answer)?;
    answer.json()
}

/// Gives the environment its URL. Deployments have none on GitLab.
async fn show_environment(
    forge: &ForgeConnection,
    row: &Projection,
    environment: &Value,
) -> Result<(), DeliveryRefusal> {
    let url = forge.place(row).url.filter(|url| environment["external_url"].as_str() != Some(url));
    let (Some(url), Some(id)) = (url, environment["id"].as_u64()) else { return Ok(()) };
    let path = format!("{}/environments/{id}", project(forge));
    let body = json!({ "external_url": url });
    judge(forge, &forge.send(ServiceRequest::put(forge.url(&path), body.to_string())).await?)
}

pub(super) async fn show_deployment(
    forge: &ForgeConnection,
    row: &Projection,
    id: &str,
) -> Result<(), DeliveryRefusal> {
    let status = match row.wanted.phase {
        Phase::Running => "running",
        Phase::Success => "success",
        Phase::Failure | Phase::Error => "failed",
        Phase::Superseded => "canceled",
        // GitLab knows no waiting deployment, and closes former ones by itself.
        Phase::Pending | Phase::Replaced => return Ok(()),
    };
    let path = format!("{}/deployments/{id}", project(forge));
    let answer = forge.send(ServiceRequest::get(forge.url(&path))).await?;
    judge(forge, &answer)?;
    if answer.json::<Value>()?["status"].as_str() == Some(status) {
        return Ok(());
    }
    let answer =
        forge.send(ServiceRequest::put(forge.url(&path), json!({ "status": status }).to_string())).await?;
    if is_refused_transition(&answer) {
        // It ended before.
        return Ok(());
    }
    judge(forge, &answer)
}
