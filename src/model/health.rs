//! How the readiness of a container is probed, as it is declared.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::spec::EnvValue;
use super::wire;

/// How readiness is found out, and how patiently.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthSpec {
    /// What is asked.
    pub probe: Probe,
    /// Time between probes (default 1 s).
    pub interval: Duration,
    /// Time one probe may take (default 2 s).
    pub timeout: Duration,
    /// Time from start until it must be ready (default 30 s).
    pub start_deadline: Duration,
    /// Time it must answer without a miss before it counts as ready (default 10 s).
    pub healthy_for: Duration,
    /// The port that `http` and `tcp` ask; `None`: the environment's.
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

/// What a readiness probe asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Probe {
    /// `GET` of this path answers with a status from 200 to 399.
    Http(#[serde(deserialize_with = "wire::probe_path")] String),
    /// A TCP connection to the port is accepted.
    Tcp,
    /// A command in the container ends with 0.
    Command(#[serde(deserialize_with = "wire::probe_command")] Vec<String>),
    /// The image's own `HEALTHCHECK`.
    Docker,
    /// It has run for `healthy_for`: the default without a port.
    Running,
    /// Running is ready.
    None,
}

impl Probe {
    /// Whether the plan itself knows the answer, from when the container was started.
    pub fn asks_nobody(&self) -> bool {
        matches!(self, Self::Running | Self::None)
    }

    /// Whether it connects to a port.
    pub fn needs_port(&self) -> bool {
        matches!(self, Self::Http(_) | Self::Tcp)
    }
}
