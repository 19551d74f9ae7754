//! Containers that nginx may send requests to, in addition to the one that it is known to use.
//!
//! A configuration counts from the moment when it is rendered. However the attempt to apply it ends, and even
//! if its end is unknown, nginx may use that configuration until it is observed to serve a later one.

use std::collections::{BTreeMap, BTreeSet};

use super::site::{Site, Sites};
use crate::model::front::Route;
use crate::model::name::EnvironmentName;

/// Containers by environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reached(BTreeMap<EnvironmentName, BTreeSet<String>>);

impl Reached {
    /// Adds the containers that a configuration passes requests to.
    pub(super) fn add(&mut self, sites: &Sites) {
        for (environment, site) in sites {
            self.0.entry(environment.clone()).or_default().extend(containers(site));
        }
    }

    pub(super) fn of(&self, environment: &EnvironmentName) -> impl Iterator<Item = String> {
        self.0.get(environment).into_iter().flatten().cloned()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// Returns the containers that a site passes requests to.
pub(super) fn containers(site: &Site) -> impl Iterator<Item = String> {
    site.route.iter().flat_map(Route::containers).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    fn sites(container: &str) -> Sites {
        let route = Route::to_container(container, "172.18.0.2:80".parse().unwrap());
        let site = Site { route: Some(route), ..serde_json::from_str("{}").unwrap() };
        [(EnvironmentName::new("dev").unwrap(), site)].into()
    }

    #[test]
    fn targets_of_every_configuration_count_until_cleared() {
        let (mut reached, dev) = (Reached::default(), EnvironmentName::new("dev").unwrap());
        reached.add(&sites("one"));
        reached.add(&sites("two"));
        assert_eq!(reached.of(&dev).collect::<Vec<_>>(), ["one", "two"]);
        assert_eq!(reached.of(&EnvironmentName::new("test").unwrap()).count(), 0);
        reached.clear();
        assert_eq!(reached.of(&dev).count(), 0);
    }
}
