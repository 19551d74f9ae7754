//! A hold: the container is kept with its image and options until a user resumes.

use super::{Intent, difference, image_id, supply, volumes};
use crate::model::container::{ContainerOptions, ContainerSpec};
use crate::model::desired::Entry;
use crate::model::memory::Memory;
use crate::model::observed::{ContainerState, Observed, ObservedContainer};
use crate::plan::target;

/// The state that would be enforced without the hold.
#[derive(Clone, Debug)]
pub struct AfterHold {
    /// The newest generation.
    pub entry: Entry,
    /// The options that the manifest declares now; an error if a secret cannot be read.
    pub options: Result<ContainerOptions, String>,
    /// Whether the declared health check differs.
    pub is_judged_otherwise: bool,
}

/// Returns the differences that `resume` would apply, as clauses; empty: none.
pub fn held_back(intent: &Intent, observed: &Observed, memory: &Memory) -> Vec<String> {
    let keys = replaced(intent);
    let replaced = match keys.is_empty() {
        true => outdated(intent, observed, memory)
            .map(|what| format!("`resume` would replace the container: {}", what.join(", "))),
        false => Some(format!("`resume` would update: {}", keys.join(", "))),
    };
    let recipe = observed.recipe.as_ref();
    let newest = intent.after_hold.as_ref().map(|after| &after.entry);
    let is_rebuilt = newest.is_some_and(|newest| supply::is_recipe_edited(intent.supply, newest, recipe));
    replaced.into_iter().chain(is_rebuilt.then(|| "`resume` would rebuild: build".to_owned())).collect()
}

/// The manifest keys and phrases under which the container would be replaced.
fn replaced(intent: &Intent) -> Vec<String> {
    let Some(after) = &intent.after_hold else { return Vec::new() };
    let mut found = Vec::new();
    let (kept, newest) = (&intent.entry, &after.entry);
    let is_same_image = kept.generation == newest.generation
        || image_id(kept).is_some() && image_id(kept) == image_id(newest);
    if !is_same_image {
        found.push(format!("image (generation {} is recorded)", newest.generation));
    }
    if let (Ok(kept), Ok(now)) = (&intent.options, &after.options) {
        found.extend(edited(kept, now).into_iter().map(str::to_owned));
    }
    if after.is_judged_otherwise {
        found.push("health".to_owned());
    }
    found
}

/// What differs in the container that the hold keeps, although the manifest is the same: a secret was changed.
fn outdated(intent: &Intent, observed: &Observed, memory: &Memory) -> Option<Vec<String>> {
    let options = intent.options.as_ref().ok()?;
    let kept = observed.containers.iter().find(|seen| target::is_proven(seen, memory))?;
    let image = kept.image.as_ref()?;
    let undeclared = volumes::undeclared(options, image, observed, memory);
    let spec = target::made_of(image, options, &intent.entry, undeclared);
    Some(difference::structural(&spec, kept)).filter(|differences| !differences.is_empty())
}

/// The manifest keys under which two options differ.
fn edited(kept: &ContainerOptions, now: &ContainerOptions) -> Vec<&'static str> {
    let ContainerOptions {
        environment: _,
        record: _,
        name: _,
        command,
        env,
        secrets: _,
        port,
        publish,
        volumes,
        extra_hosts,
        memory,
        nano_cpus,
        pids,
        init,
        stop_timeout_seconds,
        network,
        run,
        files: _,
    } = kept;
    let compared = [
        ("command", *command != now.command),
        ("env", *env != now.env),
        ("port", *port != now.port),
        ("publish", *publish != now.publish),
        ("volumes", *volumes != now.volumes),
        ("extra_hosts", *extra_hosts != now.extra_hosts),
        ("memory", *memory != now.memory),
        ("cpus", *nano_cpus != now.nano_cpus),
        ("pids", *pids != now.pids),
        ("init", *init != now.init),
        ("stop_timeout", *stop_timeout_seconds != now.stop_timeout_seconds),
        ("network", *network != now.network),
    ];
    let edited = compared.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key);
    edited.chain(run.edited(&now.run)).collect()
}

/// Whether a hold keeps this container as it is, even if its options should differ by now: one of its
/// secrets may have been changed since. A container that lost its network for good cannot be kept.
pub(super) fn is_kept(
    container: &ObservedContainer,
    spec: &ContainerSpec,
    intent: &Intent,
    memory: &Memory,
) -> bool {
    intent.hold.is_some()
        && target::is_proven(container, memory)
        && container.image.as_ref() == Some(&spec.image)
        && container.state != ContainerState::Dead
        && container.has_namespace()
}
