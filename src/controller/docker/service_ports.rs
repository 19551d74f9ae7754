//! Fixed ports of services that become free ones.
//!
//! If only the port on the node changes from a fixed to a free one, Swarm does not notice it: it compares the ports in
//! host mode by their targets. New replicas then still ask for the fixed port, for which no node has room beside the old
//! ones. Swarm notices a change of the number of ports, so abide writes the service without ports first.

use std::time::Duration;

use bollard::models::{EndpointPortConfigPublishModeEnum, EndpointSpec, Service, ServiceSpec};
use bollard::query_parameters::InspectServiceOptions;
use tokio::time::{Instant, sleep};

use super::{Engine, QUICK, Result, within};
use crate::model::container::label;

/// How long Swarm may take to forget the ports. It takes some milliseconds.
const FORGETTING: Duration = Duration::from_secs(5);
/// How often abide checks that.
const CHECK: Duration = Duration::from_millis(50);

/// The same specification without ports; `None`: its ports are not free ones.
pub(super) fn without_free_ports(spec: &ServiceSpec) -> Option<ServiceSpec> {
    let endpoint = spec.endpoint_spec.as_ref()?;
    let mut ports = endpoint.ports.iter().flatten();
    let is_host = |mode| mode == EndpointPortConfigPublishModeEnum::HOST;
    let has_free = ports.any(|port| port.published_port.is_none() && port.publish_mode.is_some_and(is_host));
    let bare = EndpointSpec { ports: None, ..endpoint.clone() };
    has_free.then(|| ServiceSpec { endpoint_spec: Some(bare), ..spec.clone() })
}

impl Engine {
    /// Whether Swarm gives fixed ports of their nodes to new replicas of a service.
    pub(super) async fn has_fixed_ports(&self, id: &str) -> Result<bool> {
        let service = self.service(id).await?;
        let ports = service.endpoint.and_then(|endpoint| endpoint.ports).unwrap_or_default();
        Ok(ports.iter().any(|port| {
            let is_host = port.publish_mode == Some(EndpointPortConfigPublishModeEnum::HOST);
            is_host && port.published_port.is_some_and(|port| port > 0)
        }))
    }

    /// Waits until Swarm has forgotten the ports of a service that was just written as `spec`. Returns the version to
    /// name in the next write; `None`: somebody else wrote it meanwhile, or Swarm takes too long.
    pub(super) async fn await_forgotten_ports(&self, id: &str, spec: &ServiceSpec) -> Result<Option<u64>> {
        let deadline = Instant::now() + FORGETTING;
        loop {
            let service = self.service(id).await?;
            let is_ours = written_at(service.spec.as_ref()) == written_at(Some(spec));
            if !is_ours || Instant::now() >= deadline {
                return Ok(None);
            }
            let ports = service.endpoint.and_then(|endpoint| endpoint.ports);
            if ports.is_none_or(|ports| ports.is_empty()) {
                return Ok(service.version.and_then(|version| version.index));
            }
            sleep(CHECK).await;
        }
    }

    async fn service(&self, id: &str) -> Result<Service> {
        let docker = self.docker().await?;
        within("inspect a service", QUICK, docker.inspect_service(id, None::<InspectServiceOptions>)).await
    }
}

fn written_at(spec: Option<&ServiceSpec>) -> Option<&String> {
    spec?.labels.as_ref()?.get(label::WRITTEN_AT)
}
