//! How a container was declared when it was made: what a hold keeps.

use serde::{Deserialize, Serialize};

use super::name::{EnvironmentName, NetworkName};
use super::spec::{EnvironmentSpec, Manifest};

/// The declaration of an environment, with what the rest of the manifest adds to its containers.
/// Secrets are named in it, never held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Declared {
    /// The environment's own part.
    pub spec: EnvironmentSpec,
    /// The managed network.
    pub network: NetworkName,
    /// Whether a front publishes the port in its place.
    pub fronted: bool,
}

impl Declared {
    /// What the manifest declares now; `None`: it does not declare the environment.
    pub fn now(manifest: &Manifest, environment: &EnvironmentName) -> Option<Self> {
        let spec = manifest.environments.get(environment)?.clone();
        Some(Self { spec, network: manifest.network.clone(), fronted: manifest.front.is_some() })
    }

    /// The same containers, with what `now` declares of everything else: where images come from and who
    /// runs them.
    #[must_use]
    pub fn kept_beside(&self, now: &Self) -> Self {
        let EnvironmentSpec { supply, build, push, host, hostname, mark, .. } = now.spec.clone();
        let spec = EnvironmentSpec { supply, build, push, host, hostname, mark, ..self.spec.clone() };
        Self { spec, ..self.clone() }
    }
}
