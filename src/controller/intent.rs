//! From the manifest and the record to what a plan is made for.

use std::collections::{BTreeMap, BTreeSet};

use super::docker::holder;
use crate::model::container::{ContainerOptions, Secret};
use crate::model::desired::{Desired, Entry, GoBack};
use crate::model::spec::{EnvValue, EnvironmentSpec, HolderImage, Manifest, Supply, Update};
use crate::plan::{Intent, SupplyKind};
use crate::secret;

/// What should be, for the entry that counts.
pub(super) fn of(
    spec: &EnvironmentSpec,
    desired: &Desired,
    entry: Entry,
    record: &str,
    manifest: &Manifest,
    proposed: Option<&GoBack>,
) -> Intent {
    // Where nothing listens, there is nothing to pass traffic to.
    let drain = manifest.front.as_ref().filter(|_| spec.port.is_some()).map(|front| front.drain);
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
        options: variables(spec).map(|env| options(spec, desired, env, record, manifest)),
        health: spec.health.clone(),
        update: update(spec, drain.is_some()),
        holder: match manifest.holder {
            HolderImage::Own => holder::PROGRAM.is_available(),
            HolderImage::Named(_) => true,
            HolderImage::Off => false,
        },
        drain,
    }
}

/// Start-first where a front switches between the two and they do not write one volume. What a
/// person declared counts before that.
fn update(spec: &EnvironmentSpec, has_front: bool) -> Update {
    let default = if has_front && spec.volumes.is_empty() { Update::StartFirst } else { Update::StopFirst };
    spec.update.unwrap_or(default)
}

fn variables(spec: &EnvironmentSpec) -> Result<BTreeMap<String, Secret>, String> {
    let read = spec.env.iter().map(|(name, value)| match secret::value(value) {
        Ok(value) => Ok((name.clone(), value)),
        Err(error) => Err(format!("environment variable {name}: {error}")),
    });
    read.collect()
}

/// The variables whose values are kept elsewhere. What is written in the manifest is no secret.
fn secret_names(spec: &EnvironmentSpec) -> BTreeSet<String> {
    let is_secret = |(_, value): &(&String, &EnvValue)| matches!(value, EnvValue::Secret(_));
    spec.env.iter().filter(is_secret).map(|(name, _)| name.clone()).collect()
}

fn options(
    spec: &EnvironmentSpec,
    desired: &Desired,
    env: BTreeMap<String, Secret>,
    record: &str,
    manifest: &Manifest,
) -> ContainerOptions {
    ContainerOptions {
        environment: desired.environment.clone(),
        record: record.to_owned(),
        name: spec.container.clone(),
        command: spec.command.clone(),
        env,
        secrets: secret_names(spec),
        port: spec.port,
        // With a front, that has the port.
        publish: spec.publish.filter(|_| manifest.front.is_none()),
        volumes: spec.volumes.clone(),
        extra_hosts: spec.extra_hosts.clone(),
        memory: spec.memory,
        nano_cpus: spec.nano_cpus,
        pids: spec.pids,
        init: spec.init,
        stop_timeout_seconds: u32::try_from(spec.stop_timeout.as_secs()).unwrap_or(u32::MAX),
        network: manifest.network.clone(),
    }
}
