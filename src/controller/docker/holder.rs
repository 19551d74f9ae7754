//! Network holders: their image, which is made here, and the containers.

use std::sync::LazyLock;

use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{CreateContainerOptionsBuilder, ImportImageOptions};
use futures::TryStreamExt;
use sha2::{Digest as _, Sha256};

use super::containers::{Network, no_restarts};
use super::{Engine, EngineError, Result, SLOW, within};
use crate::model::holder::HolderSpec;
use crate::model::name::ContainerName;

/// The program that waits for ever; empty where none could be compiled.
static PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hold"));

/// The name of the image, which changes with the program: two versions of abide on one engine do
/// not take each other's away.
pub(crate) static IMAGE: LazyLock<String> = LazyLock::new(|| {
    let digest = hex::encode(Sha256::digest(PROGRAM));
    format!("abide/holder:{}", &digest[..12])
});

/// Whether there is a program to make holders of.
pub(crate) fn is_available() -> bool {
    !PROGRAM.is_empty()
}

impl Engine {
    /// Brings the image of holders into the engine.
    pub(crate) async fn load_holder_image(&self) -> Result<()> {
        let archive = archive().map_err(|error| EngineError::Refused(error.to_string()))?;
        let docker = self.docker().await?;
        let body = bollard::body_full(archive.into());
        let lines = docker.import_image(ImportImageOptions::default(), body, None);
        let load = lines.try_for_each(|line| async move {
            match line.error_detail.and_then(|detail| detail.message) {
                Some(message) => Err(bollard::errors::Error::DockerStreamError { error: message }),
                None => Ok(()),
            }
        });
        within("load the image of network holders", SLOW, load).await
    }

    /// Makes a holder of `image` and gives its id.
    pub(crate) async fn create_holder(
        &self,
        name: &ContainerName,
        spec: &HolderSpec,
        image: &str,
    ) -> Result<String> {
        let docker = self.docker().await?;
        let options = CreateContainerOptionsBuilder::default().name(name.as_str()).build();
        let call = docker.create_container(Some(options), create_body(spec, image));
        Ok(within("create a network holder", SLOW, call).await?.id)
    }
}

fn create_body(spec: &HolderSpec, image: &str) -> ContainerCreateBody {
    let mut body = ContainerCreateBody {
        image: Some(image.to_owned()),
        labels: Some(spec.labels().into_iter().collect()),
        // As pid 1 it would let SIGTERM pass, and has nothing to tidy up.
        stop_signal: Some("SIGKILL".to_owned()),
        host_config: Some(HostConfig { restart_policy: Some(no_restarts()), ..HostConfig::default() }),
        ..ContainerCreateBody::default()
    };
    let network = Network {
        port: spec.port,
        publish: spec.publish,
        extra_hosts: &spec.extra_hosts,
        network: &spec.network,
        alias: &spec.alias,
    };
    network.give_to(&mut body);
    body
}

/// The image as `docker save` writes one. The same program gives the same bytes.
fn archive() -> std::io::Result<Vec<u8>> {
    let layer = tar(&[("hold", PROGRAM, 0o755)])?;
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = serde_json::json!({
        "architecture": architecture,
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": { "Entrypoint": ["/hold"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", hex::encode(Sha256::digest(&layer)))] },
    })
    .to_string();
    let config_name = format!("{}.json", hex::encode(Sha256::digest(&config)));
    let manifest = serde_json::json!([{
        "Config": config_name,
        "RepoTags": [IMAGE.as_str()],
        "Layers": ["layer.tar"],
    }])
    .to_string();
    tar(&[
        ("layer.tar", &layer, 0o644),
        (&config_name, config.as_bytes(), 0o644),
        ("manifest.json", manifest.as_bytes(), 0o644),
    ])
}

fn tar(files: &[(&str, &[u8], u32)]) -> std::io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes, mode) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(*mode);
        archive.append_data(&mut header, name, *bytes)?;
    }
    archive.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_is_the_same_whenever_it_is_made() {
        assert!(is_available(), "this machine could not compile the holder");
        assert_eq!(archive().unwrap(), archive().unwrap());
    }
}
