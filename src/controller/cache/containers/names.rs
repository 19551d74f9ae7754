//! Names and ports across environments: who has one, and which environment took over the containers of another.

use std::collections::{BTreeMap, BTreeSet, HashMap};

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

    /// The host ports that running containers of other environments publish.
    pub(crate) fn ports_of_others(
        &self,
        environment: &EnvironmentName,
    ) -> BTreeMap<EnvironmentName, BTreeSet<String>> {
        let known = self.known();
        let mut ports = BTreeMap::<_, BTreeSet<_>>::new();
        for (other, seen) in known.others(environment).filter(|(_, seen)| seen.state.has_process()) {
            if !seen.published.is_empty() {
                ports.entry(other.clone()).or_default().extend(seen.published.iter().cloned());
            }
        }
        ports
    }

    /// Hands the containers of each environment that left the manifest to the environment that now declares
    /// their name: it was renamed. An environment that already has a container under another name was not
    /// renamed, and takes over none. Returns the takeovers of this call.
    pub(crate) fn adopt(
        &self,
        declared: &BTreeMap<EnvironmentName, ContainerName>,
    ) -> Vec<(EnvironmentName, EnvironmentName)> {
        let mut known = self.known();
        known.declared.clone_from(declared);
        let before = known.adopted.clone();
        known
            .adopted
            .retain(|left, successor| !declared.contains_key(left) && declared.contains_key(successor));
        for (successor, name) in declared {
            if let Some(left) = known.left_for(successor, name.as_str(), declared) {
                known.adopted.insert(left, successor.clone());
            }
        }
        known.give_to_owners();
        let adopted = known.adopted.iter().filter(|(left, successor)| before.get(*left) != Some(*successor));
        adopted.map(|(left, successor)| (left.clone(), successor.clone())).collect()
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
        self.give_sandboxes_to_owners();
    }

    /// Files every sandbox under the environment whose container joins it. Needed after a change of a sandbox, or
    /// of the sandbox that a container joins. Its label may name an environment
    /// that was renamed since: a sandbox outlives the containers that join it. One that no container joins
    /// belongs to the environment that declares its name, if that of its label left the manifest.
    pub(super) fn give_sandboxes_to_owners(&mut self) {
        let mut joining: HashMap<String, BTreeSet<EnvironmentName>> = HashMap::new();
        for (environment, seen) in self.ours.values() {
            if let Some(joined) = &seen.joined {
                joining.entry(joined.holder.clone()).or_default().insert(environment.clone());
            }
        }
        let (adopted, declared) = (&self.adopted, &self.declared);
        let declares_name_of = |seen: &ObservedContainer| {
            let mut successors = declared.iter().filter(|(_, name)| is_sandbox_of(&seen.name, name));
            successors.next().map(|(successor, _)| successor.clone())
        };
        for (environment, seen) in self.ours.values_mut().filter(|(_, seen)| is_sandbox(seen)) {
            let Some(labelled) = labelled(seen) else { continue };
            let labelled = adopted.get(&labelled).cloned().unwrap_or(labelled);
            *environment = match joining.get(&seen.id) {
                Some(owners) if owners.contains(&labelled) => labelled,
                Some(owners) => owners.first().cloned().unwrap_or(labelled),
                None if declared.contains_key(&labelled) => labelled,
                None => declares_name_of(seen).unwrap_or(labelled),
            };
        }
    }

    /// The environment that left the manifest and whose container has the declared name of `successor`.
    fn left_for(
        &self,
        successor: &EnvironmentName,
        name: &str,
        declared: &BTreeMap<EnvironmentName, ContainerName>,
    ) -> Option<EnvironmentName> {
        let made_for = |seen: &ObservedContainer, environment: &EnvironmentName| {
            labelled(seen).as_ref() == Some(environment)
        };
        let all = || self.ours.values().map(|(_, seen)| seen);
        let is_elsewhere = all().any(|seen| made_for(seen, successor) && !seen.name.starts_with(name));
        let holder = all().find(|seen| seen.name == name).filter(|_| !is_elsewhere)?;
        labelled(holder).filter(|left| !declared.contains_key(left))
    }
}

pub(super) fn is_sandbox(seen: &ObservedContainer) -> bool {
    seen.labels.get(label::ROLE).is_some_and(|role| role == label::HOLDER)
}

/// Whether `name` is one that the sandbox of a container called `container` gets: `dev-server.net`, or
/// `dev-server.net2` beside that one.
fn is_sandbox_of(name: &str, container: &ContainerName) -> bool {
    let rest = name.strip_prefix(container.as_str()).and_then(|rest| rest.strip_prefix(".net"));
    rest.is_some_and(|number| number.bytes().all(|b| b.is_ascii_digit()))
}

/// The environment that a container was made for.
fn labelled(seen: &ObservedContainer) -> Option<EnvironmentName> {
    seen.labels.get(label::ENVIRONMENT).and_then(|name| EnvironmentName::new(name).ok())
}

pub(super) fn foreign_names(listed: &Listed) -> Vec<(String, NameHolder)> {
    // A container that a user runs from an image that was built here has inherited the record's label.
    let is_managed = listed.labels.contains_key(label::ENVIRONMENT);
    let whose = match listed.labels.get(label::RECORD).filter(|_| is_managed) {
        Some(record) => format!(
            "managed by another abide (record {record}; if that record was lost, see \"Backup and restore\" in \
            docs/operations.md)"
        ),
        None => "not managed by abide".to_owned(),
    };
    let foreign = NameHolder { id: listed.id.clone(), owner: Owner::Foreign(whose) };
    listed.names.iter().map(|name| (name.clone(), foreign.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::cache::containers::tests::seen;
    use crate::model::observed::{Joined, SandboxState};

    fn made_for(environment: &str, name: &str, id: &str) -> ObservedContainer {
        let labels = BTreeMap::from([(label::ENVIRONMENT.to_owned(), environment.to_owned())]);
        ObservedContainer { name: name.to_owned(), labels, ..seen(id) }
    }

    fn name(text: &str) -> EnvironmentName {
        EnvironmentName::new(text).unwrap()
    }

    fn cache_of(containers: &[(&str, &str)]) -> ContainerCache {
        let cache = ContainerCache::new("record".to_owned());
        for (number, (environment, container)) in containers.iter().enumerate() {
            let seen = made_for(environment, container, &number.to_string());
            cache.known().ours.insert(seen.id.clone(), (name(environment), seen));
        }
        cache
    }

    fn declared(pairs: &[(&str, &str)]) -> BTreeMap<EnvironmentName, ContainerName> {
        pairs.iter().map(|(of, container)| (name(of), ContainerName::new(*container).unwrap())).collect()
    }

    #[test]
    fn a_renamed_environment_adopts_its_containers_and_returns_them() {
        let cache = cache_of(&[("old", "web"), ("old", "web.net")]);
        let adopted = cache.adopt(&declared(&[("new", "web")]));
        assert_eq!(adopted, [(name("old"), name("new"))]);
        assert_eq!(cache.environments(), BTreeSet::from([name("new")]));
        assert_eq!(cache.adopt(&declared(&[("new", "web")])), [], "it is reported once");
        cache.adopt(&declared(&[("old", "web")]));
        assert_eq!(cache.environments(), BTreeSet::from([name("old")]));
    }

    #[test]
    fn an_environment_with_its_own_container_adopts_no_other() {
        let cache = cache_of(&[("old", "web"), ("shop", "shop-server")]);
        assert_eq!(cache.adopt(&declared(&[("shop", "web")])), []);
        let holder = cache.name_holder(&name("shop"), "web").unwrap();
        assert_eq!(holder.owner, Owner::Environment(name("old")), "it is moved out of the way instead");
    }

    /// A sandbox made for `environment`, and a container of `of` that joins it.
    fn joined(cache: &ContainerCache, (environment, sandbox): (&str, &str), (of, container): (&str, &str)) {
        let mut holder = made_for(environment, sandbox, sandbox);
        holder.labels.insert(label::ROLE.to_owned(), label::HOLDER.to_owned());
        let mut seen = made_for(of, container, container);
        seen.joined = Some(Joined { holder: holder.id.clone(), state: SandboxState::Holds });
        for (environment, seen) in [(environment, holder), (of, seen)] {
            cache.known().ours.insert(seen.id.clone(), (name(environment), seen));
        }
    }

    #[test]
    fn a_sandbox_belongs_to_its_container_even_after_a_rename() {
        // The container was replaced after the rename; its sandbox was not.
        let cache = cache_of(&[]);
        joined(&cache, ("old", "web.net"), ("new", "web"));
        cache.adopt(&declared(&[("new", "web")]));
        assert_eq!(cache.holders(&name("new")).len(), 1);
        assert!(cache.containers(&name("new"))[0].has_namespace(), "the container is of use");
        // Renamed again, without another replacement.
        cache.adopt(&declared(&[("newer", "web")]));
        assert_eq!((cache.holders(&name("newer")).len(), cache.containers(&name("newer")).len()), (1, 1));
        // The old name is declared again, for another container.
        cache.adopt(&declared(&[("newer", "web"), ("old", "shop")]));
        assert_eq!((cache.holders(&name("newer")).len(), cache.holders(&name("old")).len()), (1, 0));
    }

    #[test]
    fn a_sandbox_that_lost_its_container_belongs_to_the_environment_with_its_name() {
        let cache = cache_of(&[]);
        joined(&cache, ("old", "web.net2"), ("new", "web"));
        cache.known().ours.remove("web");
        cache.adopt(&declared(&[("new", "web"), ("other", "web.n")]));
        assert_eq!(cache.holders(&name("new")).len(), 1);
        cache.adopt(&declared(&[("new", "web"), ("old", "elsewhere")]));
        assert_eq!(cache.holders(&name("old")).len(), 1, "it may still need it");
    }

    #[test]
    fn an_adopted_container_is_kept_beside_its_replacement() {
        let cache = cache_of(&[("old", "web"), ("new", "web.next")]);
        cache.adopt(&declared(&[("new", "web")]));
        assert_eq!(cache.containers(&name("new")).len(), 2);
    }
}
