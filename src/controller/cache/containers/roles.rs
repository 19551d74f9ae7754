//! The roles of an environment's containers.

use super::ContainerCache;
use crate::model::container::label;
use crate::model::name::EnvironmentName;
use crate::model::observed::ObservedContainer;

/// The managed containers of one environment.
#[derive(Default)]
struct ContainersByRole {
    /// Those that run its program.
    own: Vec<ObservedContainer>,
    /// The sandboxes.
    holders: Vec<ObservedContainer>,
    /// Those that run a command once.
    one_offs: Vec<ObservedContainer>,
}

impl ContainerCache {
    /// The managed containers of one environment that run its images. Each has the network attachment of its
    /// sandbox in place of a private one.
    pub(crate) fn containers(&self, environment: &EnvironmentName) -> Vec<ObservedContainer> {
        let ContainersByRole { holders, own, .. } = self.by_role(environment);
        own.into_iter().map(|container| container.with_holder(&holders)).collect()
    }

    /// The containers of one environment that run a command once.
    pub(crate) fn one_offs(&self, environment: &EnvironmentName) -> Vec<ObservedContainer> {
        self.by_role(environment).one_offs
    }

    /// The sandboxes of one environment.
    pub(crate) fn holders(&self, environment: &EnvironmentName) -> Vec<ObservedContainer> {
        self.by_role(environment).holders
    }

    /// All managed containers of one environment, each application before its sandbox.
    pub(crate) fn all_of(&self, environment: &EnvironmentName) -> Vec<ObservedContainer> {
        let ContainersByRole { own, holders, one_offs } = self.by_role(environment);
        own.into_iter().chain(one_offs).chain(holders).collect()
    }

    fn by_role(&self, environment: &EnvironmentName) -> ContainersByRole {
        let known = self.known();
        let ours = known.ours.values().filter(|(of, _)| of == environment);
        let mut by_role = ContainersByRole::default();
        for (_, seen) in ours {
            let of_role = match seen.labels.get(label::ROLE).map(String::as_str) {
                Some(label::HOLDER) => &mut by_role.holders,
                Some(_) => &mut by_role.one_offs,
                None => &mut by_role.own,
            };
            of_role.push(seen.clone());
        }
        by_role
    }
}
