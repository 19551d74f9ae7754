//! GitLab.

use serde_json::{Value, json};

use super::super::call::{Answer, Call, encoded};
use super::super::lane::Refusal;
use super::{Forge, Remote, context, judged};
use crate::model::outbox::Projection;
use crate::model::outbox::commit::Phase;

fn project(forge: &Forge) -> String {
    format!("/projects/{}", encoded(&forge.spec.repository))
}

fn judge(forge: &Forge, answer: &Answer) -> Result<(), Refusal> {
    judged(answer, &format!("the project {} or the commit", forge.spec.repository))
}

pub(super) async fn shown(forge: &Forge, row: &Projection) -> Result<Option<Remote>, Refusal> {
    let (project, name) = (project(forge), encoded(&context(row)));
    let path = format!("{project}/repository/commits/{}/statuses?name={name}&per_page=100", row.revision);
    let answer = forge.send(Call::get(forge.url(&path))).await?;
    judge(forge, &answer)?;
    let statuses: Vec<Value> = answer.json()?;
    let own = context(row);
    let mine = statuses.iter().filter(|status| status["name"].as_str() == Some(&own));
    let newest = mine.max_by_key(|status| status["id"].as_u64());
    Ok(newest.map(|status| {
        let text = |key: &str| status[key].as_str().unwrap_or_default().to_owned();
        Remote { state: text("status"), description: text("description") }
    }))
}

pub(super) async fn show(forge: &Forge, row: &Projection, wanted: &Remote) -> Result<(), Refusal> {
    let place = forge.place(row);
    let mut body = json!({ "state": wanted.state, "name": context(row), "description": wanted.description });
    if let Some(page) = place.page {
        body["target_url"] = page.into();
    }
    if let Some(branch) = place.branch {
        body["ref"] = branch.as_str().into();
    }
    let path = format!("{}/statuses/{}", project(forge), row.revision);
    let answer = forge.send(Call::post(forge.url(&path), body.to_string())).await?;
    if is_refused_transition(&answer) {
        // GitLab rejects a transition to the state that it shows, and from running back to pending.
        let now = shown(forge, row).await?.map(|remote| remote.state);
        let is_open = matches!(wanted.state.as_str(), "pending" | "running");
        return match now.as_deref() {
            Some(state) if state == wanted.state => Ok(()),
            Some("pending" | "running") if is_open => Ok(()),
            _ => Err(Refusal::permanent(format!(
                "GitLab rejects the state {}{}",
                wanted.state,
                answer.excerpt()
            ))),
        };
    }
    judge(forge, &answer)
}

fn is_refused_transition(answer: &Answer) -> bool {
    answer.status == 400 && String::from_utf8_lossy(&answer.body).to_lowercase().contains("cannot transition")
}

/// Finds or creates the deployment of the row's generation. GitLab keeps no id of ours: an open deployment of the
/// commit is the one of an attempt that was cut off.
pub(super) async fn create(forge: &Forge, row: &Projection) -> Result<String, Refusal> {
    let deployments = format!("{}/deployments", project(forge));
    let path = format!("{deployments}?environment={}&order_by=id&sort=desc&per_page=20", row.environment);
    let answer = forge.send(Call::get(forge.url(&path))).await?;
    judge(forge, &answer)?;
    let known: Vec<Value> = answer.json()?;
    let is_ours = |known: &&Value| {
        known["sha"].as_str() == Some(row.revision.as_str())
            && matches!(known["status"].as_str(), Some("created" | "running"))
    };
    if let Some(id) = known.iter().find(is_ours).and_then(|known| known["id"].as_u64()) {
        return Ok(id.to_string());
    }
    let branch = forge.place(row).branch;
    let body = json!({
        "environment": row.environment,
        "sha": row.revision,
        "ref": branch.as_ref().map_or(row.revision.as_str(), |branch| branch.as_str()),
        "tag": false,
        "status": "running",
    });
    let answer = forge.send(Call::post(forge.url(&deployments), body.to_string())).await?;
    judge(forge, &answer)?;
    let id = answer.json::<Value>()?["id"].as_u64();
    id.map(|id| id.to_string()).ok_or_else(|| Refusal::passing("GitLab's answer has no id of a deployment"))
}

pub(super) async fn show_deployment(forge: &Forge, row: &Projection, id: &str) -> Result<(), Refusal> {
    let status = match row.wanted.phase {
        Phase::Running => "running",
        Phase::Success => "success",
        Phase::Failure | Phase::Error => "failed",
        Phase::Superseded => "canceled",
        // GitLab knows no waiting deployment, and closes former ones by itself.
        Phase::Pending | Phase::Replaced => return Ok(()),
    };
    let path = format!("{}/deployments/{id}", project(forge));
    let answer = forge.send(Call::put(forge.url(&path), json!({ "status": status }).to_string())).await?;
    if is_refused_transition(&answer) {
        // It is in that state, or ended before.
        return Ok(());
    }
    judge(forge, &answer)
}
