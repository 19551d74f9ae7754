//! The guard's inputs: the containers that are meant to run, and the front's routes. Each is one short text,
//! which `program.rs` reads. Pure.

use std::fmt::Write as _;

use crate::controller::front::{Configuration, FOLDER, PRESENT};
use crate::model::name::{EnvironmentName, NetworkName};
use crate::model::observed::{ObservedContainer, SandboxState};

/// A container that is meant to run, and the sandbox whose network namespace it joins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GuardGroup {
    /// The container's id.
    pub(crate) container: String,
    /// The sandbox's id.
    pub(crate) sandbox: Option<String>,
    /// Whether it may run beside another container of its environment.
    pub(crate) is_beside: bool,
    /// Whether it stays ended once it ended with exit code 0.
    pub(crate) may_end: bool,
}

impl GuardGroup {
    /// Returns the group of a container; `None` if its sandbox was removed, because the container can then
    /// never be started again.
    pub(crate) fn of(container: &ObservedContainer, is_beside: bool, may_end: bool) -> Option<Self> {
        let joined = container.joined.as_ref();
        let is_startable = joined.is_none_or(|joined| joined.state != SandboxState::Gone);
        is_startable.then(|| Self {
            container: container.id.clone(),
            sandbox: joined.map(|joined| joined.holder.clone()),
            is_beside,
            may_end,
        })
    }

    pub(super) fn text(&self) -> String {
        let mut text = format!("container {}\n", self.container);
        if let Some(sandbox) = &self.sandbox {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "sandbox {sandbox}");
        }
        if self.is_beside {
            text.push_str("beside\n");
        }
        if self.may_end {
            text.push_str("may-end\n");
        }
        text
    }
}

/// Formats the front's container and configuration, with everything that is needed to replace the addresses
/// in it.
///
/// `network_of` returns the network in which the front reaches an environment.
pub(super) fn front_text(
    id: &str,
    network_of: impl Fn(&EnvironmentName) -> NetworkName,
    configuration: &Configuration,
) -> String {
    let mut text = format!("container {id}\npath {FOLDER}/{PRESENT}\n");
    for (environment, site) in &configuration.sites {
        // The replicas of a service are no containers of this host, and the swarm repairs them.
        if let Some(route) = site.route.as_ref().filter(|_| !site.is_service) {
            let (container, address) = (&route.container, &route.address);
            let network = network_of(environment);
            let _ = writeln!(text, "route {environment} {container} {address} {network}");
            if let Some(canary) = &route.canary {
                // No environment has this name, so the guard finds no other container for it.
                let (container, address) = (&canary.container, &canary.address);
                let _ = writeln!(text, "route {environment}/canary {container} {address} {network}");
            }
        }
    }
    text.push('\n');
    text.push_str(&configuration.text);
    text
}
