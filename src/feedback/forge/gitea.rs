//! Gitea and Forgejo.

use serde_json::Value;

use super::super::call::ServiceRequest;
use super::super::lane::DeliveryRefusal;
use super::{ForgeConnection, RemoteStatus, context, github, judged};
use crate::model::outbox::Projection;

pub(super) async fn shown(
    forge: &ForgeConnection,
    row: &Projection,
) -> Result<Option<RemoteStatus>, DeliveryRefusal> {
    let path = format!("/repos/{}/commits/{}/statuses?limit=50", forge.spec.repository, row.revision);
    let answer = forge.send(ServiceRequest::get(forge.url(&path))).await?;
    judged(&answer, &format!("the repository {} or the commit", forge.spec.repository))?;
    // Old versions answer with nothing if there is none.
    let statuses: Vec<Value> = answer.json().unwrap_or_default();
    Ok(RemoteStatus::newest(&statuses, "context", &context(row)))
}

pub(super) async fn show(
    forge: &ForgeConnection,
    row: &Projection,
    wanted: &RemoteStatus,
) -> Result<(), DeliveryRefusal> {
    let answer = github::post(forge, row, wanted).await?;
    judged(&answer, &format!("the repository {} or the commit", forge.spec.repository))
}
