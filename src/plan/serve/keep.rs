//! Nothing better can be made: keep a container as it is.

use super::RolloutContext;
use super::health::Health;
use super::parts::start_seen;
use crate::model::memory::Memory;
use crate::model::observed::{ContainerState, ObservedContainer};
use crate::model::status::{Condition, Reason};
use crate::plan::target::{self, KeepReason};
use crate::plan::{PartialPlan, PlannedStatus};

impl RolloutContext<'_> {
    /// Keeps the container `id`. Its replacement is removed if it failed, or if it occupies the port that
    /// this container needs to start.
    pub(super) fn keep(&self, id: &str, why: &KeepReason, mut memory: Memory) -> (PartialPlan, Memory) {
        let (kept, mut others): (Vec<_>, Vec<_>) =
            self.containers.iter().copied().partition(|container| container.id == id);
        let Some(kept) = kept.first().copied() else { return (self.nothing(), memory) };
        let is_down = matches!(kept.state, ContainerState::Exited(_) | ContainerState::Created);
        if *why == KeepReason::OldCopy || *why != KeepReason::Refused && !is_down {
            others.clear();
        }
        if kept.state == ContainerState::InTransit || super::is_any_in_transit(&others) {
            return (self.in_transit(), memory);
        }
        if kept.state == ContainerState::Running
            && let Some(partial) = self.rejoin(kept)
        {
            return (self.status_of_kept(kept, why, partial, &memory), memory);
        }
        // It was stopped for its replacement only if both cannot run at once.
        let is_alone = others.is_empty() || self.is_start_first();
        let back = "its replacement failed or cannot be created now";
        let partial = self.hand_over(PartialPlan::default(), &others, back);
        let partial = if is_down { self.free_ports_of(kept, partial) } else { partial };
        let partial = partial.and(self.connect(kept));
        let partial = partial.and(self.kept_running(kept, is_alone, &mut memory));
        let is_up = kept.state == ContainerState::Running || self.is_complete(kept);
        let serves = is_up && target::is_proven(kept, &memory);
        let partial = if serves {
            self.succeeded(partial, &others, back)
        } else {
            self.after_hand_over(partial, &others, back)
        };
        let partial = self.remove_empty_holders(partial);
        (self.status_of_kept(kept, why, partial, &memory), memory)
    }

    fn kept_running(&self, kept: &ObservedContainer, alone: bool, memory: &mut Memory) -> PartialPlan {
        match &kept.state {
            ContainerState::Exited(_) | ContainerState::Created if !kept.has_namespace() => {
                PartialPlan::default()
            }
            ContainerState::Exited(_) if self.is_complete(kept) => PartialPlan::default(),
            ContainerState::Paused => self.unpause(PartialPlan::default(), kept),
            ContainerState::Exited(exit) if alone => self.restart(kept, exit, memory),
            // A stop for its replacement does not count as a crash.
            ContainerState::Exited(_) | ContainerState::Created => {
                start_seen(PartialPlan::default(), kept, "it keeps serving")
            }
            ContainerState::Running if alone => match self.health(kept, memory) {
                Health::Lost(why) => self.unwell(kept, &why, memory),
                Health::Ready | Health::Awaited { .. } | Health::Overdue(_) => PartialPlan::default(),
            },
            ContainerState::Running | ContainerState::InTransit | ContainerState::Dead => {
                PartialPlan::default()
            }
        }
    }

    fn status_of_kept(
        &self,
        kept: &ObservedContainer,
        why: &KeepReason,
        mut partial: PartialPlan,
        memory: &Memory,
    ) -> PartialPlan {
        let runs = kept.state == ContainerState::Running || self.is_complete(kept);
        let stays = if runs { "keeps running" } else { "stays" };
        let as_it_is = partial.verdict.take();
        partial.verdict = match why {
            KeepReason::NoOptions(why) => Some(PlannedStatus::new(
                Condition::Blocked,
                Reason::SecretMissing,
                format!("{why}; the current container {stays} unchanged"),
            )),
            KeepReason::Blocked(verdict) => Some(verdict.clone()),
            KeepReason::OldCopy => as_it_is.filter(PlannedStatus::is_bad).or_else(|| {
                Some(PlannedStatus::new(
                    Condition::Blocked,
                    Reason::RecordBehind,
                    "the controller has not answered since the agent started, and the running container \
                    differs from the agent's copy of the record, which may be outdated: the container is \
                    kept",
                ))
            }),
            KeepReason::Refused => as_it_is.filter(PlannedStatus::is_bad).or_else(|| Some(self.rest(memory))),
            // The supply part of the plan reports the progress of the image, or the members that are awaited.
            KeepReason::NoImage | KeepReason::AwaitsNeeds => {
                as_it_is.or_else(|| runs.then(|| self.rest(memory)))
            }
        };
        partial
    }
}
