//! The front: which container each environment is to be served from, and what the front does serve.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::time::Timestamp;

/// Where the front passes the traffic of one environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The container's id.
    pub container: String,
    /// Where its program listens, on the managed network.
    pub address: SocketAddr,
}

/// What the front does for one environment now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FrontSeen {
    /// The container that requests are passed to, by a configuration that the front has really
    /// taken over; `None`: it answers with its own page.
    pub serves: Option<String>,
    /// Since when.
    pub since: Timestamp,
    /// Whether requests that came before that may still be under way elsewhere.
    pub is_draining: bool,
    /// Why it cannot be brought to what is wanted, in a sentence.
    pub trouble: Option<String>,
}
