//! Choosing the version to write: the recorded one, else the one that became ready last.

use super::WorkloadContext;
use crate::model::desired::Image;
use crate::model::memory::{Good, Memory, RefusedOptions};
use crate::model::name::{CommitId, Generation};
use crate::model::observed::Observed;
use crate::model::spec::Update;
use crate::model::workload::{PortMode, SeenWorkload, SwarmSpec, Workload, WorkloadSight};
use crate::plan::{DeclaredWorkload, Intent, WorkloadIntent, generation_words, needs, rollback};

/// The workload to write, and its role.
pub(super) struct WorkloadGoal {
    pub(super) workload: Workload,
    pub(super) role: GoalRole,
}

/// The role of a goal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GoalRole {
    /// The recorded version.
    Wanted,
    /// The recorded version failed before, but nothing else can run.
    Insist,
    /// The version that became ready last, because the recorded one is missing or failed.
    Fallback,
}

impl WorkloadGoal {
    pub(super) fn words(&self) -> String {
        generation_words(self.workload.generation, self.workload.revision.as_ref())
    }
}

impl WorkloadContext<'_> {
    /// The recorded version as it is declared now; `None` if no registry has its image, or a secret cannot be read.
    pub(super) fn recorded(&self) -> Option<Workload> {
        recorded(self.intent, self.placed)
    }

    /// The version that became ready last, as it was declared then.
    pub(super) fn good(&self, memory: &Memory) -> Option<Workload> {
        let good = memory.good.as_ref()?;
        let declared = match &self.placed.before {
            Some(before) => (**before).clone(),
            None => declared_now(self.intent, self.placed)?,
        };
        made_of(&good.image, &declared, good.generation, good.revision.as_ref())
    }

    pub(super) fn goal(&self, seen: Option<&SeenWorkload>, memory: &Memory) -> Option<WorkloadGoal> {
        self.intent.options.as_ref().ok()?;
        let image = self.intent.entry.image.as_ref();
        let is_here =
            image.and_then(|image| image.id.as_ref()).is_some_and(|id| self.observed.images.contains(id));
        // The engine of this host pulls the image first: it reports the reason if that fails.
        let may_run =
            |workload: &Workload| is_here || seen.is_some_and(|seen| seen.version == workload.version());
        let wanted = self.recorded().filter(may_run);
        let is_refused = |workload: &Workload| {
            memory.refused.as_ref().is_some_and(|refused| refused.fingerprint == workload.fingerprint())
        };
        let is_awaited = || needs::is_awaited(self.intent, self.observed, memory);
        match wanted {
            Some(workload) if !is_refused(&workload) && !is_awaited() => {
                Some(WorkloadGoal { workload, role: GoalRole::Wanted })
            }
            Some(workload) if is_refused(&workload) => {
                let good = self.good(memory).filter(|good| !is_refused(good));
                Some(match good {
                    Some(workload) => WorkloadGoal { workload, role: GoalRole::Fallback },
                    None => WorkloadGoal { workload, role: GoalRole::Insist },
                })
            }
            Some(_) | None => {
                self.good(memory).map(|workload| WorkloadGoal { workload, role: GoalRole::Fallback })
            }
        }
    }

    /// The state that the record returns to, and why.
    pub(super) fn destination<'m>(
        &self,
        goal: &WorkloadGoal,
        memory: &'m Memory,
    ) -> Option<(&'m Good, &'m RefusedOptions)> {
        let good = memory.good.as_ref()?;
        let refused = memory.refused.as_ref().filter(|refused| !refused.of_the_host)?;
        let failed = self.intent.entry.image.as_ref()?;
        let is_back = goal.role == GoalRole::Fallback
            && rollback::may_be_given_up(self.intent)
            && !good.image.is_same(failed);
        is_back.then_some((good, refused))
    }
}

/// Whether the recorded version can be written, and the orchestrator does not have it yet.
pub(in crate::plan) fn must_begin(intent: &Intent, placed: &WorkloadIntent, observed: &Observed) -> bool {
    let has = |version: &String| match &observed.workload {
        Some(WorkloadSight::Seen(seen)) => seen.version == *version,
        _ => false,
    };
    recorded(intent, placed).is_some_and(|workload| !has(&workload.version()))
}

fn recorded(intent: &Intent, placed: &WorkloadIntent) -> Option<Workload> {
    let (declared, entry) = (declared_now(intent, placed)?, &intent.entry);
    made_of(entry.image.as_ref()?, &declared, entry.generation, entry.revision.as_ref())
}

fn declared_now(intent: &Intent, placed: &WorkloadIntent) -> Option<DeclaredWorkload> {
    Some(DeclaredWorkload {
        options: intent.options.as_ref().ok()?.clone(),
        health: intent.health.clone(),
        placement: placed.placement.clone(),
        network: placed.network.clone(),
        update: intent.update,
    })
}

fn made_of(
    image: &Image,
    declared: &DeclaredWorkload,
    generation: Generation,
    revision: Option<&CommitId>,
) -> Option<Workload> {
    let (reference, digest) = (image.reference.as_ref()?, image.digest.as_ref()?);
    let DeclaredWorkload { options, health, placement, network, update } = declared;
    Some(Workload {
        image: format!("{reference}@{digest}"),
        options: options.clone(),
        health: health.clone(),
        placement: placement.clone(),
        network: network.clone(),
        update: update
            .unwrap_or_else(|| order(placement, !options.volumes.is_empty(), options.publish.is_some())),
        generation,
        revision: revision.cloned(),
    })
}

/// The order of an update that declares none. Two replicas cannot have one port of a node, and should not write one
/// volume.
fn order(placement: &SwarmSpec, has_volumes: bool, is_published: bool) -> Update {
    let has_port = placement.ports == PortMode::Host && is_published;
    if has_port || has_volumes { Update::StopFirst } else { Update::StartFirst }
}
