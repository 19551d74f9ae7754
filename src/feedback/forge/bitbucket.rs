//! Bitbucket Cloud and Bitbucket Data Center. A status with the same key replaces the former one.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::super::call::{ServiceRequest, ServiceResponse};
use super::super::lane::DeliveryRefusal;
use super::{ForgeConnection, RemoteStatus, judged};
use crate::model::container::Secret;
use crate::model::outbox::Projection;

/// The longest key that Bitbucket Cloud accepts.
const LONGEST_KEY: usize = 40;

/// `call` with the token: a bearer token, or `e-mail:token`.
pub(super) fn authorized(call: ServiceRequest, token: &Secret) -> ServiceRequest {
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

fn body(forge: &ForgeConnection, row: &Projection, wanted: &RemoteStatus, commit: String) -> Value {
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

fn judge(forge: &ForgeConnection, answer: &ServiceResponse) -> Result<(), DeliveryRefusal> {
    judged(answer, &format!("the repository {} or the commit", forge.spec.repository))
}

pub(super) async fn shown_cloud(
    forge: &ForgeConnection,
    row: &Projection,
) -> Result<Option<RemoteStatus>, DeliveryRefusal> {
    let repository = &forge.spec.repository;
    let path = format!("/repositories/{repository}/commit/{}/statuses/build/{}", row.revision, key(row));
    shown(forge, &path).await
}

/// The status at a path of the API.
async fn shown(forge: &ForgeConnection, path: &str) -> Result<Option<RemoteStatus>, DeliveryRefusal> {
    let answer = forge.send(ServiceRequest::get(forge.url(path))).await?;
    // No status of this key, or no such repository: the write shows which.
    if answer.status == 404 {
        return Ok(None);
    }
    judge(forge, &answer)?;
    Ok(Some(RemoteStatus::of(&answer.json()?, "state")))
}

pub(super) async fn show_cloud(
    forge: &ForgeConnection,
    row: &Projection,
    wanted: &RemoteStatus,
) -> Result<(), DeliveryRefusal> {
    let repository = &forge.spec.repository;
    let mut body =
        body(forge, row, wanted, format!("https://bitbucket.org/{repository}/commits/{}", row.revision));
    // The cloud names the branch differently.
    if let Some(fields) = body.as_object_mut() {
        fields.remove("ref");
        fields.extend(forge.place(row).branch.map(|branch| ("refname".to_owned(), branch.as_str().into())));
    }
    let path = format!("/repositories/{repository}/commit/{}/statuses/build", row.revision);
    let answer = forge.send(ServiceRequest::post(forge.url(&path), body.to_string())).await?;
    judge(forge, &answer)
}

fn builds(forge: &ForgeConnection, row: &Projection) -> String {
    let (project, name) = forge.spec.repository.split_once('/').unwrap_or_default();
    format!("/rest/api/latest/projects/{project}/repos/{name}/commits/{}/builds", row.revision)
}

pub(super) async fn shown_server(
    forge: &ForgeConnection,
    row: &Projection,
) -> Result<Option<RemoteStatus>, DeliveryRefusal> {
    let path = format!("{}?key={}", builds(forge, row), key(row));
    shown(forge, &path).await
}

pub(super) async fn show_server(
    forge: &ForgeConnection,
    row: &Projection,
    wanted: &RemoteStatus,
) -> Result<(), DeliveryRefusal> {
    let (project, name) = forge.spec.repository.split_once('/').unwrap_or_default();
    let commit = format!("{}/projects/{project}/repos/{name}/commits/{}", forge.spec.api, row.revision);
    let mut body = body(forge, row, wanted, commit);
    let post = |path: &str, body: &Value| {
        // Otherwise the server takes some requests for forged ones.
        ServiceRequest::post(forge.url(path), body.to_string()).header("x-atlassian-token", "no-check")
    };
    let answer = forge.send(post(&builds(forge, row), &body)).await?;
    if answer.status != 404 {
        return judge(forge, &answer);
    }
    // Servers before 7.4 have another path, and no word for a cancelled build.
    if wanted.state == "CANCELLED" {
        body["state"] = "FAILED".into();
    }
    let path = format!("/rest/build-status/1.0/commits/{}", row.revision);
    let answer = forge.send(post(&path, &body)).await?;
    judge(forge, &answer)
}
