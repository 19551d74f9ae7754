//! `[environment.NAME]`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use toml::de::DeValue;

use super::table::{ManifestField, Table, integer};
use super::{build, canary, gates, grammar, health, keys, one_off, options, replicas, secrets, site, swarm};
use crate::model::gates::Gates;
use crate::model::group::NeedCondition;
use crate::model::mount::{InvalidMount, Mount, MountOptions, PROPAGATION, RELABEL};
use crate::model::name::{AgentName, BranchName, ContainerName, EnvironmentName, GroupName, SiteName};
use crate::model::one_off::Hook;
use crate::model::ports::TransportProtocol;
use crate::model::pull::{InvalidPullPolicy, PullPolicy};
use crate::model::reference::ImageRepository;
use crate::model::site::SiteSettings;
use crate::model::spec::{
    BuildSpec, EnvironmentSpec, HttpsMode, NeededChecks, PortMapping, Publish, RestartMode, RunOptions,
    Supply, Update,
};
use crate::model::workload::{PortMode, SwarmSpec};

/// The default stop timeout of a container, the same as for `docker stop`.
const DEFAULT_STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// The accepted forms of `restart`.
const RESTART: &str = "\"always\" or \"on-failure\"";

/// The accepted forms of a need.
const NEED: &str = "\"healthy\", \"started\" or \"completed\"";

/// The default of `init`. A shell that is pid 1 forwards no signals.
const DEFAULT_INIT: bool = true;

/// The readable part of an environment: enough to compare it with the others, even if it is incomplete.
#[derive(Clone, Debug, Default)]
pub(super) struct PartialEnvironment {
    pub(super) container: Option<ContainerName>,
    pub(super) publish: Option<Publish>,
    /// Further published ports.
    pub(super) ports: Vec<PortMapping>,
    /// The port that its program opens on the host itself.
    pub(super) host_port: Option<u16>,
    pub(super) hostnames: Vec<SiteName>,
    pub(super) site: SiteSettings,
    pub(super) supply: Option<Supply>,
    /// Its group.
    pub(super) group: Option<GroupName>,
    /// How many containers run it; `None`: one, without slots.
    pub(super) replicas: Option<u16>,
    /// Its needs, by the short names of members.
    pub(super) needs: BTreeMap<EnvironmentName, NeedCondition>,
    /// The checks that a commit needs.
    pub(super) checks: Option<NeededChecks>,
    pub(super) volumes: Vec<Mount>,
    /// The agent that runs it.
    pub(super) host: Option<AgentName>,
    /// The gates of its promotions.
    pub(super) gates: Gates,
    /// The complete environment; `None` if something required is missing or wrong.
    pub(super) spec: Option<EnvironmentSpec>,
}

impl PartialEnvironment {
    /// All published ports of the container.
    pub(super) fn all_ports(&self) -> impl Iterator<Item = PortMapping> {
        // The port of the program makes no difference to the host.
        let own = self.publish.map(|publish| PortMapping::of_port(publish.port, publish));
        let opened = self.host_port.map(|port| PortMapping::of_port(port, Publish { address: None, port }));
        own.into_iter().chain(opened).chain(self.ports.iter().cloned())
    }
}

pub(super) fn read(field: &ManifestField<'_>) -> PartialEnvironment {
    let Some(table) = field.table(&keys::ENVIRONMENT) else { return PartialEnvironment::default() };
    let container = table.required("container").and_then(|field| field.name());
    let port = table.get("port").map(|field| field.port());
    if port.is_none() {
        needs_port(&table);
    }
    let port = port.flatten();
    let ports = options::ports(&table);
    let swarm = swarm::read(&table);
    let is_dynamic = swarm.as_ref().is_some_and(|swarm| swarm.ports == PortMode::Dynamic);
    let (supply, checks) = read_supply(&table).unzip();
    let checks = checks.flatten();
    let hostnames = read_hostnames(&table);
    let network = options::network_mode(&table);
    let mut draft = PartialEnvironment {
        container,
        publish: read_publish(&table, port.filter(|_| network.is_none() && !is_dynamic), &ports),
        ports,
        group: table.get("group").and_then(|field| field.name()),
        replicas: replicas::read(&table),
        needs: read_needs(&table),
        site: site::read(&table, &hostnames),
        hostnames,
        host_port: port.filter(|_| network == Some("host")),
        supply,
        checks,
        volumes: read_volumes(&table),
        host: read_host(&table),
        gates: gates::read(&table),
        spec: None,
    };
    draft.spec = read_spec(&table, &draft, port, swarm);
    draft
}

fn read_spec(
    table: &Table<'_>,
    draft: &PartialEnvironment,
    port: Option<u16>,
    swarm: Option<SwarmSpec>,
) -> Option<EnvironmentSpec> {
    let command = table.get("command").map(|field| read_command(&field)).filter(|words| !words.is_empty());
    let env = table.get("env").map(|field| secrets::variables(&field)).unwrap_or_default();
    let extra_hosts = read_extra_hosts(table);
    let memory = table.get("memory").and_then(|field| read_memory(&field));
    let nano_cpus = table.get("cpus").and_then(|field| read_cpus(&field));
    let pids = table.get("pids").and_then(|field| read_pids(&field));
    let init = table.get("init").and_then(|field| field.flag()).unwrap_or(DEFAULT_INIT);
    let stop_timeout = read_stop_timeout(table);
    let update = table.get("update");
    let update = update.and_then(|field| field.parsed("\"start-first\" or \"stop-first\"", read_update));
    let pull_policy = read_pull_policy(table);
    let restart = table.get("restart").and_then(|field| field.parsed(RESTART, read_restart));
    let has_port = table.get("port").is_some();
    let health = health::read(table, port);
    if let Some(swarm) = &swarm {
        swarm::check(table, swarm, restart.unwrap_or_default(), &health, &draft.volumes);
    }
    let platform = table.get("platform").and_then(|field| field.parsed(options::PLATFORM, options::platform));
    let build = match table.get("build") {
        Some(field) => build::read(&field),
        None => table.get("source").map(|_| build::by_default()),
    };
    let build = build.map(|build| BuildSpec { platform: platform.clone(), ..build });
    let push = read_push(table);
    let https = table.get("https").and_then(|field| field.parsed("\"required\" or \"optional\"", read_https));
    let verify = gates::read_verify(table);
    let canary = canary::read(table);
    let [release, after] = Hook::ALL.map(|hook| one_off::read_hook(table, hook));
    let run = RunOptions {
        ports: draft.ports.clone(),
        env_files: options::env_files(table),
        secrets: secrets::files(table),
        aliases: options::aliases(table),
        networks: options::networks(table),
        platform,
        settings: options::settings(table, &draft.volumes),
    };
    secrets::check_places(table, &run, &draft.volumes);
    check_limits(table, &run, memory, nano_cpus);
    if let Some(field) = table.get("health")
        && run.settings.network_mode() == Some("none")
        && health.probe.needs_port()
    {
        field.must("must not connect to a port beside `network_mode` = \"none\"");
    }
    Some(EnvironmentSpec {
        container: draft.container.clone()?,
        group: draft.group.clone(),
        replica: None,
        // Their names are known once all files are read.
        needs: BTreeMap::new(),
        port: if has_port { Some(port?) } else { None },
        publish: draft.publish,
        hostnames: draft.hostnames.clone(),
        https,
        site: draft.site.clone(),
        run,
        supply: draft.supply.clone()?,
        pull_policy,
        command,
        env,
        volumes: draft.volumes.clone(),
        extra_hosts,
        memory,
        nano_cpus,
        pids,
        init,
        stop_timeout,
        update,
        restart: restart.unwrap_or_default(),
        health,
        build,
        push,
        canary,
        gates: draft.gates.clone(),
        verify,
        release,
        after,
        jobs: BTreeMap::new(),
        checks: draft.checks.clone(),
        swarm,
        host: draft.host.clone(),
        mark: None,
    })
}

/// Reads `needs`. Only members of a group have short names.
fn read_needs(table: &Table<'_>) -> BTreeMap<EnvironmentName, NeedCondition> {
    let Some(field) = table.get("needs") else { return BTreeMap::new() };
    let entries = field.entries();
    if !entries.is_empty() && table.get("group").is_none() {
        field.must("names members of a `group`: declare the same `group` here and there");
        return BTreeMap::new();
    }
    let need = |entry: &ManifestField<'_>| {
        let condition = entry.parsed(NEED, need_condition);
        Some((entry.key_as_name()?, condition?))
    };
    entries.iter().filter_map(need).collect()
}

fn need_condition(text: &str) -> Result<NeedCondition, String> {
    let found = NeedCondition::ALL.into_iter().find(|condition| condition.as_str() == text);
    found.ok_or_else(|| format!("must be {NEED}"))
}

/// Notes a problem for limits that contradict each other.
fn check_limits(table: &Table<'_>, run: &RunOptions, memory: Option<u64>, nano_cpus: Option<u64>) {
    if let (Some(field), Some(swap)) = (table.get("memswap_limit"), run.settings.memory_swap()) {
        match memory {
            None => field.must("needs `memory`"),
            Some(memory) if u64::try_from(swap).is_ok_and(|swap| swap < memory) => {
                field.must("must be at least `memory`, because it counts memory and swap together");
            }
            Some(_) => {}
        }
    }
    if let (Some(field), Some(reserved)) = (table.get("mem_reservation"), run.settings.memory_reservation()) {
        match grammar::memory_bytes(reserved) {
            Err(predicate) => field.must(predicate),
            Ok(_) if memory.is_some_and(|memory| reserved > memory) => field.must("must be at most `memory`"),
            Ok(_) => {}
        }
    }
    for field in table.present(&["cpu_quota", "cpu_period"]).iter().filter(|_| nano_cpus.is_some()) {
        field.must("does not go with `cpus`: declare one of them");
    }
}

/// Notes a problem for each key that needs a port.
fn needs_port(table: &Table<'_>) {
    let published = table.get("publish").filter(|field| !matches!(field.value(), DeValue::Boolean(false)));
    for field in published.into_iter().chain(table.present(&["hostname", "hostnames", "https", "site"])) {
        field.must("needs a `port`, on which the program in the container listens");
    }
}

/// Reads the host port; the default is the container's port, unless `ports` publishes that.
fn read_publish(table: &Table<'_>, port: Option<u16>, ports: &[PortMapping]) -> Option<Publish> {
    let all = |port| Publish { address: None, port };
    let is_listed = |port: &u16| {
        ports.iter().any(|listed| listed.container == *port && listed.protocol == TransportProtocol::Tcp)
    };
    let Some(field) = table.get("publish") else { return port.filter(|port| !is_listed(port)).map(all) };
    match field.value() {
        DeValue::Boolean(false) => None,
        DeValue::Integer(_) => field.port().map(all),
        DeValue::String(_) => field.parsed(grammar::PUBLISH, grammar::publish),
        _ => {
            field.wrong(grammar::PUBLISH);
            None
        }
    }
}

/// Reads the source of the image: exactly one, and a build only with a source.
fn read_supply(table: &Table<'_>) -> Option<(Supply, Option<NeededChecks>)> {
    let unchecked = |supply| (supply, None);
    let (source, promote_from) = (table.get("source"), read_promotion(table));
    if let Some(image) = table.get("image") {
        return read_followed_tag(table, &image).map(unchecked);
    }
    if let (None, Some(build)) = (&source, table.get("build")) {
        build.must("needs a `source` with the branch to build");
    }
    match (source, promote_from) {
        (Some(source), None) => read_source(&source),
        (None, Some(from)) => from.name().map(|from| unchecked(Supply::Promotion { from })),
        (None, None) => Some(unchecked(Supply::Manual)),
        (Some(source), Some(from)) => {
            from.must("does not go with `source`: an image is either built from a branch or promoted");
            let _also_checked = read_source(&source);
            None
        }
    }
}

/// Reads when the image is pulled.
fn read_pull_policy(table: &Table<'_>) -> PullPolicy {
    let Some(field) = table.get("pull_policy") else { return PullPolicy::default() };
    let policy: Option<PullPolicy> = field.parsed("a policy such as \"missing\"", |text| {
        text.parse().map_err(|error: InvalidPullPolicy| error.to_string())
    });
    let policy = policy.unwrap_or_default();
    let (has_image, has_source) = (table.get("image").is_some(), table.get("source").is_some());
    match policy {
        PullPolicy::Never | PullPolicy::Build if has_image => field.must(format!(
            "must not be \"{policy}\" beside `image`, because only a registry knows the image of a tag: leave `image` out, \
             and name an image of this host with `abide set`"
        )),
        PullPolicy::Build if !has_source => field.must("must not be \"build\" without a `source` to build"),
        PullPolicy::Every(_) if !has_image => {
            field.must(format!("must not be \"{policy}\" without an `image`, whose tag abide asks for"));
        }
        _ => {}
    }
    policy
}

/// Reads the push target. Only images that are built on this host are pushed.
fn read_push(table: &Table<'_>) -> Option<ImageRepository> {
    let field = table.get("push")?;
    if table.get("source").is_none() {
        field.must("goes with a `source` and its `build`: only images built here are pushed");
    }
    field.parsed("a repository such as \"localhost:5000/keepwork/prod\"", grammar::push_target)
}

/// Reads the key that names the source of promotions: `promote_from`, or `from` of `promote`.
fn read_promotion<'a>(table: &Table<'a>) -> Option<ManifestField<'a>> {
    let (short, promote) = (table.get("promote_from"), table.get("promote"));
    if let (Some(_), Some(promote)) = (&short, &promote) {
        promote.must("does not go with `promote_from`: name the environment as `from` in it");
        return short;
    }
    let Some(promote) = promote else { return short };
    promote.table(&keys::PROMOTE)?.required("from")
}

fn read_followed_tag(table: &Table<'_>, image: &ManifestField<'_>) -> Option<Supply> {
    for other in table.present(&["source", "promote_from", "promote", "build", "push"]) {
        other.must("does not go with `image`, which tracks a tag in a registry");
    }
    let image = image.parsed("an image such as \"localhost:5000/shop/app:stable\"", grammar::followed_tag)?;
    Some(Supply::Tag { image })
}

fn read_source(field: &ManifestField<'_>) -> Option<(Supply, Option<NeededChecks>)> {
    let table = field.table(&keys::SOURCE)?;
    let checks = table.get("checks").and_then(|field| read_checks(&field));
    let repository = table.required("repository").and_then(|field| field.name());
    let branch = read_branch(&table.required("branch")?)?;
    Some((Supply::Branch { repository: repository?, branch }, checks))
}

/// Reads the checks that a commit needs.
fn read_checks(field: &ManifestField<'_>) -> Option<NeededChecks> {
    match field.value() {
        DeValue::Boolean(false) => None,
        DeValue::Boolean(true) => {
            field.must("must be \"required\", which means what the forge requires, or name the checks");
            None
        }
        DeValue::String(text) if text == "required" => Some(NeededChecks::OfBranch),
        DeValue::Array(_) => gates::read_checks(field).map(NeededChecks::Named),
        _ => {
            field.wrong("\"required\", `false`, or a list of names such as [\"ci/build\"]");
            None
        }
    }
}

fn read_branch(field: &ManifestField<'_>) -> Option<BranchName> {
    let branch: BranchName = field.name()?;
    if branch.as_str().starts_with("refs/") {
        field.must("must be only the branch, without refs/heads/");
    }
    Some(branch)
}

/// Reads the agent that runs the environment. An image that is built on this host runs on this host, so
/// `host` excludes `source`.
fn read_host(table: &Table<'_>) -> Option<AgentName> {
    let field = table.get("host")?;
    let host = field.name();
    if table.get("source").is_some() {
        field.must(
            "does not go with `source`: this environment would be built here and run on another host; \
            declare an environment with `promote_from` for the other host",
        );
    }
    options::none_in_folder(table);
    host
}

/// Reads the host names: one as `hostname`, or a list as `hostnames`.
fn read_hostnames(table: &Table<'_>) -> Vec<SiteName> {
    let one = table.get("hostname");
    let Some(many) = table.get("hostnames") else {
        return one.and_then(|field| field.name()).into_iter().collect();
    };
    if one.is_some() {
        many.must("does not go with `hostname`: put every name into the list");
    }
    read_names(&many)
}

/// Reads a list of host names, each once.
pub(super) fn read_names(many: &ManifestField<'_>) -> Vec<SiteName> {
    let mut names = Vec::new();
    for item in many.items("a list such as [\"example.com\", \"www.example.com\"]") {
        let Some(name) = item.name::<SiteName>() else { continue };
        if names.contains(&name) {
            item.must(format!("is there twice: {name}"));
        }
        names.push(name);
    }
    names
}

fn read_restart(text: &str) -> Result<RestartMode, String> {
    match text {
        "always" | "unless-stopped" => Ok(RestartMode::Always),
        "on-failure" => Ok(RestartMode::OnFailure),
        _ => Err(format!("must be {RESTART}")),
    }
}

fn read_https(text: &str) -> Result<HttpsMode, String> {
    match text {
        "required" => Ok(HttpsMode::Required),
        "optional" => Ok(HttpsMode::Optional),
        _ => Err("must be \"required\" or \"optional\"".to_owned()),
    }
}

fn read_command(field: &ManifestField<'_>) -> Vec<String> {
    field.texts("a list such as [\"dev\"]").into_iter().map(str::to_owned).collect()
}

fn read_volumes(table: &Table<'_>) -> Vec<Mount> {
    let Some(field) = table.get("volumes") else { return Vec::new() };
    let mut targets = BTreeSet::new();
    let mut mounts = Vec::new();
    for item in field.items("a list such as [\"dev-log:/var/log/app\"]") {
        let Some(mount) = read_mount(&item) else { continue };
        if !targets.insert(mount.target().clone()) {
            item.must(format!("mounts over {}, which is already mounted", mount.target()));
        }
        mounts.push(mount);
    }
    mounts
}

/// Reads a mount from a text or a table.
fn read_mount(item: &ManifestField<'_>) -> Option<Mount> {
    if !matches!(item.value(), DeValue::Table(_)) {
        let expected = "a text \"source:target\" or a table { source = \"...\", target = \"...\" }";
        return item.parsed(expected, |text| match text.split_once(':') {
            Some((source, rest)) => grammar::mount(&format!("{}:{rest}", item.in_folder(source))),
            None => grammar::mount(text),
        });
    }
    let table = item.table(&keys::MOUNT)?;
    let source = table.required("source").and_then(|field| field.text());
    let target = table.required("target").and_then(|field| field.text());
    let flag = |key| table.get(key).and_then(|field| field.flag()).unwrap_or(false);
    let options = MountOptions {
        read_only: flag("read_only"),
        create: flag("create"),
        shared: flag("shared"),
        external: flag("external"),
        nocopy: flag("nocopy"),
        selinux: table.get("selinux").and_then(|field| field.parsed(RELABEL, str::parse)),
        propagation: table.get("propagation").and_then(|field| field.parsed(PROPAGATION, str::parse)),
    };
    let mount = Mount::new(&item.in_folder(source?), target?).and_then(|mount| mount.with(options));
    mount.map_err(|error: InvalidMount| item.must(error.to_string())).ok()
}

fn read_extra_hosts(table: &Table<'_>) -> Vec<String> {
    let items = table.get("extra_hosts").map(|field| field.items("a list such as [\"host:10.0.0.6\"]"));
    let read = |item: &ManifestField<'_>| item.parsed("a text \"host:address\"", grammar::extra_host);
    items.unwrap_or_default().iter().filter_map(read).collect()
}

pub(super) fn read_memory(field: &ManifestField<'_>) -> Option<u64> {
    let DeValue::Integer(number) = field.value() else {
        return field.parsed("a size such as \"512MiB\" or a number of bytes", grammar::memory);
    };
    let bytes = integer(number).map_or(u64::MAX, |bytes| u64::try_from(bytes).unwrap_or_default());
    grammar::memory_bytes(bytes).map_err(|predicate| field.must(predicate)).ok()
}

fn read_cpus(field: &ManifestField<'_>) -> Option<u64> {
    let cpus = match field.value() {
        DeValue::Integer(number) => grammar::nano_cpus(&number.to_string()),
        DeValue::Float(number) => grammar::nano_cpus(number.as_str()),
        _ => return field.parsed("a number of CPUs such as 1.5", grammar::nano_cpus),
    };
    cpus.map_err(|predicate| field.must(predicate)).ok()
}

pub(super) fn read_pids(field: &ManifestField<'_>) -> Option<u32> {
    field.integer(1, u64::from(grammar::MOST_PIDS)).and_then(|pids| u32::try_from(pids).ok())
}

fn read_stop_timeout(table: &Table<'_>) -> Duration {
    let Some(field) = table.get("stop_timeout") else { return DEFAULT_STOP_TIMEOUT };
    let timeout = field.duration().unwrap_or(DEFAULT_STOP_TIMEOUT);
    grammar::stop_timeout(timeout).unwrap_or_else(|predicate| {
        field.must(predicate);
        timeout
    })
}

fn read_update(text: &str) -> Result<Update, String> {
    match text {
        "start-first" => Ok(Update::StartFirst),
        "stop-first" => Ok(Update::StopFirst),
        _ => Err("must be \"start-first\" or \"stop-first\"".to_owned()),
    }
}
