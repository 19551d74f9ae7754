//! `replicas`: one declaration as several environments, its slots.

use std::collections::BTreeSet;

use super::cross::{Declarations, NamedPartial};
use super::places::Places;
use super::problem::Problem;
use super::table::Table;
use crate::model::group::NeedCondition;
use crate::model::mount::Mount;
use crate::model::name::{ContainerName, EnvironmentName, GroupName, NetworkAlias};
use crate::model::replicas::{MOST_REPLICAS, ReplicaSlot, slot_container, slot_name};
use crate::model::spec::{EnvironmentSpec, Supply};

pub(super) fn read(table: &Table<'_>) -> Option<u16> {
    let field = table.get("replicas")?;
    field.integer(1, u64::from(MOST_REPLICAS)).and_then(|count| u16::try_from(count).ok())
}

/// The environments that a declaration stands for: itself, or its slots.
///
/// The slots share the name of the declaration as an alias. A new version starts in a slot once the slot before it
/// is ready, so the first one that fails keeps it from the others. Commands that run once run for the first slot.
pub(super) fn slots(
    name: EnvironmentName,
    spec: EnvironmentSpec,
    replicas: Option<u16>,
) -> Vec<(EnvironmentName, EnvironmentSpec)> {
    let Some(replicas) = replicas else { return vec![(name, spec)] };
    let Ok(of) = GroupName::new(name.as_str()) else { return vec![(name, spec)] };
    let slot = |number: u16| {
        let mut slot = spec.clone();
        slot.container = slot_container(&spec.container, number)?;
        slot.group = Some(of.clone());
        slot.replica = Some(ReplicaSlot { of: of.clone(), number });
        slot.run.aliases.extend(NetworkAlias::new(name.as_str()));
        if number > 1 {
            slot.needs = [(slot_name(name.as_str(), number - 1)?, NeedCondition::Healthy)].into();
            slot.supply = Supply::Manual;
            slot.jobs.clear();
            (slot.build, slot.push, slot.checks) = (None, None, None);
            (slot.gates, slot.verify) = (Default::default(), None);
            (slot.release, slot.after) = (None, None);
        }
        Some((slot_name(name.as_str(), number)?, slot))
    };
    (1..=replicas).filter_map(slot).collect()
}

/// The environment that a reference to `name` means: the first slot, if it has replicas.
pub(super) fn meant(declared: &Declarations, name: &EnvironmentName) -> EnvironmentName {
    let replicas = declared.environment(name).and_then(|draft| draft.replicas);
    replicas.and_then(|_| slot_name(name.as_str(), 1)).unwrap_or_else(|| name.clone())
}

/// All environments that a reference to `name` means.
pub(super) fn all_meant(declared: &Declarations, name: &EnvironmentName) -> Vec<EnvironmentName> {
    match declared.environment(name).and_then(|draft| draft.replicas) {
        Some(replicas) => (1..=replicas).filter_map(|number| slot_name(name.as_str(), number)).collect(),
        None => vec![name.clone()],
    }
}

/// Every problem of declarations with replicas.
pub(super) fn problems(declared: &Declarations, all: &[NamedPartial<'_>], places: &Places) -> Vec<Problem> {
    let mut found = Vec::new();
    let containers: BTreeSet<&ContainerName> =
        all.iter().filter_map(|(_, draft)| draft.container.as_ref()).collect();
    for (name, draft) in all {
        let Some(replicas) = draft.replicas else { continue };
        let mut problem = |key: &str, message: String| {
            found.push(places.problem(&format!("environment.{name}.{key}"), message));
        };
        let names: Option<Vec<_>> = (1..=replicas).map(|number| slot_name(name.as_str(), number)).collect();
        match names {
            None => problem(
                "replicas",
                format!("`{name}` is too long a name for replicas, which add a number to it"),
            ),
            Some(names) => {
                for taken in names.iter().filter(|name| declared.environment(name).is_some()) {
                    let message = format!(
                        "`replicas` declares `{taken}`, which is already an environment: choose another name for one \
                         of them"
                    );
                    problem("replicas", message);
                }
            }
        }
        if let Some(container) = &draft.container {
            let own = (1..=replicas).filter_map(|number| slot_container(container, number));
            for taken in own.filter(|own| containers.contains(own)) {
                let message = format!(
                    "`replicas` declares the container `{taken}`, which already belongs to another environment"
                );
                problem("replicas", message);
            }
        }
        for (key, message) in conflicts(declared, draft) {
            problem(key, message);
        }
    }
    found
}

/// What several containers of one declaration cannot have, by its key.
fn conflicts(
    declared: &Declarations,
    draft: &super::environment::PartialEnvironment,
) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    if draft.group.is_some() {
        let message = "does not go with `replicas`: the slots are a group of their own";
        found.push(("group", format!("`group` {message}")));
    }
    let has_front = declared.front.is_some() || declared.incomplete || draft.host.is_some();
    if draft.publish.is_some() && !has_front {
        let message = "`replicas` needs a proxy for the published port: add `[front]`, or `publish = false`";
        found.push(("replicas", message.to_owned()));
    }
    if draft.ports.iter().any(|port| port.publish().is_some()) {
        let message = "`ports` does not go with `replicas`: two containers cannot publish one host port";
        found.push(("ports", message.to_owned()));
    }
    if draft.host_port.is_some() {
        let message =
            "`network_mode` = \"host\" does not go with `replicas`: two programs cannot listen on one port";
        found.push(("network_mode", message.to_owned()));
    }
    let writes_alone = |mount: &&Mount| !mount.is_read_only() && !mount.is_shared();
    if let Some(mount) = draft.volumes.iter().find(writes_alone) {
        let message = format!(
            "all replicas would write `{}`: mount it with :ro, or declare `shared = true`",
            mount.source().as_str()
        );
        found.push(("volumes", message));
    }
    let networks = draft.spec.iter().flat_map(|spec| spec.run.networks.values());
    if networks.into_iter().any(|joined| joined.ipv4_address.is_some() || joined.ipv6_address.is_some()) {
        let message = "a fixed address does not go with `replicas`: each container needs its own";
        found.push(("networks", message.to_owned()));
    }
    found
}
