//! Builds the desired state for a plan, from the manifest and the record.

use std::collections::{BTreeMap, BTreeSet};

use crate::controller::docker::holder;
use crate::model::container::{ContainerOptions, Secret};
use crate::model::declared::Declared;
use crate::model::desired::{Desired, Entry, RollbackRequest};
use crate::model::memory::Memory;
use crate::model::name::NetworkName;
use crate::model::one_off::Hooks;
use crate::model::secret_file::WrittenFile;
use crate::model::spec::{EnvValue, EnvironmentSpec, HolderImage, Manifest, RunOptions, Supply};
use crate::plan::{AfterHold, DeclaredWorkload, Intent, SupplyKind, WorkloadIntent};
use crate::secret;

/// The desired state, for the valid entry.
pub(in crate::controller) fn of(
    declared: &Declared,
    desired: &Desired,
    entry: Entry,
    record: &str,
    manifest: &Manifest,
    proposed: Option<&RollbackRequest>,
) -> Intent {
    let spec = &declared.spec;
    // Without a port, there is no traffic to pass.
    let has_traffic = spec.port.is_some() && spec.swarm.is_none();
    let drain = manifest.front.as_ref().filter(|_| has_traffic).map(|front| front.drain);
    Intent {
        proposed: proposed.is_some_and(|back| back.from == entry.generation),
        environment: desired.environment.clone(),
        after_hold: after_hold(declared, desired, record, manifest).map(Box::new),
        entry,
        hold: desired.hold.clone(),
        sync: desired.sync,
        bad: desired.bad.clone(),
        supply: match spec.supply {
            Supply::Branch { .. } => SupplyKind::Build,
            Supply::Tag { .. } => SupplyKind::Tag,
            Supply::Promotion { .. } | Supply::Manual => SupplyKind::Named,
        },
        may_pull: spec.pull_policy.may_pull(),
        options: resolved(declared, desired, record),
        declared: Some(Box::new(declared.clone())),
        needs: spec.needs.clone(),
        jobs: spec.jobs.clone(),
        hooks: Hooks { release: spec.release.clone(), after: spec.after.clone() },
        health: spec.health.clone(),
        update: spec.update,
        restart: spec.restart,
        holder: spec.run.settings.network_mode().is_none()
            && match manifest.holder {
                HolderImage::Own => holder::PROGRAM.is_available(),
                HolderImage::Named(_) => true,
                HolderImage::Off => false,
            },
        spare: manifest.front.as_ref().is_some_and(|front| front.spare)
            && has_traffic
            && spec.replica.is_none(),
        canary: spec.canary.clone(),
        canary_order: desired.canary_order.clone(),
        drain,
        workload: None,
        keeps_what_runs: false,
    }
}

/// The declaration from the manifest, or while a hold keeps a container, the one that it was made from.
pub(in crate::controller) fn declared(
    manifest: &Manifest,
    desired: &Desired,
    entry: &Entry,
    memory: &Memory,
) -> Option<Declared> {
    let now = Declared::now(manifest, &desired.environment)?;
    let good = memory.good.as_ref().filter(|_| desired.hold.is_some());
    let kept = good.filter(|good| entry.image.as_ref().is_some_and(|image| image.is_same(&good.image)));
    let kept = kept.and_then(|good| good.declared.as_ref());
    Some(kept.map_or_else(|| now.clone(), |kept| kept.kept_beside(&now)))
}

fn after_hold(
    declared: &Declared,
    desired: &Desired,
    record: &str,
    manifest: &Manifest,
) -> Option<AfterHold> {
    desired.hold.as_ref()?;
    let now = Declared::now(manifest, &desired.environment)?;
    Some(AfterHold {
        entry: desired.entry.clone(),
        options: resolved(&now, desired, record),
        is_judged_otherwise: now.spec.health != declared.spec.health,
    })
}

/// How an orchestrator runs the environment, with the declaration of its good version; `None`: none runs it.
pub(in crate::controller) fn workload(
    declared: &Declared,
    desired: &Desired,
    memory: &Memory,
    record: &str,
) -> Option<WorkloadIntent> {
    let placement = declared.spec.swarm.clone()?;
    let good = memory.good.as_ref().and_then(|good| good.declared.as_deref());
    let before = good.filter(|before| *before != declared).and_then(|before| {
        let Declared { spec, .. } = before;
        Some(Box::new(DeclaredWorkload {
            // The previous secret may be gone. Its version cannot come back then.
            options: resolved(before, desired, record).ok()?,
            health: spec.health.clone(),
            placement: spec.swarm.clone()?,
            network: network_of_group(before),
            update: spec.update,
        }))
    });
    Some(WorkloadIntent { placement, network: network_of_group(declared), before })
}

/// The network that a service shares with the other members of its group. Without a group, it joins none.
fn network_of_group(declared: &Declared) -> Option<NetworkName> {
    declared.spec.group.as_ref().map(|_| declared.network.clone())
}

fn resolved(declared: &Declared, desired: &Desired, record: &str) -> Result<ContainerOptions, String> {
    let (variables, files) = (variables(&declared.spec)?, files(&declared.spec)?);
    Ok(ContainerOptions { files, ..options(declared, desired, variables, record) })
}

/// The variables of a container: those of files first, and what `env` declares over them.
fn variables(spec: &EnvironmentSpec) -> Result<ResolvedVariables, String> {
    let mut values = BTreeMap::new();
    for file in &spec.run.env_files {
        secret::read_env_file(file, &mut values).map_err(|error| error.to_string())?;
    }
    // A file of variables mostly holds passwords.
    let mut secrets: BTreeSet<String> = values.keys().cloned().collect();
    for (name, value) in &spec.env {
        let read = secret::value(value).map_err(|error| format!("environment variable {name}: {error}"))?;
        values.insert(name.clone(), read);
        match value {
            EnvValue::Secret(_) => secrets.insert(name.clone()),
            // Values in the manifest are not secret.
            EnvValue::Plain(_) => secrets.remove(name),
        };
    }
    Ok(ResolvedVariables { values, secrets })
}

fn files(spec: &EnvironmentSpec) -> Result<Vec<WrittenFile>, String> {
    let read = spec.run.secrets.iter().map(|(name, file)| match secret::read(&file.secret) {
        Ok(content) => Ok(WrittenFile { file: file.clone(), content }),
        Err(error) => Err(format!("secret {name}: {error}")),
    });
    read.collect()
}

/// The values of environment variables, and the names of those that are stored elsewhere.
struct ResolvedVariables {
    values: BTreeMap<String, Secret>,
    secrets: BTreeSet<String>,
}

fn options(
    declared: &Declared,
    desired: &Desired,
    variables: ResolvedVariables,
    record: &str,
) -> ContainerOptions {
    let spec = &declared.spec;
    ContainerOptions {
        environment: desired.environment.clone(),
        record: record.to_owned(),
        name: spec.container.clone(),
        command: spec.command.clone(),
        env: variables.values,
        secrets: variables.secrets,
        port: spec.port,
        // With a proxy, the proxy has the port.
        publish: spec.publish.filter(|_| !declared.fronted),
        volumes: spec.volumes.clone(),
        extra_hosts: spec.extra_hosts.clone(),
        memory: spec.memory,
        nano_cpus: spec.nano_cpus,
        pids: spec.pids,
        init: spec.init,
        stop_timeout_seconds: u32::try_from(spec.stop_timeout.as_secs()).unwrap_or(u32::MAX),
        network: declared.network.clone(),
        // The variables of the files are in `env` already.
        run: RunOptions { env_files: Vec::new(), ..spec.run.clone() },
        files: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::desired::{Hold, Image};
    use crate::model::manifest::{SourceFile, parse};
    use crate::model::memory::Good;
    use crate::model::name::{Digest, EnvironmentName, Generation};
    use crate::model::time::Timestamp;

    fn manifest(mode: &str) -> Manifest {
        let text = format!(
            "[environment.dev]\ncontainer = \"dev-{mode}\"\nport = 1\nmemory = \"{mode}MiB\"\nenv = {{ MODE = \"{mode}\" }}\n"
        );
        parse(&[SourceFile { name: "m.toml".to_owned(), text }]).unwrap()
    }

    fn mode(manifest: &Manifest, desired: &Desired, memory: &Memory) -> String {
        let declared = declared(manifest, desired, &desired.entry, memory).unwrap();
        let intent = of(&declared, desired, desired.entry.clone(), "record", manifest, None);
        let options = intent.options.unwrap();
        assert_eq!(
            options.name, manifest.environments[&desired.environment].container,
            "no hold keeps a name"
        );
        options.env["MODE"].expose().to_owned()
    }

    #[test]
    fn a_hold_keeps_the_held_containers_declaration() {
        let dev = EnvironmentName::new("dev").unwrap();
        let mut desired = Desired::empty(dev.clone());
        let image = Image { reference: None, digest: None, id: Some(Digest::of_sha256(&[1; 32])) };
        desired.entry.image = Some(image.clone());
        let (first, edited) = (manifest("64"), manifest("128"));
        let good = Good {
            generation: Generation(1),
            image,
            revision: None,
            container: "c0ffee".to_owned(),
            at: Timestamp::default(),
            first_ready: Timestamp::default(),
            declared: Declared::now(&first, &dev).map(Box::new),
        };
        // As a later process reads it from the store.
        let stored = serde_json::to_vec(&Memory { good: Some(good), ..Memory::default() }).unwrap();
        let memory: Memory = serde_json::from_slice(&stored).unwrap();
        assert_eq!(mode(&edited, &desired, &memory), "128");
        let (reason, by) = ("a look".to_owned(), "alice".to_owned());
        desired.hold =
            Some(Hold { reason, by, since: Timestamp::default(), generation: Some(Generation(1)) });
        assert_eq!(mode(&edited, &desired, &memory), "64");
        let other = Image { reference: None, digest: None, id: Some(Digest::of_sha256(&[2; 32])) };
        desired.entry.image = Some(other);
        assert_eq!(mode(&edited, &desired, &memory), "128", "a rollback is made of what is declared now");
    }
}
