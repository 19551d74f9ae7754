//! The `VOLUME` lines of images. A path without a declared mount gets its own volume, which outlives every
//! container, as a declared volume does.

use std::collections::BTreeSet;

use super::target::{self, Choice};
use super::{Intent, Plan};
use crate::model::container::{ContainerOptions, ContainerSpec};
use crate::model::memory::Memory;
use crate::model::mount::{AbsolutePath, Mount, VolumeName};
use crate::model::name::Digest;
use crate::model::observed::{Observed, ObservedContainer};
use crate::model::redact::toml_text;
use crate::model::spec::Update;
use crate::model::status::{UNDECLARED_VOLUME, VolumeView};

/// The mounts that a container of `image` needs besides the declared ones.
pub(super) fn undeclared(
    options: &ContainerOptions,
    image: &Digest,
    observed: &Observed,
    memory: &Memory,
) -> Vec<Mount> {
    let paths = of_image(image, observed);
    let is_open = |path: &AbsolutePath| declared_at(options, path).is_none() && !is_in_memory(options, path);
    let open = paths.into_iter().filter(is_open);
    open.filter_map(|path| Some(Mount::of_volume(memory.homes.get(&path)?.clone(), path))).collect()
}

/// Notes the volume of each `VOLUME` path: the one that the ready container has there, else the earlier one,
/// else the one of another container, else a new one.
pub(super) fn settle(memory: &mut Memory, intent: &Intent, observed: &Observed) {
    let Ok(options) = &intent.options else { return };
    for path in all_paths(observed).into_iter().filter(|path| !is_in_memory(options, path)) {
        let found = match declared_at(options, &path) {
            None => home(&path, options, observed, memory),
            // Data that was written there before the manifest declared another volume must not be lost.
            Some(_) if memory.homes.contains_key(&path) => None,
            Some(_) => made_by_engine(&path, observed, memory),
        };
        if let Some(volume) = found {
            memory.homes.insert(path, volume);
        }
    }
}

fn home(
    path: &AbsolutePath,
    options: &ContainerOptions,
    observed: &Observed,
    memory: &Memory,
) -> Option<VolumeName> {
    let has = |seen: &ObservedContainer| seen.mounts.volumes.get(path).cloned();
    let proven = observed.containers.iter().find(|seen| target::is_proven(seen, memory));
    let other = || target::best(observed.containers.iter().filter(|seen| has(seen).is_some()), memory);
    let known = proven.and_then(has).or_else(|| memory.homes.get(path).cloned());
    let own = || VolumeName::kept_for(&options.record, options.environment.as_str(), path);
    known.or_else(|| other().and_then(has)).or_else(own)
}

/// The volume that the engine itself created at a path, for a container that was created without one.
fn made_by_engine(path: &AbsolutePath, observed: &Observed, memory: &Memory) -> Option<VolumeName> {
    let is_asked = |seen: &ObservedContainer| seen.mounts.asked.iter().any(|mount| mount.target() == path);
    let made =
        observed.containers.iter().filter(|seen| !is_asked(seen) && seen.mounts.volumes.contains_key(path));
    target::best(made, memory).and_then(|seen| seen.mounts.volumes.get(path).cloned())
}

/// The names of the volumes that a plan queries: declared ones, and those of `VOLUME` lines.
pub fn volumes_needed(intent: &Intent, observed: &Observed, memory: &Memory) -> BTreeSet<String> {
    let mut memory = memory.clone();
    settle(&mut memory, intent, observed);
    let declared = intent.options.iter().flat_map(|options| &options.volumes).filter_map(Mount::volume);
    declared.chain(memory.homes.values()).map(ToString::to_string).collect()
}

/// The host paths that a plan queries.
pub fn sources_needed(intent: &Intent, observed: &Observed) -> BTreeSet<AbsolutePath> {
    let declared = intent.options.iter().flat_map(|options| &options.volumes).filter_map(Mount::host_path);
    let of_backups = intent.jobs.values().filter_map(|job| Some(&job.backup.as_ref()?.folder));
    let mounted = observed.containers.iter().flat_map(|seen| seen.mounts.host_paths());
    declared.chain(of_backups).chain(mounted).cloned().collect()
}

/// Whether a replacement runs beside the previous container. Unless the manifest declares it, this is so if
/// a proxy switches between the two and they neither write to the same volume nor publish the same port.
pub fn is_start_first(intent: &Intent, observed: &Observed) -> bool {
    match intent.update {
        Some(update) => update == Update::StartFirst,
        None => intent.drain.is_some() && !has_any(intent, observed) && !is_exclusive(intent),
    }
}

/// Whether a container publishes ports itself, beside the one that a proxy has, or has a fixed address.
fn is_exclusive(intent: &Intent) -> bool {
    intent.options.as_ref().is_ok_and(|options| options.run.is_exclusive())
}

/// Whether an environment has a volume, declared or not: two versions would write to it at once.
fn has_any(intent: &Intent, observed: &Observed) -> bool {
    let has_declared = intent.options.as_ref().is_ok_and(|options| !options.volumes.is_empty());
    has_declared || !all_paths(observed).is_empty()
}

/// The paths of an image's `VOLUME` lines. If the image is missing, they come from its container.
fn of_image(image: &Digest, observed: &Observed) -> BTreeSet<AbsolutePath> {
    observed.image_volumes.get(image).cloned().unwrap_or_else(|| {
        let made_of_it = observed.containers.iter().filter(|seen| seen.image.as_ref() == Some(image));
        made_of_it.flat_map(|seen| seen.mounts.of_image.iter().cloned()).collect()
    })
}

fn all_paths(observed: &Observed) -> BTreeSet<AbsolutePath> {
    let of_images = observed.image_volumes.values().flatten();
    of_images.chain(observed.containers.iter().flat_map(|seen| &seen.mounts.of_image)).cloned().collect()
}

/// Whether the container has a file system in memory at a path, above a volume of the image.
fn is_in_memory(options: &ContainerOptions, path: &AbsolutePath) -> bool {
    options.run.settings.memory_paths().any(|at| at == *path)
}

fn declared_at<'o>(options: &'o ContainerOptions, path: &AbsolutePath) -> Option<&'o Mount> {
    options.volumes.iter().find(|mount| mount.target() == path)
}

/// Adds the volumes to the plan, with warnings about undeclared ones.
pub(super) fn add(mut plan: Plan, intent: &Intent, observed: &Observed, choice: &Choice) -> Plan {
    let Ok(options) = &intent.options else { return plan };
    let mounts: Vec<Mount> = match choice {
        Choice::Wanted(spec) | Choice::Insist(spec) | Choice::Fallback(spec) => {
            plan.warnings.extend(warnings(spec));
            spec.mounts().cloned().collect()
        }
        Choice::Keep { id, .. } => {
            let kept = observed.containers.iter().find(|seen| seen.id == *id);
            kept.map(|kept| kept.mounts.all()).unwrap_or_default()
        }
        Choice::Nothing => options.volumes.clone(),
    };
    let left = left(&mounts, observed, &plan.memory);
    plan.warnings.extend(left.iter().map(|(path, volume)| left_words(path, volume, options)));
    plan.volumes = mounts.iter().map(|mount| view(mount, options)).collect();
    plan.volumes.extend(left.into_iter().map(|(path, volume)| VolumeView {
        source: volume.to_string(),
        target: path.as_str().to_owned(),
        read_only: false,
        declared: false,
        mounted: false,
    }));
    plan
}

fn view(mount: &Mount, options: &ContainerOptions) -> VolumeView {
    VolumeView {
        source: mount.source().as_str().to_owned(),
        target: mount.target().as_str().to_owned(),
        read_only: mount.is_read_only(),
        declared: declared_at(options, mount.target()).is_some(),
        mounted: true,
    }
}

/// The warnings about a container's undeclared volumes.
fn warnings(spec: &ContainerSpec) -> Vec<String> {
    let mut found: Vec<String> = spec.undeclared.iter().map(undeclared_words).collect();
    for file in &spec.options.files {
        let target = &file.file.target;
        let inside = spec.undeclared.iter().find(|volume| volume.target().holds(target));
        found.extend(inside.map(|volume| {
            format!(
                "the secret at {target} is written into the volume {}, inside VOLUME {} of the image, and remains \
                 there: set another `target`",
                volume.source().as_str(),
                volume.target()
            )
        }));
    }
    for (declared, volume) in spec
        .options
        .volumes
        .iter()
        .flat_map(|declared| spec.undeclared.iter().map(move |volume| (declared, volume)))
    {
        let (inner, outer) = (declared.target(), volume.target());
        let source = declared.source().as_str();
        if outer.holds(inner) {
            found.push(format!(
                "`{source}` is mounted at {inner}, inside VOLUME {outer} of the image: other files in \
                {outer} are stored in the volume {}",
                volume.source().as_str()
            ));
        }
        if inner.holds(outer) {
            found.push(format!(
                "VOLUME {outer} of the image is inside {inner}, where `{source}` is mounted: files in \
                {outer} are not stored in `{source}` but in the volume {}",
                volume.source().as_str()
            ));
        }
    }
    found
}

fn undeclared_words(mount: &Mount) -> String {
    let (volume, path) = (mount.source().as_str(), mount.target());
    format!(
        "{UNDECLARED_VOLUME}{path}, but the manifest declares no volume there; its data is kept \
        in the volume {volume}. To declare it: volumes = [{}]",
        declaration(volume, path)
    )
}

/// Volumes with data that was written at a path, and that the container does not mount there now.
fn left(mounts: &[Mount], observed: &Observed, memory: &Memory) -> Vec<(AbsolutePath, VolumeName)> {
    let is_mounted = |volume: &VolumeName| mounts.iter().any(|mount| mount.volume() == Some(volume));
    let is_there = |volume: &VolumeName| observed.volumes.contains(volume.as_str());
    let left = memory.homes.iter().filter(|(_, volume)| is_there(volume) && !is_mounted(volume));
    left.map(|(path, volume)| (path.clone(), volume.clone())).collect()
}

fn left_words(path: &AbsolutePath, volume: &VolumeName, options: &ContainerOptions) -> String {
    let now = match declared_at(options, path) {
        Some(mount) => format!("the manifest now mounts `{}` there", mount.source().as_str()),
        None => "the image no longer declares a VOLUME there".to_owned(),
    };
    format!(
        "the data of {path} is in the volume {volume}, which is kept but not mounted: {now}. To use it \
        again: volumes = [{}]; to delete it: docker volume rm {volume}",
        declaration(volume.as_str(), path)
    )
}

/// The item of `volumes` that mounts a volume at `path`. The short form has no room for a colon or a control
/// character.
fn declaration(volume: &str, path: &AbsolutePath) -> String {
    if path.as_str().contains(|c: char| c == ':' || c.is_control()) {
        format!("{{ source = \"{volume}\", target = {} }}", toml_text(path.as_str()))
    } else {
        toml_text(&format!("{volume}:{path}"))
    }
}
