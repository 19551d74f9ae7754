//! Promotions that nobody asks for: of environments with `auto`, once every gate is open.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tracing::{info, warn};

use super::{Healthy, Promoter};
use crate::controller::clock::{now, wall};
use crate::model::desired::Origin;
use crate::model::error::chain;
use crate::model::evidence::Evidence;
use crate::model::name::{EnvironmentName, Generation};
use crate::model::spec::Manifest;
use crate::model::time::Timestamp;
use crate::plan::gates::{
    Candidate, Passage, are_open, is_repetition, judge, lasting_objection, next_change, shares,
};
use crate::record::{Change, Precondition, Promotion, RecordError, WriteError};

/// The longest time between two judgements of a promotion that waits.
const JUDGED_AGAIN: Duration = Duration::from_secs(60);

/// One promotion of a write.
enum PreparedPromotion {
    /// The target has the image already.
    There,
    /// Something keeps it back.
    Waiting,
    /// Every gate is open.
    Open {
        promotion: Box<Promotion<NotPromoted>>,
        /// Whether the target had the image before.
        is_repetition: bool,
        /// The generation of the target.
        target: Generation,
    },
}

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
            WriteError::Stale { .. } | WriteError::Disagreeing(_) | WriteError::NoExport(_) => Self::Later,
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
        for targets in targets(manifest) {
            let pairs: Vec<_> =
                targets.iter().filter_map(|to| Some((manifest.promoted_from(to)?, *to))).collect();
            let has_changed = |(from, to): &(&EnvironmentName, &EnvironmentName)| {
                let is_due = self.state.edges.get(*to).is_some_and(|edge| is_due(*edge, wall()));
                let way = manifest.came_through(to);
                is_due || soaked.contains(*from) || way.iter().any(|name| changed.contains(name))
            };
            if !pairs.iter().any(has_changed) {
                continue;
            }
            for to in &targets {
                self.state.edges.remove(*to);
            }
            match self.promote_together(&pairs, manifest).await {
                Ok(()) => {}
                Err(NotPromoted::Later) => self.state.changed.extend(targets.into_iter().cloned()),
                Err(NotPromoted::Record(error)) => return Err(error),
            }
        }
        Ok(())
    }

    /// Promotes all of these in one write, or none.
    async fn promote_together(
        &mut self,
        pairs: &[(&EnvironmentName, &EnvironmentName)],
        manifest: &Manifest,
    ) -> Result<(), NotPromoted> {
        let (mut promotions, mut guards, mut is_any_new) = (Vec::new(), Vec::new(), false);
        for (from, to) in pairs {
            let Some(healthy) = self.state.healthy.get(*from).cloned() else { return Ok(()) };
            match self.prepare((from, to), &healthy, manifest)? {
                PreparedPromotion::There => {}
                PreparedPromotion::Waiting => return Ok(()),
                PreparedPromotion::Open { promotion, is_repetition, target } => {
                    is_any_new |= !is_repetition;
                    let of = |environment: &EnvironmentName, generation| Precondition {
                        environment: environment.clone(),
                        generation,
                    };
                    guards.extend([of(from, healthy.desired.entry.generation), of(to, target)]);
                    promotions.push(*promotion);
                }
            }
        }
        if !is_any_new {
            return Ok(());
        }
        match self.input.resolver.promote(promotions, &guards).await {
            Ok(all) => {
                for desired in all {
                    info!(environment = %desired.environment, generation = %desired.entry.generation, "promoted");
                }
                Ok(())
            }
            Err(NotPromoted::Record(error)) => {
                warn!(error = chain(&error), "a promotion could not be recorded");
                Err(NotPromoted::Record(error))
            }
            Err(later) => Err(later),
        }
    }

    fn passage(&self, environment: &EnvironmentName) -> Result<Passage, RecordError> {
        let history = self.input.desired.history(environment)?;
        Ok(Passage { history, overtaken: self.input.desired.get(environment)?.overtaken })
    }

    fn prepare(
        &mut self,
        (from, to): (&EnvironmentName, &EnvironmentName),
        healthy: &Healthy,
        manifest: &Manifest,
    ) -> Result<PreparedPromotion, RecordError> {
        let Some(spec) = manifest.environments.get(to) else { return Ok(PreparedPromotion::Waiting) };
        let (source, image) = (&healthy.desired, &healthy.image);
        let target = self.input.desired.get(to)?;
        if target.entry.image.as_ref().is_some_and(|named| shares(named, image)) {
            return Ok(PreparedPromotion::There);
        }
        let is_unanswered = source.hint.is_some() || source.tag_hint.is_some() || source.asked.is_some();
        let can_be_pulled = spec.host.is_none() || (image.digest.is_some() && image.reference.is_some());
        if is_unanswered || !can_be_pulled {
            return Ok(PreparedPromotion::Waiting);
        }
        let way = manifest.came_through(from);
        let way = way.iter().map(|name| self.passage(name)).collect::<Result<Vec<_>, _>>()?;
        let mut candidate = Candidate::new((from, to), &source.entry, image, (&way, &target.entry), manifest);
        candidate.is_healthy = true;
        let (gates, at, wall_clock) = (spec.gates.clone(), now(), wall());
        let answers = judge(&gates, &candidate, &self.input.desired.evidence_to_judge(from)?, wall_clock);
        // The withdrawal of a rejection somewhere else shows only then.
        let again = wall_clock.after(JUDGED_AGAIN);
        self.state.edges.insert(to.clone(), next_change(&answers).map_or(again, |edge| edge.min(again)));
        if !are_open(&answers) || lasting_objection(&source.entry, image, &target).is_some() {
            return Ok(PreparedPromotion::Waiting);
        }
        let generation = source.entry.generation;
        let change = Change {
            revision: source.entry.revision.clone(),
            image: Some(image.clone()),
            origin: Origin::Promotion,
            by: Some("abide".to_owned()),
            token: None,
            note: Some(format!("from {from} generation {generation}; every gate was open")),
            at,
            hold: None,
        };
        let judge = move |evidence: &[Evidence]| {
            let is_open = are_open(&judge(&gates, &candidate, evidence, wall_clock));
            if is_open { Ok(()) } else { Err(NotPromoted::Later) }
        };
        let is_repetition = is_repetition(image, &target, &self.input.desired.history(to)?);
        let (from, to) = (from.clone(), to.clone());
        let promotion = Promotion { from, to, change, message: None, judge: Box::new(judge) };
        let target = target.entry.generation;
        Ok(PreparedPromotion::Open { promotion: Box::new(promotion), is_repetition, target })
    }
}

/// Whether a promotion is judged again at this time of the wall clock. An edge that is too far ahead is from before
/// the clock was set back.
fn is_due(edge: Timestamp, wall_clock: Timestamp) -> bool {
    edge <= wall_clock || edge > wall_clock.after(JUDGED_AGAIN)
}

/// The targets of automatic promotions that change together: the members of each group, and the others alone.
fn targets(manifest: &Manifest) -> Vec<Vec<&EnvironmentName>> {
    let (mut groups, mut alone) = (BTreeMap::<_, Vec<_>>::new(), Vec::new());
    for (to, spec) in manifest.environments.iter().filter(|(_, spec)| spec.gates.auto) {
        match &spec.group {
            Some(group) => groups.entry(group).or_default().push(to),
            None => alone.push(vec![to]),
        }
    }
    alone.into_iter().chain(groups.into_values()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promotion_is_judged_again_when_its_time_comes_or_the_clock_was_set_back() {
        let at = Timestamp::from_millis;
        let edge = at(100_000);
        let due = [(40_000, false), (99_999, false), (100_000, true), (39_999, true)];
        for (wall_clock, expected) in due {
            assert_eq!(is_due(edge, at(wall_clock)), expected, "{wall_clock}");
        }
    }
}
