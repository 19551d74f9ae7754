//! The managed nginx proxy: the desired route of each environment, and the observed state.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::time::Timestamp;

/// The target of the proxy for one environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The container's id.
    pub container: String,
    /// The address of its program on the managed network.
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
}
