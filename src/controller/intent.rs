//! From the manifest and the record to what a plan is made for.

use std::collections::BTreeMap;

use crate::model::container::{ContainerOptions, Secret};
use crate::model::desired::{Desired, Entry, GoBack};
use crate::model::name::NetworkName;
use crate::model::spec::{EnvironmentSpec, Supply};
use crate::plan::{Intent, SupplyKind};
use crate::secret;

/// What should be, for the entry that counts.
pub(super) fn of(
    spec: &EnvironmentSpec,
    desired: &Desired,
    entry: Entry,
    record: &str,
    network: &NetworkName,
    proposed: Option<&GoBack>,
) -> Intent {
    Intent {
        proposed: proposed.is_some_and(|back| back.from == entry.generation),
        environment: desired.environment.clone(),
        entry,
        hold: desired.hold.clone(),
        sync: desired.sync,
        bad: desired.bad.clone(),
        supply: match spec.supply {
            Supply::Branch { .. } => SupplyKind::Build,
            Supply::Tag { .. } => SupplyKind::Tag,
            Supply::Promotion { .. } | Supply::Manual => SupplyKind::Named,
        },
        options: variables(spec).map(|env| options(spec, desired, env, record, network)),
        health: spec.health.clone(),
    }
}

fn variables(spec: &EnvironmentSpec) -> Result<BTreeMap<String, Secret>, String> {
    let read = spec.env.iter().map(|(name, value)| match secret::value(value) {
        Ok(value) => Ok((name.clone(), value)),
        Err(error) => Err(format!("environment variable {name}: {error}")),
    });
    read.collect()
}

fn options(
    spec: &EnvironmentSpec,
    desired: &Desired,
    env: BTreeMap<String, Secret>,
    record: &str,
    network: &NetworkName,
) -> ContainerOptions {
    ContainerOptions {
        environment: desired.environment.clone(),
        record: record.to_owned(),
        name: spec.container.clone(),
        command: spec.command.clone(),
        env,
        port: spec.port,
        publish: spec.publish,
        volumes: spec.volumes.clone(),
        extra_hosts: spec.extra_hosts.clone(),
        memory: spec.memory,
        nano_cpus: spec.nano_cpus,
        pids: spec.pids,
        init: spec.init,
        stop_timeout_seconds: u32::try_from(spec.stop_timeout.as_secs()).unwrap_or(u32::MAX),
        network: network.clone(),
    }
}
