//! `GET /api/v1/environments/<env>/wait`: the progress towards a goal. The request returns
//! immediately; the client repeats it when the event stream signals a change.

mod judge;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;

use super::body::QueryParams;
use super::error::ApiError;
use super::find::FoundEnvironment;
use super::{ApiState, view};
use crate::model::desired::{Desired, Entry, HistoryEntry};
use crate::model::name::{CommitId, Digest, EnvironmentName, Generation};
use crate::model::time::Timestamp;
use crate::model::view::WaitView;
use judge::{GoalGeneration, WaitEvidence, WaitGoal, judge};

/// The number of generations whose commits are compared with the goal.
const LOOKED_THROUGH: usize = 20;

/// The goal.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WaitQuery {
    /// This commit, or one that contains it.
    commit: Option<String>,
    /// This image, by its digest or its ID.
    digest: Option<String>,
    /// This generation, or a later one with the same image or with a commit that contains its
    /// commit.
    generation: Option<u64>,
    /// Whether the state Held with this version counts as Ready, as after a rollback.
    #[serde(default)]
    held: bool,
    /// The start of the wait, from the first answer.
    asked: Option<String>,
}

/// `GET /api/v1/environments/{environment}/wait?commit=&digest=&generation=&held=&asked=`
pub(super) async fn wait(
    State(api): State<ApiState>,
    found: FoundEnvironment,
    QueryParams(query): QueryParams<WaitQuery>,
) -> Result<Json<WaitView>, ApiError> {
    let goal = query.goal()?;
    let asked = match &query.asked {
        Some(asked) => Timestamp::parse(asked).map_err(|error| ApiError::bad_request(error.to_string()))?,
        None => api.begin(&found.name).await,
    };
    let name = &found.name;
    let carrier = api.carrier(name, &goal).await?;
    let state = Arc::clone(&api.manifest.borrow());
    let facts = api.facts(name, &state)?;
    let evidence = WaitEvidence {
        settled: facts.settled(),
        unanswered: facts.unanswered().map(|(what, _)| what),
        follows: api.follows(name),
        look: facts.look.clone().unwrap_or_default(),
        asked,
        hold: facts.desired.hold.clone(),
        current: facts.desired.entry.generation,
        running: facts.status.as_ref().is_some_and(|status| status.running.is_some()),
        problem: state.problem.clone(),
        carrier,
    };
    let (state, message) = judge(&goal, &evidence);
    Ok(Json(WaitView { state, message, asked, environment: view::environment(facts) }))
}

impl WaitQuery {
    fn goal(&self) -> Result<WaitGoal, ApiError> {
        let wrong = |error: crate::model::name::InvalidName| ApiError::bad_request(error.to_string());
        Ok(WaitGoal {
            commit: self.commit.as_deref().map(CommitId::new).transpose().map_err(wrong)?,
            digest: self.digest.as_deref().map(Digest::new).transpose().map_err(wrong)?,
            generation: self.generation.map(Generation),
            held: self.held,
        })
    }
}

impl ApiState {
    /// Begins a wait: applies a pending edit of the manifest, and queries git or the registry.
    async fn begin(&self, name: &EnvironmentName) -> Timestamp {
        self.fresh_manifest().await;
        let asked = (self.clock)();
        if let (Some(controller), Some(_)) = (&self.controller, self.follows(name)) {
            controller.ask_source(name);
        }
        asked
    }

    /// Returns the newest generation that satisfies the goal.
    async fn carrier(&self, name: &EnvironmentName, goal: &WaitGoal) -> Result<GoalGeneration, ApiError> {
        if goal.is_plain() {
            return Ok(GoalGeneration::Current);
        }
        let Desired { entry: current, passed_over, .. } = self.desired.get(name)?;
        let history = self.status.history(name)?;
        let target = goal.generation.filter(|wanted| *wanted != current.generation);
        let target = target.and_then(|wanted| history.iter().find(|kept| kept.entry.generation == wanted));
        let compared = WaitComparison { api: self, name, goal, target: target.map(|kept| &kept.entry) };
        // The running version also serves a head that changes none of the environment's paths.
        let head = passed_over.map(|head| Entry { revision: Some(head), ..current.clone() });
        if let Some(head) = head
            && compared.carries(&head).await == Some(true)
        {
            return Ok(GoalGeneration::Current);
        }
        match compared.carries(&current).await {
            Some(true) => return Ok(GoalGeneration::Current),
            None => return Ok(GoalGeneration::Unknown),
            Some(false) => {}
        }
        let mut seen = BTreeSet::from([current.revision.clone()]);
        for kept in history.iter().filter(|kept| kept.entry.generation < current.generation) {
            let is_new = seen.len() < LOOKED_THROUGH && seen.insert(kept.entry.revision.clone());
            if compared.carries_exactly(&kept.entry)
                || is_new && compared.carries(&kept.entry).await == Some(true)
            {
                return Ok(GoalGeneration::earlier(kept));
            }
        }
        Ok(GoalGeneration::None)
    }
}

/// The values to compare a generation with.
struct WaitComparison<'a> {
    api: &'a ApiState,
    name: &'a EnvironmentName,
    goal: &'a WaitGoal,
    /// The generation of the goal, unless it is the current one.
    target: Option<&'a Entry>,
}

impl WaitComparison<'_> {
    /// Returns whether an entry satisfies the whole goal, or `None` if that is unknown now.
    async fn carries(&self, entry: &Entry) -> Option<bool> {
        let digest = self.goal.digest.as_ref().is_none_or(|wanted| has_image(entry, wanted));
        if !digest {
            return Some(false);
        }
        if let Some(commit) = &self.goal.commit
            && !self.contains(entry.revision.as_ref(), commit).await?
        {
            return Some(false);
        }
        let Some(wanted) = self.goal.generation.filter(|wanted| *wanted != entry.generation) else {
            return Some(true);
        };
        let Some(target) = self.target.filter(|target| target.generation == wanted) else {
            return Some(false);
        };
        if entry.generation < wanted {
            return Some(false);
        }
        let same = |image| target.image.as_ref().is_some_and(|wanted| wanted.is_same(image));
        match (&target.revision, entry.image.as_ref().is_some_and(same)) {
            (_, true) => Some(true),
            (Some(commit), false) => self.contains(entry.revision.as_ref(), commit).await,
            (None, false) => Some(false),
        }
    }

    /// The same without comparing the history of commits.
    fn carries_exactly(&self, entry: &Entry) -> bool {
        let WaitGoal { commit, digest, generation, held: _ } = self.goal;
        commit.as_ref().is_none_or(|commit| entry.revision.as_ref() == Some(commit))
            && digest.as_ref().is_none_or(|digest| has_image(entry, digest))
            && generation.is_none_or(|generation| entry.generation == generation)
    }

    async fn contains(&self, revision: Option<&CommitId>, commit: &CommitId) -> Option<bool> {
        match (revision, &self.api.controller) {
            (None, _) => Some(false),
            (Some(revision), _) if revision == commit => Some(true),
            (Some(_), None) => None,
            (Some(revision), Some(controller)) => {
                controller.contains(self.name.clone(), revision.clone(), commit.clone()).await.ok()
            }
        }
    }
}

fn has_image(entry: &Entry, wanted: &Digest) -> bool {
    let image = entry.image.as_ref();
    image.is_some_and(|image| image.id.as_ref() == Some(wanted) || image.digest.as_ref() == Some(wanted))
}

impl GoalGeneration {
    fn earlier(kept: &HistoryEntry) -> Self {
        Self::Earlier { generation: kept.entry.generation, outcome: kept.outcome.clone() }
    }
}
