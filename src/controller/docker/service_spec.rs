//! The specification of a service, built from scratch for each write: the client library loses the health check of
//! what it reads, so nothing that was read is ever written back.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use bollard::models::{
    EndpointPortConfig, EndpointPortConfigProtocolEnum, EndpointPortConfigPublishModeEnum, EndpointSpec,
    EndpointSpecModeEnum, HealthConfig, Limit, NetworkAttachmentConfig, ServiceSpec, ServiceSpecMode,
    ServiceSpecModeReplicated, ServiceSpecUpdateConfig, ServiceSpecUpdateConfigFailureActionEnum,
    ServiceSpecUpdateConfigOrderEnum, TaskSpec, TaskSpecContainerSpec, TaskSpecContainerSpecConfigs,
    TaskSpecContainerSpecDnsConfig, TaskSpecContainerSpecSecrets, TaskSpecPlacement,
    TaskSpecPlacementPreferences, TaskSpecPlacementSpread, TaskSpecResources, TaskSpecRestartPolicy,
    TaskSpecRestartPolicyConditionEnum,
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::mounts;
use crate::model::container::label;
use crate::model::health::Probe;
use crate::model::options::EngineField;
use crate::model::spec::Update;
use crate::model::time::Timestamp;
use crate::model::workload::{PortMode, Workload, settles_after};

/// The path of abide's probe in a container.
pub(super) const PROBE_PATH: &str = "/abide-probe";
/// How often a check has to fail after the start deadline before a replica is replaced.
const RETRIES: i64 = 3;
/// The shortest time for which Swarm watches a replaced replica before it continues.
const MONITOR: Duration = Duration::from_secs(1);
/// How long Swarm waits before it replaces a replica that ended. Swarm has no backoff.
const RESTART_DELAY: Duration = Duration::from_secs(1);

/// The fields that abide writes and compares, each with its words and its place in the JSON of a specification. The
/// health check is not among them, because the client library cannot read it.
const FIELDS: [(&str, &str); 30] = [
    ("the number of replicas", "/Mode/Replicated/Replicas"),
    ("the image", "/TaskTemplate/ContainerSpec/Image"),
    ("the entrypoint", "/TaskTemplate/ContainerSpec/Command"),
    ("the command", "/TaskTemplate/ContainerSpec/Args"),
    ("the environment variables", "/TaskTemplate/ContainerSpec/Env"),
    ("the labels of its containers", "/TaskTemplate/ContainerSpec/Labels"),
    ("the mounts", "/TaskTemplate/ContainerSpec/Mounts"),
    ("the secrets", "/TaskTemplate/ContainerSpec/Secrets"),
    ("the configs", "/TaskTemplate/ContainerSpec/Configs"),
    ("the hosts", "/TaskTemplate/ContainerSpec/Hosts"),
    ("the host name", "/TaskTemplate/ContainerSpec/Hostname"),
    ("the user", "/TaskTemplate/ContainerSpec/User"),
    ("the working folder", "/TaskTemplate/ContainerSpec/Dir"),
    ("the stop timeout", "/TaskTemplate/ContainerSpec/StopGracePeriod"),
    ("the stop signal", "/TaskTemplate/ContainerSpec/StopSignal"),
    ("the init", "/TaskTemplate/ContainerSpec/Init"),
    ("the terminal", "/TaskTemplate/ContainerSpec/TTY"),
    ("the input", "/TaskTemplate/ContainerSpec/OpenStdin"),
    ("the read-only files", "/TaskTemplate/ContainerSpec/ReadOnly"),
    ("the name servers", "/TaskTemplate/ContainerSpec/DNSConfig"),
    ("the added capabilities", "/TaskTemplate/ContainerSpec/CapabilityAdd"),
    ("the dropped capabilities", "/TaskTemplate/ContainerSpec/CapabilityDrop"),
    ("the limits", "/TaskTemplate/Resources/Limits"),
    ("the restart policy", "/TaskTemplate/RestartPolicy"),
    ("the constraints", "/TaskTemplate/Placement/Constraints"),
    ("the placement preferences", "/TaskTemplate/Placement/Preferences"),
    ("the limit of replicas on a node", "/TaskTemplate/Placement/MaxReplicas"),
    ("the networks", "/TaskTemplate/Networks"),
    ("the update options", "/UpdateConfig"),
    ("the ports", "/EndpointSpec"),
];

/// Whether the health check is abide's own probe.
pub(super) fn needs_probe(workload: &Workload) -> bool {
    matches!(workload.health.probe, Probe::Http(_) | Probe::Tcp)
}

/// The objects of the swarm that a service refers to.
#[derive(Default)]
pub(super) struct ServiceObjects {
    /// abide's probe.
    pub(super) probe: Option<TaskSpecContainerSpecConfigs>,
    /// The secret files.
    pub(super) secrets: Vec<TaskSpecContainerSpecSecrets>,
    /// The id of the group's network.
    pub(super) network: Option<String>,
}

/// Builds the specification that is written `now`. `forced` counts the restarts that people asked for.
pub(super) fn of(workload: &Workload, objects: ServiceObjects, forced: u64, now: Timestamp) -> ServiceSpec {
    let placement = &workload.placement;
    let mut spec = ServiceSpec {
        name: Some(workload.name().to_string()),
        labels: None,
        task_template: Some(TaskSpec {
            networks: objects.network.clone().map(|target| vec![attachment(workload, target)]),
            container_spec: Some(container(workload, objects)),
            resources: limits(workload),
            restart_policy: Some(TaskSpecRestartPolicy {
                // An unhealthy program may end with exit code 0.
                condition: Some(TaskSpecRestartPolicyConditionEnum::ANY),
                delay: Some(nanos(RESTART_DELAY)),
                ..TaskSpecRestartPolicy::default()
            }),
            placement: Some(TaskSpecPlacement {
                constraints: Some(placement.constraints.iter().map(ToString::to_string).collect()),
                preferences: placement.spread.as_ref().map(|key| {
                    let spread = TaskSpecPlacementSpread { spread_descriptor: Some(key.to_string()) };
                    vec![TaskSpecPlacementPreferences { spread: Some(spread) }]
                }),
                max_replicas: placement.per_node.map(i64::from),
                ..TaskSpecPlacement::default()
            }),
            force_update: Some(forced),
            ..TaskSpec::default()
        }),
        mode: Some(ServiceSpecMode {
            replicated: Some(ServiceSpecModeReplicated { replicas: Some(placement.replicas.into()) }),
            ..ServiceSpecMode::default()
        }),
        update_config: Some(ServiceSpecUpdateConfig {
            parallelism: Some(placement.parallel.into()),
            // abide decides whether a version is given up.
            failure_action: Some(ServiceSpecUpdateConfigFailureActionEnum::PAUSE),
            monitor: Some(nanos(settles_after(&workload.health).max(MONITOR))),
            order: Some(match workload.update {
                Update::StartFirst => ServiceSpecUpdateConfigOrderEnum::START_FIRST,
                Update::StopFirst => ServiceSpecUpdateConfigOrderEnum::STOP_FIRST,
            }),
            ..ServiceSpecUpdateConfig::default()
        }),
        endpoint_spec: Some(endpoint(workload)),
        ..ServiceSpec::default()
    };
    let mut labels: HashMap<String, String> = workload.labels().into_iter().collect();
    labels.insert(label::WRITTEN_AT.to_owned(), now.as_millis().to_string());
    labels.insert(label::WRITTEN.to_owned(), serde_json::to_string(&hashes(&spec)).unwrap_or_default());
    spec.labels = Some(labels);
    spec
}

fn container(workload: &Workload, objects: ServiceObjects) -> TaskSpecContainerSpec {
    let options = &workload.options;
    let settings: BTreeMap<&str, Value> = options
        .run
        .settings
        .to_engine()
        .map(|(EngineField::Config(name) | EngineField::Host(name), value)| (name, value))
        .collect();
    let text = |name: &str| settings.get(name).and_then(Value::as_str).map(str::to_owned);
    let flag = |name: &str| settings.get(name).and_then(Value::as_bool);
    let texts = |name: &str| -> Option<Vec<String>> {
        let all = settings.get(name)?.as_array()?.iter();
        Some(all.filter_map(Value::as_str).map(str::to_owned).collect())
    };
    let named = |(name, value): (&String, &Value)| Some((name.clone(), value.as_str()?.to_owned()));
    let labels = settings.get("Labels").and_then(Value::as_object).into_iter().flatten().filter_map(named);
    let version = (label::VERSION.to_owned(), workload.version());
    let dns = TaskSpecContainerSpecDnsConfig {
        nameservers: texts("Dns"),
        search: texts("DnsSearch"),
        options: texts("DnsOptions"),
    };
    TaskSpecContainerSpec {
        image: Some(workload.image.clone()),
        labels: Some(labels.chain([version]).collect()),
        command: texts("Entrypoint"),
        args: options.command.clone(),
        hostname: text("Hostname"),
        env: Some(options.env.iter().map(|(name, value)| format!("{name}={}", value.expose())).collect()),
        dir: text("WorkingDir"),
        user: text("User"),
        tty: flag("Tty"),
        open_stdin: flag("OpenStdin"),
        read_only: flag("ReadonlyRootfs"),
        mounts: Some(options.volumes.iter().map(mounts::to_engine).collect()),
        stop_signal: text("StopSignal"),
        stop_grace_period: Some(nanos(Duration::from_secs(options.stop_timeout_seconds.into()))),
        health_check: health_check(workload),
        // The engine takes them as in /etc/hosts.
        hosts: Some(options.extra_hosts.iter().filter_map(|line| in_hosts_file(line)).collect()),
        dns_config: (dns != TaskSpecContainerSpecDnsConfig::default()).then_some(dns),
        secrets: Some(objects.secrets),
        configs: Some(objects.probe.into_iter().collect()),
        init: Some(options.init),
        capability_add: texts("CapAdd"),
        capability_drop: texts("CapDrop"),
        ..TaskSpecContainerSpec::default()
    }
}

/// The network of the group, by its id: the engine replaces a name by the id, which would count as a change.
fn attachment(workload: &Workload, target: String) -> NetworkAttachmentConfig {
    let aliases = workload.options.run.aliases.iter().map(ToString::to_string).collect();
    NetworkAttachmentConfig { target: Some(target), aliases: Some(aliases), driver_opts: None }
}

/// `host:address` as `address host`.
fn in_hosts_file(line: &str) -> Option<String> {
    let (host, address) = line.split_once(':')?;
    Some(format!("{address} {host}"))
}

fn limits(workload: &Workload) -> Option<TaskSpecResources> {
    let options = &workload.options;
    let number = |limit: Option<u64>| limit.map(super::containers::signed);
    let limits = Limit {
        nano_cpus: number(options.nano_cpus),
        memory_bytes: number(options.memory),
        pids: options.pids.map(i64::from),
    };
    (limits != Limit::default())
        .then(|| TaskSpecResources { limits: Some(limits), ..TaskSpecResources::default() })
}

fn endpoint(workload: &Workload) -> EndpointSpec {
    let ports = &workload.placement.ports;
    let published = workload.options.publish.map(|publish| publish.port);
    let is_published = *ports == PortMode::Dynamic || published.is_some();
    let port = workload.options.port.filter(|_| is_published).map(|port| EndpointPortConfig {
        protocol: Some(EndpointPortConfigProtocolEnum::TCP),
        target_port: Some(port.into()),
        published_port: published.map(i64::from).filter(|_| *ports != PortMode::Dynamic),
        publish_mode: Some(match ports {
            PortMode::Ingress => EndpointPortConfigPublishModeEnum::INGRESS,
            PortMode::Host | PortMode::Dynamic => EndpointPortConfigPublishModeEnum::HOST,
        }),
        ..EndpointPortConfig::default()
    });
    // Only an ingress port needs a virtual address, and that needs a module of the kernel.
    let mode = match (ports, &port) {
        (PortMode::Ingress, Some(_)) => EndpointSpecModeEnum::VIP,
        _ => EndpointSpecModeEnum::DNSRR,
    };
    EndpointSpec { mode: Some(mode), ports: port.map(|port| vec![port]) }
}

fn health_check(workload: &Workload) -> Option<HealthConfig> {
    let health = &workload.health;
    let probe = |kind: &str| {
        let port = health.port.or(workload.options.port)?;
        let uptime = health.healthy_for.as_millis().to_string();
        Some(vec!["CMD".to_owned(), PROBE_PATH.to_owned(), kind.to_owned(), port.to_string(), uptime])
    };
    let test = match &health.probe {
        Probe::Docker => return None,
        Probe::None | Probe::Running => vec!["NONE".to_owned()],
        Probe::Command(command) => {
            let mut test = vec!["CMD".to_owned()];
            test.extend_from_slice(command);
            test
        }
        Probe::Tcp => probe("tcp")?,
        Probe::Http(path) => {
            let mut test = probe("http")?;
            test.push(health.host.clone().unwrap_or_else(|| "localhost".to_owned()));
            test.push(path.clone());
            test
        }
    };
    Some(HealthConfig {
        test: Some(test),
        interval: Some(nanos(health.interval)),
        timeout: Some(nanos(health.timeout)),
        retries: Some(RETRIES),
        start_period: Some(nanos(health.start_deadline)),
        ..HealthConfig::default()
    })
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// A short hash of each field that abide compares, by its words.
pub(super) fn hashes(spec: &ServiceSpec) -> BTreeMap<String, String> {
    let json = serde_json::to_value(spec).unwrap_or_default();
    let field = |(words, place): &(&str, &str)| {
        let value = json.pointer(place).cloned().and_then(canonical)?;
        let hash = hex::encode(Sha256::digest(value.to_string()));
        Some(((*words).to_owned(), hash.get(..12)?.to_owned()))
    };
    FIELDS.iter().filter_map(field).collect()
}

/// The fields that differ from what abide wrote, by the hashes in the labels of a service.
pub(super) fn changes(spec: &ServiceSpec) -> BTreeSet<String> {
    let written = spec.labels.as_ref().and_then(|labels| labels.get(label::WRITTEN));
    let written: Option<BTreeMap<String, String>> =
        written.and_then(|written| serde_json::from_str(written).ok());
    let Some(written) = written else { return BTreeSet::from(["the labels".to_owned()]) };
    let now = hashes(spec);
    let words: BTreeSet<&String> = written.keys().chain(now.keys()).collect();
    words.into_iter().filter(|word| written.get(*word) != now.get(*word)).cloned().collect()
}

/// A value without what the engine leaves out when it shows a specification again: empty and zero values. `None`:
/// nothing is left.
fn canonical(value: Value) -> Option<Value> {
    match value {
        Value::Null | Value::Bool(false) => None,
        Value::Number(number) => (number.as_f64() != Some(0.0)).then_some(Value::Number(number)),
        Value::String(text) => (!text.is_empty()).then_some(Value::String(text)),
        Value::Array(items) => {
            let items: Vec<Value> = items.into_iter().filter_map(canonical).collect();
            (!items.is_empty()).then_some(Value::Array(items))
        }
        Value::Object(fields) => {
            let fields: BTreeMap<String, Value> =
                fields.into_iter().filter_map(|(name, value)| Some((name, canonical(value)?))).collect();
            (!fields.is_empty()).then(|| Value::Object(fields.into_iter().collect()))
        }
        value => Some(value),
    }
}
