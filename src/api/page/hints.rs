//! `/hints`: a stream that announces that something changed. It has names and nothing else; the page then fetches
//! itself. A new tab costs one line, however many environments there are.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use axum::response::sse::Event;
use futures::stream::unfold;
use serde::Deserialize;
use tokio::sync::broadcast::Receiver as BroadcastReceiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch::Receiver;
use tokio::time::Instant;

use super::stream::streamed;
use crate::api::body::QueryParams;
use crate::api::{ApiState, ManifestState};
use crate::model::name::EnvironmentName;
use crate::record::Wakeup;

/// Changes within this time are announced together.
const GATHER: Duration = Duration::from_millis(100);

/// The environments of the page.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct HintsQuery {
    /// Only this environment, or the members of this group.
    environment: Option<EnvironmentName>,
}

/// `GET /hints?environment=`
pub(in crate::api) async fn hints(
    State(api): State<ApiState>,
    QueryParams(query): QueryParams<HintsQuery>,
) -> Response {
    let mut manifest = api.manifest.clone();
    manifest.mark_unchanged();
    let hints = Hints { wakeups: api.wakeups.subscribe(), manifest, only: query.environment };
    streamed(unfold(hints, |mut hints| async move {
        let names = hints.next().await?;
        Some((Event::default().event("changed").data(names), hints))
    }))
}

struct Hints {
    wakeups: BroadcastReceiver<Wakeup>,
    manifest: Receiver<Arc<ManifestState>>,
    only: Option<EnvironmentName>,
}

impl Hints {
    /// Returns the names of changed environments, or `*` for anything else; `None` once the record is closed.
    async fn next(&mut self) -> Option<String> {
        let mut names = BTreeSet::new();
        while names.is_empty() {
            self.receive(&mut names).await?;
        }
        let until = Instant::now() + GATHER;
        while let Ok(received) = tokio::time::timeout_at(until, self.receive(&mut names)).await {
            received?;
        }
        Some(names.into_iter().collect::<Vec<_>>().join(" "))
    }

    fn is_shown(&self, name: &EnvironmentName) -> bool {
        let Some(only) = &self.only else { return true };
        let state = self.manifest.borrow();
        let group = state.manifest.environments.get(name).and_then(|spec| spec.group.as_ref());
        only == name || group.is_some_and(|group| group.as_str() == only.as_str())
    }

    async fn receive(&mut self, names: &mut BTreeSet<String>) -> Option<()> {
        tokio::select! {
            wakeup = self.wakeups.recv() => match wakeup {
                Ok(Wakeup::Desired(name) | Wakeup::Status(name) | Wakeup::Evidence(name) | Wakeup::Event(name)) => {
                    if self.is_shown(&name) {
                        names.insert(name.to_string());
                    }
                }
                Err(RecvError::Lagged(_)) => drop(names.insert("*".to_owned())),
                Err(RecvError::Closed) => return None,
            },
            changed = self.manifest.changed() => {
                changed.ok()?;
                names.insert("*".to_owned());
            }
        }
        Some(())
    }
}
