//! A canary: a ready replacement that serves a part of the visitors before it takes over.
//!
//! It is on trial for longer, nothing else: it is replaced, healed, refused and rolled back as every replacement is.

use std::time::Duration;

use super::RolloutContext;
use crate::model::canary::{
    Canary, CanaryDecision, CanarySpec, CanaryState, CanaryVerdict, CountedRequests, RequestCount,
};
use crate::model::container::ContainerSpec;
use crate::model::desired::{Image, Origin};
use crate::model::memory::Memory;
use crate::model::observed::{ContainerState, Observed, ObservedContainer};
use crate::model::status::{Condition, Reason};
use crate::model::time::Timestamp;
use crate::plan::target::{self, Choice};
use crate::plan::{CanaryShare, Intent, PartialPlan, is_start_first};

/// How often a canary is judged.
const JUDGED_EVERY: Duration = Duration::from_secs(1);
/// The longest time between two reconciles that counts as served.
const LONGEST_GAP: Duration = Duration::from_secs(15);

/// What comes next for a ready replacement.
enum NextStep {
    /// It takes over.
    TakeOver,
    /// It serves its share, for longer.
    Serve,
    /// It failed; the reason is a clause without its subject.
    Fail(String),
}

impl<'a> RolloutContext<'a> {
    /// The replacement is ready: it takes over, unless it has to be a canary first.
    pub(super) fn promote_ready(
        &self,
        spec: &ContainerSpec,
        new: &ObservedContainer,
        others: &[&'a ObservedContainer],
        mut memory: Memory,
    ) -> (PartialPlan, Memory) {
        match self.next_step(spec, new, others, &mut memory) {
            NextStep::TakeOver => self.switch(spec, new, others, memory),
            NextStep::Fail(why) => self.refuse(spec, new, Reason::CanaryFailed, &why, memory),
            NextStep::Serve => {
                let partial = self.serve_share(new, others, &memory);
                let healed = self.heal_beside(others, &mut memory);
                (partial.and(healed), memory)
            }
        }
    }

    fn next_step(
        &self,
        spec: &ContainerSpec,
        new: &ObservedContainer,
        others: &[&ObservedContainer],
        memory: &mut Memory,
    ) -> NextStep {
        let known = memory.canary.clone().filter(|canary| self.is_of(canary, spec));
        let declared = self.intent.canary.as_ref().filter(|_| self.intent.drain.is_some());
        let (canary, declared) = match (known, declared) {
            (Some(known), Some(declared)) => (known, declared),
            (None, Some(declared)) if self.needs_canary(others, memory) => {
                (self.begin_canary(spec, new, declared), declared)
            }
            (Some(known), None) => {
                // It is no longer declared, which lets it take over.
                let state = match known.state {
                    CanaryState::UnderWay => early("the manifest no longer declares a canary"),
                    state => state,
                };
                memory.canary = Some(Canary { state, ..known });
                return NextStep::TakeOver;
            }
            (None, _) => return NextStep::TakeOver,
        };
        let mut canary = self.looked_at(canary, new, declared);
        if canary.is_under_way() {
            canary.state = match self.stable(others, memory) {
                // Healing never waits for a canary: this one can serve, and the old version does not last.
                None if memory.crashes.next_restart.is_some_and(|restart| restart > self.now) => {
                    early("the old version crashes")
                }
                _ => self.judged(&canary, declared),
            };
        }
        let next = match &canary.state {
            CanaryState::UnderWay => NextStep::Serve,
            CanaryState::Passed { .. } => NextStep::TakeOver,
            CanaryState::Failed { why } => {
                NextStep::Fail(format!("failed as a canary: it {why} ({})", canary.figures()))
            }
        };
        memory.canary = Some(canary);
        next
    }

    /// Whether a new version has to be a canary: neither a rollback nor the repair of a version waits for one, and there
    /// must be a version that serves meanwhile.
    fn needs_canary(&self, others: &[&ObservedContainer], memory: &Memory) -> bool {
        let entry = &self.intent.entry;
        let is_new = match entry.origin {
            Some(Origin::Rollback | Origin::AutomaticRollback | Origin::Rebuild) => false,
            Some(
                Origin::Push
                | Origin::BranchPoll
                | Origin::Promotion
                | Origin::Set
                | Origin::Tag
                | Origin::ManifestEdit,
            )
            | None => matches!(self.choice, Choice::Wanted(_)),
        };
        let is_another = memory
            .good
            .as_ref()
            .zip(entry.image.as_ref())
            .is_some_and(|(good, image)| !good.image.is_same(image));
        is_new && is_another && self.stable(others, memory).is_some()
    }

    /// The container that serves beside a canary.
    fn stable<'o>(&self, others: &[&'o ObservedContainer], memory: &Memory) -> Option<&'o ObservedContainer> {
        let is_stable = |other: &&&ObservedContainer| {
            other.state == ContainerState::Running && target::is_proven(other, memory)
        };
        others.iter().find(is_stable).copied()
    }

    /// Whether notes are about the recorded version. A person who names the version again gets another canary.
    fn is_of(&self, canary: &Canary, spec: &ContainerSpec) -> bool {
        let entry = &self.intent.entry;
        let is_asked_again = entry.origin.is_some_and(Origin::is_on_purpose) || !canary.is_under_way();
        canary.fingerprint == spec.fingerprint() && (canary.generation == entry.generation || !is_asked_again)
    }

    fn begin_canary(&self, spec: &ContainerSpec, new: &ObservedContainer, declared: &CanarySpec) -> Canary {
        let entry = &self.intent.entry;
        Canary {
            generation: entry.generation,
            image: entry.image.clone().unwrap_or(Image {
                reference: None,
                digest: None,
                id: Some(spec.image.clone()),
            }),
            fingerprint: spec.fingerprint(),
            percent: declared.percent,
            planned_millis: 0,
            served_millis: 0,
            seen_at: None,
            container: new.id.clone(),
            ready_at: self.now,
            ignored: self.counted(new).cloned(),
            earlier: RequestCount::default(),
            counted: None,
            state: CanaryState::UnderWay,
        }
    }

    /// Notes what was observed of a canary since the last reconcile.
    fn looked_at(&self, canary: Canary, new: &ObservedContainer, declared: &CanarySpec) -> Canary {
        let mut canary = Canary {
            generation: self.intent.entry.generation,
            percent: declared.percent,
            planned_millis: u64::try_from(declared.time.as_millis()).unwrap_or(u64::MAX),
            ..canary
        };
        let is_restarted = new.started_at > Some(canary.ready_at);
        if canary.container != new.id || is_restarted {
            (canary.container, canary.ready_at) = (new.id.clone(), self.now);
        }
        match self.counted(new) {
            Some(counted) => {
                canary.note_requests(Some(counted));
                canary.note_served(self.now, LONGEST_GAP);
            }
            None => canary.seen_at = None,
        }
        canary
    }

    /// The requests of a container, while the proxy serves it as a canary.
    fn counted(&self, container: &ObservedContainer) -> Option<&CountedRequests> {
        let counted = self.observed.front.as_ref()?.canary.as_ref()?;
        (counted.container == container.id).then_some(counted)
    }

    fn judged(&self, canary: &Canary, declared: &CanarySpec) -> CanaryState {
        let order = self.intent.canary_order.as_ref();
        if let Some(order) = order.filter(|order| order.generation == self.intent.entry.generation) {
            let reason = order.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            return match order.decision {
                CanaryDecision::Promote => early(&format!("{} promoted it{reason}", order.by)),
                CanaryDecision::Abort => {
                    CanaryState::Failed { why: format!("was aborted by {}{reason}", order.by) }
                }
            };
        }
        match canary.judge(declared.fail_on) {
            CanaryVerdict::Wait => CanaryState::UnderWay,
            CanaryVerdict::Pass => CanaryState::Passed { early: None },
            CanaryVerdict::Fail => CanaryState::Failed { why: format!("met `{}`", declared.fail_on) },
        }
    }

    /// Lets the proxy send a part of the visitors to the canary, and reports it.
    fn serve_share(
        &self,
        new: &ObservedContainer,
        others: &[&ObservedContainer],
        memory: &Memory,
    ) -> PartialPlan {
        let (Some(canary), what) = (&memory.canary, self.choice.words()) else {
            return PartialPlan::default();
        };
        let trouble = self.observed.front.as_ref().and_then(|front| front.trouble.as_ref());
        let partial = match trouble {
            Some(why) => {
                let message = format!("{what} is ready, but the proxy cannot send it visitors: {why}");
                PartialPlan::with_status(Condition::Degraded, Reason::FrontUnavailable, message)
            }
            None => {
                let time = humantime::format_duration(Duration::from_millis(canary.planned_millis));
                let percent = canary.percent.get();
                let message = format!("{what} is a canary: it serves {percent} % of the visitors for {time}");
                PartialPlan::with_status(Condition::Progressing, Reason::Canary, message)
            }
        };
        // While the other container is down, the canary is the only one that can serve.
        let canary = self.stable(others, memory).map(|_| CanaryShare {
            container: new.id.clone(),
            percent: canary.percent,
            generation: canary.generation,
        });
        PartialPlan { canary, ..partial }.requeue_by(self.now.after(JUDGED_EVERY))
    }

    /// The time at which a container became ready as a canary.
    pub(super) fn canary_ready_at(
        &self,
        container: &ObservedContainer,
        memory: &Memory,
    ) -> Option<Timestamp> {
        let canary = memory.canary.as_ref().filter(|canary| canary.container == container.id)?;
        Some(canary.ready_at)
    }

    /// The word for the failure of a replacement: that of a canary, if it was one.
    pub(super) fn failure_of(&self, new: &ObservedContainer, memory: &Memory, otherwise: Reason) -> Reason {
        let was_canary = self.canary_ready_at(new, memory).is_some();
        if was_canary { Reason::CanaryFailed } else { otherwise }
    }
}

/// The state of a canary that takes over before its time is over.
fn early(why: &str) -> CanaryState {
    CanaryState::Passed { early: Some(why.to_owned()) }
}

/// Why new versions take over without the declared canary; `None`: they do not.
pub(in crate::plan) fn warning(intent: &Intent, observed: &Observed) -> Option<String> {
    intent.canary.as_ref()?;
    let why = if intent.drain.is_none() {
        "no proxy on its host divides the visitors"
    } else if is_start_first(intent, observed) {
        return None;
    } else {
        "its image declares a VOLUME, which two versions would write to; if they may, declare `update = \"start-first\"`"
    };
    Some(format!("new versions of {} take over without a canary: {why}", intent.environment))
}

/// Forgets a canary that a newer version replaced. A hold keeps it, because it goes on afterwards.
pub(in crate::plan) fn recall(mut memory: Memory, intent: &Intent) -> Memory {
    let is_wanted = |canary: &Canary| {
        let image = intent.entry.image.as_ref();
        intent.hold.is_some() || image.is_some_and(|image| image.is_same(&canary.image))
    };
    memory.canary.take_if(|canary| canary.is_under_way() && !is_wanted(canary));
    memory
}

/// Marks the canary as failed whose options are refused.
pub(super) fn note_refusal(memory: &mut Memory, fingerprint: &str, what: &str) {
    let failed = memory.canary.as_mut().filter(|canary| canary.is_under_way());
    if let Some(canary) = failed.filter(|canary| canary.fingerprint == fingerprint) {
        canary.state = CanaryState::Failed { why: what.to_owned() };
    }
}
