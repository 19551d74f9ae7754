//! Replicas: one declaration that several environments run, its slots.
//!
//! `[environment.web]` with `replicas = 3` declares the environments `web-1`, `web-2` and `web-3`, the members of the
//! group `web`. Each has its own container, readiness and history. The first slot gets new versions as an environment
//! without replicas would; the others follow its record.

use serde::{Deserialize, Serialize};

use super::name::{ContainerName, EnvironmentName, GroupName};
use super::spec::Manifest;

/// The most replicas of one environment.
pub const MOST_REPLICAS: u16 = 50;

/// The place of an environment among the replicas of a declaration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaSlot {
    /// The declared name, which is also the name of the group of all slots.
    pub of: GroupName,
    /// The number of the slot, from 1.
    pub number: u16,
}

impl ReplicaSlot {
    /// Whether new versions come to this slot first.
    pub fn is_first(&self) -> bool {
        self.number == 1
    }
}

/// The name of a slot of `declared`; `None`: it would be too long.
pub fn slot_name(declared: &str, number: u16) -> Option<EnvironmentName> {
    EnvironmentName::new(format!("{declared}-{number}")).ok()
}

/// The name of the container of a slot, if `container` is declared; `None`: it would be too long.
pub fn slot_container(container: &ContainerName, number: u16) -> Option<ContainerName> {
    ContainerName::new(format!("{container}-{number}")).ok()
}

impl Manifest {
    /// The place of an environment among the replicas of a declaration.
    pub fn slot(&self, environment: &EnvironmentName) -> Option<&ReplicaSlot> {
        self.environments.get(environment)?.replica.as_ref()
    }

    /// The first slot of the environment that is declared as `name` with replicas.
    pub fn first_slot(&self, name: &str) -> Option<&EnvironmentName> {
        let is_first = |slot: &ReplicaSlot| slot.is_first() && slot.of.as_str() == name;
        let mut all = self.environments.iter();
        all.find(|(_, spec)| spec.replica.as_ref().is_some_and(is_first)).map(|(name, _)| name)
    }

    /// The other slots of a first slot, which follow its record; none for any other environment.
    pub fn followers<'a>(&'a self, first: &EnvironmentName) -> impl Iterator<Item = &'a EnvironmentName> {
        let of = self.slot(first).filter(|slot| slot.is_first()).map(|slot| slot.of.clone());
        let follows = move |slot: &ReplicaSlot| !slot.is_first() && Some(&slot.of) == of.as_ref();
        let all = self.environments.iter();
        all.filter(move |(_, spec)| spec.replica.as_ref().is_some_and(&follows)).map(|(name, _)| name)
    }
}
