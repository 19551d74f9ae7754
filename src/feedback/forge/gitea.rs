//! Gitea and Forgejo.

use serde_json::Value;

use super::super::call::Call;
use super::super::lane::Refusal;
use super::{Forge, Remote, context, github, judged};
use crate::model::outbox::Projection;

pub(super) async fn shown(forge: &Forge, row: &Projection) -> Result<Option<Remote>, Refusal> {
    let path = format!("/repos/{}/commits/{}/statuses?limit=50", forge.spec.repository, row.revision);
    let answer = forge.send(Call::get(forge.url(&path))).await?;
    judged(&answer, &format!("the repository {} or the commit", forge.spec.repository))?;
    // Old versions answer with nothing if there is none.
    let statuses: Vec<Value> = answer.json().unwrap_or_default();
    let own = context(row);
    let mine = statuses.iter().filter(|status| status["context"].as_str() == Some(&own));
    let newest = mine.max_by_key(|status| status["id"].as_u64());
    Ok(newest.map(|status| {
        let text = |key: &str| status[key].as_str().unwrap_or_default().to_owned();
        Remote { state: text("status"), description: text("description") }
    }))
}

pub(super) async fn show(forge: &Forge, row: &Projection, wanted: &Remote) -> Result<(), Refusal> {
    let answer = github::post(forge, row, wanted).await?;
    judged(&answer, &format!("the repository {} or the commit", forge.spec.repository))
}
