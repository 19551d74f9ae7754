//! Commands that run once for each image: `release` before the first container of a version, `after` once the
//! version is ready.
//!
//! The result of a command comes from its container, which stays until the next one, so a daemon that was
//! killed reads it back. The reconcile state keeps it beyond the container. A command never runs for a
//! rollback, for a repair or while the environment is held.

use super::RolloutContext;
use super::output::last_output;
use super::parts::remove_stopped;
use crate::model::cause::{self, EndedBy};
use crate::model::container::{ContainerSpec, Exit, label};
use crate::model::desired::Origin;
use crate::model::memory::{Memory, RefusedOptions};
use crate::model::name::ContainerName;
use crate::model::observed::{ContainerState, Observed, ObservedContainer};
use crate::model::one_off::{Hook, HookKey, HookResult, HookRun, HookSpec, OneOffKey, OneOffSpec, RUN};
use crate::model::status::{Condition, Reason};
use crate::model::time::Timestamp;
use crate::plan::restart::backoff;
use crate::plan::target::{self, Choice};
use crate::plan::{Intent, PartialPlan, PlannedStatus, Step, TRANSIT, generation_words, needs, restart};

/// The most commands whose results are kept; of more, the oldest are forgotten.
const MOST_RUNS: usize = 64;
/// The number of signals of unknown origin in a row after which the command itself is held responsible.
const SIGNALS: u32 = 3;
/// The exit code that the engine reports for a container that ended with the engine itself.
const LOST: i64 = 255;

/// A command that should run for the recorded version.
struct Due<'a> {
    hook: Hook,
    spec: &'a HookSpec,
    key: HookKey,
    wanted: ContainerSpec,
}

/// The progress of a due command.
enum Progress<'a> {
    Succeeded,
    /// It failed, as a sentence.
    Failed(String),
    /// It has to run.
    Awaited,
    /// Its container exists and was never started.
    Made(&'a ObservedContainer),
    /// Its container exists and did not end yet.
    Runs,
    /// Something else ended its container; the time of the next attempt.
    Interrupted(Timestamp),
    /// Its container was started and is gone.
    Lost,
}

/// The due command of one hook; `None` if none is declared, or the recorded version must not run it.
fn due<'a>(hook: Hook, intent: &'a Intent, observed: &Observed, memory: &Memory) -> Option<Due<'a>> {
    let spec = intent.hooks.of(hook).filter(|_| intent.hold.is_none() && !intent.keeps_what_runs)?;
    let wanted = target::wanted(intent, observed, memory)?;
    let key = HookKey { hook, image: wanted.image.clone(), mark: spec.mark() };
    let is_back = matches!(intent.entry.origin, Some(Origin::Rollback | Origin::AutomaticRollback));
    let was_rebuilt =
        intent.entry.origin == Some(Origin::Rebuild) && has_run_for_commit(&key, intent, memory);
    (!is_back && !was_rebuilt).then_some(Due { hook, spec, key, wanted })
}

/// Whether the command has run for the commit, in an image that is gone.
fn has_run_for_commit(key: &HookKey, intent: &Intent, memory: &Memory) -> bool {
    let is_it = |run: &&HookRun| (run.key.hook, &run.key.mark) == (key.hook, &key.mark);
    let mut runs = memory.hooks.iter().filter(is_it).filter(|run| run.result == HookResult::Succeeded);
    intent.entry.revision.is_some() && runs.any(|run| run.revision == intent.entry.revision)
}

/// Notes the results of commands, and refuses the version whose release command failed.
pub(in crate::plan) fn recall(
    mut memory: Memory,
    intent: &Intent,
    observed: &Observed,
    now: Timestamp,
) -> Memory {
    let is_forgiven = |at: Timestamp| is_forgiven(intent, at, now);
    memory.hooks.retain(|run| {
        let is_current = run.generation == intent.entry.generation && !is_forgiven(run.at);
        run.result == HookResult::Succeeded || is_current
    });
    for container in &observed.one_offs {
        if let ContainerState::Exited(exit) = &container.state
            && let Some(key) = key_of(container)
        {
            note_end(&mut memory, intent, observed, (container, exit, key), now);
        }
    }
    let excess = memory.hooks.len().saturating_sub(MOST_RUNS);
    memory.hooks.drain(..excess);
    refuse(&mut memory, intent, observed);
    memory
}

/// Whether a `sync` came after a failure at `at`. A time in the future comes from a wrong clock.
fn is_forgiven(intent: &Intent, at: Timestamp, now: Timestamp) -> bool {
    intent.sync.is_some_and(|sync| (sync > at || at > now) && sync <= now)
}

/// The command of a container, from its labels.
fn key_of(container: &ObservedContainer) -> Option<HookKey> {
    let hook = Hook::of_role(container.labels.get(label::ROLE)?)?;
    Some(HookKey {
        hook,
        image: container.image.clone()?,
        mark: container.labels.get(label::COMMAND)?.clone(),
    })
}

/// The noted run of a command.
fn run_of<'m>(memory: &'m Memory, key: &HookKey) -> Option<&'m HookRun> {
    memory.hooks.iter().rev().find(|run| run.key == *key)
}

/// Notes how the container of a command ended, unless that is known or belongs to an earlier attempt.
fn note_end(
    memory: &mut Memory,
    intent: &Intent,
    observed: &Observed,
    (container, exit, key): (&ObservedContainer, &Exit, HookKey),
    now: Timestamp,
) {
    let before = run_of(memory, &key).cloned();
    let is_known = before.as_ref().is_some_and(|run| {
        let is_settled = run.container == container.id && !matches!(run.result, HookResult::Started(_));
        is_settled || run.result == HookResult::Succeeded
    });
    if is_known {
        return;
    }
    let generation = container.labels.get(label::GENERATION);
    let is_of_before = generation != Some(&intent.entry.generation.to_string());
    let count = before.map_or(0, |run| run.result.interruptions()).saturating_add(1);
    let result = match observed.ended_by.get(&container.id).copied() {
        by if is_interrupted(exit, by) && !(by == Some(EndedBy::Signal) && count >= SIGNALS) => {
            HookResult::Interrupted(count)
        }
        _ if exit.code == 0 => HookResult::Succeeded,
        by => HookResult::Failed(failure(intent, container, &restart::how(exit, by))),
    };
    if result != HookResult::Succeeded && (is_of_before || is_forgiven(intent, exit.at, now)) {
        return;
    }
    let revision = container.labels.get(label::REVISION).and_then(|text| text.parse().ok());
    let (container, generation) = (container.id.clone(), intent.entry.generation);
    note(memory, HookRun { key, generation, revision, container, result, at: exit.at });
}

fn failure(intent: &Intent, container: &ObservedContainer, how: &str) -> String {
    let output = intent.options.as_ref().map(|options| last_output(options, container)).unwrap_or_default();
    format!("{how}{output}")
}

/// Whether something other than the command ended its container. While nobody watched, only an exit code
/// that a program rarely uses shows that.
fn is_interrupted(exit: &Exit, by: Option<EndedBy>) -> bool {
    match by {
        None => false,
        Some(EndedBy::Hand | EndedBy::Host | EndedBy::Abide) => true,
        Some(EndedBy::Absence | EndedBy::Signal | EndedBy::Untold) => {
            cause::is_killed(exit.code) || exit.code == LOST
        }
    }
}

pub(in crate::plan) fn note(memory: &mut Memory, run: HookRun) {
    memory.hooks.retain(|before| before.key != run.key);
    memory.hooks.push(run);
}

/// Refuses the recorded version if its release command failed, unless its container exists already.
fn refuse(memory: &mut Memory, intent: &Intent, observed: &Observed) {
    let Some(due) = due(Hook::Release, intent, observed, memory) else { return };
    let Some(run) = run_of(memory, &due.key) else { return };
    let HookResult::Failed(how) = &run.result else { return };
    let fingerprint = due.wanted.fingerprint();
    let is_refused = memory.refused.as_ref().is_some_and(|refused| refused.fingerprint == fingerprint);
    if is_refused || exists(&due.wanted, intent, observed, memory) {
        return;
    }
    memory.refused = Some(RefusedOptions {
        fingerprint,
        generation: intent.entry.generation,
        reason: Reason::ReleaseFailed,
        message: sentence(&due, how),
        of_the_host: false,
        retry_at: None,
        at: run.at,
    });
}

fn sentence(due: &Due<'_>, how: &str) -> String {
    let who = generation_words(due.wanted.generation, due.wanted.revision.as_ref());
    format!("the {} of {who} {how}", due.hook.words())
}

/// Whether a container of the version exists: then its release is over, or was declared later.
fn exists(wanted: &ContainerSpec, intent: &Intent, observed: &Observed, memory: &Memory) -> bool {
    let mut containers = observed.containers.iter();
    containers
        .any(|seen| seen.state != ContainerState::Created && target::is_it(seen, wanted, intent, memory))
}

/// Whether the recorded version must wait for its release command.
pub(in crate::plan) fn is_awaited(intent: &Intent, observed: &Observed, memory: &Memory) -> bool {
    due(Hook::Release, intent, observed, memory).is_some_and(|due| {
        let result = run_of(memory, &due.key).map(|run| &run.result);
        result != Some(&HookResult::Succeeded) && !exists(&due.wanted, intent, observed, memory)
    })
}

/// The time at which the container of a command has run for too long.
pub(super) fn deadline(container: &ObservedContainer) -> Option<Timestamp> {
    let seconds = container.labels.get(label::LIMIT)?.parse().ok()?;
    Some(container.started_at?.after(std::time::Duration::from_secs(seconds)))
}

/// Plans the steps of the commands, and the status while one of them is due.
pub(in crate::plan) fn plan(
    intent: &Intent,
    observed: &Observed,
    choice: &Choice,
    memory: &mut Memory,
    now: Timestamp,
) -> PartialPlan {
    let context = RolloutContext::new(intent, observed, choice, memory, now);
    let partial = context.remove_unattended().and(context.end_overdue(memory));
    let dues = Hook::ALL.into_iter().filter_map(|hook| due(hook, intent, observed, memory));
    let dues: Vec<_> = dues.filter(|due| context.is_time_for(due, memory)).collect();
    for due in dues {
        if let Some(next) = context.advance(&due, memory) {
            return partial.and(next);
        }
    }
    partial.and(context.remove_undeclared())
}

impl RolloutContext<'_> {
    fn is_time_for(&self, due: &Due<'_>, memory: &Memory) -> bool {
        let is_here = self.observed.images.contains(&due.wanted.image);
        let is_ready = || {
            let good = memory.good.as_ref();
            let is_it = good.is_some_and(|good| good.generation == self.intent.entry.generation);
            is_it && matches!(self.choice, Choice::Wanted(_) | Choice::Insist(_))
        };
        let has_failed =
            run_of(memory, &due.key).is_some_and(|run| matches!(run.result, HookResult::Failed(_)));
        // A version that is given up for another reason releases nothing.
        let is_given_up = || target::is_refused(&due.wanted, memory) && !has_failed;
        match due.hook {
            Hook::Release => {
                is_here && !is_given_up() && !needs::is_awaited(self.intent, self.observed, memory)
            }
            Hook::After => is_here && is_ready(),
        }
    }

    /// Removes containers of people's commands whose client or daemon is gone.
    fn remove_unattended(&self) -> PartialPlan {
        let is_run = |seen: &&ObservedContainer| seen.labels.get(label::ROLE).is_some_and(|role| role == RUN);
        let left = self.observed.one_offs.iter().filter(is_run);
        let left = left.filter(|seen| !self.observed.attended.contains(&seen.name));
        left.fold(PartialPlan::default(), |partial, left| {
            remove_stopped(partial, left, "nobody is connected to its command any more")
        })
    }

    /// Stops commands that have run for too long.
    fn end_overdue(&self, memory: &mut Memory) -> PartialPlan {
        let mut partial = PartialPlan::default();
        for container in &self.observed.one_offs {
            let Some(key) = key_of(container) else { continue };
            let overdue = deadline(container).filter(|deadline| *deadline <= self.now);
            if container.state != ContainerState::Running || overdue.is_none() {
                continue;
            }
            let seconds =
                container.labels.get(label::LIMIT).and_then(|text| text.parse().ok()).unwrap_or_default();
            let limit = humantime::format_duration(std::time::Duration::from_secs(seconds));
            let how = format!("did not end within {limit}");
            note(
                memory,
                HookRun {
                    key,
                    generation: self.intent.entry.generation,
                    revision: None,
                    container: container.id.clone(),
                    result: HookResult::Failed(failure(self.intent, container, &how)),
                    at: self.now,
                },
            );
            partial = partial
                .then(Step::Stop { id: container.id.clone() }, how)
                .requeue_by(self.now.after(TRANSIT));
        }
        partial
    }

    /// The next step of a due command; `None` if it is over and nothing has to be reported.
    fn advance(&self, due: &Due<'_>, memory: &mut Memory) -> Option<PartialPlan> {
        let who = generation_words(due.wanted.generation, due.wanted.revision.as_ref());
        let what = format!("the {} of {who}", due.hook.words());
        match self.progress(due, memory) {
            Progress::Succeeded => None,
            Progress::Failed(how) => self.failed(due, &sentence(due, &how), memory),
            Progress::Runs => Some(self.runs(&what)),
            Progress::Made(container) => Some(self.begin(due, container, &what, memory)),
            Progress::Awaited => Some(self.make_one_off(due, &what, memory)),
            Progress::Interrupted(at) => {
                let message = format!("{what} was interrupted, and is tried again");
                let partial = PartialPlan::with_status(Condition::Degraded, Reason::Interrupted, message);
                Some(partial.requeue_by(at))
            }
            Progress::Lost => {
                let message = format!(
                    "the container of {what} was removed before its result was known; check the data, and run it \
                     again with `abide sync {}`",
                    self.intent.environment
                );
                Some(PartialPlan::with_status(Condition::Blocked, Reason::ReleaseFailed, message))
            }
        }
    }

    fn progress(&self, due: &Due<'_>, memory: &Memory) -> Progress<'_> {
        let run = run_of(memory, &due.key);
        match run.map(|run| &run.result) {
            Some(HookResult::Succeeded) => return Progress::Succeeded,
            Some(HookResult::Failed(how)) => return Progress::Failed(how.clone()),
            Some(HookResult::Started(_) | HookResult::Interrupted(_)) | None => {}
        }
        // Two commands at once could do harm, so a command of another version ends first.
        if self.hook_containers().any(|seen| is_active(&seen.state)) {
            return Progress::Runs;
        }
        let generation = self.intent.entry.generation.to_string();
        let is_of_this = |seen: &&ObservedContainer| {
            key_of(seen).as_ref() == Some(&due.key) && seen.labels.get(label::GENERATION) == Some(&generation)
        };
        let own = self.hook_containers().find(is_of_this);
        match (own, run.map(|run| (&run.result, run))) {
            (Some(made), _) if made.state == ContainerState::Created => Progress::Made(made),
            (_, Some((HookResult::Interrupted(count), run))) => {
                let at = run.at.after(backoff(*count, self.intent.environment.as_str()));
                if self.now >= at { Progress::Awaited } else { Progress::Interrupted(at) }
            }
            (None, Some((HookResult::Started(_), _))) => Progress::Lost,
            _ => Progress::Awaited,
        }
    }

    fn hook_containers(&self) -> impl Iterator<Item = &ObservedContainer> {
        self.observed.one_offs.iter().filter(|seen| key_of(seen).is_some())
    }

    fn runs(&self, what: &str) -> PartialPlan {
        let partial =
            PartialPlan::with_status(Condition::Progressing, Reason::Releasing, format!("{what} is running"));
        let paused = self.hook_containers().filter(|seen| seen.state == ContainerState::Paused);
        let partial = paused.fold(partial, |partial, seen| {
            partial.then(Step::Unpause { id: seen.id.clone() }, "it was paused")
        });
        let deadlines = self.hook_containers().filter(|seen| is_active(&seen.state)).filter_map(deadline);
        deadlines.fold(partial, PartialPlan::requeue_by)
    }

    fn begin(
        &self,
        due: &Due<'_>,
        container: &ObservedContainer,
        what: &str,
        memory: &mut Memory,
    ) -> PartialPlan {
        note(
            memory,
            HookRun {
                key: due.key.clone(),
                generation: self.intent.entry.generation,
                revision: self.intent.entry.revision.clone(),
                container: container.id.clone(),
                result: HookResult::Started(
                    run_of(memory, &due.key).map_or(0, |run| run.result.interruptions()),
                ),
                at: self.now,
            },
        );
        let start = Step::StartOneOff { id: container.id.clone(), key: OneOffKey::Hook(due.key.clone()) };
        let partial =
            PartialPlan::with_status(Condition::Progressing, Reason::Releasing, format!("starting {what}"));
        partial.then(start, "it runs once for this image")
    }

    fn make_one_off(&self, due: &Due<'_>, what: &str, memory: &Memory) -> PartialPlan {
        let partial = match self.prerequisites(&due.wanted, memory) {
            Ok(partial) => partial,
            Err(blocked) => return PartialPlan { verdict: Some(blocked), ..PartialPlan::default() },
        };
        let old = self.hook_containers().filter(|seen| key_of(seen).is_some_and(|key| key.hook == due.hook));
        let partial =
            old.fold(partial, |partial, old| remove_stopped(partial, old, "a new one takes its place"));
        let name = self.one_off_name(&due.wanted.options.name, due.hook);
        let spec = OneOffSpec::new(
            &due.wanted,
            name,
            due.hook.as_str(),
            &due.spec.words,
            (due.key.mark.clone(), due.spec.timeout),
        );
        let mut partial =
            partial.then(Step::CreateOneOff { spec: Box::new(spec) }, "it runs once for this image");
        partial.verdict =
            Some(PlannedStatus::new(Condition::Progressing, Reason::Releasing, format!("starting {what}")));
        partial
    }

    fn one_off_name(&self, container: &ContainerName, hook: Hook) -> ContainerName {
        let is_free = |name: &str| {
            let mut own = self.containers.iter().chain(&self.draining).chain(&self.holders);
            own.all(|seen| seen.name != name)
        };
        self.free_name(container, &format!(".{}", hook.as_str()), is_free)
    }

    /// Reports a failed command, unless the version was refused for it.
    fn failed(&self, due: &Due<'_>, message: &str, memory: &Memory) -> Option<PartialPlan> {
        let is_reported = matches!(self.choice, Choice::Fallback(_) | Choice::Keep { .. })
            && memory.refused.as_ref().is_some_and(|refused| refused.generation == due.wanted.generation);
        if due.hook == Hook::Release && is_reported {
            return None;
        }
        let partial = PartialPlan::with_status(Condition::Degraded, Reason::ReleaseFailed, message);
        let outcome = (due.hook == Hook::Release).then(|| self.failed_unless_good(message, memory)).flatten();
        Some(PartialPlan { outcome, ..partial })
    }

    /// Removes leftovers of commands that are no longer declared.
    fn remove_undeclared(&self) -> PartialPlan {
        let is_declared = |seen: &&ObservedContainer| {
            key_of(seen).is_none_or(|key| self.intent.hooks.of(key.hook).is_some())
        };
        let left = self.hook_containers().filter(|seen| !is_declared(seen) && !is_active(&seen.state));
        left.fold(PartialPlan::default(), |partial, left| {
            remove_stopped(partial, left, "its command is no longer declared")
        })
    }
}

/// Whether a container may still do something.
pub(super) fn is_active(state: &ContainerState) -> bool {
    matches!(state, ContainerState::Running | ContainerState::Paused | ContainerState::InTransit)
}
