//! Converts a service of Docker Swarm, its tasks and the nodes to the data model.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bollard::models::{
    Node, NodeSpecAvailabilityEnum, NodeState as EngineNodeState, Service, ServiceUpdateStatusStateEnum,
    Task, TaskState,
};

use super::service_spec;
use crate::model::container::label;
use crate::model::time::Timestamp;
use crate::model::workload::{
    NodeState, Rollout, SeenTask, SeenUpdate, SeenWorkload, SwarmNode, TaskPhase, UpdateProgress, WriteToken,
    summary,
};

/// Converts everything that the engine shows of a service.
pub(super) fn seen(
    service: Service,
    tasks: Vec<Task>,
    nodes: &[Node],
    leftovers: Vec<String>,
    settle: Duration,
    now: Timestamp,
) -> SeenWorkload {
    let spec = service.spec.clone().unwrap_or_default();
    let labels = spec.labels.clone().unwrap_or_default();
    let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
    let template = spec.task_template.clone().unwrap_or_default();
    let replicas = spec.mode.as_ref().and_then(|mode| mode.replicated.as_ref()?.replicas).unwrap_or(0);
    let by_id: HashMap<&str, SwarmNode> =
        nodes.iter().filter_map(|seen| Some((seen.id.as_deref()?, node(seen)))).collect();
    let tasks: Vec<SeenTask> = tasks.into_iter().map(|seen| task(seen, &by_id)).collect();
    let bare = SeenWorkload {
        id: service.id.unwrap_or_default(),
        token: WriteToken {
            index: service.version.and_then(|version| version.index).unwrap_or(0),
            forced: template.force_update.unwrap_or(0),
        },
        fingerprint: label(label::SPEC),
        version: label(label::VERSION),
        changes: service_spec::changes(&spec),
        replicas: u32::try_from(replicas).unwrap_or(u32::MAX),
        written_at: label(label::WRITTEN_AT).parse().map(Timestamp::from_millis).unwrap_or_default(),
        counts: BTreeMap::new(),
        rollout: Rollout::Settled,
        failures: Vec::new(),
        started_at: None,
        endpoints: Vec::new(),
        serving: Vec::new(),
        nodes: by_name(nodes),
        leftovers,
    };
    let update = service.update_status.unwrap_or_default();
    let progress = match update.state {
        Some(ServiceUpdateStatusStateEnum::UPDATING) => UpdateProgress::Updating,
        Some(ServiceUpdateStatusStateEnum::PAUSED) => {
            UpdateProgress::Paused(update.message.unwrap_or_else(|| "the update is paused".to_owned()))
        }
        _ => UpdateProgress::Idle,
    };
    // The time of the last write does not help, because Swarm itself writes the service during an update.
    let began_at = update.started_at.map(moment);
    let began_at = began_at.or_else(|| service.created_at.map(moment)).unwrap_or_default();
    summary(bare, &tasks, &SeenUpdate { progress, began_at }, settle, now)
}

/// Describes the owner of a service that does not belong to the environment.
pub(super) fn owner(service: &Service) -> String {
    let labels = service.spec.as_ref().and_then(|spec| spec.labels.as_ref());
    match labels.and_then(|labels| labels.get(label::ENVIRONMENT)) {
        Some(environment) => format!("belongs to the environment {environment}, of this or another record"),
        None => "was not created by abide".to_owned(),
    }
}

fn by_name(nodes: &[Node]) -> Vec<SwarmNode> {
    let mut nodes: Vec<SwarmNode> = nodes.iter().map(node).collect();
    nodes.sort_by(|one, other| one.name.cmp(&other.name));
    nodes
}

fn node(seen: &Node) -> SwarmNode {
    let spec = seen.spec.clone().unwrap_or_default();
    let named = seen.description.as_ref().and_then(|described| described.hostname.clone());
    // A new leader does not know any node until it has heard of it, or counts it as down after some seconds.
    let is_up = matches!(
        seen.status.as_ref().and_then(|status| status.state),
        Some(EngineNodeState::READY | EngineNodeState::UNKNOWN)
    );
    let state = match spec.availability {
        _ if !is_up => NodeState::Down,
        Some(NodeSpecAvailabilityEnum::DRAIN) => NodeState::Drained,
        Some(NodeSpecAvailabilityEnum::PAUSE) => NodeState::Paused,
        Some(NodeSpecAvailabilityEnum::ACTIVE | NodeSpecAvailabilityEnum::EMPTY) | None => NodeState::Ready,
    };
    SwarmNode { name: named.or_else(|| seen.id.clone()).unwrap_or_default(), state, address: address(seen) }
}

/// A manager knows the address that it advertises; of itself, its status may name only 0.0.0.0.
fn address(seen: &Node) -> Option<IpAddr> {
    let advertised = seen.manager_status.as_ref().and_then(|status| status.addr.as_ref()?.parse().ok());
    let advertised = advertised.map(|address: SocketAddr| address.ip());
    let connected = || seen.status.as_ref()?.addr.as_ref()?.parse().ok();
    advertised.or_else(connected).filter(|address| !address.is_unspecified())
}

fn task(seen: Task, nodes: &HashMap<&str, SwarmNode>) -> SeenTask {
    let status = seen.status.unwrap_or_default();
    let node = seen.node_id.as_deref().and_then(|id| nodes.get(id));
    let container = seen.spec.and_then(|spec| spec.container_spec);
    let version = container.and_then(|container| container.labels?.remove(label::VERSION));
    let phase = status.state.map_or(TaskPhase::Waiting, phase);
    let ports = status.port_status.and_then(|ports| ports.ports).unwrap_or_default();
    let port = ports.into_iter().find_map(|port| port.published_port);
    let has_code = matches!(phase, TaskPhase::Ended);
    SeenTask {
        version,
        phase,
        is_wanted: seen.desired_state.is_some_and(is_wanted) && !is_over(phase),
        node: node.map(|node| node.name.clone()),
        is_node_up: node.is_some_and(|node| node.state.is_up()),
        address: node.and_then(|node| node.address),
        error: status.err.filter(|error| !error.is_empty()),
        exit_code: status.container_status.and_then(|container| container.exit_code).filter(|_| has_code),
        created_at: seen.created_at.map(moment).unwrap_or_default(),
        since: status.timestamp.map(moment).unwrap_or_default(),
        port: port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0),
    }
}

/// Whether the orchestrator wants a task to run, now or once its turn comes.
fn is_wanted(desired: TaskState) -> bool {
    matches!(desired, TaskState::RUNNING | TaskState::READY)
}

fn is_over(phase: TaskPhase) -> bool {
    matches!(phase, TaskPhase::Ended | TaskPhase::Rejected | TaskPhase::Stopped)
}

fn phase(state: TaskState) -> TaskPhase {
    match state {
        TaskState::NEW
        | TaskState::PENDING
        | TaskState::ALLOCATED
        | TaskState::ASSIGNED
        | TaskState::ACCEPTED => TaskPhase::Waiting,
        TaskState::PREPARING => TaskPhase::Preparing,
        TaskState::READY | TaskState::STARTING => TaskPhase::Starting,
        TaskState::RUNNING => TaskPhase::Running,
        TaskState::COMPLETE | TaskState::FAILED => TaskPhase::Ended,
        TaskState::REJECTED => TaskPhase::Rejected,
        TaskState::SHUTDOWN | TaskState::REMOVE | TaskState::ORPHANED => TaskPhase::Stopped,
    }
}

fn moment(at: bollard::models::BollardDate) -> Timestamp {
    Timestamp::from_millis(u64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use bollard::models::{ManagerStatus, NodeSpec, NodeStatus};

    use super::*;

    fn seen(state: EngineNodeState, availability: NodeSpecAvailabilityEnum) -> SwarmNode {
        node(&Node {
            id: Some("7f3a".to_owned()),
            spec: Some(NodeSpec { availability: Some(availability), ..NodeSpec::default() }),
            status: Some(NodeStatus {
                state: Some(state),
                addr: Some("0.0.0.0".to_owned()),
                ..NodeStatus::default()
            }),
            manager_status: Some(ManagerStatus {
                addr: Some("10.0.0.11:2377".to_owned()),
                ..ManagerStatus::default()
            }),
            ..Node::default()
        })
    }

    #[test]
    fn a_node_is_down_only_if_the_swarm_has_lost_it() {
        use NodeSpecAvailabilityEnum::{ACTIVE, DRAIN, PAUSE};
        for (state, availability, expected) in [
            (EngineNodeState::READY, ACTIVE, NodeState::Ready),
            (EngineNodeState::READY, PAUSE, NodeState::Paused),
            (EngineNodeState::READY, DRAIN, NodeState::Drained),
            (EngineNodeState::DOWN, ACTIVE, NodeState::Down),
            (EngineNodeState::DOWN, DRAIN, NodeState::Down),
            (EngineNodeState::DISCONNECTED, ACTIVE, NodeState::Down),
            // Right after a new leader was elected, no node is known.
            (EngineNodeState::UNKNOWN, ACTIVE, NodeState::Ready),
        ] {
            let node = seen(state, availability);
            assert_eq!((node.name.as_str(), node.state), ("7f3a", expected), "{state:?} {availability:?}");
        }
    }

    #[test]
    fn a_manager_is_reached_at_the_address_that_it_advertises() {
        let of = seen(EngineNodeState::READY, NodeSpecAvailabilityEnum::ACTIVE);
        assert_eq!(of.address, Some(IpAddr::from([10, 0, 0, 11])));
    }
}
