//! Groups: environments that belong together.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::desired::Desired;
use super::name::{EnvironmentName, GroupName, NetworkName};
use super::spec::{EnvironmentSpec, Manifest};
use super::status::{Condition, Reason, Status};

/// What an environment needs of other members of its group before its new container starts.
pub type MemberNeeds = BTreeMap<EnvironmentName, NeedCondition>;

/// The state that a member must have reached with its current version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NeedCondition {
    /// Its container runs.
    Started,
    /// It is ready.
    Healthy,
    /// Its program ended with exit code 0, as it is meant to.
    Completed,
}

impl NeedCondition {
    /// Every condition.
    pub const ALL: [Self; 3] = [Self::Started, Self::Healthy, Self::Completed];

    /// The word of the manifest.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Healthy => "healthy",
            Self::Completed => "completed",
        }
    }
}

/// The state of a member with its current version, as its last reconcile found it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberState {
    /// Whether its container runs.
    pub is_started: bool,
    /// Whether it is ready.
    pub is_healthy: bool,
    /// Whether its program ended with exit code 0.
    pub is_completed: bool,
}

impl MemberState {
    /// The state that `status` shows, if it describes the recorded version and `mark`, the declaration.
    pub fn of(desired: &Desired, status: Option<&Status>, mark: Option<&String>) -> Self {
        let is_current = |status: &&Status| {
            status.observed_generation == desired.entry.generation
                && status.observed_declaration.as_ref() == mark
        };
        let Some(status) = status.filter(is_current) else { return Self::default() };
        let is_well = matches!(status.condition, Condition::Ready | Condition::Held | Condition::RolledBack);
        // A hold and a rollback have separate reasons. No container that was seen ready runs then.
        let is_completed = match status.condition {
            Condition::Ready => status.reason == Reason::Completed,
            _ => is_well && status.running.is_none(),
        };
        Self {
            is_started: is_well || matches!(status.reason, Reason::AwaitingHealth | Reason::Canary),
            is_healthy: is_well,
            is_completed,
        }
    }

    /// Whether it has reached the needed state.
    pub fn meets(&self, condition: NeedCondition) -> bool {
        match condition {
            NeedCondition::Started => self.is_started,
            NeedCondition::Healthy => self.is_healthy,
            NeedCondition::Completed => self.is_completed,
        }
    }
}

impl GroupName {
    /// The short name of a member, which is also its name on the group's network: the environment's name without
    /// the group's at its start.
    pub fn short<'e>(&self, member: &'e EnvironmentName) -> &'e str {
        let rest = member.as_str().strip_prefix(self.as_str());
        let short = rest.and_then(|rest| rest.strip_prefix(['-', '_']));
        let is_name = |short: &&str| short.starts_with(|first: char| first.is_ascii_alphanumeric());
        short.filter(is_name).unwrap_or(member.as_str())
    }
}

impl Manifest {
    /// The network of the containers of an environment.
    pub fn network_of(&self, environment: &EnvironmentName) -> NetworkName {
        let spec = self.environments.get(environment);
        spec.map_or_else(|| self.network.clone(), |spec| spec.network(&self.network))
    }

    /// The names of the managed network and of the networks of groups.
    pub fn networks(&self) -> BTreeSet<NetworkName> {
        let own = self.environments.values().map(|spec| spec.network(&self.network));
        own.chain([self.network.clone()]).collect()
    }

    /// The members of a group.
    pub fn members<'a>(&'a self, group: &'a GroupName) -> impl Iterator<Item = &'a EnvironmentName> {
        let all = self.environments.iter();
        all.filter(move |(_, spec)| spec.group.as_ref() == Some(group)).map(|(name, _)| name)
    }

    /// The environments whose new containers wait for `needed`.
    pub fn waiting_for<'a>(
        &'a self,
        needed: &'a EnvironmentName,
    ) -> impl Iterator<Item = &'a EnvironmentName> {
        let all = self.environments.iter();
        all.filter(move |(_, spec)| spec.needs.contains_key(needed)).map(|(name, _)| name)
    }
}

impl EnvironmentSpec {
    /// The network of its containers: that of its group, or the managed network. Replicas stay on the managed one,
    /// like an environment without replicas.
    pub fn network(&self, managed: &NetworkName) -> NetworkName {
        let group = self.group.as_ref().filter(|_| self.replica.is_none());
        group.map_or_else(|| managed.clone(), |group| managed.of_group(group))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_called_by_what_its_name_adds_to_that_of_the_group() {
        let group = GroupName::new("shop-prod").unwrap();
        let short = |name: &str| group.short(&EnvironmentName::new(name).unwrap()).to_owned();
        let cases = [
            ("shop-prod-db", "db"),
            ("shop-prod_db", "db"),
            ("shop-prod-db-2", "db-2"),
            ("shop-production", "shop-production"),
            ("shop-prod-", "shop-prod-"),
            ("shop-prod--db", "shop-prod--db"),
            ("db-prod", "db-prod"),
        ];
        for (name, expected) in cases {
            assert_eq!(short(name), expected, "{name}");
        }
    }
}
