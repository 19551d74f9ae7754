//! Automatic rollback: which versions are given up, and which state the record returns to.
//!
//! A version is judged by its image. If a version never becomes ready beside a good one, it is refused while
//! it is on trial. If it crashes soon after it became ready, it is given up here. In both cases the good
//! version is brought back first, and the record changes once that runs: a record that names a rollback
//! never describes a container that does not exist.
//!
//! A failing edit of the manifest causes no rollback. The image is the same, so it is not at fault, and the
//! record has nothing to return to. The previous container is kept.

use std::time::Duration;

use super::target::{Choice, KeepReason};
use super::{Intent, PartialPlan, PlannedStatus, RecordStep, Step};
use crate::model::desired::{Bad, Image, Origin};
use crate::model::memory::{Good, Memory, RefusedOptions};
use crate::model::observed::Observed;
use crate::model::status::{Condition, Reason};

/// The number of crashes after which a version that was ready is given up ...
pub(super) const CRASHES: u32 = 3;
/// ... if they come within this time of its first becoming ready. Later crashes more likely come from the
/// surroundings of the container, and are healed.
pub(super) const PROBATION: Duration = Duration::from_secs(600);

/// Adds the known failure of the entry's image to the reconcile state, so that the image is not tried again.
/// An explicit request for the image is exempt.
///
/// `fingerprint` computes that of the recorded version.
pub(super) fn recall(
    mut memory: Memory,
    intent: &Intent,
    fingerprint: impl FnOnce(&Memory) -> Option<String>,
) -> Memory {
    if let Some(refused) = known_failure(intent, &memory, fingerprint) {
        memory.refused = Some(refused);
    }
    memory
}

fn known_failure(
    intent: &Intent,
    memory: &Memory,
    fingerprint: impl FnOnce(&Memory) -> Option<String>,
) -> Option<RefusedOptions> {
    let entry = &intent.entry;
    let is_tried_for_itself =
        entry.origin.is_none_or(|origin| origin.is_on_purpose() || origin == Origin::AutomaticRollback);
    let image = entry.image.as_ref().filter(|_| !is_tried_for_itself)?;
    let bad = known(intent, image)?;
    memory.good.as_ref().filter(|good| !good.image.is_same(image))?;
    let words = image.shown_digest().map_or("unknown", |digest| digest.short());
    Some(RefusedOptions {
        fingerprint: fingerprint(memory)?,
        generation: entry.generation,
        reason: bad.reason,
        message: format!("image {words} failed before, in generation {}: {}", bad.generation, bad.message),
        of_the_host: false,
        retry_at: None,
        at: bad.at,
    })
}

fn known<'a>(intent: &'a Intent, image: &Image) -> Option<&'a Bad> {
    intent.bad.iter().rev().find(|bad| bad.image.is_same(image))
}

/// Whether an image failed and was rolled back from.
pub(super) fn is_bad(intent: &Intent, image: &Image) -> bool {
    known(intent, image).is_some()
}

/// Whether the recorded version may be given up. A held version is only healed. The result of a rollback is
/// never rolled back: two bad images would alternate forever.
pub(super) fn may_be_given_up(intent: &Intent) -> bool {
    intent.hold.is_none() && intent.entry.origin != Some(Origin::AutomaticRollback)
}

/// The reconcile state after giving up a version that keeps crashing soon after it became ready, in favor of
/// the last good version. `None` if the version is not given up, or nothing before it can run.
pub(super) fn given_up(intent: &Intent, observed: &Observed, memory: &Memory) -> Option<Memory> {
    let (good, before) = (memory.good.as_ref()?, memory.before.as_ref()?);
    let is_of_the_record = intent.entry.image.as_ref().is_some_and(|image| image.is_same(&good.image));
    let last = memory.crashes.last.as_ref().filter(|last| last.container == good.container)?;
    let is_early = last.exit.at <= good.first_ready.after(PROBATION);
    let is_here = before.image.id.as_ref().is_some_and(|id| observed.images.contains(id));
    let is_better = !before.image.is_same(&good.image) && !is_bad(intent, &before.image);
    let is_given_up = may_be_given_up(intent)
        && is_of_the_record
        && memory.crashes.exits >= CRASHES
        && is_early
        && is_here
        && is_better;
    is_given_up.then(|| Memory { good: Some(before.clone()), before: None, ..memory.clone() })
}

/// The state that the record returns to, and why: the last good version is enforced in place of the recorded
/// one, which failed.
pub(super) fn destination<'a>(
    intent: &Intent,
    choice: &Choice,
    memory: &'a Memory,
) -> Option<(&'a Good, &'a RefusedOptions)> {
    let good = memory.good.as_ref()?;
    let refused = memory.refused.as_ref().filter(|refused| !refused.of_the_host)?;
    let failed = intent.entry.image.as_ref()?;
    let is_back = match choice {
        Choice::Fallback(spec) => good.image.id.as_ref() == Some(&spec.image),
        Choice::Keep { id, why: KeepReason::Refused } => *id == good.container,
        Choice::Keep { .. } | Choice::Wanted(_) | Choice::Insist(_) | Choice::Nothing => false,
    };
    (is_back && may_be_given_up(intent) && !good.image.is_same(failed)).then_some((good, refused))
}

/// Adds the step that rolls the record back.
pub(super) fn move_record(
    partial: PartialPlan,
    intent: &Intent,
    good: &Good,
    refused: &RefusedOptions,
) -> PartialPlan {
    let from = intent.entry.generation;
    let why = format!("generation {from} failed ({})", refused.reason.as_str());
    let step = Step::Record(RecordStep::RollBack {
        from,
        to: Box::new(good.clone()),
        note: format!("{why}; rolled back to generation {}", good.generation),
        reason: refused.reason,
        message: refused.message.clone(),
    });
    partial.then(step, why)
}

/// The status during a rollback.
pub(super) fn rollback_status(refused: &RefusedOptions, verdict: &PlannedStatus) -> PlannedStatus {
    let message = format!("{}; {}", refused.message, verdict.message);
    PlannedStatus::new(Condition::Progressing, Reason::RolledBack, message)
}

/// The reason for the rollback, if the record names the result of one.
pub(super) fn led_here(intent: &Intent) -> Option<String> {
    let entry = &intent.entry;
    entry.origin.filter(|origin| *origin == Origin::AutomaticRollback)?;
    // A member that only went back with its group did not fail.
    let is_of_it = |bad: &&Bad| entry.together.is_empty() || bad.at == entry.at;
    let message = intent.bad.last().filter(is_of_it).map(|bad| bad.message.clone());
    let note = || entry.note.clone();
    Some(message.or_else(note).unwrap_or_else(|| "the previous generation failed".to_owned()))
}
