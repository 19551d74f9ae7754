//! The nodes of a cluster.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwarmNode {
    /// Its host name.
    pub name: String,
    /// Whether it runs replicas, and takes new ones.
    pub state: NodeState,
    /// The address at which other nodes reach it; `None`: not known.
    pub address: Option<IpAddr>,
}

/// The state of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// It runs replicas and takes new ones.
    Ready,
    /// It takes no new replicas, and keeps those that it has.
    Paused,
    /// It takes no replicas, and the target moves those that it has.
    Drained,
    /// It is not connected.
    Down,
}

impl NodeState {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Paused => "paused",
            Self::Drained => "drained",
            Self::Down => "down",
        }
    }

    /// Whether the node is connected.
    pub fn is_up(self) -> bool {
        self != Self::Down
    }
}

/// A node as a status shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// Its host name.
    pub name: String,
    /// Its state.
    pub state: NodeState,
    /// The ready replicas of the environment on it.
    pub replicas: u32,
}

impl NodeView {
    /// The state in words, such as `ready, 2 replicas`.
    pub fn describe(&self) -> String {
        let replicas = match self.replicas {
            0 => "no replica".to_owned(),
            1 => "1 replica".to_owned(),
            many => format!("{many} replicas"),
        };
        format!("{}, {replicas}", self.state.as_str())
    }
}
