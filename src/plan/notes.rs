//! The loop's notes: what a pass learns, forgives, and holds back.

use super::restart::backoff;
use super::{Intent, Plan, REPEATS_BEFORE_GIVING_UP, Step, Verdict};
use crate::model::memory::{Memory, Refused, Repeat, Trouble};
use crate::model::observed::Observed;
use crate::model::status::{Condition, Reason};
use crate::model::time::Timestamp;

/// The notes as this pass begins: volumes seen are remembered, failures before a `sync` forgiven.
pub(super) fn refresh(memory: &Memory, intent: &Intent, observed: &Observed, now: Timestamp) -> Memory {
    let mut memory = memory.clone();
    memory.volumes.extend(observed.volumes.iter().cloned());
    let forgiven = |at: Timestamp| intent.sync.is_some_and(|sync| sync > at && sync <= now);
    memory.refused.take_if(|refused| forgiven(refused.at));
    memory.trouble.take_if(|trouble| forgiven(trouble.at) || trouble.generation != intent.entry.generation);
    memory.repeat.take_if(|repeat| forgiven(repeat.at));
    if memory.crashes.last.as_ref().is_some_and(|last| forgiven(last.exit.at)) {
        memory.crashes.next_restart = None;
    }
    memory
}

/// A difference that stays after it was acted upon three times is named, not fought.
pub(super) fn hold_back_repeats(mut plan: Plan, intent: &Intent, now: Timestamp) -> Plan {
    if plan.differences.is_empty() {
        if plan.steps.is_empty() {
            plan.memory.repeat = None;
        }
        return plan;
    }
    let difference = plan.differences.join("; ");
    let before = plan.memory.repeat.take().filter(|repeat| repeat.difference == difference);
    let count = before.as_ref().map_or(0, |repeat| repeat.count);
    let due = before.as_ref().and_then(|repeat| repeat.next_retry);
    if count >= REPEATS_BEFORE_GIVING_UP && due.is_none_or(|due| now < due) {
        let next_retry = due.unwrap_or_else(|| now.after(backoff(count + 3, intent.environment.as_str())));
        let at = before.map_or(now, |repeat| repeat.at);
        plan.steps.clear();
        plan.verdict = Verdict::new(
            Condition::Degraded,
            Reason::NotConverging,
            format!("acted upon {count} times and still so: {difference}"),
        );
        plan.look_again = Some(next_retry);
        plan.memory.repeat = Some(Repeat { difference, count, next_retry: Some(next_retry), at });
    } else {
        let acts = u32::from(!plan.steps.is_empty());
        plan.memory.repeat = Some(Repeat { difference, count: count + acts, next_retry: None, at: now });
    }
    plan
}

/// After engine calls failed, the next attempt waits; a newer generation or a `sync` does not.
pub(super) fn hold_back_trouble(mut plan: Plan, intent: &Intent, now: Timestamp) -> Plan {
    let Some(trouble) = plan.memory.trouble.clone() else { return plan };
    if plan.steps.is_empty() {
        // Nothing is left to do: the trouble is over, however it ended.
        plan.memory.trouble = None;
        return plan;
    }
    if now < trouble.next_retry {
        plan.steps.clear();
        plan.look_again = Some(trouble.next_retry);
        let message = format!("{}: {}", intent.environment, trouble.message);
        plan.verdict = Verdict::new(Condition::Degraded, trouble.reason, message);
    }
    plan
}

/// The notes after `step` of `plan` failed with `error`.
///
/// A replacement that the engine will not start is refused, so that the next plan goes back to
/// what served; everything else is tried again with backoff.
pub fn after_failure(plan: &Plan, step: &Step, error: &str, intent: &Intent, now: Timestamp) -> Memory {
    let mut memory = plan.memory.clone();
    if let Step::Start { replacement: Some(fingerprint), .. } = step {
        memory.refused = Some(Refused {
            fingerprint: fingerprint.clone(),
            generation: intent.entry.generation,
            reason: Reason::StartFailed,
            message: format!("the new container could not be started: {error}"),
            at: now,
        });
        return memory;
    }
    let count = memory.trouble.as_ref().map_or(1, |trouble| trouble.count.saturating_add(1));
    memory.trouble = Some(Trouble {
        generation: intent.entry.generation,
        reason: if is_making(step) { Reason::StartFailed } else { Reason::EngineUnavailable },
        message: error.to_owned(),
        count,
        at: now,
        next_retry: now.after(backoff(count + 1, intent.environment.as_str())),
    });
    memory
}

fn is_making(step: &Step) -> bool {
    matches!(step, Step::Create { .. } | Step::Start { .. })
}
