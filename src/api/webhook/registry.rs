//! `POST /webhooks/registry/{host}`: push notifications of a registry, in the format of
//! distribution.
//!
//! Such a notification carries a token instead of a signature, and anyone may have written its
//! content. So a changed tag is only a hint, and abide queries the registry itself for the digest.
//! The addresses in it are ignored.

use std::collections::BTreeSet;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, header};
use axum::routing::post;
use serde::Deserialize;
use tokio::time::Instant;

use super::answer::WebhookResponse;
use super::content;
use super::endpoint::{StoreError, WebhookLimits};
use super::intake::Intake;
use super::mac;
use super::payload::{self, Optional};
use super::refusals::RefusalLog;
use super::text::tame;
use super::{Rejection, check_secret};
use crate::api::serve::AdmissionGuard;
use crate::model::container::Secret;
use crate::model::desired::TagHint;
use crate::model::name::{Digest, EnvironmentName};
use crate::model::reference::{RegistryHost, TaggedImage};
use crate::model::time::Timestamp;

/// The media types of an envelope: the documented one, and the one that registries really send.
const ENVELOPES: [&str; 2] = [
    "application/vnd.docker.distribution.events.v1+json",
    "application/vnd.docker.distribution.events.v2+json",
];
/// The media types of manifests and indexes; layers and configurations are pushed too.
const MANIFESTS: [&str; 4] = [
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
];
/// The maximum number of events read of one envelope; polling finds the rest.
const MOST_EVENTS: usize = 1_000;

/// The destination of notifications: the only thing that registries can act on.
pub trait TagInbox: Clone + Send + Sync + 'static {
    /// Returns the token that authenticates notifications of this registry, as declared now.
    fn token(&self, host: &RegistryHost) -> Option<Secret>;

    /// Returns the environments that track a tag, as declared now.
    fn followers(&self, image: &TaggedImage) -> Vec<EnvironmentName>;

    /// Records that a tag may have changed, for the environments that do not know it; it is on disk
    /// when this returns.
    fn announce(
        &self,
        environments: Vec<EnvironmentName>,
        hint: TagHint,
    ) -> impl Future<Output = Result<Vec<EnvironmentName>, StoreError>> + Send;
}

#[derive(Clone)]
struct RegistryHooks<S> {
    inbox: S,
    clock: fn() -> Timestamp,
    intake: Intake,
    refusals: RefusalLog,
}

/// Returns the routes of all registries.
pub fn routes<S: TagInbox>(inbox: S, clock: fn() -> Timestamp, limits: WebhookLimits) -> Router {
    let intake = Intake::new(limits.largest_body, limits.body_deadline, limits.body_memory);
    let hook = post(receive::<S>).fallback(async || WebhookResponse::NotPost);
    Router::new().route("/webhooks/registry/{host}", hook).with_state(RegistryHooks {
        inbox,
        clock,
        intake,
        refusals: RefusalLog::default(),
    })
}

async fn receive<S: TagInbox>(
    State(hooks): State<RegistryHooks<S>>,
    path: Result<Path<String>, axum::extract::rejection::PathRejection>,
    request: Request,
) -> WebhookResponse {
    let host = path.map(|Path(host)| host).unwrap_or_default();
    let mut is_proven = false;
    let (Ok(answer) | Err(answer)) = hooks.take(&host, request, &mut is_proven).await;
    let (registry, status, outcome) = (tame(&host), answer.status().as_u16(), answer.word());
    if is_proven || hooks.refusals.admit(Instant::now()).is_some() {
        tracing::info!(registry, status, "registry notification {outcome}");
    }
    answer
}

impl<S: TagInbox> RegistryHooks<S> {
    /// Checks the token before it reads the body.
    async fn take(
        &self,
        host: &str,
        request: Request,
        is_proven: &mut bool,
    ) -> Result<WebhookResponse, WebhookResponse> {
        let (parts, body) = request.into_parts();
        check_kind(&parts.headers).map_err(WebhookResponse::Rejected)?;
        let body = self.intake.admit(&parts.headers, body).await.map_err(WebhookResponse::NotRead)?;
        let host = match self.prove(host, &parts.headers) {
            Ok(host) => host,
            Err(refused) => {
                self.intake.turn_away(body).await;
                return Err(refused);
            }
        };
        *is_proven = true;
        if let Some(standing) = parts.extensions.get::<AdmissionGuard>() {
            standing.prove();
        }
        let mut envelope = Vec::new();
        self.intake.read_into(&mut envelope, body).await.map_err(WebhookResponse::NotRead)?;
        let envelope: EventEnvelope = payload::parse(&envelope).map_err(WebhookResponse::Rejected)?;
        self.announce(&host, envelope).await
    }

    /// Returns the registry, if the request has its token.
    fn prove(&self, host: &str, headers: &HeaderMap) -> Result<RegistryHost, WebhookResponse> {
        let host = host.parse::<RegistryHost>().ok();
        let token = host.as_ref().and_then(|host| self.inbox.token(host));
        // An unknown registry causes the same work and the same answer.
        let is_known = token.is_some();
        prove(&token.unwrap_or_else(|| Secret::new("undeclared registry")), headers)
            .map_err(WebhookResponse::Rejected)?;
        host.filter(|_| is_known).ok_or(WebhookResponse::Unknown)
    }

    async fn announce(
        &self,
        host: &RegistryHost,
        envelope: EventEnvelope,
    ) -> Result<WebhookResponse, WebhookResponse> {
        let (mut changed, mut is_followed) = (BTreeSet::new(), false);
        for event in envelope.events.get().into_iter().flatten().take(MOST_EVENTS) {
            let Some((image, digest)) = event.pushed(host) else { continue };
            let followers = self.inbox.followers(&image);
            if followers.is_empty() {
                continue;
            }
            is_followed = true;
            let hint = TagHint { digest, by: event.by(), at: (self.clock)() };
            let recorded = self.inbox.announce(followers, hint).await.map_err(|error| not_stored(&error))?;
            changed.extend(recorded);
        }
        Ok(match (changed.is_empty(), is_followed) {
            (false, _) => WebhookResponse::Recorded(changed.into_iter().collect()),
            (true, true) => WebhookResponse::Repeated("the pushed image is already known".to_owned()),
            (true, false) => WebhookResponse::Ignored("no environment tracks the pushed tag".to_owned()),
        })
    }
}

fn check_kind(headers: &HeaderMap) -> Result<(), Rejection> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if ENVELOPES.contains(&essence) && !headers.contains_key(header::CONTENT_ENCODING) {
        return Ok(());
    }
    content::json_only(headers)
}

/// Requires the token in `Authorization: Bearer`.
fn prove(token: &Secret, headers: &HeaderMap) -> Result<(), Rejection> {
    check_secret(token)?;
    let given = mac::single(headers, header::AUTHORIZATION.as_str())?;
    let given = given.and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    // Always compared, so that no answer is faster than another.
    let is_same = mac::is_same_token(token.expose().as_bytes(), given.unwrap_or_default());
    match given {
        Some(_) if is_same => Ok(()),
        Some(_) => Err(Rejection::Unauthorized("its token does not match")),
        None => Err(Rejection::Unauthorized("it has no token")),
    }
}

fn not_stored(error: &StoreError) -> WebhookResponse {
    tracing::error!(error = %crate::model::error::chain(error), "failed to record a registry notification");
    WebhookResponse::NotStored
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct EventEnvelope {
    events: Optional<Vec<RegistryEvent>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RegistryEvent {
    action: Optional<String>,
    target: Optional<EventTarget>,
    actor: Optional<RegistryActor>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct EventTarget {
    media_type: Optional<String>,
    digest: Optional<String>,
    repository: Optional<String>,
    tag: Optional<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RegistryActor {
    name: Optional<String>,
}

impl RegistryEvent {
    /// The pushed tag and its claimed digest.
    fn pushed(&self, host: &RegistryHost) -> Option<(TaggedImage, Digest)> {
        let target = self.target.get()?;
        let is_manifest = MANIFESTS.contains(&target.media_type.text()?);
        if self.action.text()? != "push" || !is_manifest {
            return None;
        }
        let image = format!("{host}/{}:{}", target.repository.text()?, target.tag.text()?);
        Some((image.parse().ok()?, Digest::new(target.digest.text()?).ok()?))
    }

    /// The user who pushed, for the record: `registry (alice)`.
    fn by(&self) -> String {
        let name = self.actor.get().and_then(|actor| actor.name.text()).filter(|name| !name.is_empty());
        name.map_or_else(|| "registry".to_owned(), |name| format!("registry ({})", tame(name)))
    }
}
