//! `POST /webhooks/{repository}`: limits, proof, record, answer, one log line.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::routing::post;
use tokio::time::Instant;

use super::answer::WebhookResponse;
use super::bucket::{Bucket, Rate};
use super::intake::Intake;
use super::proof::Arriving;
use super::refusals::RefusalLog;
use super::text::tame;
use super::{RefChange, VerifiedDelivery, WebhookEvent, content};
use crate::api::serve::AdmissionGuard;
use crate::metrics::Metrics;
use crate::model::container::Secret;
use crate::model::desired::Hint;
use crate::model::name::{BranchName, CommitId, EnvironmentName, RepositoryName};
use crate::model::spec::Provider;
use crate::model::time::Timestamp;
use crate::record::{Push, PushOutcome};

/// A webhook to serve.
#[derive(Clone, Debug)]
pub struct WebhookConfig {
    /// The provider that sends it.
    pub provider: Provider,
    /// The shared secret.
    pub secret: Secret,
    /// The repository, as the manifest names it.
    pub name: RepositoryName,
}

/// Writing the record failed. The cause goes to the log; senders are only asked to retry.
#[derive(Debug, thiserror::Error)]
#[error("recording a push")]
pub struct StoreError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// The destination of deliveries: the only thing that webhooks can act on.
pub trait Inbox: Clone + Send + Sync + 'static {
    /// Returns the hook of a repository by the last part of its URL, as declared now.
    fn hook(&self, repository: &str) -> Option<WebhookConfig>;

    /// Returns the environments that track a branch, as declared now.
    fn followers(&self, repository: &RepositoryName, branch: &BranchName) -> Vec<EnvironmentName>;

    /// Makes abide fetch its manifest, if a branch has it and this is a push of that branch. Returns whether it is.
    fn fetch_manifest(&self, repository: &RepositoryName, branch: &BranchName) -> bool;

    /// Makes abide ask the forge for the checks of commits of a repository. Returns the environments that need
    /// them, as declared now.
    fn ask_checks(&self, repository: &RepositoryName) -> Vec<EnvironmentName>;

    /// Records a push for the environments that track its branch; it is on disk when this returns.
    fn record(
        &self,
        push: Push,
        environments: Vec<EnvironmentName>,
    ) -> impl Future<Output = Result<PushOutcome, StoreError>> + Send;
}

/// The limits of each hook and of all hooks together.
#[derive(Clone, Copy, Debug)]
pub struct WebhookLimits {
    /// The largest body, in bytes (25 MiB: GitHub sends no more than 25 MB).
    pub largest_body: usize,
    /// The time limit for a body to arrive (30 s).
    pub body_deadline: Duration,
    /// The memory for the stored parts of all bodies in transit, beyond a small amount for each, in
    /// bytes (32 MiB).
    pub body_memory: usize,
    /// The burst of authentic deliveries of a hook (2,000).
    pub burst: u32,
    /// The rate after the burst, per second (50).
    pub per_second: u32,
}

impl Default for WebhookLimits {
    fn default() -> Self {
        Self {
            largest_body: 25 * 1024 * 1024,
            body_deadline: Duration::from_secs(30),
            body_memory: 32 * 1024 * 1024,
            burst: 2_000,
            per_second: 50,
        }
    }
}

/// The state that the routes share.
#[derive(Clone)]
pub struct WebhookState<S> {
    inbox: S,
    clock: fn() -> Timestamp,
    intake: Intake,
    rate: Rate,
    /// One bucket for each hook that ever received an authentic delivery, so at most one per
    /// declared hook.
    buckets: Arc<Mutex<BTreeMap<RepositoryName, Bucket>>>,
    metrics: Metrics,
    refusals: RefusalLog,
}

impl<S: Inbox> WebhookState<S> {
    /// Delivers into `inbox`; `clock` is the time for signatures and records.
    pub fn new(inbox: S, clock: fn() -> Timestamp, limits: WebhookLimits) -> Self {
        Self {
            inbox,
            clock,
            intake: Intake::new(limits.largest_body, limits.body_deadline, limits.body_memory),
            rate: Rate { burst: limits.burst, per_second: limits.per_second },
            buckets: Arc::default(),
            metrics: Metrics::default(),
            refusals: RefusalLog::default(),
        }
    }

    /// Counts and measures deliveries with `metrics`.
    #[must_use]
    pub fn measured_by(self, metrics: Metrics) -> Self {
        Self { metrics, ..self }
    }
}

/// Returns the route of every webhook. Other paths are left to the router that it is merged into.
pub fn routes<S: Inbox>(state: WebhookState<S>) -> Router {
    let hook = post(receive::<S>).fallback(async || WebhookResponse::NotPost);
    Router::new().route("/webhooks/{repository}", hook).with_state(state)
}

/// A path that is not valid text names no hook, and gets the answer of an unknown hook.
async fn receive<S: Inbox>(
    State(state): State<WebhookState<S>>,
    path: Result<Path<String>, axum::extract::rejection::PathRejection>,
    request: Request,
) -> WebhookResponse {
    let began = Instant::now();
    let name = path.map(|Path(name)| name).unwrap_or_default();
    let mut known = DeliveryFacts::default();
    let answer = match take(&state, &name, request, &mut known).await {
        Ok(answer) | Err(answer) => answer,
    };
    state.log(&name, known.delivery.as_ref(), &answer);
    state.metrics.webhook(known.repository.as_ref(), answer.word(), began.elapsed());
    answer
}

/// The known parts of a delivery at the end of its processing.
#[derive(Default)]
struct DeliveryFacts {
    /// The repository of its hook, even if it is not authentic.
    repository: Option<RepositoryName>,
    /// The content of an authentic delivery.
    delivery: Option<VerifiedDelivery>,
}

/// Processes a delivery. Leaves its known parts in `known`, for the log and the counters.
async fn take<S: Inbox>(
    state: &WebhookState<S>,
    name: &str,
    request: Request,
    known: &mut DeliveryFacts,
) -> Result<WebhookResponse, WebhookResponse> {
    let (parts, body) = request.into_parts();
    content::kind(&parts.headers).map_err(WebhookResponse::Rejected)?;
    let body = state.intake.admit(&parts.headers, body).await.map_err(WebhookResponse::NotRead)?;
    let hook = state.inbox.hook(name);
    known.repository = hook.as_ref().map(|hook| hook.name.clone());
    let now = (state.clock)();
    let arriving = hook.ok_or(WebhookResponse::Unknown).and_then(|hook| {
        Arriving::new(hook.provider, &hook.secret, &parts.headers, now).map_err(WebhookResponse::Rejected)
    });
    let mut arriving = match arriving {
        Ok(arriving) => arriving,
        Err(refused) => {
            state.intake.turn_away(body).await;
            return Err(refused);
        }
    };
    match parts.extensions.get::<AdmissionGuard>() {
        Some(standing) if arriving.is_proven() => standing.prove(),
        Some(standing) => standing.delivers(),
        None => {}
    }
    state.intake.read_into(&mut arriving, body).await.map_err(WebhookResponse::NotRead)?;
    known.delivery = Some(arriving.finish(&parts.headers).map_err(WebhookResponse::Rejected)?);
    if let Some(standing) = parts.extensions.get::<AdmissionGuard>() {
        standing.prove();
    }
    let DeliveryFacts { repository: Some(repository), delivery: Some(delivery) } = &*known else {
        return Err(WebhookResponse::Unknown);
    };
    // Only authentic deliveries count, so that others cannot use up the limit of the real sender.
    state.spend(repository)?;
    match &delivery.event {
        WebhookEvent::Ping => Ok(WebhookResponse::Pong),
        WebhookEvent::Ignored(reason) => Ok(WebhookResponse::Ignored(reason.clone())),
        WebhookEvent::Checks => Ok(match state.inbox.ask_checks(repository) {
            environments if environments.is_empty() => {
                WebhookResponse::Ignored(format!("no environment needs the checks of {repository}"))
            }
            environments => WebhookResponse::Recorded(environments),
        }),
        WebhookEvent::Push(changes) => state.push(repository, delivery, changes, now).await,
    }
}

impl<S: Inbox> WebhookState<S> {
    /// Writes one line for each authentic delivery, and for some of the others.
    fn log(&self, name: &str, delivery: Option<&VerifiedDelivery>, answer: &WebhookResponse) {
        let left_out = match delivery {
            Some(_) => Some(0),
            None => self.refusals.admit(Instant::now()),
        };
        if let Some(left_out) = left_out {
            log(name, delivery, answer, (left_out > 0).then_some(left_out));
        }
    }

    fn spend(&self, repository: &RepositoryName) -> Result<(), WebhookResponse> {
        let now = Instant::now();
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = buckets.entry(repository.clone()).or_insert_with(|| Bucket::full(self.rate, now));
        bucket.take(self.rate, now).map_err(WebhookResponse::TooMany)
    }

    /// Records every tracked branch. The first failure ends this: the sender retries, and the
    /// branches recorded already are then not new.
    async fn push(
        &self,
        repository: &RepositoryName,
        delivery: &VerifiedDelivery,
        changes: &[RefChange],
        at: Timestamp,
    ) -> Result<WebhookResponse, WebhookResponse> {
        let (wanted, reason) = self.wanted(repository, changes);
        let branches = changes.iter().filter_map(|change| change.branch.as_ref());
        let of_manifest = branches.filter(|branch| self.inbox.fetch_manifest(repository, branch)).count();
        let mut recorded = Vec::new();
        let mut known = None;
        for (index, (branch, (revision, environments))) in wanted.into_iter().enumerate() {
            let hint = Hint { revision: revision.clone(), by: delivery.by.clone(), at };
            let id = numbered(delivery.id.as_deref(), index);
            let push = Push { id, repository: repository.clone(), hint };
            let outcome = self.inbox.record(push, environments).await.map_err(|error| not_stored(&error))?;
            if outcome.recorded.is_empty() {
                known = Some(known_already(branch, revision, outcome.repeated));
            }
            recorded.extend(outcome.recorded);
        }
        recorded.sort_unstable();
        recorded.dedup();
        Ok(match known {
            _ if !recorded.is_empty() || of_manifest > 0 => WebhookResponse::Recorded(recorded),
            Some(known) => WebhookResponse::Repeated(known),
            None => WebhookResponse::Ignored(reason),
        })
    }

    /// Returns the tracked branches, each with its last commit, and why others were left out.
    fn wanted<'a>(
        &self,
        repository: &RepositoryName,
        changes: &'a [RefChange],
    ) -> (PushesByBranch<'a>, String) {
        let mut wanted = PushesByBranch::new();
        let mut left_out = String::from("the delivery has no pushed commits");
        for change in changes {
            match self.follow(repository, change) {
                Ok((branch, commit)) => drop(wanted.insert(branch, commit)),
                Err(reason) => left_out = reason,
            }
        }
        (wanted, left_out)
    }

    fn follow<'a>(
        &self,
        repository: &RepositoryName,
        change: &'a RefChange,
    ) -> Result<(&'a BranchName, TrackedCommit<'a>), String> {
        let branch = change.branch.as_ref();
        let branch =
            branch.ok_or_else(|| format!("`{}` is not a branch that can be tracked", change.raw_ref))?;
        let followers = self.inbox.followers(repository, branch);
        if followers.is_empty() {
            return Err(format!("no environment tracks branch `{branch}` of {repository}"));
        }
        let revision = change.revision.as_ref();
        let revision =
            revision.ok_or_else(|| format!("branch `{branch}` was deleted; its containers keep running"))?;
        Ok((branch, (revision, followers)))
    }
}

type TrackedCommit<'a> = (&'a CommitId, Vec<EnvironmentName>);
type PushesByBranch<'a> = BTreeMap<&'a BranchName, TrackedCommit<'a>>;

/// The second and later branches of one delivery have `/1`, `/2` and so on appended to its id, so that none
/// counts as a repetition of the first.
fn numbered(id: Option<&str>, index: usize) -> Option<String> {
    id.map(|id| if index == 0 { id.to_owned() } else { format!("{id}/{index}") })
}

fn known_already(branch: &BranchName, revision: &CommitId, repeated: bool) -> String {
    let commit = revision.short();
    if repeated {
        format!("this delivery of {commit} on branch `{branch}` is already recorded")
    } else {
        format!("{commit} is already recorded as the head of branch `{branch}`")
    }
}

fn not_stored(error: &StoreError) -> WebhookResponse {
    let cause = &error.0;
    tracing::error!(%cause, "{error} failed; asking the sender to retry");
    WebhookResponse::NotStored
}

/// Writes one line without any unchecked text of the sender.
fn log(name: &str, delivery: Option<&VerifiedDelivery>, answer: &WebhookResponse, left_out: Option<u64>) {
    let webhook = tame(name);
    let status = answer.status().as_u16();
    let outcome = answer.word();
    let id = delivery.and_then(|delivery| delivery.id.as_deref());
    let by = delivery.map(|delivery| delivery.by.as_str());
    let sent_for = delivery.and_then(|delivery| delivery.repository.as_deref());
    let detail = match answer {
        WebhookResponse::Recorded(environments) => {
            let names: Vec<_> = environments.iter().map(EnvironmentName::as_str).collect();
            names.join(" ")
        }
        WebhookResponse::Repeated(reason) | WebhookResponse::Ignored(reason) => reason.clone(),
        WebhookResponse::Rejected(rejection) => rejection.to_string(),
        WebhookResponse::NotRead(error) => error.to_string(),
        WebhookResponse::Unknown => "unknown webhook".to_owned(),
        WebhookResponse::TooMany(_) => "too many deliveries".to_owned(),
        WebhookResponse::Pong | WebhookResponse::NotStored | WebhookResponse::NotPost => String::new(),
    };
    tracing::info!(webhook, status, id, by, sent_for, detail, left_out, "webhook {outcome}");
}
