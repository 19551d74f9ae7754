//! The managed nginx proxy: the desired route of each environment, and the observed state.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::canary::{CanaryPercent, CountedRequests};
use super::name::Generation;
use super::spec::EnvironmentSpec;
use super::time::Timestamp;
use super::workload::PortMode;

/// The target of the proxy for one environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The id of the container, or of the service.
    pub container: String,
    /// The address of its program: on the managed network, or on loopback if it uses the host's network. For a service
    /// of a swarm, that of a replica.
    pub address: SocketAddr,
    /// The addresses of the other replicas of a service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<SocketAddr>,
    /// A container that gets a part of the requests; `None`: this one gets all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanaryRoute>,
}

impl Route {
    /// The route to the program of a container.
    pub fn to_container(container: impl Into<String>, address: SocketAddr) -> Self {
        Self { container: container.into(), address, others: Vec::new(), canary: None }
    }

    /// The route to the replicas of a service; `None`: none of them serves.
    pub fn to_service(service: &str, replicas: &[SocketAddr]) -> Option<Self> {
        let (address, others) = replicas.split_first()?;
        Some(Self { container: service.to_owned(), address: *address, others: others.to_vec(), canary: None })
    }

    /// The ids of the containers that get requests.
    pub fn containers(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.container).chain(self.canary.iter().map(|canary| &canary.container))
    }

    /// All addresses but that of a canary.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        [self.address].into_iter().chain(self.others.iter().copied())
    }
}

impl EnvironmentSpec {
    /// Whether a proxy can forward to it: to its container, or to replicas with a port of their own.
    pub fn can_be_proxied(&self) -> bool {
        self.swarm.as_ref().is_none_or(|swarm| swarm.ports == PortMode::Dynamic)
    }
}

/// The share of a canary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryRoute {
    /// The container's id.
    pub container: String,
    /// The address of its program.
    pub address: SocketAddr,
    /// The share of the visitors.
    pub percent: CanaryPercent,
    /// Its generation, which decides with each visitor's cookie who is among them.
    pub generation: Generation,
}

/// The observed state of the proxy for one environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FrontSeen {
    /// The container that gets the requests, by the configuration that nginx really uses; `None`: nginx
    /// answers with its own page.
    pub serves: Option<String>,
    /// The addresses that get the requests, in order; `None`: no request reaches the environment through the proxy.
    pub addresses: Option<Vec<SocketAddr>>,
    /// The canary that gets a part of the requests, by the same configuration, and those that it got.
    pub canary: Option<CountedRequests>,
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
    /// Whether somebody else changed its configuration, and abide has not restored it yet.
    pub has_drifted: bool,
}

/// The containers that the front may still send requests to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ProxyTargets {
    /// Unknown, so it may be any.
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
