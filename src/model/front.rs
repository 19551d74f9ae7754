//! The managed nginx proxy: the desired route of each environment, and the observed state.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::time::Timestamp;

/// The target of the proxy for one environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The container's id.
    pub container: String,
    /// The address of its program: on the managed network, or on loopback if it uses the host's network.
    pub address: SocketAddr,
}

/// The observed state of the proxy for one environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FrontSeen {
    /// The container that gets the requests, by the configuration that nginx really uses; `None`: nginx
    /// answers with its own page.
    pub serves: Option<String>,
    /// The time of the last change.
    pub since: Timestamp,
    /// Whether earlier requests may still be in progress on another container.
    pub is_draining: bool,
    /// The reason why the proxy cannot reach the desired state, as a sentence.
    pub trouble: Option<String>,
    /// The containers that requests may still be passed to, or be under way to.
    pub reach: ProxyTargets,
    /// Whether it answers requests itself, for maintenance.
    pub in_maintenance: bool,
    /// Whether somebody else changed what it serves, which is not put right yet.
    pub has_drifted: bool,
}

/// The containers that the front may still send requests to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ProxyTargets {
    /// It cannot be told which, so it may be any.
    #[default]
    Any,
    /// These and no others, by id.
    Only(BTreeSet<String>),
}

impl ProxyTargets {
    /// Whether requests may be at this container.
    pub fn may_include(&self, container: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Only(containers) => containers.contains(container),
        }
    }

    /// The same with more containers.
    #[must_use]
    pub fn and(self, more: impl IntoIterator<Item = String>) -> Self {
        match self {
            Self::Any => Self::Any,
            Self::Only(containers) => Self::Only(containers.into_iter().chain(more).collect()),
        }
    }
}
