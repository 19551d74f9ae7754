//! Warnings about the nodes of a cluster.

use crate::model::workload::{NodeState, SeenWorkload};

/// Warnings about nodes that take no replicas, and about ready replicas that depend on one node.
pub(super) fn warnings(seen: &SeenWorkload) -> Vec<String> {
    let unusable = seen.nodes.iter().filter_map(|node| {
        let name = &node.name;
        match node.state {
            NodeState::Ready => None,
            NodeState::Down => Some(format!("node {name} is down")),
            NodeState::Drained => Some(format!("node {name} is drained and runs no replicas")),
            NodeState::Paused => Some(format!("node {name} is paused and takes no new replicas")),
        }
    });
    unusable.chain(last_node(seen)).collect()
}

/// A warning if draining one node would stop the last ready replica, although others could run it. Swarm stops the
/// replicas of a drained node before it starts others.
fn last_node(seen: &SeenWorkload) -> Option<String> {
    let (first, others) = seen.endpoints.split_first()?;
    let could_run = seen.nodes.iter().filter(|node| node.state == NodeState::Ready).count();
    let is_last = others.iter().all(|endpoint| endpoint.node == first.node);
    let which = match others.len() {
        0 => "the only ready replica is".to_owned(),
        more => format!("all {} ready replicas are", more + 1),
    };
    (is_last && could_run > 1 && seen.replicas > 1)
        .then(|| format!("{which} on node {}: draining it would stop the last one", first.node))
}
