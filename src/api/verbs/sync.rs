//! `sync`: reconciles now, queries git or the registry, and waits for the answer.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::moved;
use crate::api::ApiState;
use crate::api::body::JsonBody;
use crate::api::error::ApiError;
use crate::api::find::CommandTarget;
use crate::model::desired::Desired;
use crate::model::name::{CommitId, Digest, EnvironmentName};
use crate::model::poll::SourceTrouble;
use crate::model::spec::Supply;
use crate::model::view::{RecordChange, SeenGenerations};
use crate::record::{Precondition, RecordError, Wakeup};

/// How long git and the registries may take before the command answers without them.
const PATIENCE: Duration = Duration::from_secs(20);

/// Options of `sync`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct SyncBody {
    /// The generations that the client saw.
    seen: Option<SeenGenerations>,
}

/// `POST /api/v1/environments/{environment}/sync`; the path names an environment or a group.
pub(in crate::api) async fn sync(
    State(api): State<ApiState>,
    target: CommandTarget,
    JsonBody(body): JsonBody<SyncBody>,
) -> Result<Json<RecordChange>, ApiError> {
    target.is_declared()?;
    let guards = api.seen_of(&target, body.seen)?;
    let names: Vec<_> = target.environments().cloned().collect();
    Ok(Json(target.answer(api.sync(&names, guards).await?)))
}

/// `POST /api/v1/sync`
pub(in crate::api) async fn sync_all(
    State(api): State<ApiState>,
) -> Result<Json<Vec<RecordChange>>, ApiError> {
    api.fresh_manifest().await;
    let declared: Vec<_> = api.manifest.borrow().manifest.environments.keys().cloned().collect();
    Ok(Json(api.sync(&declared, Vec::new()).await?))
}

impl ApiState {
    /// Requests a reconcile of each of `names` in one write, and reports the answers of git and the registries.
    async fn sync(
        &self,
        names: &[EnvironmentName],
        guards: Vec<Precondition>,
    ) -> Result<Vec<RecordChange>, ApiError> {
        self.fresh_manifest().await;
        let wakeups = self.wakeups.subscribe();
        let asks = |name: &EnvironmentName| self.controller.is_some() && self.follows(name).is_some();
        let asked: BTreeSet<_> = names.iter().filter(|name| asks(name)).cloned().collect();
        let all = names.iter().map(|name| (name.clone(), asked.contains(name))).collect();
        let before = self.writer.seeing(guards).sync_together(all, (self.clock)()).await?;
        // The sentence names every source that has not answered by then.
        let _ = tokio::time::timeout(PATIENCE, self.answered(asked, wakeups)).await;
        before.iter().map(|before| Ok(self.synced(before)?)).collect()
    }

    /// Returns the source that is queried for the environment's head; `None` if it tracks nothing.
    pub(in crate::api) fn follows(&self, name: &EnvironmentName) -> Option<&'static str> {
        match self.manifest.borrow().manifest.environments.get(name)?.supply {
            Supply::Branch { .. } => Some("git"),
            Supply::Tag { .. } => Some("the registry"),
            Supply::Promotion { .. } | Supply::Manual => None,
        }
    }

    /// Waits until every query was answered, or cannot be answered.
    async fn answered(&self, mut asked: BTreeSet<EnvironmentName>, mut wakeups: Receiver<Wakeup>) {
        let is_open = |name: &EnvironmentName| self.desired.get(name).is_ok_and(|now| now.asked.is_some());
        asked.retain(is_open);
        while !asked.is_empty() {
            match wakeups.recv().await {
                Ok(Wakeup::Desired(name)) if asked.contains(&name) && !is_open(&name) => {
                    asked.remove(&name);
                }
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => asked.retain(is_open),
                Err(RecvError::Closed) => return,
            }
        }
    }

    /// The result of a sync so far.
    fn synced(&self, before: &Desired) -> Result<RecordChange, RecordError> {
        let name = &before.environment;
        let now = self.desired.get(name)?;
        let look = self.controller.as_ref().map(|controller| controller.look(name));
        let trouble = look.and_then(|look| look.trouble);
        let (what, failed) = match self.follows(name).filter(|_| self.controller.is_some()) {
            None => (String::new(), false),
            Some(who) => answer(who, before, &now, trouble.as_ref()),
        };
        let message = format!("`{name}` is being reconciled{what}{}", self.when());
        Ok(RecordChange { failed, ..moved(&now, true, message) })
    }

    /// Applies a pending edit of the manifest before an environment is looked up.
    pub(in crate::api) async fn fresh_manifest(&self) {
        if let Some(read) = &self.read_manifest {
            Arc::clone(read)().await;
        }
    }
}

/// The answer of git or the registry as the end of a sentence, and whether it was unusable.
fn answer(who: &str, before: &Desired, now: &Desired, trouble: Option<&SourceTrouble>) -> (String, bool) {
    if let Some(trouble) = trouble {
        return (format!("; {}", trouble.message), true);
    }
    if now.asked.is_some() {
        let patience = humantime::format_duration(PATIENCE);
        return (
            format!(
                "; {who} has not answered within {patience}; its answer will be applied when it \
                arrives"
            ),
            true,
        );
    }
    let generation = now.entry.generation;
    if generation > before.entry.generation {
        return (format!("; {who} answered; generation {generation} is recorded"), false);
    }
    let head = now.head.as_ref().map(CommitId::short);
    let head = head.or_else(|| now.tag.as_ref().map(Digest::short)).unwrap_or("nothing");
    (format!("; {who} still reports {head}"), false)
}
