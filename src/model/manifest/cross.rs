//! Checks across all files: duplicate names and references to missing parts.

use std::collections::{BTreeMap, BTreeSet};

use super::environment::PartialEnvironment;
use super::keys::nearest;
use super::places::{Place, Places};
use super::problem::Problem;
use super::table::Field;
use super::{front, gates};
use crate::model::channel::ChannelSpec;
use crate::model::name::{AgentName, ChannelName, EnvironmentName, NetworkName, RepositoryName};
use crate::model::public_url::PublicUrl;
use crate::model::reference::RegistryHost;
use crate::model::spec::{
    BUILD_NUMBER, FrontSpec, GuardMode, HolderImage, ManagedRegistry, Manifest, PortMapping, Recipe,
    RegistryAccess, RepositorySpec, Supply,
};

/// The declarations of all files, complete or not.
#[derive(Debug, Default)]
pub(super) struct Declarations {
    repositories: BTreeMap<RepositoryName, Option<RepositorySpec>>,
    environments: BTreeMap<EnvironmentName, PartialEnvironment>,
    docker: Docker,
    registry: Option<ManagedRegistry>,
    page: Option<PublicUrl>,
    /// Whether the proxy is declared. The inner value is its spec, if it could be read.
    pub(super) front: Option<Option<FrontSpec>>,
    registries: BTreeMap<RegistryHost, RegistryAccess>,
    channels: BTreeMap<ChannelName, Option<ChannelSpec>>,
    first: BTreeMap<String, Place>,
    duplicates: Vec<Problem>,
    /// Whether a file could not be read. Missing parts may be declared in it.
    pub(super) incomplete: bool,
}

/// `[docker]`, or its defaults.
#[derive(Debug)]
pub(super) struct Docker {
    pub(super) network: Option<NetworkName>,
    pub(super) holder: HolderImage,
    pub(super) build_cache: Option<u64>,
    pub(super) guard: GuardMode,
    pub(super) parallel_updates: Option<usize>,
}

impl Default for Docker {
    fn default() -> Self {
        Self {
            network: None,
            holder: HolderImage::default(),
            build_cache: Some(DEFAULT_BUILD_CACHE),
            guard: GuardMode::default(),
            parallel_updates: None,
        }
    }
}

/// The default limit of the build cache in bytes: enough for some dozens of builds of a large application.
const DEFAULT_BUILD_CACHE: u64 = 20 << 30;

impl Declarations {
    pub(super) fn add_repository(&mut self, field: &Field<'_>, spec: Option<RepositorySpec>) {
        if let (true, Some(name)) = (self.is_first(field), field.key_as_name()) {
            self.repositories.insert(name, spec);
        }
    }

    pub(super) fn add_environment(&mut self, field: &Field<'_>, draft: PartialEnvironment) {
        if let (true, Some(name)) = (self.is_first(field), field.key_as_name()) {
            self.environments.insert(name, draft);
        }
    }

    pub(super) fn add_docker(&mut self, field: &Field<'_>, docker: Docker) {
        if self.is_first(field) {
            self.docker = docker;
        }
    }

    pub(super) fn add_front(&mut self, field: &Field<'_>, front: Option<FrontSpec>) {
        if self.is_first(field) {
            self.front = Some(front);
        }
    }

    pub(super) fn set_page(&mut self, field: &Field<'_>, page: Option<PublicUrl>) {
        if self.is_first(field) {
            self.page = page;
        }
    }

    pub(super) fn set_registry(&mut self, field: &Field<'_>, registry: Option<ManagedRegistry>) {
        if self.is_first(field) {
            self.registry = registry;
        }
    }

    pub(super) fn add_registry(&mut self, field: &Field<'_>, access: Option<RegistryAccess>) {
        if let (true, Some(host), Some(access)) = (self.is_first(field), field.key_as_name(), access) {
            self.registries.insert(host, access);
        }
    }

    pub(super) fn add_channel(&mut self, field: &Field<'_>, spec: Option<ChannelSpec>) {
        if let (true, Some(name)) = (self.is_first(field), field.key_as_name()) {
            self.channels.insert(name, spec);
        }
    }

    /// Whether this path was not declared before; otherwise notes the problem.
    fn is_first(&mut self, field: &Field<'_>) -> bool {
        let here = field.place();
        if let Some(first) = self.first.get(field.path()) {
            let message = format!("`{}` is already declared in {first}", field.path());
            self.duplicates.push(Problem::new(&here.file, Some(here.line), message));
            return false;
        }
        self.first.insert(field.path().to_owned(), here);
        true
    }

    /// The readable part of an environment.
    pub(super) fn environment(&self, name: &EnvironmentName) -> Option<&PartialEnvironment> {
        self.environments.get(name)
    }

    /// Whether no environment is declared.
    pub(super) fn is_empty(&self) -> bool {
        self.environments.is_empty()
    }

    /// The manifest. Requires that no problem was found.
    pub(super) fn into_manifest(self) -> Manifest {
        let repositories = self.repositories.into_iter();
        let environments = self.environments.into_iter();
        Manifest {
            repositories: repositories.filter_map(|(name, spec)| Some((name, spec?))).collect(),
            environments: environments.filter_map(|(name, draft)| Some((name, draft.spec?))).collect(),
            network: self.docker.network.unwrap_or_default(),
            holder: self.docker.holder,
            build_cache: self.docker.build_cache,
            guard: self.docker.guard,
            parallel_updates: self.docker.parallel_updates,
            front: self.front.flatten(),
            page: self.page,
            registry: self.registry,
            registries: self.registries.into_iter().collect(),
            channels: self.channels.into_iter().filter_map(|(name, spec)| Some((name, spec?))).collect(),
        }
    }
}

/// Returns every problem between the parts of a manifest.
pub(super) fn problems(declared: &Declarations, places: &Places) -> Vec<Problem> {
    let mut found = declared.duplicates.clone();
    let all = in_written_order(declared, places);
    for on_one_host in by_host(&all) {
        found.extend(containers_taken_twice(&on_one_host, places));
        found.extend(ports_taken_twice(&on_one_host, places));
        found.extend(volumes_written_twice(&on_one_host, places));
        found.extend(front::problems(declared, &on_one_host, places));
    }
    found.extend(images_made_twice(&all, places));
    found.extend(taken_from_the_registry(declared, places));
    found.extend(cycles(declared, places));
    found.extend(gates::problems(declared, &all, places));
    if !declared.incomplete {
        found.extend(lost_references(declared, places));
        found.extend(lost_environments_of_channels(declared, places));
    }
    found
}

/// The readable part of an environment, with its name.
pub(super) type Named<'d> = (&'d EnvironmentName, &'d PartialEnvironment);

/// All environments in the order in which they are written. If two conflict, the problem is reported for the
/// later one.
fn in_written_order<'d>(declared: &'d Declarations, places: &Places) -> Vec<Named<'d>> {
    let mut all: Vec<Named<'d>> = declared.environments.iter().collect();
    all.sort_by_key(|(name, _)| places.find(&format!("environment.{name}")).cloned());
    all
}

/// The environments of each host. Names, ports and volumes of different hosts cannot conflict.
fn by_host<'d>(all: &[Named<'d>]) -> Vec<Vec<Named<'d>>> {
    let mut hosts: BTreeMap<Option<&AgentName>, Vec<Named<'d>>> = BTreeMap::new();
    for named in all {
        hosts.entry(named.1.host.as_ref()).or_default().push(*named);
    }
    hosts.into_values().collect()
}

/// Container names that two environments claim.
fn containers_taken_twice(all: &[Named<'_>], places: &Places) -> Vec<Problem> {
    let (mut owners, mut found) = (BTreeMap::new(), Vec::new());
    for (name, draft) in all {
        let Some(container) = &draft.container else { continue };
        if let Some(owner) = owners.get(container) {
            let message = format!("the container `{container}` already belongs to `environment.{owner}`");
            found.push(places.problem(&format!("environment.{name}.container"), message));
        } else {
            owners.insert(container, name);
        }
    }
    found
}

/// Host ports that two environments publish on the same address.
fn ports_taken_twice(all: &[Named<'_>], places: &Places) -> Vec<Problem> {
    let mut taken: Vec<(&EnvironmentName, PortMapping)> = Vec::new();
    let mut found = Vec::new();
    for (name, draft) in all {
        for port in draft.all_ports() {
            let owner = taken.iter().find(|(_, other)| other.conflicts(&port));
            match owner {
                Some((owner, _)) if owner == name => {
                    let message = format!("the host port {} is published twice", port.host_port());
                    found.push(places.problem(&port_path(places, (name, draft), &port), message));
                }
                Some((owner, _)) => {
                    let message = format!(
                        "the host port {} is already published by `environment.{owner}`",
                        port.host_port()
                    );
                    found.push(places.problem(&port_path(places, (name, draft), &port), message));
                }
                None => taken.push((name, port)),
            }
        }
    }
    found
}

/// Image names that the scripts of two environments use. Each would take the other's image for its own.
fn images_made_twice(all: &[Named<'_>], places: &Places) -> Vec<Problem> {
    let (mut makers, mut found) = (BTreeMap::new(), Vec::new());
    for (name, draft) in all {
        let build = draft.spec.as_ref().and_then(|spec| spec.build.as_ref());
        let Some(Recipe::Script { image, .. }) = build.map(|build| &build.recipe) else { continue };
        let maker = *makers.entry(image).or_insert(name);
        // No two builds have the same number.
        if maker != name && !image.contains(BUILD_NUMBER) {
            let message = format!(
                "the script of `environment.{maker}` also creates `{image}`: use different names, or \
                names with {BUILD_NUMBER}"
            );
            found.push(places.problem(&format!("environment.{name}.build.image"), message));
        }
    }
    found
}

/// Names, ports and volumes that the managed registry and an environment both claim.
fn taken_from_the_registry(declared: &Declarations, places: &Places) -> Vec<Problem> {
    let Some(registry) = &declared.registry else { return Vec::new() };
    let mut found = Vec::new();
    for (name, draft) in &declared.environments {
        let mut say = |path: String, what: String| {
            found.push(places.problem(&path, format!("{what} is already used by the managed registry")));
        };
        if draft.container.as_ref() == Some(&registry.container) {
            say(format!("environment.{name}.container"), format!("the container `{}`", registry.container));
        }
        let own = PortMapping::of_port(registry.publish.port, registry.publish);
        if let Some(port) = draft.all_ports().find(|port| port.conflicts(&own)) {
            say(port_path(places, (name, draft), &port), format!("the host port {}", registry.publish.port));
        }
        if draft.volumes.iter().any(|mount| mount.volume() == Some(&registry.volume) && !mount.is_read_only())
        {
            say(format!("environment.{name}.volumes"), format!("the volume `{}`", registry.volume));
        }
    }
    found
}

/// The path of the key that names the source of an environment's promotions.
fn promotion_path(places: &Places, name: &EnvironmentName) -> String {
    let short = format!("environment.{name}.promote_from");
    if places.has(&short) { short } else { format!("environment.{name}.promote.from") }
}

/// The path of an environment's host port: in `ports`, or `publish`, or `port` as its default.
pub(super) fn port_path(places: &Places, (name, draft): Named<'_>, port: &PortMapping) -> String {
    let keys = match draft.ports.contains(port) {
        true => ["ports", "ports"],
        false => ["publish", "port"],
    };
    let paths = keys.map(|key| format!("environment.{name}.{key}"));
    let [first, second] = paths;
    if places.has(&first) { first } else { second }
}

/// Volumes that two environments write: unless both know of it, two independent writers would destroy the
/// data.
fn volumes_written_twice(all: &[Named<'_>], places: &Places) -> Vec<Problem> {
    let (mut writers, mut found) = (BTreeMap::new(), Vec::new());
    for (name, draft) in all {
        for mount in draft.volumes.iter().filter(|mount| !mount.is_read_only()) {
            let source = mount.source().as_str();
            let (writer, is_shared) = *writers.entry(source).or_insert((name, mount.is_shared()));
            if writer != name && !(is_shared && mount.is_shared()) {
                let message = format!(
                    "`{source}` is already written by `environment.{writer}`; mount it with :ro in one of them, \
                     or declare `shared = true` in both"
                );
                found.push(places.problem(&format!("environment.{name}.volumes"), message));
            }
        }
    }
    found
}

/// Promotions that form a cycle, each cycle once.
fn cycles(declared: &Declarations, places: &Places) -> Vec<Problem> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for name in declared.environments.keys() {
        let walk = walk_back(declared, name, &mut seen);
        let Some(last) = walk.last() else { continue };
        // Each environment is promoted from at most one other, so the cycle must lead back into this walk.
        let Some(start) = came_from(declared, last).and_then(|from| walk.iter().position(|n| *n == from))
        else {
            continue;
        };
        let cycle = &walk[start..];
        found.push(places.problem(&promotion_path(places, cycle[0]), cycle_message(cycle)));
    }
    found
}

/// The chain of promotions that leads to `name`, back to an environment in `seen` or one without promotion.
fn walk_back<'d>(
    declared: &'d Declarations,
    name: &'d EnvironmentName,
    seen: &mut BTreeSet<&'d EnvironmentName>,
) -> Vec<&'d EnvironmentName> {
    let mut walk = Vec::new();
    let mut next = Some(name);
    while let Some(name) = next.filter(|name| seen.insert(name)) {
        walk.push(name);
        next = came_from(declared, name);
    }
    walk
}

/// The environment that `name` is promoted from.
fn came_from<'d>(declared: &'d Declarations, name: &EnvironmentName) -> Option<&'d EnvironmentName> {
    match &declared.environments.get(name)?.supply {
        Some(Supply::Promotion { from }) => Some(from),
        _ => None,
    }
}

fn cycle_message(cycle: &[&EnvironmentName]) -> String {
    if let [only] = cycle {
        return format!("`environment.{only}` cannot be promoted from itself");
    }
    let names: Vec<&str> = cycle.iter().chain(cycle.first()).map(|name| name.as_str()).collect();
    format!("circular promotions: {}", names.join(" from "))
}

/// Repositories and environments that are referenced but not declared.
fn lost_references(declared: &Declarations, places: &Places) -> Vec<Problem> {
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
                let message =
                    lost("environment", from.as_str(), known.filter(|known| *known != name.as_str()));
                found.push(places.problem(&promotion_path(places, name), message));
            }
            _ => {}
        }
    }
    found
}

fn lost<'k>(kind: &str, name: &str, known: impl Iterator<Item = &'k str> + Clone) -> String {
    if let Some(near) = nearest(name, known.clone()) {
        return format!("unknown {kind} `{name}`; did you mean `{near}`?");
    }
    let known: Vec<&str> = known.collect();
    if known.is_empty() {
        return format!("unknown {kind} `{name}`; declare it as `[{kind}.{name}]`");
    }
    format!("unknown {kind} `{name}`; the manifest declares {}", known.join(", "))
}

/// Channels that select an environment that is not declared.
fn lost_environments_of_channels(declared: &Declarations, places: &Places) -> Vec<Problem> {
    let mut found = Vec::new();
    for (name, spec) in &declared.channels {
        let chosen = spec.iter().filter_map(|spec| spec.environments.as_ref()).flatten();
        for environment in chosen.filter(|chosen| !declared.environments.contains_key(*chosen)) {
            let known = declared.environments.keys().map(EnvironmentName::as_str);
            let message = lost("environment", environment.as_str(), known);
            found.push(places.problem(&format!("notify.{name}.environments"), message));
        }
    }
    found
}
