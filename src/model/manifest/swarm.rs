//! `[environment.NAME.swarm]`, and what does not go with it.

use toml::de::DeValue;

use super::cross::{Declarations, NamedPartial};
use super::keys;
use super::places::Places;
use super::problem::Problem;
use super::table::{ManifestField, Table};
use crate::model::health::HealthSpec;
use crate::model::mount::Mount;
use crate::model::name::ContainerName;
use crate::model::options::SETTINGS;
use crate::model::spec::{RestartMode, Supply};
use crate::model::workload::{PlacementRule, PortMode, SwarmSpec};

/// The keys of an environment that a service cannot have, each with the reason.
const REFUSED: [(&str, &str); 11] = [
    ("replicas", "declare it in `swarm`, as `swarm = { replicas = 3 }`"),
    ("verify", "declare it in an environment of one container, and promote from there"),
    ("release", "declare it in an environment of one container, and promote from there"),
    ("after", "declare it in an environment of one container, and promote from there"),
    ("ports", "a service publishes only `port`"),
    ("aliases", "the members of its group find it by the name in `container` and by its short name"),
    ("networks", "a service joins only the network of its group"),
    ("network_mode", "a service joins only the network of its group"),
    ("domainname", "a service cannot have it"),
    ("shm_size", "a service cannot have it"),
    ("logging", "set it in the configuration of the engines"),
];

/// The keys that only the proxy serves.
const OF_THE_PROXY: [&str; 4] = ["hostname", "hostnames", "https", "site"];

/// The settings that a service can have.
const SETTINGS_OF_SERVICES: [&str; 14] = [
    "entrypoint",
    "user",
    "working_dir",
    "container_hostname",
    "labels",
    "stop_signal",
    "tty",
    "stdin_open",
    "read_only",
    "cap_add",
    "cap_drop",
    "dns",
    "dns_search",
    "dns_opt",
];

/// Reads `swarm`.
pub(super) fn read(table: &Table<'_>) -> Option<SwarmSpec> {
    let own = table.get("swarm")?.table(&keys::SWARM)?;
    let number = |key, least, default| {
        let read = own.get(key).map(|field| field.integer(least, 1000));
        read.map_or(Some(default), |read| read.and_then(|number| u32::try_from(number).ok()))
    };
    let constraints =
        own.get("constraints").map(|field| field.items("a list such as [\"node.role == worker\"]"));
    let constraints = constraints.unwrap_or_default();
    let ports = own.get("ports").map(|field| field.parsed("\"ingress\", \"host\" or \"dynamic\"", port_mode));
    let per_node = own.get("per_node").map(|field| field.integer(1, 1000));
    Some(SwarmSpec {
        replicas: number("replicas", 1, 1)?,
        constraints: constraints.iter().filter_map(ManifestField::name).collect(),
        spread: own.get("spread").and_then(|field| field.name()),
        per_node: per_node.flatten().and_then(|number| u32::try_from(number).ok()),
        parallel: number("parallel", 0, 1)?,
        ports: ports.map_or(Some(PortMode::default()), |read| read)?,
    })
}

fn port_mode(text: &str) -> Result<PortMode, String> {
    let found = PortMode::ALL.into_iter().find(|mode| mode.as_str() == text);
    found.ok_or_else(|| "must be \"ingress\", \"host\" or \"dynamic\"".to_owned())
}

/// Notes a problem for each key that does not go with `swarm`.
pub(super) fn check(
    table: &Table<'_>,
    swarm: &SwarmSpec,
    restart: RestartMode,
    health: &HealthSpec,
    volumes: &[Mount],
) {
    for (key, why) in REFUSED {
        if let Some(field) = table.get(key) {
            field.must(format!("does not go with `swarm`: {why}"));
        }
    }
    let is_dynamic = swarm.ports == PortMode::Dynamic;
    for field in OF_THE_PROXY.iter().filter_map(|key| table.get(key)).filter(|_| !is_dynamic) {
        field.must(
            "needs a port of each replica beside `swarm`, to which the proxy forwards: add ports = \"dynamic\" to `swarm`",
        );
    }
    let known =
        |key: &str| SETTINGS_OF_SERVICES.contains(&key) || REFUSED.iter().any(|(refused, _)| *refused == key);
    for setting in SETTINGS.iter().filter(|setting| !known(setting.key)) {
        if let Some(field) = table.get(setting.key) {
            field.must("does not go with `swarm`: a service cannot have it");
        }
    }
    if let (Some(field), None) = (table.get("source"), table.get("push")) {
        field.must(
            "needs `push` beside `swarm`, because the nodes pull the image from a registry: add push = \
             \"registry.example.com/app\"",
        );
    }
    if let (Some(field), RestartMode::OnFailure) = (table.get("restart"), restart) {
        field.must("must be \"always\" beside `swarm`");
    }
    if let (Some(field), false) = (table.get("health"), health.headers.is_empty()) {
        field.must("must have no `headers` beside `swarm`: the probe runs in the container, where others could read them");
    }
    if let Some(field) =
        table.get("container").filter(|field| field.text().is_some_and(|name| !is_dns_label(name)))
    {
        field.must(
            "must be a DNS label beside `swarm`: 1 to 63 characters of a-z 0-9 and -, without - at the ends",
        );
    }
    let is_on_one_node = swarm.constraints.iter().any(PlacementRule::is_one_node);
    if let Some(field) = table.get("volumes").filter(|_| !volumes.is_empty() && !is_on_one_node) {
        field.must(
            "needs a node of its own beside `swarm`, because each node has another volume of that name: add \
             constraints = [\"node.hostname == NODE\"] to `swarm`",
        );
    }
    let needs_host = |mount: &Mount| mount.options().selinux.is_some() || mount.creates();
    if let Some(field) = table.get("volumes").filter(|_| volumes.iter().any(needs_host)) {
        field.must(
            "must not use `selinux` or `create` beside `swarm`: abide does not see the paths of the nodes",
        );
    }
    check_publish(table, swarm);
}

fn check_publish(table: &Table<'_>, swarm: &SwarmSpec) {
    let Some(field) = table.get("publish") else { return };
    // The proxy publishes a port for replicas that have ports of their own.
    if matches!(field.value(), DeValue::String(_)) && swarm.ports != PortMode::Dynamic {
        field.must(
            "must be a port without an address beside `swarm`: a service is published on all addresses",
        );
    }
}

/// Whether a text is a label of a DNS name, as Swarm requires of services.
fn is_dns_label(name: &str) -> bool {
    ContainerName::new(name).is_err()
        || name.len() <= 63
            && !name.ends_with('-')
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// Services whose image no registry has, because the environment that it is promoted from does not push it; ports of
/// the proxy without a proxy; and jobs of services.
pub(super) fn problems(declared: &Declarations, all: &[NamedPartial<'_>], places: &Places) -> Vec<Problem> {
    let mut found = Vec::new();
    for (name, draft) in all {
        let Some(swarm) = draft.spec.as_ref().and_then(|spec| spec.swarm.as_ref()) else { continue };
        let may_have_front = declared.front.is_some() || declared.incomplete || draft.host.is_some();
        if swarm.ports == PortMode::Dynamic && draft.publish.is_some() && !may_have_front {
            let message = "`publish` beside ports = \"dynamic\" of `swarm` needs the proxy, which forwards to the port of \
                           each replica: add `[front]`, or remove `publish`";
            found.push(places.problem(&format!("environment.{name}.publish"), message));
        }
        if let Some(origin) = declared.origin_of(name)
            && let Some((Some(Supply::Branch { .. }), Some(built))) =
                declared.environment(origin).map(|built| (&built.supply, &built.spec))
            && built.push.is_none()
            && origin != *name
        {
            let message = format!(
                "the nodes of a swarm pull the image from a registry: add push = \"registry.example.com/app\" to \
                 `environment.{origin}`, which builds it"
            );
            found.push(places.problem(&format!("environment.{name}.swarm"), message));
        }
        for job in declared.jobs_of(name) {
            let message = format!(
                "`job.{job}` cannot run in `environment.{name}`, which runs on a swarm: declare it for an environment \
                 of one container"
            );
            found.push(places.problem(&format!("job.{job}.environment"), message));
        }
    }
    found
}
