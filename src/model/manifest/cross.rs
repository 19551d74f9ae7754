//! Checks across all files: duplicate names and references to missing parts.

mod references;

use std::collections::{BTreeMap, BTreeSet};

use super::environment::PartialEnvironment;
use super::job::PartialJob;
use super::places::{FileLine, Places};
use super::problem::Problem;
use super::table::ManifestField;
use super::{canary, front, gates, groups, page, replicas, swarm};
use crate::model::channel::ChannelSpec;
use crate::model::job::JobSpec;

use crate::model::name::{AgentName, ChannelName, EnvironmentName, JobName, NetworkName, RepositoryName};
use crate::model::reference::RegistryHost;
use crate::model::spec::{
    BUILD_NUMBER, EnvironmentSpec, FollowedManifest, FrontSpec, GuardMode, HolderImage, ManagedRegistry,
    Manifest, PageSpec, PortMapping, Recipe, RegistryAccess, RepositorySpec, Supply,
};

pub(super) use references::lost;

/// The declarations of all files, complete or not.
#[derive(Debug, Default)]
pub(super) struct Declarations {
    repositories: BTreeMap<RepositoryName, Option<RepositorySpec>>,
    environments: BTreeMap<EnvironmentName, PartialEnvironment>,
    docker: Docker,
    registry: Option<ManagedRegistry>,
    pub(super) page: Option<PageSpec>,
    /// Whether the proxy is declared. The inner value is its spec, if it could be read.
    pub(super) front: Option<Option<FrontSpec>>,
    registries: BTreeMap<RegistryHost, RegistryAccess>,
    channels: BTreeMap<ChannelName, Option<ChannelSpec>>,
    jobs: BTreeMap<JobName, PartialJob>,
    /// The branch that the manifest comes from, if one is named.
    followed: Option<Option<FollowedManifest>>,
    first: BTreeMap<String, FileLine>,
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
    pub(super) fn add_repository(&mut self, field: &ManifestField<'_>, spec: Option<RepositorySpec>) {
        if let (true, Some(name)) = (self.is_first(field), field.key_as_name()) {
            self.repositories.insert(name, spec);
        }
    }

    pub(super) fn add_environment(&mut self, field: &ManifestField<'_>, draft: PartialEnvironment) {
        if let (true, Some(name)) = (self.is_first(field), field.key_as_name()) {
            self.environments.insert(name, draft);
        }
    }

    pub(super) fn add_docker(&mut self, field: &ManifestField<'_>, docker: Docker) {
        if self.is_first(field) {
            self.docker = docker;
        }
    }

    pub(super) fn add_front(&mut self, field: &ManifestField<'_>, front: Option<FrontSpec>) {
        if self.is_first(field) {
            self.front = Some(front);
        }
    }

    pub(super) fn set_followed(&mut self, field: &ManifestField<'_>, followed: Option<FollowedManifest>) {
        if self.is_first(field) {
            self.followed = Some(followed);
        }
    }

    pub(super) fn set_page(&mut self, field: &ManifestField<'_>, page: Option<PageSpec>) {
        if self.is_first(field) {
            self.page = page;
        }
    }

    pub(super) fn set_registry(&mut self, field: &ManifestField<'_>, registry: Option<ManagedRegistry>) {
        if self.is_first(field) {
            self.registry = registry;
        }
    }

    pub(super) fn add_registry(&mut self, field: &ManifestField<'_>, access: Option<RegistryAccess>) {
        if let (true, Some(host), Some(access)) = (self.is_first(field), field.key_as_name(), access) {
            self.registries.insert(host, access);
        }
    }

    pub(super) fn add_channel(&mut self, field: &ManifestField<'_>, spec: Option<ChannelSpec>) {
        if let (true, Some(name)) = (self.is_first(field), field.key_as_name()) {
            self.channels.insert(name, spec);
        }
    }

    pub(super) fn add_job(&mut self, field: &ManifestField<'_>, job: PartialJob) {
        if let (true, Some(name)) = (self.is_first(field), field.key_as_name()) {
            self.jobs.insert(name, job);
        }
    }

    /// Whether this path was not declared before; otherwise notes the problem.
    fn is_first(&mut self, field: &ManifestField<'_>) -> bool {
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

    /// Why the checks of the commits of `environment` cannot be learned, as a predicate; `None`: a forge reports
    /// them, or that is not known.
    pub(super) fn forge_problem(&self, environment: &EnvironmentName) -> Option<String> {
        let mut environment = environment;
        // The declared promotions could form a cycle.
        for _ in 0..self.environments.len() {
            match self.environments.get(environment)?.supply.as_ref()? {
                Supply::Promotion { from } => environment = from,
                Supply::Branch { repository, .. } => {
                    let is_missing = self.repositories.get(repository)?.as_ref()?.forge.is_none();
                    return is_missing.then(|| format!(
                        "needs the forge that reports checks: add `forge = {{ kind = \"github\", token = {{ \
                         secret_env = \"FORGE_TOKEN\" }} }}` to `[repository.{repository}]`"
                    ));
                }
                Supply::Tag { .. } | Supply::Manual => {
                    return Some(format!(
                        "needs images that are built from a commit: `environment.{environment}` has no `source`"
                    ));
                }
            }
        }
        None
    }

    /// The environment in which the images of `name` come into being: the start of its promotions. `None`: they form a
    /// cycle, or lead to an environment that is not declared.
    pub(super) fn origin_of<'d>(&'d self, name: &'d EnvironmentName) -> Option<&'d EnvironmentName> {
        let mut origin = name;
        for _ in 0..self.environments.len() {
            match self.environments.get(origin)?.supply.as_ref()? {
                Supply::Promotion { from } => origin = from,
                Supply::Branch { .. } | Supply::Tag { .. } | Supply::Manual => return Some(origin),
            }
        }
        None
    }

    /// The jobs of an environment.
    pub(super) fn jobs_of(&self, name: &EnvironmentName) -> impl Iterator<Item = &JobName> {
        self.jobs.iter().filter(move |(_, job)| job.environment.as_ref() == Some(name)).map(|(job, _)| job)
    }

    /// All environments.
    pub(super) fn environments(&self) -> impl Iterator<Item = NamedPartial<'_>> {
        self.environments.iter()
    }

    /// Whether no environment is declared.
    pub(super) fn is_empty(&self) -> bool {
        self.environments.is_empty() && self.followed.is_none()
    }

    /// The environments that promotions come from, by target.
    fn meant_promotions(&self) -> BTreeMap<EnvironmentName, EnvironmentName> {
        let from = |(name, draft): NamedPartial<'_>| match &draft.supply {
            Some(Supply::Promotion { from }) => Some((name.clone(), replicas::meant(self, from))),
            _ => None,
        };
        self.environments.iter().filter_map(from).collect()
    }

    /// The channels, with every slot of the environments that they name.
    fn meant_channels(&self) -> BTreeMap<ChannelName, ChannelSpec> {
        let meant = |(name, spec): (&ChannelName, &Option<ChannelSpec>)| {
            let mut spec = spec.clone()?;
            let named = spec.environments.take();
            spec.environments =
                named.map(|named| named.iter().flat_map(|name| replicas::all_meant(self, name)).collect());
            Some((name.clone(), spec))
        };
        self.channels.iter().filter_map(meant).collect()
    }

    /// The manifest. Requires that no problem was found.
    pub(super) fn into_manifest(self) -> Manifest {
        let mut needs = groups::needs(&self);
        let promotions = self.meant_promotions();
        let channels = self.meant_channels();
        let repositories = self.repositories.into_iter();
        let mut jobs: BTreeMap<EnvironmentName, BTreeMap<JobName, JobSpec>> = BTreeMap::new();
        for (name, job) in self.jobs {
            if let (Some(environment), Some(spec)) = (job.environment, job.spec) {
                jobs.entry(environment).or_default().insert(name, spec);
            }
        }
        let environments = self.environments.into_iter().flat_map(|(name, draft)| {
            let (jobs, needs) = (jobs.remove(&name), needs.remove(&name));
            let Some(mut spec) = draft.spec else { return Vec::new() };
            (spec.jobs, spec.needs) = (jobs.unwrap_or_default(), needs.unwrap_or_default());
            if let Some(from) = promotions.get(&name) {
                spec.supply = Supply::Promotion { from: from.clone() };
            }
            groups::call_by_short_name(&mut spec, &name);
            replicas::slots(name, spec, draft.replicas)
        });
        Manifest {
            repositories: repositories.filter_map(|(name, spec)| Some((name, spec?))).collect(),
            environments: environments.collect(),
            network: self.docker.network.unwrap_or_default(),
            holder: self.docker.holder,
            build_cache: self.docker.build_cache,
            guard: self.docker.guard,
            parallel_updates: self.docker.parallel_updates,
            front: self.front.flatten(),
            page: self.page,
            registry: self.registry,
            registries: self.registries.into_iter().collect(),
            channels,
            followed: self.followed.flatten(),
        }
    }
}

/// Returns every problem between the parts of a manifest.
pub(super) fn problems(declared: &Declarations, places: &Places) -> Vec<Problem> {
    let mut found = declared.duplicates.clone();
    found.extend(beside_followed(declared));
    let all = in_written_order(declared, places);
    for on_one_host in by_host(&all) {
        found.extend(containers_taken_twice(&on_one_host, places));
        found.extend(aliases_of_other_containers(&on_one_host, places));
        found.extend(ports_taken_twice(&on_one_host, places));
        found.extend(volumes_written_twice(&on_one_host, places));
        found.extend(front::problems(declared, &on_one_host, places));
    }
    found.extend(page::problems(declared, &all, places));
    found.extend(images_made_twice(&all, places));
    found.extend(taken_from_the_registry(declared, places));
    found.extend(cycles(declared, places));
    found.extend(gates::problems(declared, &all, places));
    found.extend(groups::problems(declared, &all, places));
    found.extend(replicas::problems(declared, &all, places));
    found.extend(canary::problems(declared, &all, places));
    found.extend(checks_of_no_forge(declared, &all, places));
    found.extend(swarm::problems(declared, &all, places));
    found.extend(references::lost_volumes_of_jobs(declared, places));
    if !declared.incomplete {
        found.extend(references::lost_references(declared, places));
        found.extend(groups::lost_members(&all, places));
        found.extend(references::lost_environments_of_channels(declared, places));
        found.extend(references::lost_environments_of_jobs(declared, places));
    }
    found
}

/// The readable part of an environment, with its name.
pub(super) type NamedPartial<'d> = (&'d EnvironmentName, &'d PartialEnvironment);

/// All environments in the order in which they are written. If two conflict, the problem is reported for the
/// later one.
fn in_written_order<'d>(declared: &'d Declarations, places: &Places) -> Vec<NamedPartial<'d>> {
    let mut all: Vec<NamedPartial<'d>> = declared.environments.iter().collect();
    all.sort_by_key(|(name, _)| places.find(&format!("environment.{name}")).cloned());
    all
}

/// The environments of each host. Names, ports and volumes of different hosts cannot conflict.
fn by_host<'d>(all: &[NamedPartial<'d>]) -> Vec<Vec<NamedPartial<'d>>> {
    let mut hosts: BTreeMap<Option<&AgentName>, Vec<NamedPartial<'d>>> = BTreeMap::new();
    for named in all {
        hosts.entry(named.1.host.as_ref()).or_default().push(*named);
    }
    hosts.into_values().collect()
}

/// Container names that two environments claim.
fn containers_taken_twice(all: &[NamedPartial<'_>], places: &Places) -> Vec<Problem> {
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

/// Aliases that are the name of another environment's container in the same network: the engine would return
/// the addresses of both.
fn aliases_of_other_containers(all: &[NamedPartial<'_>], places: &Places) -> Vec<Problem> {
    let specs = || all.iter().filter_map(|(name, draft)| Some((*name, draft.spec.as_ref()?)));
    let mut found = Vec::new();
    for (name, spec) in specs() {
        let others = || specs().filter(|(other, _)| *other != name);
        let managed = spec.run.aliases.iter().map(|alias| (None, alias));
        let networks = spec.run.networks.iter();
        let in_networks = networks
            .flat_map(|(network, joined)| joined.aliases.iter().map(move |alias| (Some(network), alias)));
        for (network, alias) in managed.chain(in_networks) {
            let joins = |other: &EnvironmentSpec| match network {
                None => other.group == spec.group,
                Some(network) => other.run.networks.contains_key(network),
            };
            let mut owners =
                others().filter(|(_, other)| other.container.as_str() == alias.as_str() && joins(other));
            if let Some((owner, _)) = owners.next() {
                let message = format!(
                    "the alias `{alias}` is the name of the container of `environment.{owner}`: choose another one"
                );
                found.push(places.problem(&format!("environment.{name}.aliases"), message));
            }
        }
    }
    found
}

/// Host ports that two environments publish on the same address.
fn ports_taken_twice(all: &[NamedPartial<'_>], places: &Places) -> Vec<Problem> {
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
fn images_made_twice(all: &[NamedPartial<'_>], places: &Places) -> Vec<Problem> {
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
        let mut claim = |path: String, what: String| {
            found.push(places.problem(&path, format!("{what} is already used by the managed registry")));
        };
        if draft.container.as_ref() == Some(&registry.container) {
            claim(format!("environment.{name}.container"), format!("the container `{}`", registry.container));
        }
        let own = PortMapping::of_port(registry.publish.port, registry.publish);
        if let Some(port) = draft.all_ports().find(|port| port.conflicts(&own)) {
            claim(
                port_path(places, (name, draft), &port),
                format!("the host port {}", registry.publish.port),
            );
        }
        if draft.volumes.iter().any(|mount| mount.volume() == Some(&registry.volume) && !mount.is_read_only())
        {
            claim(format!("environment.{name}.volumes"), format!("the volume `{}`", registry.volume));
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
pub(super) fn port_path(places: &Places, (name, draft): NamedPartial<'_>, port: &PortMapping) -> String {
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
fn volumes_written_twice(all: &[NamedPartial<'_>], places: &Places) -> Vec<Problem> {
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

/// Environments that need checks which no forge reports.
fn checks_of_no_forge(declared: &Declarations, all: &[NamedPartial<'_>], places: &Places) -> Vec<Problem> {
    let needing = all.iter().filter(|(_, draft)| draft.checks.is_some());
    let problem = |(name, _): &NamedPartial<'_>| {
        let why = declared.forge_problem(name)?;
        Some(places.problem(&format!("environment.{name}.source.checks"), format!("`checks` {why}")))
    };
    needing.filter_map(problem).collect()
}

/// Everything that is declared beside `[manifest]`: the branch has all of the manifest.
fn beside_followed(declared: &Declarations) -> Vec<Problem> {
    let others = declared.first.iter().filter(|(path, _)| *path != "manifest" && declared.followed.is_some());
    let problem = |(path, place): (&String, &FileLine)| {
        let message = format!(
            "`{path}` does not go with `[manifest]`: the whole manifest is on that branch. Move it there, or remove \
             `[manifest]`"
        );
        Problem::new(&place.file, Some(place.line), message)
    };
    others.map(problem).collect()
}
