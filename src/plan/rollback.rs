//! Automatic rollback: which versions are given up, and what the record goes back to.
//!
//! A version is judged by its image. One that never became ready beside something that was good is
//! refused while it is on trial; one that crashes soon after it became ready is given up here. In
//! both cases what was good is brought back first, and the record moves once that runs: a record
//! that names a rollback never speaks of something that is not there.
//!
//! An edit of the manifest that fails is no rollback: the image is the same, so no image is to
//! blame, and there is nothing in the record to go back to. The container before it is kept.

use std::time::Duration;

use super::target::{self, Choice, KeepReason};
use super::{Half, Intent, Step, Verdict};
use crate::model::desired::{Bad, Image, Origin};
use crate::model::memory::{Good, Memory, Refused};
use crate::model::observed::Observed;
use crate::model::status::{Condition, Reason};

/// Crashes after which a version that was ready is given up ...
pub(super) const CRASHES: u32 = 3;
/// ... where they come within this time of its first becoming ready. Later ones are more likely
/// the doing of something around it, and are healed.
pub(super) const PROBATION: Duration = Duration::from_secs(600);

/// The notes with the failure for which the entry's image is known, where nobody asked for it on
/// purpose: it is not tried again.
pub(super) fn recall(mut memory: Memory, intent: &Intent, observed: &Observed) -> Memory {
    if let Some(refused) = known_failure(intent, observed, &memory) {
        memory.refused = Some(refused);
    }
    memory
}

fn known_failure(intent: &Intent, observed: &Observed, memory: &Memory) -> Option<Refused> {
    let entry = &intent.entry;
    let is_tried_for_itself =
        entry.origin.is_none_or(|origin| origin.is_on_purpose() || origin == Origin::AutomaticRollback);
    let image = entry.image.as_ref().filter(|_| !is_tried_for_itself)?;
    let bad = known(intent, image)?;
    memory.good.as_ref().filter(|good| !good.image.is_same(image))?;
    let words = image.shown_digest().map_or("unknown", |digest| digest.short());
    Some(Refused {
        fingerprint: target::wanted(intent, observed, memory)?.fingerprint(),
        generation: entry.generation,
        reason: bad.reason,
        message: format!("image {words} failed before, as generation {}: {}", bad.generation, bad.message),
        of_the_host: false,
        retry_at: None,
        at: bad.at,
    })
}

fn known<'a>(intent: &'a Intent, image: &Image) -> Option<&'a Bad> {
    intent.bad.iter().rev().find(|bad| bad.image.is_same(image))
}

/// Whether an image is one that failed, and was rolled back from.
pub(super) fn is_bad(intent: &Intent, image: &Image) -> bool {
    known(intent, image).is_some()
}

/// Whether what the record wants may be given up. What is held is only healed; and what a rollback
/// led to is never rolled back itself: two bad images would take turns for ever.
fn may_be_given_up(intent: &Intent) -> bool {
    intent.hold.is_none() && intent.entry.origin != Some(Origin::AutomaticRollback)
}

/// The notes once what keeps crashing soon after it became ready is given up for what was good
/// before it; `None` where it is not, or nothing before it can run.
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

/// What the record is to go back to, and why: what was good is enforced in place of what it names,
/// which failed.
pub(super) fn destination<'a>(
    intent: &Intent,
    choice: &Choice,
    memory: &'a Memory,
) -> Option<(&'a Good, &'a Refused)> {
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

/// Adds the step that moves the record back.
pub(super) fn move_record(half: Half, intent: &Intent, good: &Good, refused: &Refused) -> Half {
    let from = intent.entry.generation;
    let why = format!("generation {from} failed ({})", refused.reason.as_str());
    let step = Step::RollBack {
        from,
        to: Box::new(good.clone()),
        note: format!("{why}, back to generation {}", good.generation),
        reason: refused.reason,
        message: refused.message.clone(),
    };
    half.then(step, why)
}

/// What to say on the way back: it is under way, and no good news.
pub(super) fn said_on_the_way(refused: &Refused, verdict: &Verdict) -> Verdict {
    let message = format!("{}; {}", refused.message, verdict.message);
    Verdict::new(Condition::Progressing, Reason::RolledBack, message)
}

/// Why the record went back, where a rollback is what it names.
pub(super) fn led_here(intent: &Intent) -> Option<String> {
    let entry = &intent.entry;
    entry.origin.filter(|origin| *origin == Origin::AutomaticRollback)?;
    let message = intent.bad.last().map(|bad| bad.message.clone());
    let note = || entry.note.clone();
    Some(message.or_else(note).unwrap_or_else(|| "the generation before failed".to_owned()))
}
