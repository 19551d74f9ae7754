//! The reconcile state: what a reconcile learns, clears and delays.

use std::time::Duration;

use super::explain::explain;
use super::restart::{LONGEST, backoff};
use super::serve::{hooks, jobs};
use super::{ContainerTarget, Intent, Plan, PlannedStatus, REPEATS_BEFORE_GIVING_UP, Step};
use crate::model::cause::Cause;
use crate::model::memory::{Crashes, EngineBackoff, Memory, NoHolder, RefusedOptions, Repeat, StuckLimits};
use crate::model::mount::REFUSED_SOURCE;
use crate::model::observed::Observed;
use crate::model::one_off::{HookResult, HookRun, OneOffKey};
use crate::model::status::{Condition, Reason};
use crate::model::time::Timestamp;

/// How long sandboxes are not tried again after a failure. The cause may have been temporary, such as a
/// registry outage.
const WITHOUT_HOLDERS: Duration = Duration::from_secs(600);

/// When sandboxes are tried again after one could not be started.
pub(super) fn end_of(no_holder: &NoHolder) -> Timestamp {
    no_holder.at.after(WITHOUT_HOLDERS)
}

/// The reconcile state at the start of a reconcile. Observed volumes are remembered. Failures of another
/// generation or before a `sync`, and crashes of a removed container, are forgotten.
pub(super) fn refresh(memory: &Memory, intent: &Intent, observed: &Observed, now: Timestamp) -> Memory {
    let mut memory = memory.clone();
    memory.volumes.extend(observed.volumes.iter().cloned());
    wait_no_longer_than_ever(&mut memory, intent, now);
    // A failure with a time in the future was noted while the clock was wrong: any `sync` clears it.
    let forgiven = |at: Timestamp| intent.sync.is_some_and(|sync| (sync > at || at > now) && sync <= now);
    let other = |generation| generation != intent.entry.generation;
    let is_over = |refused: &RefusedOptions| refused.of_the_host && now >= retry_of(refused);
    memory.refused.take_if(|refused| forgiven(refused.at) || other(refused.generation) || is_over(refused));
    memory.trouble.take_if(|trouble| forgiven(trouble.at) || other(trouble.generation));
    memory.repeat.take_if(|repeat| forgiven(repeat.at));
    memory.interrupted.take_if(|interrupted| forgiven(interrupted.at));
    memory.no_holder.take_if(|no_holder| {
        let counts = no_holder.at <= now && now < end_of(no_holder);
        !counts || forgiven(no_holder.at)
    });
    let is_gone = |id: &str| observed.containers.iter().all(|container| container.id != id);
    if memory.crashes.last.as_ref().is_some_and(|last| is_gone(&last.container)) {
        memory.crashes = Crashes::default();
    }
    memory.stuck.take_if(|stuck| forgiven(stuck.at) || is_gone(&stuck.container));
    memory.draining.retain(|id, _| !is_gone(id));
    memory.stopped.retain(|id, at| !is_gone(id) && !is_started_since(observed, id, *at));
    memory
}

/// Whether a container was started after `at`.
fn is_started_since(observed: &Observed, id: &str, at: Timestamp) -> bool {
    let container = observed.containers.iter().find(|container| container.id == id);
    container.and_then(|container| container.started_at).is_some_and(|started| started >= at)
}

/// Notes which containers a plan stops. A container that is stopped to be restarted, because it no longer
/// answers, is noted elsewhere.
pub(super) fn remember_stops(mut plan: Plan, observed: &Observed, now: Timestamp) -> Plan {
    let restarted = plan.memory.crashes.stopped.as_ref().map(|stopped| stopped.container.clone());
    let stops = plan.steps.iter().filter_map(|planned| planned.step.stopped());
    let is_ours = |id: &&String| observed.containers.iter().any(|container| container.id == **id);
    let stopped = stops.filter(is_ours).filter(|id| restarted.as_ref() != Some(*id));
    plan.memory.stopped.extend(stopped.map(|id| (id.clone(), now)));
    plan
}

/// The time to retry refused options whose failure had another cause than the options.
pub(super) fn retry_of(refused: &RefusedOptions) -> Timestamp {
    refused.retry_at.unwrap_or_else(|| refused.at.after(LONGEST))
}

/// Limits every wait to its longest initial value. If the clock is set back, a time that was close is
/// suddenly far away.
fn wait_no_longer_than_ever(memory: &mut Memory, intent: &Intent, now: Timestamp) {
    let latest = now.after(LONGEST);
    let of_trouble = memory.trouble.iter_mut().map(|trouble| &mut trouble.next_retry);
    let of_repeat = memory.repeat.iter_mut().flat_map(|repeat| &mut repeat.next_retry);
    let of_refused = memory.refused.iter_mut().flat_map(|refused| &mut refused.retry_at);
    for at in of_trouble.chain(of_repeat).chain(of_refused).chain(&mut memory.crashes.next_restart) {
        *at = latest.min(*at);
    }
    let drained = now.after(intent.drain.unwrap_or_default());
    memory.draining.values_mut().for_each(|until| *until = drained.min(*until));
}

/// Delays the next attempt after failed engine calls. A newer generation or a `sync` ends the delay.
pub(super) fn delay_after_failures(
    mut plan: Plan,
    intent: &Intent,
    before: &Crashes,
    now: Timestamp,
) -> Plan {
    let Some(trouble) = plan.memory.trouble.clone() else { return plan };
    let waits_for_restart = plan.verdict.reason == Reason::CrashLoop;
    if plan.steps.is_empty() && !waits_for_restart {
        // Nothing is left to do, so the problem is over, however it ended.
        plan.memory.trouble = None;
        return plan;
    }
    if now < trouble.next_retry || waits_for_restart {
        let crashes = plan.memory.crashes.clone();
        delay(&mut plan, trouble.next_retry, now, |step| is_paced(step, &crashes, before));
        let message = format!("{}: {}", intent.environment, trouble.message);
        let condition = match trouble.reason {
            Reason::BindSourceMissing => Condition::Blocked,
            _ => Condition::Degraded,
        };
        plan.verdict = PlannedStatus::new(condition, trouble.reason, message);
    }
    plan
}

/// Stops acting on a difference that remains after three attempts, and reports it instead.
pub(super) fn delay_repeats(mut plan: Plan, intent: &Intent, before: &Crashes, now: Timestamp) -> Plan {
    let Some(difference) = what_differs(&plan) else {
        plan.memory.repeat = None;
        return plan;
    };
    let repeat = plan.memory.repeat.take().filter(|repeat| repeat.difference == difference);
    let count = repeat.as_ref().map_or(0, |repeat| repeat.count);
    let due = repeat.as_ref().and_then(|repeat| repeat.next_retry);
    if count < REPEATS_BEFORE_GIVING_UP || due.is_some_and(|due| now >= due) {
        let acts = u32::from(!plan.steps.is_empty());
        plan.memory.repeat = Some(Repeat { difference, count: count + acts, next_retry: None, at: now });
        return plan;
    }
    let next_retry = due.unwrap_or_else(|| now.after(backoff(count + 3, intent.environment.as_str())));
    // A limit that the engine rejects must not delay a build or the restart of a crashed container. But if
    // such steps themselves repeat, they end here.
    let (crashes, is_named) = (plan.memory.crashes.clone(), !plan.differences.is_empty());
    delay(&mut plan, next_retry, now, |step| {
        is_named && (is_supply(step) || is_paced(step, &crashes, before))
    });
    plan.verdict = PlannedStatus::new(
        Condition::Degraded,
        Reason::NotConverging,
        format!("unchanged after {count} attempts: {difference}"),
    );
    let at = repeat.map_or(now, |repeat| repeat.at);
    plan.memory.repeat = Some(Repeat { difference, count, next_retry: Some(next_retry), at });
    plan
}

/// Describes the differences of a plan; if it names none, describes its steps.
fn what_differs(plan: &Plan) -> Option<String> {
    let differences = match plan.differences.as_slice() {
        [] => explain(plan).join("; "),
        differences => differences.join("; "),
    };
    (!differences.is_empty()).then_some(differences)
}

/// Leaves only the steps that `goes_on` allows.
fn delay(plan: &mut Plan, until: Timestamp, now: Timestamp, goes_on: impl Fn(&Step) -> bool) {
    plan.steps.retain(|planned| goes_on(&planned.step));
    plan.requeue_at = [plan.requeue_at, Some(until)].into_iter().flatten().filter(|at| *at > now).min();
}

/// Whether `step` is a restart that this plan found due, a step that the restart needs, or the stop before
/// it. Restarts have their own backoff.
fn is_paced(step: &Step, crashes: &Crashes, before: &Crashes) -> bool {
    let crashed = |id: &String| crashes.last.as_ref().is_some_and(|last| last.container == *id);
    match step {
        Step::Start { container: ContainerTarget::Seen(id), replacement: None } => {
            crashed(id) && crashes.restarts > before.restarts
        }
        Step::CreateNetwork
        | Step::Connect { .. }
        | Step::StartHolder { holder: ContainerTarget::Seen(_), replacement: None } => {
            crashes.restarts > before.restarts
        }
        Step::Stop { id } => {
            let is_it = crashes.stopped.as_ref().is_some_and(|stopped| stopped.container == *id);
            is_it && crashes.stopped != before.stopped
        }
        Step::Start { .. }
        | Step::StartHolder { .. }
        | Step::CancelJob
        | Step::Acquire(_)
        | Step::Record(_)
        | Step::CreateVolume { .. }
        | Step::CreateFolder { .. }
        | Step::LoadHolder
        | Step::CreateHolder { .. }
        | Step::Disconnect { .. }
        | Step::Announce { .. }
        | Step::TryOptions { .. }
        | Step::Create { .. }
        | Step::Restart { .. }
        | Step::Remove { .. }
        | Step::Rename { .. }
        | Step::Pause { .. }
        | Step::Unpause { .. }
        | Step::Adjust { .. }
        | Step::ApplyWorkload { .. }
        | Step::RemoveWorkload { .. }
        | Step::CreateOneOff { .. }
        | Step::StartOneOff { .. } => false,
    }
}

/// Whether `step` is about the record and its images, rather than about a container.
fn is_supply(step: &Step) -> bool {
    matches!(step, Step::CancelJob | Step::Acquire(_) | Step::Record(_))
}

/// How a step failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepFailure<'a> {
    /// The cause.
    pub cause: Cause,
    /// The error, in a sentence.
    pub message: &'a str,
}

/// The reconcile state after `step` of `plan` failed.
///
/// A replacement that cannot be started is refused, so that the next plan returns to the last good
/// container: for good if the replacement is at fault, otherwise for a while. If the engine did not answer,
/// or a user removed something, the replacement is not at fault: like everything else, it is tried again
/// with backoff.
pub fn after_failure(
    plan: &Plan,
    step: &Step,
    failure: StepFailure<'_>,
    intent: &Intent,
    now: Timestamp,
) -> Memory {
    let StepFailure { cause, message } = failure;
    // A failed step did not act on the difference: it has its own backoff.
    let mut memory = Memory { repeat: None, ..plan.memory.clone() };
    // A container whose stop was not reached still runs: if it ends later, that is its own doing.
    for planned in plan.steps.iter().rev().take_while(|planned| planned.step != *step) {
        if let Some(id) = planned.step.stopped() {
            memory.stopped.remove(id);
        }
    }
    if jobs::note_failure(&mut memory, step, failure, now) {
        return memory;
    }
    if let Some(run) = failed_command(step, failure, intent, now) {
        hooks::note(&mut memory, run);
        return memory;
    }
    if let Some(no_holder) = no_holder(step, failure, now) {
        memory.no_holder = Some(no_holder);
        return memory;
    }
    if let Some(stuck) = stuck_limits(step, failure, now) {
        memory.stuck = Some(stuck);
        return memory;
    }
    if let Some(fingerprint) = refusable(plan, step, cause) {
        memory.refused = Some(RefusedOptions {
            fingerprint: fingerprint.clone(),
            generation: intent.entry.generation,
            reason: if cause == Cause::Option { Reason::OptionRefused } else { Reason::StartFailed },
            message: if let Step::TryOptions { .. } = step {
                message.to_owned()
            } else {
                format!("cannot start the new container: {message}")
            },
            of_the_host: !cause.is_verdict(),
            retry_at: None,
            at: now,
        });
        return memory;
    }
    let count = memory.trouble.as_ref().map_or(1, |trouble| trouble.count.saturating_add(1));
    // If a user removed something, it is created again at once the first time.
    let failures = if cause == Cause::Hand { count } else { count + 1 };
    memory.trouble = Some(EngineBackoff {
        generation: intent.entry.generation,
        reason: trouble_reason(step, failure),
        message: message.to_owned(),
        count,
        at: now,
        next_retry: now.after(backoff(failures, intent.environment.as_str())),
    });
    memory
}

/// The failed command, if `step` could not run it because of its image.
fn failed_command(step: &Step, failure: StepFailure<'_>, intent: &Intent, now: Timestamp) -> Option<HookRun> {
    let Some(OneOffKey::Hook(key)) = step.one_off() else { return None };
    let container = if let Step::StartOneOff { id, .. } = step { id.clone() } else { String::new() };
    failure.cause.is_verdict().then(|| HookRun {
        key,
        generation: intent.entry.generation,
        revision: intent.entry.revision.clone(),
        container,
        result: HookResult::Failed(format!("cannot be run: {}", failure.message)),
        at: now,
    })
}

/// The options that are refused after `step` failed: those of a replacement that cannot be started, or
/// cannot even be created from its image.
fn refusable<'a>(plan: &'a Plan, step: &'a Step, cause: Cause) -> Option<&'a String> {
    if matches!(cause, Cause::Engine | Cause::Hand) {
        return None;
    }
    match step {
        Step::Start { replacement, .. }
        | Step::StartHolder { replacement, .. }
        | Step::TryOptions { replacement, .. } => replacement.as_ref(),
        Step::Create { .. } if matches!(cause, Cause::Version | Cause::Option) => replacement_of(plan),
        Step::CreateHolder { .. } if cause == Cause::Option => replacement_of(plan),
        Step::Create { .. }
        | Step::CreateHolder { .. }
        | Step::CancelJob
        | Step::Acquire(_)
        | Step::Record(_)
        | Step::CreateNetwork
        | Step::CreateVolume { .. }
        | Step::CreateFolder { .. }
        | Step::LoadHolder
        | Step::Announce { .. }
        | Step::Stop { .. }
        | Step::Restart { .. }
        | Step::Remove { .. }
        | Step::Rename { .. }
        | Step::Pause { .. }
        | Step::Unpause { .. }
        | Step::Connect { .. }
        | Step::Disconnect { .. }
        | Step::Adjust { .. }
        | Step::ApplyWorkload { .. }
        | Step::RemoveWorkload { .. }
        | Step::CreateOneOff { .. }
        | Step::StartOneOff { .. } => None,
    }
}

/// The fingerprint of the replacement that a plan creates and starts.
fn replacement_of(plan: &Plan) -> Option<&String> {
    plan.steps.iter().find_map(|planned| {
        let Step::Start { container: ContainerTarget::Created, replacement } = &planned.step else {
            return None;
        };
        replacement.as_ref()
    })
}

/// Whether the failure shows that sandboxes do not work on this engine. These failures do not: a port in
/// use, a cause that would keep any container from starting, and a removal by a user.
fn no_holder(step: &Step, failure: StepFailure<'_>, now: Timestamp) -> Option<NoHolder> {
    let StepFailure { cause, message } = failure;
    let is_proof = if *step == Step::LoadHolder {
        !matches!(cause, Cause::Engine | Cause::Host)
    } else {
        // A sandbox that ran before shows that sandboxes do work.
        let is_first = matches!(step, Step::StartHolder { holder: ContainerTarget::Created, .. });
        is_first && matches!(cause, Cause::Version | Cause::Unknown) && !message.contains("network")
    };
    is_proof.then(|| NoHolder { message: message.to_owned(), at: now })
}

/// The limits that the engine does not set on a running container, such as memory below its current use. Another
/// attempt would fail as well.
fn stuck_limits(step: &Step, failure: StepFailure<'_>, now: Timestamp) -> Option<StuckLimits> {
    let Step::Adjust { id, memory, nano_cpus, pids } = step else { return None };
    let is_limited = memory.is_some() || nano_cpus.is_some() || pids.is_some();
    (failure.cause == Cause::Option && is_limited).then(|| StuckLimits {
        container: id.clone(),
        memory: *memory,
        nano_cpus: *nano_cpus,
        pids: *pids,
        message: failure.message.to_owned(),
        at: now,
    })
}

/// Whether an engine message is about a missing path of the host that is to be mounted.
fn is_missing_source(words: &str) -> bool {
    words.contains(REFUSED_SOURCE)
        || (words.contains("error mounting") && words.contains("no such file or directory"))
}

fn trouble_reason(step: &Step, failure: StepFailure<'_>) -> Reason {
    let is_start = matches!(step, Step::Start { .. } | Step::StartHolder { .. } | Step::TryOptions { .. });
    let is_create = matches!(step, Step::Create { .. });
    match failure.cause {
        Cause::Host if is_missing_source(failure.message) => Reason::BindSourceMissing,
        Cause::Engine => Reason::EngineUnavailable,
        Cause::Option => Reason::OptionRefused,
        Cause::Hand if is_start => Reason::Interrupted,
        Cause::Version if is_start || is_create => Reason::StartFailed,
        Cause::Version
        | Cause::Hand
        | Cause::Host
        | Cause::NoImage
        | Cause::NoPlatform
        | Cause::Denied
        | Cause::Network
        | Cause::RateLimit
        | Cause::Port
        | Cause::Unknown => {
            if is_start {
                Reason::StartFailed
            } else {
                Reason::EngineUnavailable
            }
        }
    }
}
