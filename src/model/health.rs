//! The declared readiness probe of a container.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::spec::EnvValue;
use super::wire;

/// The readiness probe and its limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthSpec {
    /// The probe.
    pub probe: Probe,
    /// Time between probes (default 1 s).
    pub interval: Duration,
    /// The maximum time of one probe (default 2 s).
    pub timeout: Duration,
    /// The maximum time from start to ready (default 30 s).
    pub start_deadline: Duration,
    /// The time that probes must succeed in a row before the container is ready (default 10 s).
    pub healthy_for: Duration,
    /// The port of `http` and `tcp`; `None`: the environment's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The `Host` header of `http`; `None`: the environment's `hostname`, else `localhost`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Additional headers of `http`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, EnvValue>,
}

/// The health check of an environment with a port that declares none.
impl Default for HealthSpec {
    fn default() -> Self {
        Self {
            probe: Probe::Tcp,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(2),
            start_deadline: Duration::from_secs(30),
            healthy_for: Duration::from_secs(10),
            port: None,
            host: None,
            headers: BTreeMap::new(),
        }
    }
}

/// The kind of a readiness probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Probe {
    /// A `GET` of this path returns a status from 200 to 399.
    Http(#[serde(deserialize_with = "wire::probe_path")] String),
    /// A TCP connection to the port is accepted.
    Tcp,
    /// A command in the container exits with 0.
    Command(#[serde(deserialize_with = "wire::probe_command")] Vec<String>),
    /// The image's own `HEALTHCHECK`.
    Docker,
    /// The container has run for `healthy_for`: the default without a port.
    Running,
    /// A running container is ready.
    None,
}

impl Probe {
    /// Whether the plan can decide readiness alone, from the container's start time.
    pub fn needs_no_probe(&self) -> bool {
        matches!(self, Self::Running | Self::None)
    }

    /// Whether the probe connects to a port.
    pub fn needs_port(&self) -> bool {
        matches!(self, Self::Http(_) | Self::Tcp)
    }
}
