//! Names across environments: who has one, and which environment took over the containers of another.

use std::collections::{BTreeMap, BTreeSet};

use super::{CachedContainers, ContainerCache};
use crate::controller::docker::Listed;
use crate::model::container::label;
use crate::model::name::{ContainerName, EnvironmentName};
use crate::model::observed::{NameHolder, ObservedContainer, Owner};

impl ContainerCache {
    /// The container that has this name, unless it is one of `environment`.
    pub(crate) fn name_holder(&self, environment: &EnvironmentName, name: &str) -> Option<NameHolder> {
        let known = self.known();
        let mut others = known.others(environment).filter(|(_, seen)| seen.name == name);
        let ours = others.next().map(|(other, seen)| NameHolder {
            id: seen.id.clone(),
            owner: Owner::Environment(other.clone()),
        });
        ours.or_else(|| known.foreign.get(name).cloned())
    }

    /// The names that begin with `prefix`, of all containers but those of `environment`.
    pub(crate) fn names_from(&self, environment: &EnvironmentName, prefix: &str) -> BTreeSet<String> {
        let known = self.known();
        let ours = known.others(environment).map(|(_, seen)| &seen.name);
        ours.chain(known.foreign.keys()).filter(|name| name.starts_with(prefix)).cloned().collect()
    }

    /// Hands the containers of each environment that left the manifest to the environment that now declares
    /// their name: it was renamed. An environment that already has a container under another name was not
    /// renamed, and takes over none. Returns the takeovers of this call.
    pub(crate) fn adopt(
        &self,
        declared: &BTreeMap<EnvironmentName, ContainerName>,
    ) -> Vec<(EnvironmentName, EnvironmentName)> {
        let mut known = self.known();
        let before = known.adopted.clone();
        known.adopted.retain(|left, heir| !declared.contains_key(left) && declared.contains_key(heir));
        for (heir, name) in declared {
            if let Some(left) = known.left_for(heir, name.as_str(), declared) {
                known.adopted.insert(left, heir.clone());
            }
        }
        known.give_to_owners();
        let adopted = known.adopted.iter().filter(|(left, heir)| before.get(*left) != Some(*heir));
        adopted.map(|(left, heir)| (left.clone(), heir.clone())).collect()
    }
}

impl CachedContainers {
    /// The managed containers of every other environment.
    fn others(
        &self,
        environment: &EnvironmentName,
    ) -> impl Iterator<Item = (&EnvironmentName, &ObservedContainer)> {
        self.ours.values().filter(move |(of, _)| of != environment).map(|(of, seen)| (of, seen))
    }

    /// The environment that owns the containers which were made for `labelled`.
    pub(super) fn owner(&self, labelled: EnvironmentName) -> EnvironmentName {
        self.adopted.get(&labelled).cloned().unwrap_or(labelled)
    }

    /// Files every container under its owner.
    fn give_to_owners(&mut self) {
        let adopted = self.adopted.clone();
        for (environment, seen) in self.ours.values_mut() {
            if let Some(labelled) = labelled(seen) {
                *environment = adopted.get(&labelled).cloned().unwrap_or(labelled);
            }
        }
    }

    /// The environment that left the manifest and whose container has the declared name of `heir`.
    fn left_for(
        &self,
        heir: &EnvironmentName,
        name: &str,
        declared: &BTreeMap<EnvironmentName, ContainerName>,
    ) -> Option<EnvironmentName> {
        let made_for = |seen: &ObservedContainer, environment: &EnvironmentName| {
            labelled(seen).as_ref() == Some(environment)
        };
        let all = || self.ours.values().map(|(_, seen)| seen);
        let is_elsewhere = all().any(|seen| made_for(seen, heir) && !seen.name.starts_with(name));
        let holder = all().find(|seen| seen.name == name).filter(|_| !is_elsewhere)?;
        labelled(holder).filter(|left| !declared.contains_key(left))
    }
}

/// The environment that a container was made for.
fn labelled(seen: &ObservedContainer) -> Option<EnvironmentName> {
    seen.labels.get(label::ENVIRONMENT).and_then(|name| EnvironmentName::new(name).ok())
}

pub(super) fn foreign_names(listed: &Listed) -> Vec<(String, NameHolder)> {
    // A container that a user runs from an image that was built here has inherited the record's label.
    let is_managed = listed.labels.contains_key(label::ENVIRONMENT);
    let whose = match listed.labels.get(label::RECORD).filter(|_| is_managed) {
        Some(record) => format!("managed by another abide (record {record})"),
        None => "not managed by abide".to_owned(),
    };
    let foreign = NameHolder { id: listed.id.clone(), owner: Owner::Foreign(whose) };
    listed.names.iter().map(|name| (name.clone(), foreign.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::cache::fleet::tests::seen;

    fn made_for(environment: &str, name: &str, id: &str) -> ObservedContainer {
        let labels = BTreeMap::from([(label::ENVIRONMENT.to_owned(), environment.to_owned())]);
        ObservedContainer { name: name.to_owned(), labels, ..seen(id) }
    }

    fn name(text: &str) -> EnvironmentName {
        EnvironmentName::new(text).unwrap()
    }

    fn fleet_of(containers: &[(&str, &str)]) -> ContainerCache {
        let fleet = ContainerCache::new("record".to_owned());
        for (number, (environment, container)) in containers.iter().enumerate() {
            let seen = made_for(environment, container, &number.to_string());
            fleet.known().ours.insert(seen.id.clone(), (name(environment), seen));
        }
        fleet
    }

    fn declared(pairs: &[(&str, &str)]) -> BTreeMap<EnvironmentName, ContainerName> {
        pairs.iter().map(|(of, container)| (name(of), ContainerName::new(*container).unwrap())).collect()
    }

    #[test]
    fn a_renamed_environment_takes_over_its_containers_and_gives_them_back() {
        let fleet = fleet_of(&[("old", "web"), ("old", "web.net")]);
        let adopted = fleet.adopt(&declared(&[("new", "web")]));
        assert_eq!(adopted, [(name("old"), name("new"))]);
        assert_eq!(fleet.environments(), BTreeSet::from([name("new")]));
        assert_eq!(fleet.adopt(&declared(&[("new", "web")])), [], "it is reported once");
        fleet.adopt(&declared(&[("old", "web")]));
        assert_eq!(fleet.environments(), BTreeSet::from([name("old")]));
    }

    #[test]
    fn an_environment_with_a_container_of_its_own_takes_over_none() {
        let fleet = fleet_of(&[("old", "web"), ("shop", "shop-server")]);
        assert_eq!(fleet.adopt(&declared(&[("shop", "web")])), []);
        let holder = fleet.name_holder(&name("shop"), "web").unwrap();
        assert_eq!(holder.owner, Owner::Environment(name("old")), "it is moved out of the way instead");
    }

    #[test]
    fn a_takeover_goes_on_while_the_replacement_is_beside_it() {
        let fleet = fleet_of(&[("old", "web"), ("new", "web.next")]);
        fleet.adopt(&declared(&[("new", "web")]));
        assert_eq!(fleet.containers(&name("new")).len(), 2);
    }
}
