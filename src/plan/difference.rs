//! The differences between a container's desired and observed options, field by field.
//!
//! Only the options that abide sets are compared. Values of environment variables are never shown.

use std::collections::BTreeSet;
use std::fmt::Debug;

use crate::model::container::{ContainerSpec, label};
use crate::model::holder::HolderSpec;
use crate::model::mount::{AbsolutePath, Mount};
use crate::model::observed::{ObservedContainer, ObservedMounts, SandboxState};

/// The differences that require a new container. Empty: this is the container.
pub(super) fn structural(spec: &ContainerSpec, seen: &ObservedContainer) -> Vec<String> {
    let options = &spec.options;
    let mut differences = Vec::new();
    let mut differs = |what: &str, is: String, should: String| {
        differences.push(format!("{what} is {is}, should be {should}"));
    };
    if seen.image.as_ref() != Some(&spec.image) {
        let is = seen.image.as_ref().map_or("unknown".to_owned(), |image| image.short().to_owned());
        differs("the image", is, spec.image.short().to_owned());
    }
    if let Some(command) = options.command.as_ref().filter(|command| **command != seen.command) {
        differs("the command", words(&seen.command), words(command));
    }
    let is = seen_mounts(spec, &seen.mounts);
    let should = sorted(&spec.mounts().map(Mount::as_mounted).collect::<Vec<_>>());
    if is != should {
        differs("the list of volumes", mounts(&is), mounts(&should));
    }
    if !seen.mounts.others.is_empty() {
        differs("the list of other mounts", words(&seen.mounts.others), words::<String>(&[]));
    }
    if seen.init != options.init {
        differs("init", seen.init.to_string(), options.init.to_string());
    }
    differences.extend(network(&HolderSpec::of(options), seen));
    differences.extend(options.run.settings.differences(&seen.settings));
    differences.extend(variables(spec, seen));
    differences.extend(limits_taken_back(spec, seen));
    if seen.joined.as_ref().is_some_and(|joined| joined.state == SandboxState::Gone) {
        differences.push("its sandbox is missing".to_owned());
    }
    if differences.is_empty() && seen.labels.get(label::SPEC) != Some(&spec.fingerprint()) {
        differences.push("an option is set that is no longer declared".to_owned());
    }
    differences
}

/// Whether a sandbox has the options of `spec`, but for its network, which can be connected again.
pub(super) fn is_sandbox(spec: &HolderSpec, seen: &ObservedContainer) -> bool {
    let settings = spec.run.settings.differences(&seen.settings.of_sandbox());
    network(spec, seen).is_empty() && settings.is_empty()
}

/// The differences in the options that a sandbox has in place of its container, but for its settings.
fn network(spec: &HolderSpec, seen: &ObservedContainer) -> Vec<String> {
    let mut differences = Vec::new();
    let mut differs = |what: &str, is: String, should: String| {
        differences.push(format!("{what} is {is}, should be {should}"));
    };
    let should: BTreeSet<String> = spec.ports().map(|port| port.canonical().to_string()).collect();
    if seen.published != should {
        differs("the list of published ports", list(&seen.published), list(&should));
    }
    let (is, should) = (sorted(&seen.extra_hosts), sorted(&spec.extra_hosts));
    if is != should {
        differs("the list of extra hosts", words(&is), words(&should));
    }
    for (network, attachment) in spec.attachments() {
        match seen.attachments.get(&network) {
            Some(seen) if attachment.is_met(seen) => {}
            Some(_) => differences.push(format!("its names or addresses in the network {network} differ")),
            // It can be connected to the managed network again as it is.
            None if network == spec.network => {}
            None => differences.push(format!("it is not connected to the network {network}")),
        }
    }
    differences
}

fn variables(spec: &ContainerSpec, seen: &ObservedContainer) -> Vec<String> {
    let declared = spec.options.env.iter();
    let differing = declared.filter(|(name, value)| seen.env.get(*name) != Some(value));
    differing.map(|(name, _)| format!("the environment variable {name} has a different value")).collect()
}

/// The differing limits, and the restart policy: the engine can set these in place.
pub(super) fn limits(spec: &ContainerSpec, seen: &ObservedContainer) -> Vec<String> {
    resources(spec, seen).into_iter().chain(restarts(seen)).collect()
}

/// The differing limits alone.
pub(super) fn resources(spec: &ContainerSpec, seen: &ObservedContainer) -> Vec<String> {
    let options = &spec.options;
    let mut differences = Vec::new();
    let mut compare = |what: &str, is: Option<u64>, should: Option<u64>| {
        if is != should {
            differences.push(format!("the limit of {what} is {}, should be {}", shown(is), shown(should)));
        }
    };
    compare("memory", seen.memory, options.memory);
    compare("CPU", seen.nano_cpus, options.nano_cpus);
    compare("processes", seen.pids.map(u64::from), options.pids.map(u64::from));
    differences
}

/// Returns the difference in the restart policy, if the engine would restart the container too.
pub(super) fn restarts(seen: &ObservedContainer) -> Option<String> {
    let is_ours = matches!(seen.restart_policy.as_str(), "" | "no");
    (!is_ours).then(|| format!("the engine's restart policy is `{}`, should be `no`", seen.restart_policy))
}

/// Limits that are no longer declared. The engine can change a limit in place, but not remove it.
fn limits_taken_back(spec: &ContainerSpec, seen: &ObservedContainer) -> Vec<String> {
    let options = &spec.options;
    let taken_back = [
        ("memory", options.memory.is_none() && seen.memory.is_some()),
        ("CPU", options.nano_cpus.is_none() && seen.nano_cpus.is_some()),
        ("processes", options.pids.is_none() && seen.pids.is_some()),
    ];
    let gone = taken_back.into_iter().filter(|(_, gone)| *gone);
    gone.map(|(what, _)| format!("the limit of {what} should be none")).collect()
}

fn shown(limit: Option<u64>) -> String {
    limit.map_or("none".to_owned(), |limit| limit.to_string())
}

fn list<'t>(items: impl IntoIterator<Item = &'t String>) -> String {
    words(&items.into_iter().collect::<Vec<_>>())
}

fn sorted<T: Clone + Ord>(items: &[T]) -> Vec<T> {
    items.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect()
}

fn words<T: AsRef<str> + Debug>(items: &[T]) -> String {
    match items {
        [] => "none".to_owned(),
        items => format!("`{}`", items.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(" ")),
    }
}

fn mounts(items: &[Mount]) -> String {
    words(&items.iter().map(ToString::to_string).collect::<Vec<_>>())
}

/// The mounts as `spec` compares them. If the engine mounted a new volume at one of the image's
/// `VOLUME` lines, as it did for earlier versions of abide, that counts like a requested mount.
fn seen_mounts(spec: &ContainerSpec, seen: &ObservedMounts) -> Vec<Mount> {
    let is_asked = |path: &AbsolutePath| seen.asked.iter().any(|mount| mount.target() == path);
    let unasked = spec.undeclared.iter().map(Mount::target).filter(|path| !is_asked(path));
    let of_engine =
        unasked.filter_map(|path| Some(Mount::of_volume(seen.volumes.get(path)?.clone(), path.clone())));
    sorted(&seen.asked.iter().cloned().chain(of_engine).collect::<Vec<_>>())
}
