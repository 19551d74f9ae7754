//! GitHub and GitHub Enterprise Server.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::super::call::{self, Answer, Call};
use super::super::lane::{Refusal, Then};
use super::{Forge, Remote, context, line};
use crate::model::container::Secret;
use crate::model::forge::ForgeToken;
use crate::model::outbox::Projection;
use crate::model::outbox::commit::Phase;
use crate::model::spec::SecretRef;
use crate::model::time::Timestamp;
use crate::tls;

/// The version of the API.
const VERSION: &str = "2022-11-28";
/// The pause after the secondary limit, if GitHub names none.
const SECONDARY: Duration = Duration::from_secs(60);
/// An app's token lives for an hour, and is renewed so long before its end.
const RENEWED_BEFORE: Duration = Duration::from_secs(12 * 60);
/// The longest description of a status.
const LONGEST: usize = 140;

/// The current token of an app, and its end.
#[derive(Default)]
pub(super) struct AppToken(Mutex<Option<(Secret, Timestamp)>>);

pub(super) async fn shown(forge: &Forge, row: &Projection) -> Result<Option<Remote>, Refusal> {
    let path = format!("/repos/{}/commits/{}/statuses?per_page=100", forge.spec.repository, row.revision);
    let answer = forge.send(Call::get(forge.url(&path))).await?;
    judge(forge, &answer)?;
    let statuses: Vec<Value> = answer.json()?;
    // The newest comes first; GitHub ignores the case of contexts.
    let own = context(row);
    let newest = statuses
        .iter()
        .find(|status| status["context"].as_str().is_some_and(|context| context.eq_ignore_ascii_case(&own)));
    Ok(newest.map(remote))
}

pub(super) fn remote(status: &Value) -> Remote {
    let text = |key: &str| status[key].as_str().unwrap_or_default().to_owned();
    Remote { state: text("state"), description: text("description") }
}

pub(super) async fn show(forge: &Forge, row: &Projection, wanted: &Remote) -> Result<(), Refusal> {
    judge(forge, &post(forge, row, wanted).await?)
}

/// Sends a commit status. Gitea and Forgejo take the same request.
pub(super) async fn post(forge: &Forge, row: &Projection, wanted: &Remote) -> Result<Answer, Refusal> {
    let mut body = json!({
        "state": wanted.state,
        "context": context(row),
        "description": wanted.description,
    });
    if let Some(page) = forge.place(row).page {
        body["target_url"] = page.into();
    }
    let path = format!("/repos/{}/statuses/{}", forge.spec.repository, row.revision);
    forge.send(Call::post(forge.url(&path), body.to_string())).await
}

/// Finds or creates the deployment of the row's generation.
pub(super) async fn create(forge: &Forge, row: &Projection) -> Result<String, Refusal> {
    let own = format!("{}-{}", row.environment, row.generation);
    let deployments = format!("/repos/{}/deployments", forge.spec.repository);
    let path = format!("{deployments}?sha={}&environment={}&per_page=100", row.revision, row.environment);
    let answer = forge.send(Call::get(forge.url(&path))).await?;
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
    let answer = forge.send(Call::post(forge.url(&deployments), body.to_string())).await?;
    judge(forge, &answer)?;
    id(&answer.json::<Value>()?).ok_or_else(|| Refusal::passing("GitHub's answer has no id of a deployment"))
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

pub(super) async fn show_deployment(forge: &Forge, row: &Projection, id: &str) -> Result<(), Refusal> {
    let state = match row.wanted.phase {
        Phase::Pending => "queued",
        Phase::Running => "in_progress",
        Phase::Success => "success",
        Phase::Failure => "failure",
        Phase::Error => "error",
        // GitHub closes former deployments by itself, but not those of production.
        Phase::Superseded | Phase::Replaced => "inactive",
    };
    let mut body = json!({
        "state": state,
        "description": line(&row.wanted.description, LONGEST),
        "auto_inactive": true,
    });
    let place = forge.place(row);
    if let Some(page) = place.page {
        body["log_url"] = page.into();
    }
    if let Some(url) = place.url {
        body["environment_url"] = url.into();
    }
    let path = format!("/repos/{}/deployments/{id}/statuses", forge.spec.repository);
    let answer = forge.send(Call::post(forge.url(&path), body.to_string())).await?;
    judge(forge, &answer)
}

/// What GitHub's answers mean.
fn judge(forge: &Forge, answer: &Answer) -> Result<(), Refusal> {
    let why = || format!("{} answers {}{}", answer.place, answer.status, answer.excerpt());
    match answer.status {
        403 | 429 => {
            let text = String::from_utf8_lossy(&answer.body).to_lowercase();
            if let Some(pause) = answer.retry_after() {
                return Err(Refusal { then: Then::Wait(pause), why: why() });
            }
            if answer.header("x-ratelimit-remaining") == Some("0") {
                let reset = answer.header("x-ratelimit-reset").and_then(|reset| reset.parse::<u64>().ok());
                let now = answer.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
                let pause =
                    reset.map_or(SECONDARY, |reset| Duration::from_secs(reset.saturating_sub(now) + 1));
                return Err(Refusal { then: Then::Wait(pause), why: why() });
            }
            if answer.status == 429 || text.contains("rate limit") {
                return Err(Refusal { then: Then::Wait(SECONDARY), why: why() });
            }
            let missing = answer.header("x-accepted-github-permissions");
            let missing = missing.map(|missing| format!(". GitHub accepts: {missing}")).unwrap_or_default();
            Err(Refusal::denied(format!("{}{missing}", why())))
        }
        _ => super::judged(answer, &format!("the repository {} or the commit", forge.spec.repository)),
    }
}

/// Sends `call` with a token or as an app. The token of an app is renewed once if GitHub rejects it.
pub(super) async fn send(forge: &Forge, call: Call) -> Result<Answer, Refusal> {
    let call = call.header("x-github-api-version", VERSION);
    let ForgeToken::App { id, key_file } = &forge.spec.token else {
        let token = forge.token().await?;
        return call::send(call.bearer(&token)).await;
    };
    let token = app_token(forge, id, &SecretRef::SecretFile(key_file.clone())).await?;
    let answer = call::send(call.bearer(&token)).await?;
    if answer.status == 401 {
        *forge.app.0.lock().await = None;
        return Err(Refusal::passing(format!(
            "{} rejects the app's token: a new one is requested",
            answer.place
        )));
    }
    Ok(answer)
}

async fn app_token(forge: &Forge, id: &str, key: &SecretRef) -> Result<Secret, Refusal> {
    let mut current = forge.app.0.lock().await;
    let now = Timestamp::from(SystemTime::now());
    if let Some((token, end)) = &*current
        && now.after(RENEWED_BEFORE) < *end
    {
        return Ok(token.clone());
    }
    let key = super::super::channel::read(Some(key.clone())).await?;
    let jwt = jwt(id, &key, now)?;
    let ask = |call: Call| {
        let call = call.header("accept", "application/json").header("x-github-api-version", VERSION);
        call.bearer(&jwt).allowing_private(forge.spec.allow_private)
    };
    let repository = &forge.spec.repository;
    let answer = call::send(ask(Call::get(forge.url(&format!("/repos/{repository}/installation"))))).await?;
    if answer.status == 404 {
        return Err(Refusal::denied(format!("the app is not installed on {repository}")));
    }
    judge(forge, &answer)?;
    let installation: Value = answer.json()?;
    let installation = installation["id"].as_u64().unwrap_or_default();
    let name = repository.rsplit('/').next().unwrap_or(repository);
    let body = json!({ "repositories": [name] }).to_string();
    let url = forge.url(&format!("/app/installations/{installation}/access_tokens"));
    let answer = call::send(ask(Call::post(url, body))).await?;
    judge(forge, &answer)?;
    let made: Value = answer.json()?;
    let wrong = || Refusal::passing("GitHub's answer has no token");
    let token = Secret::new(made["token"].as_str().ok_or_else(wrong)?);
    let end = made["expires_at"].as_str().and_then(|end| Timestamp::parse(end).ok()).ok_or_else(wrong)?;
    *current = Some((token.clone(), end));
    Ok(token)
}

/// The signed claim of an app about itself. GitHub's clock may be behind ours.
fn jwt(id: &str, key: &Secret, now: Timestamp) -> Result<Secret, Refusal> {
    let now = now.as_millis() / 1000;
    let claims = json!({ "iat": now.saturating_sub(60), "exp": now + 9 * 60, "iss": id });
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!("{}.{}", part(&json!({ "alg": "RS256", "typ": "JWT" })), part(&claims));
    let signature = tls::sign_rs256(key.expose(), text.as_bytes())
        .map_err(|error| Refusal::denied(format!("the app's key cannot be used: {error}")))?;
    Ok(Secret::new(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))))
}
