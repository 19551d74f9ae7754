//! The declaration of a container at its creation, which a hold keeps.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, Serializer};

use super::name::{EnvironmentName, NetworkName};
use super::spec::{EnvironmentSpec, Manifest};

/// The declaration of an environment, and the parts of the manifest that affect its containers. It names
/// secrets but never contains them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Declared {
    /// The environment's own part. Its jobs are not stored: they are always those that are declared now, and a zone
    /// that this host no longer knows must not make the rest unreadable.
    #[serde(serialize_with = "without_jobs")]
    pub spec: EnvironmentSpec,
    /// Its network.
    pub network: NetworkName,
    /// Whether the proxy publishes the port instead of the container.
    pub fronted: bool,
}

fn without_jobs<S: Serializer>(spec: &EnvironmentSpec, serializer: S) -> Result<S::Ok, S::Error> {
    EnvironmentSpec { jobs: BTreeMap::new(), ..spec.clone() }.serialize(serializer)
}

impl Declared {
    /// The current declaration; `None` if the manifest does not declare the environment.
    pub fn now(manifest: &Manifest, environment: &EnvironmentName) -> Option<Self> {
        let spec = manifest.environments.get(environment)?.clone();
        let network = spec.network(&manifest.network);
        let fronted = manifest.front.is_some() && spec.can_be_proxied();
        Some(Self { spec, network, fronted })
    }

    /// Keeps the declared containers and takes everything else from `now`: the source of images, the host, the
    /// group, and the container's name. A name belongs to the environment that declares it now. If a hold kept a
    /// name, two environments could claim it, and each would rename the other's container forever.
    #[must_use]
    pub fn kept_beside(&self, now: &Self) -> Self {
        let now = now.spec.clone();
        let spec = EnvironmentSpec {
            container: now.container,
            group: now.group,
            needs: now.needs,
            supply: now.supply,
            pull_policy: now.pull_policy,
            checks: now.checks,
            build: now.build,
            push: now.push,
            host: now.host,
            hostnames: now.hostnames,
            https: now.https,
            site: now.site,
            jobs: now.jobs,
            mark: now.mark,
            ..self.spec.clone()
        };
        Self { spec, ..self.clone() }
    }
}

/// Returns the keys of the manifest that make the containers of two environments differ, whatever image they run.
/// Variables of `env` are not among them.
pub fn differing_keys(one: &EnvironmentSpec, other: &EnvironmentSpec) -> Vec<&'static str> {
    // A new field has to be compared here, or to be named as one that concerns other things than the containers.
    let EnvironmentSpec {
        container: _,
        port,
        group: _,
        replica: _,
        needs: _,
        publish: _,
        hostnames: _,
        https: _,
        site: _,
        supply: _,
        pull_policy: _,
        command,
        env: _,
        volumes,
        extra_hosts,
        memory,
        nano_cpus,
        pids,
        init,
        stop_timeout,
        update,
        restart,
        health,
        run,
        canary: _,
        gates: _,
        verify: _,
        release: _,
        after: _,
        jobs: _,
        checks: _,
        build: _,
        push: _,
        swarm,
        host,
        mark: _,
    } = one;
    let differs = [
        ("port", *port != other.port),
        ("command", *command != other.command),
        ("volumes", *volumes != other.volumes),
        ("extra_hosts", *extra_hosts != other.extra_hosts),
        ("memory", *memory != other.memory),
        ("cpus", *nano_cpus != other.nano_cpus),
        ("pids", *pids != other.pids),
        ("init", *init != other.init),
        ("stop_timeout", *stop_timeout != other.stop_timeout),
        ("update", *update != other.update),
        ("restart", *restart != other.restart),
        ("health", *health != other.health),
        ("run", *run != other.run),
        ("swarm", *swarm != other.swarm),
        ("host", *host != other.host),
    ];
    differs.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
}
