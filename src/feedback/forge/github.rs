//! GitHub and GitHub Enterprise Server.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::super::call::{self, ServiceRequest, ServiceResponse};
use super::super::lane::{DeliveryRefusal, Then};
use super::{ForgeConnection, RemoteStatus, context, line};
use crate::model::container::Secret;
use crate::model::forge::ForgeToken;
use crate::model::outbox::Projection;
use crate::model::outbox::commit::Phase;
use crate::model::spec::SecretRef;
use crate::model::time::Timestamp;
use crate::tls;

/// The version of the API.
const VERSION: &str = "2022-11-28";
/// The format of its answers.
const MEDIA_TYPE: &str = "application/vnd.github+json";
/// The pause after the secondary limit, if GitHub names none.
const SECONDARY: Duration = Duration::from_secs(60);
/// An app's token lives for an hour, and is renewed this long before its end.
const RENEWED_BEFORE: Duration = Duration::from_secs(12 * 60);
/// The longest description of a status.
const LONGEST: usize = 140;

/// The current token of an app, and its end.
#[derive(Default)]
pub(super) struct AppToken(Mutex<Option<(Secret, Timestamp)>>);

pub(super) async fn shown(
    forge: &ForgeConnection,
    row: &Projection,
) -> Result<Option<RemoteStatus>, DeliveryRefusal> {
    let path = format!("/repos/{}/commits/{}/statuses?per_page=100", forge.spec.repository, row.revision);
    let answer = forge.send(ServiceRequest::get(forge.url(&path))).await?;
    judge(forge, &answer)?;
    let statuses: Vec<Value> = answer.json()?;
    // The newest comes first; GitHub ignores the case of contexts.
    let own = context(row);
    let newest = statuses
        .iter()
        .find(|status| status["context"].as_str().is_some_and(|context| context.eq_ignore_ascii_case(&own)));
    Ok(newest.map(|status| RemoteStatus::of(status, "state")))
}

pub(super) async fn show(
    forge: &ForgeConnection,
    row: &Projection,
    wanted: &RemoteStatus,
) -> Result<(), DeliveryRefusal> {
    judge(forge, &post(forge, row, wanted).await?)
}

/// Sends a commit status. Gitea and Forgejo take the same request.
pub(super) async fn post(
    forge: &ForgeConnection,
    row: &Projection,
    wanted: &RemoteStatus,
) -> Result<ServiceResponse, DeliveryRefusal> {
    let mut body = json!({
        "state": wanted.state,
        "context": context(row),
        "description": wanted.description,
    });
    if let Some(page) = forge.place(row).page {
        body["target_url"] = page.into();
    }
    let path = format!("/repos/{}/statuses/{}", forge.spec.repository, row.revision);
    forge.send(ServiceRequest::post(forge.url(&path), body.to_string())).await
}

/// Finds or creates the deployment of the row's generation.
pub(super) async fn create(forge: &ForgeConnection, row: &Projection) -> Result<String, DeliveryRefusal> {
    let own = format!("{}-{}", row.environment, row.generation);
    let deployments = format!("/repos/{}/deployments", forge.spec.repository);
    let path = format!("{deployments}?sha={}&environment={}&per_page=100", row.revision, row.environment);
    let answer = forge.send(ServiceRequest::get(forge.url(&path))).await?;
    judge(forge, &answer)?;
    let known: Vec<Value> = answer.json()?;
    // An earlier attempt may have created it.
    if let Some(id) = known.iter().find(|known| abide_id(known).as_deref() == Some(&own)).and_then(id) {
        return Ok(id);
    }
    let name = row.environment.as_str();
    let body = json!({
        "ref": row.revision,
        "task": "deploy",
        // GitHub would otherwise merge the default branch, or wait for checks.
        "auto_merge": false,
        "required_contexts": [],
        "environment": name,
        "production_environment": matches!(name, "prod" | "production"),
        "transient_environment": false,
        "payload": { "abide_id": own },
        "description": format!("generation {}", row.generation),
    });
    let answer = forge.send(ServiceRequest::post(forge.url(&deployments), body.to_string())).await?;
    judge(forge, &answer)?;
    id(&answer.json::<Value>()?)
        .ok_or_else(|| DeliveryRefusal::passing("GitHub's answer has no id of a deployment"))
}

fn id(deployment: &Value) -> Option<String> {
    deployment["id"].as_u64().map(|id| id.to_string())
}

/// Our id in a deployment, whose payload is an object or its text.
fn abide_id(deployment: &Value) -> Option<String> {
    let payload = match &deployment["payload"] {
        Value::String(text) => serde_json::from_str(text).ok()?,
        payload => payload.clone(),
    };
    payload["abide_id"].as_str().map(str::to_owned)
}

pub(super) async fn show_deployment(
    forge: &ForgeConnection,
    row: &Projection,
    id: &str,
) -> Result<(), DeliveryRefusal> {
    let state = match row.wanted.phase {
        Phase::Pending => "queued",
        Phase::Running => "in_progress",
        Phase::Success => "success",
        Phase::Failure => "failure",
        Phase::Error => "error",
        // GitHub closes former deployments by itself, but not those of production.
        Phase::Superseded | Phase::Replaced => "inactive",
    };
    let wanted =
        RemoteStatus { state: state.to_owned(), description: line(&row.wanted.description, LONGEST) };
    let path = format!("/repos/{}/deployments/{id}/statuses", forge.spec.repository);
    let answer = forge.send(ServiceRequest::get(forge.url(&format!("{path}?per_page=100")))).await?;
    judge(forge, &answer)?;
    let statuses: Vec<Value> = answer.json()?;
    let newest = statuses.iter().max_by_key(|status| status["id"].as_u64());
    if newest.is_some_and(|status| RemoteStatus::of(status, "state") == wanted) {
        return Ok(());
    }
    let mut body = json!({ "state": wanted.state, "description": wanted.description, "auto_inactive": true });
    let place = forge.place(row);
    if let Some(page) = place.page {
        body["log_url"] = page.into();
    }
    if let Some(url) = place.url {
        body["environment_url"] = url.into();
    }
    let answer = forge.send(ServiceRequest::post(forge.url(&path), body.to_string())).await?;
    judge(forge, &answer)
}

/// What GitHub's answers mean.
pub(super) fn judge(forge: &ForgeConnection, answer: &ServiceResponse) -> Result<(), DeliveryRefusal> {
    let why = || format!("{} answers {}{}", answer.place, answer.status, answer.excerpt());
    match answer.status {
        403 | 429 => {
            let text = String::from_utf8_lossy(&answer.body).to_lowercase();
            if let Some(pause) = answer.retry_after() {
                return Err(DeliveryRefusal { then: Then::Wait(pause), why: why() });
            }
            if answer.header("x-ratelimit-remaining") == Some("0") {
                let reset = answer.header("x-ratelimit-reset").and_then(|reset| reset.parse::<u64>().ok());
                let now = answer.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
                let pause =
                    reset.map_or(SECONDARY, |reset| Duration::from_secs(reset.saturating_sub(now) + 1));
                return Err(DeliveryRefusal { then: Then::Wait(pause), why: why() });
            }
            if answer.status == 429 || text.contains("rate limit") {
                return Err(DeliveryRefusal { then: Then::WaitLonger(SECONDARY), why: why() });
            }
            let missing = answer.header("x-accepted-github-permissions");
            let missing = missing.map(|missing| format!(". GitHub accepts: {missing}")).unwrap_or_default();
            Err(DeliveryRefusal::denied(format!("{}{missing}", why())))
        }
        _ => super::judged(answer, &format!("the repository {} or the commit", forge.spec.repository)),
    }
}

/// Sends `call` with a token or as an app. The token of an app is renewed once if GitHub rejects it.
pub(super) async fn send(
    forge: &ForgeConnection,
    call: ServiceRequest,
) -> Result<ServiceResponse, DeliveryRefusal> {
    let call = call.header("accept", MEDIA_TYPE).header("x-github-api-version", VERSION);
    let ForgeToken::App { id, key_file } = &forge.spec.token else {
        let token = forge.token().await?;
        return call::send(call.bearer(&token)).await;
    };
    let key = SecretRef::SecretFile(key_file.clone());
    let token = app_token(forge, id, &key).await?;
    let answer = call::send(call.clone().bearer(&token)).await?;
    if answer.status != 401 {
        return Ok(answer);
    }
    forge.app.0.lock().await.take_if(|(rejected, _)| *rejected == token);
    let token = app_token(forge, id, &key).await?;
    call::send(call.bearer(&token)).await
}

async fn app_token(forge: &ForgeConnection, id: &str, key: &SecretRef) -> Result<Secret, DeliveryRefusal> {
    let mut current = forge.app.0.lock().await;
    let now = Timestamp::from(SystemTime::now());
    if let Some((token, end)) = &*current
        && now.after(RENEWED_BEFORE) < *end
    {
        return Ok(token.clone());
    }
    let key = super::super::channel::read(Some(key.clone())).await?;
    let jwt = jwt(id, &key, now)?;
    let ask = |call: ServiceRequest| {
        let call = call.header("accept", MEDIA_TYPE).header("x-github-api-version", VERSION);
        call.bearer(&jwt).allowing_private(forge.spec.allow_private)
    };
    let repository = &forge.spec.repository;
    let answer =
        call::send(ask(ServiceRequest::get(forge.url(&format!("/repos/{repository}/installation"))))).await?;
    if answer.status == 404 {
        return Err(DeliveryRefusal::denied(format!("the app is not installed on {repository}")));
    }
    judge(forge, &answer)?;
    let installation: Value = answer.json()?;
    let installation = installation["id"].as_u64().unwrap_or_default();
    let name = repository.rsplit('/').next().unwrap_or(repository);
    let body = json!({ "repositories": [name] }).to_string();
    let url = forge.url(&format!("/app/installations/{installation}/access_tokens"));
    let answer = call::send(ask(ServiceRequest::post(url, body))).await?;
    judge(forge, &answer)?;
    let made: Value = answer.json()?;
    let wrong = || DeliveryRefusal::passing("GitHub's answer has no token");
    let token = Secret::new(made["token"].as_str().ok_or_else(wrong)?);
    let end = made["expires_at"].as_str().and_then(|end| Timestamp::parse(end).ok()).ok_or_else(wrong)?;
    *current = Some((token.clone(), end));
    Ok(token)
}

/// The signed claim of an app about itself. GitHub's clock may be behind ours.
fn jwt(id: &str, key: &Secret, now: Timestamp) -> Result<Secret, DeliveryRefusal> {
    let now = now.as_millis() / 1000;
    let claims = json!({ "iat": now.saturating_sub(60), "exp": now + 9 * 60, "iss": id });
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!("{}.{}", part(&json!({ "alg": "RS256", "typ": "JWT" })), part(&claims));
    let signature = tls::sign_rs256(key.expose(), text.as_bytes())
        .map_err(|error| DeliveryRefusal::denied(format!("the app's key cannot be used: {error}")))?;
    Ok(Secret::new(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))))
}
