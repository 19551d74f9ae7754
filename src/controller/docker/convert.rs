//! Converts the engine's answers to the data model.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use bollard::models::{
    ContainerInspectResponse, ContainerState as EngineState, ContainerStateStatusEnum as Word,
    EndpointSettings, HealthStatusEnum, HostConfig, NetworkSettings, PortMap,
};

use super::{mounts, settings};
use crate::model::container::{Exit, Secret};
use crate::model::name::Digest;
use crate::model::network::{Attachment, Attachments};
use crate::model::observed::{ContainerState, EngineHealth, Joined, ObservedContainer, SandboxState};
use crate::model::ports::PortMapping;
use crate::model::time::Timestamp;

/// Converts an inspected container.
pub(super) fn seen(inspected: ContainerInspectResponse) -> ObservedContainer {
    let mounts = mounts::seen(&inspected);
    let settings = settings::seen(&inspected);
    let config = inspected.config.unwrap_or_default();
    let host = inspected.host_config.unwrap_or_default();
    let state = inspected.state.unwrap_or_default();
    let created =
        inspected.created.map(|at| u64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(0));
    ObservedContainer {
        id: inspected.id.unwrap_or_default(),
        name: inspected.name.unwrap_or_default().trim_start_matches('/').to_owned(),
        image: inspected.image.and_then(|id| Digest::new(id).ok()),
        started_at: moment(state.started_at.as_deref()),
        engine_health: engine_health(&state),
        state: state_word(&state),
        created_at: Timestamp::from_millis(created.unwrap_or(0)),
        command: config.cmd.unwrap_or_default(),
        env: variables(config.env.unwrap_or_default()),
        published: published(host.port_bindings.clone().unwrap_or_default()),
        mounts,
        settings,
        extra_hosts: host.extra_hosts.clone().unwrap_or_default(),
        memory: positive(host.memory),
        nano_cpus: positive(host.nano_cpus),
        pids: positive(host.pids_limit).and_then(|pids| u32::try_from(pids).ok()),
        init: host.init.unwrap_or(false),
        restart_policy: restart_policy(&host),
        attachments: inspected.network_settings.as_ref().map(attachments).unwrap_or_default(),
        networks: inspected.network_settings.map(networks).unwrap_or_default(),
        joined: joined(&host),
        last_output: None,
        secret_files: Vec::new(),
        labels: config.labels.unwrap_or_default().into_iter().collect(),
    }
}

fn state_word(state: &EngineState) -> ContainerState {
    match state.status {
        Some(Word::RUNNING) => ContainerState::Running,
        Some(Word::PAUSED) => ContainerState::Paused,
        Some(Word::CREATED) => ContainerState::Created,
        Some(Word::DEAD) => ContainerState::Dead,
        Some(Word::EXITED) => ContainerState::Exited(Exit {
            code: state.exit_code.unwrap_or(0),
            out_of_memory: state.oom_killed.unwrap_or(false),
            at: moment(state.finished_at.as_deref()).unwrap_or_default(),
        }),
        _ => ContainerState::InTransit,
    }
}

pub(super) fn engine_health(state: &EngineState) -> EngineHealth {
    match state.health.as_ref().and_then(|health| health.status) {
        Some(HealthStatusEnum::HEALTHY) => EngineHealth::Healthy,
        Some(HealthStatusEnum::UNHEALTHY) => EngineHealth::Unhealthy,
        Some(HealthStatusEnum::STARTING) => EngineHealth::Starting,
        _ => EngineHealth::NoCheck,
    }
}

/// The engine writes the year 1 for "never".
fn moment(text: Option<&str>) -> Option<Timestamp> {
    text.and_then(|text| Timestamp::parse(text).ok()).filter(|at| at.as_millis() > 0)
}

fn variables(env: Vec<String>) -> BTreeMap<String, Secret> {
    env.into_iter()
        .map(|variable| match variable.split_once('=') {
            Some((name, value)) => (name.to_owned(), Secret::new(value)),
            None => (variable, Secret::default()),
        })
        .collect()
}

fn published(ports: PortMap) -> BTreeSet<String> {
    let text = |port: &str, binding: bollard::models::PortBinding| {
        let (address, host) = (binding.host_ip.unwrap_or_default(), binding.host_port.unwrap_or_default());
        let text = format!("{address}:{host}:{port}");
        text.parse().map_or(text, |mapping: PortMapping| mapping.canonical().to_string())
    };
    let all = ports.iter().flat_map(|(port, bindings)| {
        bindings.iter().flatten().map(move |binding| text(port, binding.clone()))
    });
    all.collect()
}

/// Returns the holder whose network namespace the container joins, as far as its own inspect shows.
fn joined(host: &HostConfig) -> Option<Joined> {
    let holder = host.network_mode.as_deref()?.strip_prefix("container:")?;
    Some(Joined { holder: holder.to_owned(), state: SandboxState::Gone })
}

/// Returns the limit, or `None` for zero and minus one, which the engine uses for "no limit".
fn positive(limit: Option<i64>) -> Option<u64> {
    limit.and_then(|limit| u64::try_from(limit).ok()).filter(|limit| *limit > 0)
}

fn restart_policy(host: &HostConfig) -> String {
    let name = host.restart_policy.as_ref().and_then(|policy| policy.name);
    name.map(|name| name.to_string()).unwrap_or_default()
}

fn attachments(settings: &NetworkSettings) -> Attachments {
    let attachment = |(name, endpoint): (&String, &EndpointSettings)| {
        let aliases = endpoint.aliases.iter().flatten().filter_map(|alias| alias.parse().ok());
        let fixed = endpoint.ipam_config.as_ref();
        let attachment = Attachment {
            aliases: aliases.collect(),
            ipv4_address: fixed.and_then(|fixed| fixed.ipv4_address.as_ref()?.parse().ok()),
            ipv6_address: fixed.and_then(|fixed| fixed.ipv6_address.as_ref()?.parse().ok()),
        };
        Some((name.parse().ok()?, attachment))
    };
    settings.networks.iter().flatten().filter_map(attachment).collect()
}

fn networks(settings: NetworkSettings) -> BTreeMap<String, Option<IpAddr>> {
    let address = |text: Option<String>| text.and_then(|text| text.parse().ok());
    let all: HashMap<_, _> = settings.networks.unwrap_or_default();
    all.into_iter().map(|(name, endpoint)| (name, address(endpoint.ip_address))).collect()
}
