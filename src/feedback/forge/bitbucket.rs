//! Bitbucket Cloud and Bitbucket Data Center. A status with the same key replaces the former one.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::super::call::{Answer, Call};
use super::super::lane::Refusal;
use super::{Forge, Remote, judged};
use crate::model::container::Secret;
use crate::model::outbox::Projection;

/// The longest key that Bitbucket Cloud accepts.
const LONGEST_KEY: usize = 40;

/// `call` with the token: a bearer token, or `e-mail:token`.
pub(super) fn authorized(call: Call, token: &Secret) -> Call {
    if !token.expose().contains(':') {
        return call.bearer(token);
    }
    let basic = Secret::new(format!("Basic {}", STANDARD.encode(token.expose())));
    call.secret_header("authorization", basic).hiding(token)
}

fn key(row: &Projection) -> String {
    let key = format!("abide-{}", row.environment);
    if key.len() <= LONGEST_KEY {
        return key;
    }
    format!("abide-{}", hex::encode(&Sha256::digest(row.environment.as_str())[..16]))
}

fn body(forge: &Forge, row: &Projection, wanted: &Remote, commit: String) -> Value {
    let place = forge.place(row);
    let mut body = json!({
        "key": key(row),
        "state": wanted.state,
        "name": format!("abide {}", row.environment),
        "description": wanted.description,
        // Bitbucket requires a URL.
        "url": place.page.unwrap_or(commit),
    });
    if let Some(branch) = place.branch {
        body["ref"] = format!("refs/heads/{branch}").into();
    }
    body
}

fn remote(status: &Value) -> Remote {
    let text = |key: &str| status[key].as_str().unwrap_or_default().to_owned();
    Remote { state: text("state"), description: text("description") }
}

fn judge(forge: &Forge, answer: &Answer) -> Result<(), Refusal> {
    judged(answer, &format!("the repository {} or the commit", forge.spec.repository))
}

pub(super) async fn shown_cloud(forge: &Forge, row: &Projection) -> Result<Option<Remote>, Refusal> {
    let repository = &forge.spec.repository;
    let path = format!("/repositories/{repository}/commit/{}/statuses/build/{}", row.revision, key(row));
    let answer = forge.send(Call::get(forge.url(&path))).await?;
    // No status of this key, or no such repository: the write shows which.
    if answer.status == 404 {
        return Ok(None);
    }
    judge(forge, &answer)?;
    Ok(Some(remote(&answer.json()?)))
}

pub(super) async fn show_cloud(forge: &Forge, row: &Projection, wanted: &Remote) -> Result<(), Refusal> {
    let repository = &forge.spec.repository;
    let mut body =
        body(forge, row, wanted, format!("https://bitbucket.org/{repository}/commits/{}", row.revision));
    // The cloud has its own name for the branch.
    if let Some(fields) = body.as_object_mut() {
        fields.remove("ref");
        fields.extend(forge.place(row).branch.map(|branch| ("refname".to_owned(), branch.as_str().into())));
    }
    let path = format!("/repositories/{repository}/commit/{}/statuses/build", row.revision);
    let answer = forge.send(Call::post(forge.url(&path), body.to_string())).await?;
    judge(forge, &answer)
}

fn builds(forge: &Forge, row: &Projection) -> String {
    let (project, name) = forge.spec.repository.split_once('/').unwrap_or_default();
    format!("/rest/api/latest/projects/{project}/repos/{name}/commits/{}/builds", row.revision)
}

pub(super) async fn shown_server(forge: &Forge, row: &Projection) -> Result<Option<Remote>, Refusal> {
    let path = format!("{}?key={}", builds(forge, row), key(row));
    let answer = forge.send(Call::get(forge.url(&path))).await?;
    if answer.status == 404 {
        return Ok(None);
    }
    judge(forge, &answer)?;
    Ok(Some(remote(&answer.json()?)))
}

pub(super) async fn show_server(forge: &Forge, row: &Projection, wanted: &Remote) -> Result<(), Refusal> {
    let (project, name) = forge.spec.repository.split_once('/').unwrap_or_default();
    let commit = format!("{}/projects/{project}/repos/{name}/commits/{}", forge.spec.api, row.revision);
    let body = body(forge, row, wanted, commit);
    let answer = forge.send(Call::post(forge.url(&builds(forge, row)), body.to_string())).await?;
    judge(forge, &answer)
}
