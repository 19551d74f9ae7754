//! Choosing what to enforce: the recorded version, else the last good one, else an existing container.

use super::serve::hooks;
use super::{
    Intent, PlannedStatus, difference, generation_words, hold, image_id, needs, rollback, serving, volumes,
};
use crate::model::container::{ContainerOptions, ContainerSpec};
use crate::model::desired::{Entry, Image};
use crate::model::memory::{Good, Memory};
use crate::model::mount::Mount;
use crate::model::name::Digest;
use crate::model::observed::{ContainerState, Observed, ObservedContainer};

/// The state to enforce now.
#[derive(Clone, Debug)]
pub(super) enum Choice {
    /// The recorded version.
    Wanted(ContainerSpec),
    /// The recorded version failed before, but nothing else can run.
    Insist(ContainerSpec),
    /// The version that became ready last, because the recorded version is missing or failed.
    Fallback(ContainerSpec),
    /// A container as it is, because nothing better can be made.
    Keep {
        /// Its id.
        id: String,
        /// The reason why nothing better can be made.
        why: KeepReason,
    },
    /// Nothing can run.
    Nothing,
}

/// Why a container is kept as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum KeepReason {
    /// Its replacement failed.
    Refused,
    /// The image of its replacement is missing.
    NoImage,
    /// A secret of its options cannot be read; the sentence names it.
    NoOptions(String),
    /// Its replacement cannot be made until an operator acts.
    Blocked(PlannedStatus),
    /// Its replacement may be an old version, because the record may be an old copy.
    OldCopy,
    /// Its replacement waits for other members of the group.
    AwaitsNeeds,
}

impl Choice {
    /// Describes the serving container for sentences.
    pub(super) fn words(&self) -> String {
        match self {
            Self::Wanted(spec) | Self::Insist(spec) | Self::Fallback(spec) => {
                generation_words(spec.generation, spec.revision.as_ref())
            }
            Self::Keep { .. } => "the previous container".to_owned(),
            Self::Nothing => "nothing".to_owned(),
        }
    }
}

pub(super) fn choose(intent: &Intent, observed: &Observed, memory: &Memory) -> Choice {
    if let Err(why) = &intent.options {
        return keep(observed, memory, KeepReason::NoOptions(why.clone()));
    }
    if let Some(kept) = kept_in_doubt(intent, observed, memory) {
        return kept;
    }
    let wanted = wanted(intent, observed, memory).filter(|wanted| can_run(intent, observed, memory, wanted));
    let is_awaited =
        || needs::is_awaited(intent, observed, memory) || hooks::is_awaited(intent, observed, memory);
    if let Some(wanted) = wanted.clone().filter(|wanted| !is_refused(wanted, memory)) {
        return if is_awaited() { meanwhile(intent, observed, memory) } else { Choice::Wanted(wanted) };
    }
    match wanted {
        Some(wanted) => match instead_of(wanted, intent, observed, memory) {
            // A container of the version must not start without its release command and the members it needs.
            Choice::Insist(_) if is_awaited() => Choice::Nothing,
            choice => choice,
        },
        None => meanwhile(intent, observed, memory),
    }
}

/// The state to enforce until the recorded version can run.
fn meanwhile(intent: &Intent, observed: &Observed, memory: &Memory) -> Choice {
    if let Some(serving) = serves_unnoted(intent, observed, memory) {
        return kept(serving, KeepReason::NoImage);
    }
    if let Some(serving) = serves_until_needs_are_met(intent, observed, memory) {
        return kept(serving, KeepReason::AwaitsNeeds);
    }
    good(intent, observed, memory)
        .map_or_else(|| keep(observed, memory, KeepReason::NoImage), Choice::Fallback)
}

/// A serving container that no note mentions, while neither a noted container nor one of the good image
/// exists. The notes are older than the container then, such as in a folder that was restored from a copy, so
/// the good version in them is older than the serving one and must not replace it. A container of the good
/// image is a return to it that has begun, and that an edit of the options does not end.
fn serves_unnoted<'o>(
    intent: &Intent,
    observed: &'o Observed,
    memory: &Memory,
) -> Option<&'o ObservedContainer> {
    let good = memory.good.as_ref().and_then(|good| good.image.id.as_ref());
    let is_known = |seen: &ObservedContainer| {
        readiness(seen, memory).is_some() || good.is_some_and(|good| seen.image.as_ref() == Some(good))
    };
    if observed.containers.iter().any(is_known) {
        return None;
    }
    let is_silent = |seen: &ObservedContainer| {
        observed.probes.get(&seen.id).is_some_and(|seen| seen.misses > 0 && seen.answering_since.is_none())
    };
    let serving = observed.containers.iter().filter(|seen| {
        serving::may_serve(seen, intent, observed)
            && !memory.draining.contains_key(&seen.id)
            && !is_silent(seen)
            && !is_of_bad_image(seen, intent)
    });
    serving.max_by_key(|seen| (seen.started_at, &seen.id))
}

/// The ready container that an edit of its options would change, while the edit waits for other members. Otherwise
/// an edit would stop all members at the same time.
fn serves_until_needs_are_met<'o>(
    intent: &Intent,
    observed: &'o Observed,
    memory: &Memory,
) -> Option<&'o ObservedContainer> {
    if !needs::is_awaited(intent, observed, memory) {
        return None;
    }
    let good = good(intent, observed, memory);
    let is_as_declared = |seen: &ObservedContainer| {
        let made = |good: &ContainerSpec| {
            is_it(seen, good, intent, memory) && difference::resources(good, seen).is_empty()
        };
        good.as_ref().is_some_and(made)
    };
    observed.containers.iter().find(|seen| {
        is_proven(seen, memory)
            && seen.state != ContainerState::Dead
            && seen.has_namespace()
            && !is_as_declared(seen)
    })
}

/// The container that ran last, if the record may be an old copy and wants another one.
fn kept_in_doubt(intent: &Intent, observed: &Observed, memory: &Memory) -> Option<Choice> {
    let wanted = wanted(intent, observed, memory);
    let is_wanted =
        |seen: &ObservedContainer| wanted.as_ref().is_some_and(|wanted| is_it(seen, wanted, intent, memory));
    let ran = observed.containers.iter().filter(|_| intent.keeps_what_runs).filter(|seen| {
        seen.started_at.is_some() && seen.has_namespace() && seen.state != ContainerState::Dead
    });
    let last = ran.max_by_key(|seen| {
        let is_up = !matches!(seen.state, ContainerState::Exited(_) | ContainerState::Created);
        (is_up, seen.started_at, &seen.id)
    })?;
    (!is_wanted(last)).then(|| kept(last, KeepReason::OldCopy))
}

/// The recorded version, if its image is known and its options can be read.
pub(crate) fn wanted(intent: &Intent, observed: &Observed, memory: &Memory) -> Option<ContainerSpec> {
    let (image, options) = (image_id(&intent.entry)?, intent.options.as_ref().ok()?);
    Some(made_of(image, options, &intent.entry, volumes::undeclared(options, image, observed, memory)))
}

/// The state to enforce in place of a failed version: the container that was ready, unchanged if its options
/// are no longer declared; else a container of the good image; else any existing container.
fn instead_of(failed: ContainerSpec, intent: &Intent, observed: &Observed, memory: &Memory) -> Choice {
    let others = observed.containers.iter().filter(|container| !is_it(container, &failed, intent, memory));
    let other = to_go_back_to(others, intent, memory);
    let good = good(intent, observed, memory);
    match (other, good) {
        (Some(other), good) if is_proven(other, memory) => good
            .filter(|good| is_it(other, good, intent, memory))
            .map_or_else(|| kept(other, KeepReason::Refused), Choice::Fallback),
        (_, Some(good)) => Choice::Fallback(good),
        (Some(other), None) => kept(other, KeepReason::Refused),
        (None, None) => Choice::Insist(failed),
    }
}

/// The version that became ready last, if it can be made again.
pub(super) fn good(intent: &Intent, observed: &Observed, memory: &Memory) -> Option<ContainerSpec> {
    let good = memory.good.as_ref()?;
    let entry = Entry { generation: good.generation, revision: good.revision.clone(), ..Entry::default() };
    let (image, options) = (good.image.id.as_ref()?, intent.options.as_ref().ok()?);
    let spec = made_of(image, options, &entry, volumes::undeclared(options, image, observed, memory));
    (can_run(intent, observed, memory, &spec) && !is_refused(&spec, memory)).then_some(spec)
}

pub(super) fn made_of(
    image: &Digest,
    options: &ContainerOptions,
    entry: &Entry,
    undeclared: Vec<Mount>,
) -> ContainerSpec {
    ContainerSpec {
        image: image.clone(),
        options: options.clone(),
        undeclared,
        generation: entry.generation,
        revision: entry.revision.clone(),
    }
}

fn can_run(intent: &Intent, observed: &Observed, memory: &Memory, spec: &ContainerSpec) -> bool {
    let exists = || observed.containers.iter().any(|container| is_it(container, spec, intent, memory));
    observed.images.contains(&spec.image) || exists()
}

pub(super) fn is_refused(spec: &ContainerSpec, memory: &Memory) -> bool {
    memory.refused.as_ref().is_some_and(|refused| refused.fingerprint == spec.fingerprint())
}

/// Whether this is a managed container with exactly these options. A container that the engine calls dead
/// does not count.
pub(super) fn is_made_as(container: &ObservedContainer, spec: &ContainerSpec) -> bool {
    container.state != ContainerState::Dead && difference::structural(spec, container).is_empty()
}

/// Whether this is the container that `spec` asks for: it has exactly these options, or a hold keeps it.
pub(super) fn is_it(
    container: &ObservedContainer,
    spec: &ContainerSpec,
    intent: &Intent,
    memory: &Memory,
) -> bool {
    is_made_as(container, spec) && stuck(container, spec, memory).is_none()
        || hold::is_kept(container, spec, intent, memory)
}

/// Why the engine cannot give this container the limits of `spec`; `None`: it has not refused that.
pub(super) fn stuck<'m>(
    container: &ObservedContainer,
    spec: &ContainerSpec,
    memory: &'m Memory,
) -> Option<&'m str> {
    let options = &spec.options;
    let stuck = memory.stuck.as_ref().filter(|stuck| stuck.container == container.id)?;
    let is_same = (stuck.memory, stuck.nano_cpus, stuck.pids)
        == (options.memory, options.nano_cpus, options.pids)
        && !difference::limits(spec, container).is_empty();
    is_same.then_some(stuck.message.as_str())
}

/// Whether it is the container that became ready last.
pub(super) fn is_proven(container: &ObservedContainer, memory: &Memory) -> bool {
    memory.good.as_ref().is_some_and(|good| good.container == container.id)
}

/// The readiness note of a container, whether or not it serves yet.
pub(super) fn readiness<'m>(container: &ObservedContainer, memory: &'m Memory) -> Option<&'m Good> {
    [&memory.good, &memory.next].into_iter().flatten().find(|good| good.container == container.id)
}

/// The best container to serve in place of another one. Excluded are containers that were never started,
/// that lost their network for good, or whose version was rolled back.
pub(super) fn to_go_back_to<'a>(
    containers: impl Iterator<Item = &'a ObservedContainer>,
    intent: &Intent,
    memory: &Memory,
) -> Option<&'a ObservedContainer> {
    let could = containers
        .filter(|container| container.state != ContainerState::Created && container.has_namespace());
    best(
        could.filter(|container| is_proven(container, memory) || !is_of_bad_image(container, intent)),
        memory,
    )
}

fn is_of_bad_image(container: &ObservedContainer, intent: &Intent) -> bool {
    let image = Image { reference: None, digest: None, id: container.image.clone() };
    rollback::is_bad(intent, &image)
}

fn keep(observed: &Observed, memory: &Memory, why: KeepReason) -> Choice {
    best(observed.containers.iter(), memory).map_or(Choice::Nothing, |container| kept(container, why))
}

fn kept(container: &ObservedContainer, why: KeepReason) -> Choice {
    Choice::Keep { id: container.id.clone(), why }
}

/// The container to keep: the one that was ready before, in any state; then running before stopped before
/// never started, and the older of two equal ones. The ID makes the choice independent of the order in which
/// the engine lists them.
pub(super) fn best<'a>(
    containers: impl Iterator<Item = &'a ObservedContainer>,
    memory: &Memory,
) -> Option<&'a ObservedContainer> {
    containers.filter(|container| container.state != ContainerState::Dead).min_by_key(|container| {
        let rank = match container.state {
            _ if is_proven(container, memory) => 0,
            ContainerState::Running => 1,
            ContainerState::Paused => 2,
            ContainerState::InTransit => 3,
            ContainerState::Exited(_) => 4,
            ContainerState::Created | ContainerState::Dead => 5,
        };
        (rank, container.created_at, container.id.clone())
    })
}
