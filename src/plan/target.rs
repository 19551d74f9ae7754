//! Choosing what to enforce: what the record wants, else what was good last, else what is there.

use super::{Intent, Verdict, difference, generation_words, hold, image_id, rollback, volumes};
use crate::model::container::{ContainerOptions, ContainerSpec};
use crate::model::desired::{Entry, Image};
use crate::model::memory::{Good, Memory};
use crate::model::mount::Mount;
use crate::model::name::Digest;
use crate::model::observed::{ContainerState, Observed, SeenContainer};

/// What to enforce now.
#[derive(Clone, Debug)]
pub(super) enum Choice {
    /// What the record wants.
    Wanted(ContainerSpec),
    /// What the record wants failed before, but nothing else is there to run.
    Insist(ContainerSpec),
    /// What became ready last, since what the record wants is not there yet, or failed.
    Fallback(ContainerSpec),
    /// A container as it is, since nothing better can be made.
    Keep {
        /// Its id.
        id: String,
        /// Why nothing better can be made.
        why: KeepReason,
    },
    /// Nothing can run.
    Nothing,
}

/// Why a container is kept as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum KeepReason {
    /// What should replace it failed.
    Refused,
    /// What should replace it is not there.
    NoImage,
    /// A secret of its options cannot be read; the sentence says which.
    NoOptions(String),
    /// What should replace it cannot be made until someone does something.
    Blocked(Verdict),
    /// What should replace it may be what ran long ago, as the record may be an old copy.
    OldCopy,
}

impl Choice {
    /// What serves, for sentences.
    pub(super) fn words(&self) -> String {
        match self {
            Self::Wanted(spec) | Self::Insist(spec) | Self::Fallback(spec) => {
                generation_words(spec.generation, spec.revision.as_ref())
            }
            Self::Keep { .. } => "the container before it".to_owned(),
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
    if let Some(wanted) = wanted.clone().filter(|wanted| !is_refused(wanted, memory)) {
        return Choice::Wanted(wanted);
    }
    match wanted {
        Some(wanted) => instead_of(wanted, intent, observed, memory),
        None => good(intent, observed, memory)
            .map_or_else(|| keep(observed, memory, KeepReason::NoImage), Choice::Fallback),
    }
}

/// What ran last, where the record may be an old copy and wants something else.
fn kept_in_doubt(intent: &Intent, observed: &Observed, memory: &Memory) -> Option<Choice> {
    let wanted = wanted(intent, observed, memory);
    let is_wanted =
        |seen: &SeenContainer| wanted.as_ref().is_some_and(|wanted| is_it(seen, wanted, intent, memory));
    let ran = observed.containers.iter().filter(|_| intent.keeps_what_runs).filter(|seen| {
        seen.started_at.is_some() && seen.has_namespace() && seen.state != ContainerState::Dead
    });
    let last = ran.max_by_key(|seen| {
        let is_up = !matches!(seen.state, ContainerState::Exited(_) | ContainerState::Created);
        (is_up, seen.started_at, &seen.id)
    })?;
    (!is_wanted(last)).then(|| kept(last, KeepReason::OldCopy))
}

/// What the record wants, where its image is known and its options can be had.
pub(super) fn wanted(intent: &Intent, observed: &Observed, memory: &Memory) -> Option<ContainerSpec> {
    let (image, options) = (image_id(&intent.entry)?, intent.options.as_ref().ok()?);
    Some(made_of(image, options, &intent.entry, volumes::undeclared(options, image, observed, memory)))
}

/// What to enforce in place of what failed: the container that was ready, as it is where its options
/// are no longer the declared ones; else one of the image that was good; else any that was there.
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

/// What became ready last, where it can be made again.
pub(super) fn good(intent: &Intent, observed: &Observed, memory: &Memory) -> Option<ContainerSpec> {
    let good = memory.good.as_ref()?;
    let entry = Entry { generation: good.generation, revision: good.revision.clone(), ..Entry::default() };
    let (image, options) = (good.image.id.as_ref()?, intent.options.as_ref().ok()?);
    let spec = made_of(image, options, &entry, volumes::undeclared(options, image, observed, memory));
    (can_run(intent, observed, memory, &spec) && !is_refused(&spec, memory)).then_some(spec)
}

fn made_of(
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

fn is_refused(spec: &ContainerSpec, memory: &Memory) -> bool {
    memory.refused.as_ref().is_some_and(|refused| refused.fingerprint == spec.fingerprint())
}

/// Whether this is our container with exactly these options. One that the engine calls dead is
/// none any more.
pub(super) fn is_made_as(container: &SeenContainer, spec: &ContainerSpec) -> bool {
    container.state != ContainerState::Dead && difference::structural(spec, container).is_empty()
}

/// Whether this is the container that `spec` asks for: made of exactly these options, or kept as it is by
/// a hold.
pub(super) fn is_it(
    container: &SeenContainer,
    spec: &ContainerSpec,
    intent: &Intent,
    memory: &Memory,
) -> bool {
    is_made_as(container, spec) || hold::is_kept(container, spec, intent, memory)
}

/// Whether it is the container that became ready last.
pub(super) fn is_proven(container: &SeenContainer, memory: &Memory) -> bool {
    memory.good.as_ref().is_some_and(|good| good.container == container.id)
}

/// The notes on a container that became ready, whether or not it serves yet.
pub(super) fn readiness<'m>(container: &SeenContainer, memory: &'m Memory) -> Option<&'m Good> {
    [&memory.good, &memory.next].into_iter().flatten().find(|good| good.container == container.id)
}

/// The best that could serve in place of another one: what was never started could not, nor what
/// lost its network for good, and what was rolled back from should not.
pub(super) fn to_go_back_to<'a>(
    containers: impl Iterator<Item = &'a SeenContainer>,
    intent: &Intent,
    memory: &Memory,
) -> Option<&'a SeenContainer> {
    let could = containers
        .filter(|container| container.state != ContainerState::Created && container.has_namespace());
    best(
        could.filter(|container| is_proven(container, memory) || !is_of_bad_image(container, intent)),
        memory,
    )
}

fn is_of_bad_image(container: &SeenContainer, intent: &Intent) -> bool {
    let image = Image { reference: None, digest: None, id: container.image.clone() };
    rollback::is_bad(intent, &image)
}

fn keep(observed: &Observed, memory: &Memory, why: KeepReason) -> Choice {
    best(observed.containers.iter(), memory).map_or(Choice::Nothing, |container| kept(container, why))
}

fn kept(container: &SeenContainer, why: KeepReason) -> Choice {
    Choice::Keep { id: container.id.clone(), why }
}

/// The container to hold on to: the one that was ready before, whatever its state; then running
/// before stopped before never started, and the older of two alike. The id makes the choice
/// independent of the order in which the engine lists them.
pub(super) fn best<'a>(
    containers: impl Iterator<Item = &'a SeenContainer>,
    memory: &Memory,
) -> Option<&'a SeenContainer> {
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
