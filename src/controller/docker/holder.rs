//! Network holders: their containers, and their image, which abide builds.

use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::CreateContainerOptionsBuilder;

use super::containers::{NetworkSettings, no_restarts};
use super::program::Program;
use super::{Engine, Result, SLOW, settings, within};
use crate::model::holder::{HolderPurpose, HolderSpec};
use crate::model::name::ContainerName;
use crate::model::network::Attachments;

/// The program that waits forever.
pub(crate) static PROGRAM: Program = Program {
    repository: "abide/holder",
    file: "hold",
    content: include_bytes!(concat!(env!("OUT_DIR"), "/hold")),
};

impl Engine {
    /// Creates a holder from `image` and returns its id.
    pub(crate) async fn create_holder(
        &self,
        name: &ContainerName,
        spec: &HolderSpec,
        purpose: HolderPurpose,
        image: &str,
    ) -> Result<String> {
        let attachments = match purpose {
            HolderPurpose::Container => spec.attachments(),
            HolderPurpose::Spare => spec.nameless_attachments(),
        };
        let docker = self.docker().await?;
        let options = CreateContainerOptionsBuilder::default().name(name.as_str()).build();
        let call = docker.create_container(Some(options), create_body(spec, &attachments, image)?);
        let id = within("create a sandbox", SLOW, call).await?.id;
        self.attach(&id, &spec.record, &spec.network, &attachments).await?;
        Ok(id)
    }
}

/// The request that creates a holder.
pub(super) fn create_body(
    spec: &HolderSpec,
    attachments: &Attachments,
    image: &str,
) -> Result<ContainerCreateBody> {
    let mut body = ContainerCreateBody {
        image: Some(image.to_owned()),
        labels: Some(spec.labels().into_iter().collect()),
        // As pid 1 the program would ignore SIGTERM, and it has nothing to clean up.
        stop_signal: Some("SIGKILL".to_owned()),
        host_config: Some(HostConfig { restart_policy: Some(no_restarts()), ..HostConfig::default() }),
        ..ContainerCreateBody::default()
    };
    let network = NetworkSettings {
        exposed: spec.port,
        ports: spec.ports().collect(),
        extra_hosts: &spec.extra_hosts,
        network: &spec.network,
        attachments,
    };
    network.give_to(&mut body);
    settings::give_to(&spec.run.settings, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sandbox_image_is_reproducible() {
        assert!(PROGRAM.is_available(), "this machine could not compile the holder");
        assert_eq!(PROGRAM.archive().unwrap(), PROGRAM.archive().unwrap());
    }
}
