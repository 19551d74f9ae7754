//! Promotions that nobody asks for: of environments with `auto`, once every gate is open.

use std::collections::BTreeSet;
use std::time::Duration;

use tracing::{info, warn};

use super::{Healthy, Promoter};
use crate::controller::clock::now;
use crate::model::desired::Origin;
use crate::model::error::chain;
use crate::model::evidence::Evidence;
use crate::model::name::EnvironmentName;
use crate::model::spec::{EnvironmentSpec, Manifest};
use crate::plan::gates::{Candidate, are_open, auto_objection, judge, next_change, shares};
use crate::record::{Change, Precondition, RecordError, WriteError};

/// The longest time between two judgements of a promotion that waits.
const JUDGED_AGAIN: Duration = Duration::from_secs(60);

/// Why a promotion was not recorded.
enum NotPromoted {
    /// A gate closed at the last moment, or something moved. It is judged again.
    Later,
    Record(RecordError),
}

impl From<RecordError> for NotPromoted {
    fn from(error: RecordError) -> Self {
        Self::Record(error)
    }
}

impl From<WriteError> for NotPromoted {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Record(error) => Self::Record(error),
            WriteError::Stale { .. } | WriteError::Disagreeing(_) => Self::Later,
        }
    }
}

impl Promoter {
    /// Judges every automatic promotion that may have changed, and records those with open gates.
    pub(super) async fn promote(
        &mut self,
        manifest: &Manifest,
        changed: &BTreeSet<EnvironmentName>,
        soaked: &BTreeSet<EnvironmentName>,
    ) -> Result<(), RecordError> {
        for (to, spec) in manifest.environments.iter().filter(|(_, spec)| spec.gates.auto) {
            let Some(from) = manifest.promoted_from(to) else { continue };
            let is_due = self.state.edges.get(to).is_some_and(|edge| *edge <= now());
            let way = manifest.came_through(to);
            if !is_due && !soaked.contains(from) && !way.iter().any(|name| changed.contains(name)) {
                continue;
            }
            self.state.edges.remove(to);
            let Some(healthy) = self.state.healthy.get(from).cloned() else { continue };
            match self.promote_one((from, to), spec, &healthy, manifest).await {
                Ok(()) => {}
                Err(NotPromoted::Later) => drop(self.state.changed.insert(to.clone())),
                Err(NotPromoted::Record(error)) => return Err(error),
            }
        }
        Ok(())
    }

    async fn promote_one(
        &mut self,
        (from, to): (&EnvironmentName, &EnvironmentName),
        spec: &EnvironmentSpec,
        healthy: &Healthy,
        manifest: &Manifest,
    ) -> Result<(), NotPromoted> {
        let (source, image) = (&healthy.desired, &healthy.image);
        let is_unanswered = source.hint.is_some() || source.tag_hint.is_some() || source.asked.is_some();
        let can_be_pulled = spec.host.is_none() || (image.digest.is_some() && image.reference.is_some());
        let target = self.pass.desired.get(to)?;
        let is_there = target.entry.image.as_ref().is_some_and(|named| shares(named, image));
        if is_unanswered || is_there || !can_be_pulled {
            return Ok(());
        }
        let way = manifest.came_through(from);
        let histories =
            way.iter().map(|name| self.pass.desired.history(name)).collect::<Result<Vec<_>, _>>()?;
        let mut candidate = Candidate::new((from, to), &source.entry, image, &histories, manifest);
        candidate.is_healthy = true;
        let (gates, at) = (spec.gates.clone(), now());
        let answers = judge(&gates, &candidate, &self.pass.desired.evidence_to_judge(from)?, at);
        // The withdrawal of a rejection somewhere else shows only then.
        let again = at.after(JUDGED_AGAIN);
        self.state.edges.insert(to.clone(), next_change(&answers).map_or(again, |edge| edge.min(again)));
        if !are_open(&answers) {
            return Ok(());
        }
        let history = self.pass.desired.history(to)?;
        if auto_objection(&source.entry, image, &target, &history).is_some() {
            return Ok(());
        }
        let generation = source.entry.generation;
        let change = Change {
            revision: source.entry.revision.clone(),
            image: Some(image.clone()),
            origin: Origin::Promotion,
            by: Some("abide".to_owned()),
            token: None,
            note: Some(format!("from {from} generation {generation}; every gate was open")),
            at: now(),
            hold: None,
        };
        let guard = |environment: &EnvironmentName, generation| Precondition {
            environment: environment.clone(),
            generation,
        };
        let guards = [guard(from, generation), guard(to, target.entry.generation)];
        let judge = move |evidence: &[Evidence]| {
            let is_open = are_open(&judge(&gates, &candidate, evidence, at));
            if is_open { Ok(()) } else { Err(NotPromoted::Later) }
        };
        let promoted = self.pass.resolver.promote(to, from, change, &guards, judge).await;
        match &promoted {
            Ok(desired) => {
                info!(environment = %to, %from, generation = %desired.entry.generation, "promoted");
            }
            Err(NotPromoted::Record(error)) => {
                warn!(environment = %to, error = chain(error), "a promotion could not be recorded");
            }
            Err(NotPromoted::Later) => {}
        }
        promoted.map(drop)
    }
}
