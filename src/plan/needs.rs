//! Needs: a new version waits until other members of the group have reached a state with their current versions.
//!
//! Only a version that was never ready as it is declared now and with the secrets of now waits, so an edit of the
//! manifest and a changed secret wait too. Healing does not: what ran together before may start in any order, and a
//! program that comes too early is started again.

use super::{Intent, PartialPlan, difference, generation_words, target, workload};
use crate::model::container::ContainerSpec;
use crate::model::group::NeedCondition;
use crate::model::memory::Memory;
use crate::model::name::EnvironmentName;
use crate::model::observed::{ContainerState, Observed};
use crate::model::status::{Condition, Reason};

/// Whether the recorded version must wait for other members.
pub(super) fn is_awaited(intent: &Intent, observed: &Observed, memory: &Memory) -> bool {
    if unmet(intent, observed).next().is_none() {
        return false;
    }
    if let Some(placed) = &intent.workload {
        return !was_ready(intent, memory) && workload::must_begin(intent, placed, observed);
    }
    let Some(wanted) = target::wanted(intent, observed, memory) else { return false };
    let is_known = was_ready(intent, memory) && !has_changed(&wanted, observed, memory);
    !is_known && !exists(&wanted, intent, observed, memory)
}

/// Whether the container that became ready last was made otherwise than `wanted`. If the declaration is the same, the
/// value of a secret has changed since.
fn has_changed(wanted: &ContainerSpec, observed: &Observed, memory: &Memory) -> bool {
    let mut containers = observed.containers.iter().filter(|seen| seen.state != ContainerState::Dead);
    containers.any(|seen| target::is_proven(seen, memory) && !target::is_made_as(seen, wanted))
}

/// Whether a container of the version exists, with all its options.
fn exists(wanted: &ContainerSpec, intent: &Intent, observed: &Observed, memory: &Memory) -> bool {
    let mut containers = observed.containers.iter();
    containers.any(|seen| {
        seen.state != ContainerState::Created
            && target::is_it(seen, wanted, intent, memory)
            && difference::resources(wanted, seen).is_empty()
    })
}

/// The status while the recorded version waits.
pub(super) fn plan(intent: &Intent, observed: &Observed, memory: &Memory) -> PartialPlan {
    if !is_awaited(intent, observed, memory) {
        return PartialPlan::default();
    }
    let clause = |(member, condition): (&EnvironmentName, NeedCondition)| match condition {
        NeedCondition::Started => format!("{member} runs"),
        NeedCondition::Healthy => format!("{member} is ready"),
        NeedCondition::Completed => format!("{member} is complete"),
    };
    let clauses: Vec<String> = unmet(intent, observed).map(clause).collect();
    let entry = &intent.entry;
    let is_same_version = memory.good.as_ref().is_some_and(|good| good.generation == entry.generation);
    let who = match is_same_version {
        true if was_ready(intent, memory) => "the changed value of a secret".to_owned(),
        true => "the edit of the manifest".to_owned(),
        false => generation_words(entry.generation, entry.revision.as_ref()),
    };
    let message = format!("{who} waits until {}", clauses.join(" and "));
    PartialPlan::with_status(Condition::Progressing, Reason::AwaitingNeeds, message)
}

fn unmet<'a>(
    intent: &'a Intent,
    observed: &'a Observed,
) -> impl Iterator<Item = (&'a EnvironmentName, NeedCondition)> {
    let needs = intent.needs.iter().map(|(member, condition)| (member, *condition));
    needs.filter(|(member, condition)| {
        !observed.members.get(*member).is_some_and(|state| state.meets(*condition))
    })
}

/// Whether the version was ready in a container as it is declared now.
fn was_ready(intent: &Intent, memory: &Memory) -> bool {
    let good = memory.good.as_ref().filter(|good| good.generation == intent.entry.generation);
    good.is_some_and(|good| match (&good.declared, &intent.declared) {
        (Some(good), Some(now)) => good.kept_beside(now) == **now,
        (good, now) => good.is_none() && now.is_none(),
    })
}
