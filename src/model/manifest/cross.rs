//! What only all files together can tell: names taken twice, references that lead nowhere.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::environment::Draft;
use super::keys::nearest;
use super::places::{Place, Places};
use super::problem::Problem;
use super::table::Field;
use crate::model::name::{EnvironmentName, NetworkName, RepositoryName};
use crate::model::spec::{Manifest, Publish, RepositorySpec, Supply};

/// What all files declare, whole or not.
#[derive(Debug, Default)]
pub(super) struct Declared {
    repositories: BTreeMap<RepositoryName, Option<RepositorySpec>>,
    environments: BTreeMap<EnvironmentName, Draft>,
    network: Option<NetworkName>,
    first: BTreeMap<String, Place>,
    duplicates: Vec<Problem>,
    /// Whether a file could not be read: what seems to be missing may be in there.
    pub(super) incomplete: bool,
}

impl Declared {
    pub(super) fn add_repository(&mut self, field: &Field<'_>, spec: Option<RepositorySpec>) {
        if let (true, Some(name)) = (self.is_first(field), field.key_as_name()) {
            self.repositories.insert(name, spec);
        }
    }

    pub(super) fn add_environment(&mut self, field: &Field<'_>, draft: Draft) {
        if let (true, Some(name)) = (self.is_first(field), field.key_as_name()) {
            self.environments.insert(name, draft);
        }
    }

    pub(super) fn add_network(&mut self, field: &Field<'_>, network: Option<NetworkName>) {
        if self.is_first(field) {
            self.network = network;
        }
    }

    /// Whether nothing of this path was declared before; else notes the problem.
    fn is_first(&mut self, field: &Field<'_>) -> bool {
        let here = field.place();
        if let Some(first) = self.first.get(field.path()) {
            let message = format!("`{}` is declared in {first} already", field.path());
            self.duplicates.push(Problem::new(&here.file, Some(here.line), message));
            return false;
        }
        self.first.insert(field.path().to_owned(), here);
        true
    }

    /// Whether there is no environment at all.
    pub(super) fn is_empty(&self) -> bool {
        self.environments.is_empty()
    }

    /// The manifest, once nothing is wrong with it.
    pub(super) fn into_manifest(self) -> Manifest {
        let repositories = self.repositories.into_iter();
        let environments = self.environments.into_iter();
        Manifest {
            repositories: repositories.filter_map(|(name, spec)| Some((name, spec?))).collect(),
            environments: environments.filter_map(|(name, draft)| Some((name, draft.spec?))).collect(),
            network: self.network.unwrap_or_default(),
        }
    }
}

/// All that is wrong between the parts of a manifest.
pub(super) fn problems(declared: &Declared, places: &Places) -> Vec<Problem> {
    let mut found = declared.duplicates.clone();
    found.extend(taken_twice(declared, places));
    found.extend(written_twice(declared, places));
    found.extend(cycles(declared, places));
    if !declared.incomplete {
        found.extend(lost_references(declared, places));
    }
    found
}

/// Two environments, the one that is written first in front.
fn pairs<'d>(
    declared: &'d Declared,
    places: &Places,
) -> Vec<((&'d EnvironmentName, &'d Draft), (&'d EnvironmentName, &'d Draft))> {
    let mut all: Vec<_> = declared.environments.iter().collect();
    all.sort_by_key(|(name, _)| places.find(&format!("environment.{name}")).cloned());
    let of = |first: usize| all[first + 1..].iter().map(move |second| (first, *second));
    (0..all.len()).flat_map(of).map(|(first, second)| (all[first], second)).collect()
}

/// Containers and host ports that two environments claim.
fn taken_twice(declared: &Declared, places: &Places) -> Vec<Problem> {
    let mut found = Vec::new();
    for ((first, a), (second, b)) in pairs(declared, places) {
        if let (Some(one), Some(other)) = (&a.container, &b.container)
            && one == other
        {
            let message = format!("the container `{one}` is already that of `environment.{first}`");
            found.push(places.problem(&format!("environment.{second}.container"), message));
        }
        if let (Some(one), Some(other)) = (&a.publish, &b.publish)
            && overlap(one, other)
        {
            let message = format!("the host port {} is already published by `environment.{first}`", one.port);
            found.push(places.problem(&port_path(places, second), message));
        }
    }
    found
}

/// Where the host port of an environment is written: `publish`, or `port` that stands in for it.
fn port_path(places: &Places, name: &EnvironmentName) -> String {
    let publish = format!("environment.{name}.publish");
    if places.has(&publish) { publish } else { format!("environment.{name}.port") }
}

/// Whether one host could not publish both.
fn overlap(a: &Publish, b: &Publish) -> bool {
    let covers = |one: IpAddr, other: IpAddr| one.is_unspecified() && one.is_ipv4() == other.is_ipv4();
    let addresses = match (a.address, b.address) {
        (Some(one), Some(other)) => one == other || covers(one, other) || covers(other, one),
        _ => true,
    };
    addresses && a.port == b.port
}

/// Volumes that two environments write: no data survives two writers that know nothing of each other.
fn written_twice(declared: &Declared, places: &Places) -> Vec<Problem> {
    let mut found = Vec::new();
    for ((first, a), (second, b)) in pairs(declared, places) {
        for mount in b.volumes.iter().filter(|mount| !mount.read_only) {
            if a.volumes.iter().any(|other| !other.read_only && other.source == mount.source) {
                let message = format!(
                    "`{}` is already written by `environment.{first}`; mount it with :ro in one of them",
                    mount.source
                );
                found.push(places.problem(&format!("environment.{second}.volumes"), message));
            }
        }
    }
    found
}

/// Promotions that lead back to where they began.
fn cycles(declared: &Declared, places: &Places) -> Vec<Problem> {
    let mut told = BTreeSet::new();
    let mut found = Vec::new();
    for name in declared.environments.keys() {
        let Some(cycle) = cycle_from(declared, name) else { continue };
        if cycle.iter().any(|member| told.contains(member)) {
            continue;
        }
        told.extend(cycle.clone());
        let path = format!("environment.{name}.promote_from");
        found.push(places.problem(&path, cycle_message(&cycle)));
    }
    found
}

/// The environments that `name` is promoted from, one after the other, where that ends at `name`.
fn cycle_from<'d>(declared: &'d Declared, name: &'d EnvironmentName) -> Option<Vec<&'d EnvironmentName>> {
    let mut chain = vec![name];
    loop {
        let draft = declared.environments.get(*chain.last()?)?;
        let Some(Supply::Promotion { from }) = &draft.supply else { return None };
        if from == name {
            return Some(chain);
        }
        if chain.contains(&from) {
            return None;
        }
        chain.push(from);
    }
}

fn cycle_message(cycle: &[&EnvironmentName]) -> String {
    if let [only] = cycle {
        return format!("`environment.{only}` cannot be promoted from itself");
    }
    let names: Vec<&str> = cycle.iter().chain(cycle.first()).map(|name| name.as_str()).collect();
    format!("the promotions go round in a circle: {}", names.join(" from "))
}

/// Repositories and environments that are named but not declared.
fn lost_references(declared: &Declared, places: &Places) -> Vec<Problem> {
    let mut found = Vec::new();
    for (name, draft) in &declared.environments {
        match &draft.supply {
            Some(Supply::Branch { repository, .. }) if !declared.repositories.contains_key(repository) => {
                let known = declared.repositories.keys().map(RepositoryName::as_str);
                let message = lost("repository", repository.as_str(), known);
                found.push(places.problem(&format!("environment.{name}.source.repository"), message));
            }
            Some(Supply::Promotion { from }) if !declared.environments.contains_key(from) => {
                let known = declared.environments.keys().map(EnvironmentName::as_str);
                let message = lost("environment", from.as_str(), known.filter(|known| *known != name.as_str()));
                found.push(places.problem(&format!("environment.{name}.promote_from"), message));
            }
            _ => {}
        }
    }
    found
}

fn lost<'k>(kind: &str, name: &str, known: impl Iterator<Item = &'k str> + Clone) -> String {
    if let Some(near) = nearest(name, known.clone()) {
        return format!("there is no {kind} `{name}`; did you mean `{near}`?");
    }
    let known: Vec<&str> = known.collect();
    match known.is_empty() {
        true => format!("there is no {kind} `{name}`; declare it as `[{kind}.{name}]`"),
        false => format!("there is no {kind} `{name}`; declared are {}", known.join(", ")),
    }
}
